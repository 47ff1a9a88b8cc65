"""Choose which snapshots of `train_behaviours.py` the package ships, and draw their curve.

    python scripts/ship_behaviours.py --runs runs/behaviours

"expert" is the best snapshot of the whole training by the mean of three neighbouring evaluations,
"medium" the first one since that mean has reached a third of the expert's own return (after D4RL's
definition) whose own return lies within a quarter of that third, and "replay" the snapshots from
the beginning to the medium one, as evenly spaced in environment steps as there are. Writes
rlalign/data/policies/ and docs/behaviours.{md,png,json}.
Tasks without a run in the folder stay as they are shipped.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.atomic import write_json
from rlalign.checkpoint import load_state
from rlalign.data.behaviour import POLICIES, GaussianPolicy, save_policy
from rlalign.data.d4rl import normalized_score, reference_of_environment

ROOT = Path(__file__).resolve().parents[1]
REPLAY_SNAPSHOTS = 8
SMOOTHING = 3  # neighbouring evaluations averaged when the best snapshot is sought
# Measured apart, on the medium policy that is shipped: 72 episodes sampled, 54 deterministic.
HOPPER = (
    "The medium policy of hopper scores 31.2 above, and `local/hopper-medium-v0`, which it",
    "collected, 41.2 over its 218 episodes. Both are that policy with sampled actions. Its returns",
    "fall into two groups: the median is about 1010, and a tenth lies above 2200, so that the mean",
    "of ten episodes depends on whether one of those is among them. Over 72 further episodes the",
    "mean was 1227 (38.3), over 54 with the deterministic policy 1574 (49.0). Compare agents on",
    "this data with the dataset's score, which reports give as `behaviour`.",
    "",
    "What is learned from it falls into the same groups. Clones (behaviour cloning, 50,000",
    "updates, three seeds) score 30.1, 32.9 and 70.5: two of them fall in every episode, after",
    "about 320 steps (the data's median episode has 358), the third hardly ever. A score of 30 to",
    "34 is thus the data's usual episode, and the mean of 41 is neither the one nor the other.",
)
Row = dict[str, Any]


def choose(curve: list[Row]) -> dict[str, Any]:
    """Return the steps of the expert, medium and replay snapshots of a curve."""
    returns = np.array([row["return_mean"] for row in curve])
    steps = [int(row["step"]) for row in curve]
    kernel = np.ones(SMOOTHING) / SMOOTHING
    smooth = np.convolve(np.pad(returns, SMOOTHING // 2, mode="edge"), kernel, mode="valid")
    expert = int(smooth.argmax())
    target = returns[expert] / 3.0
    near = np.abs(returns / target - 1.0) <= 0.25
    reached = np.arange(len(returns)) >= np.argmax(smooth >= target)
    medium = int(np.argmax(near & reached))
    positions = np.unique(np.linspace(0, medium, min(REPLAY_SNAPSHOTS, medium + 1)).round())
    return {
        "expert": steps[expert],
        "medium": steps[medium],
        "replay": [steps[int(position)] for position in positions],
    }


def ship(task: str, environment: str, folder: Path) -> tuple[dict[str, Any], list[Row]]:
    """Write a task's policies and return its entry of the manifest and its curve."""
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    chosen = choose(curve)
    target = POLICIES / task
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    rows = {int(row["step"]): row for row in curve}
    for step in sorted({chosen["expert"], chosen["medium"], *chosen["replay"]}):
        tensors, row = load_state(folder / "snapshots" / f"{_name(step)}.safetensors")
        layers = range(len(tensors) // 2)
        weights = [tensors[f"layers.{layer}.weight"].numpy() for layer in layers]
        biases = [tensors[f"layers.{layer}.bias"].numpy() for layer in layers]
        metadata = {
            "environment": environment,
            "hidden": [len(bias) for bias in biases[:-1]],
            "steps": step,
            "return_mean": rows[step]["return_mean"],
            "return_std": float(np.std(row["returns"])),
            "log_std_bounds": [-20.0, 2.0],
        }
        save_policy(
            target / f"{_name(step)}.safetensors", GaussianPolicy(weights, biases, metadata)
        )
    names = {"expert": _name(chosen["expert"]), "medium": _name(chosen["medium"])}
    replay = [_name(step) for step in chosen["replay"]]
    return {"environment": environment, **names, "replay": replay}, curve


def _name(step: int) -> str:
    return f"step-{step:07d}"


def describe(manifest: dict[str, Any], curves: dict[str, list[Row]]) -> str:
    """Return the page about the behaviour policies."""
    lines = [
        "# Behaviour policies",
        "",
        "The `local/` datasets are collected on your machine by policies that this project",
        "trained with its own SAC: two hidden layers of 128, seed 0, one update of batch 256 per",
        "environment step (half an update of batch 128 for halfcheetah and ant), by",
        "`scripts/train_behaviours.py`, which resumes where it stopped. Returns are means of ten",
        "episodes with sampled actions. `expert` is the best snapshot by the mean of three",
        "neighbouring evaluations, `medium` the first, since that mean has reached a third of the",
        "expert's return, whose own return lies within a quarter of that third. `replay` are",
        "snapshots from the beginning to the medium one, evenly spaced, with equal shares of the",
        "data.",
        "",
        "![Return during training](behaviours.png)",
        "",
        "| task | policy | steps | return | normalised score |",
        "|---|---|---|---|---|",
    ]
    for task, entry in manifest.items():
        reference = reference_of_environment(entry["environment"])
        rows = {_name(int(row["step"])): row for row in curves[task]}
        for kind in ("expert", "medium"):
            row = rows[entry[kind]]
            score = (
                ""
                if reference is None
                else f"{normalized_score(row['return_mean'], reference):.1f}"
            )
            lines.append(
                f"| {task} | {kind} | {row['step']:,} | {row['return_mean']:.0f} | {score} |"
            )
        lines.append(f"| {task} | replay | {len(entry['replay'])} snapshots | | |")
    steps = ", ".join(f"{task} {curves[task][-1]['step']:,}" for task in manifest)
    lines += [
        "",
        f"Trained for: {steps} environment steps.",
        "Training of hopper and walker2d was ended where the best policy came to 96 % of D4RL's",
        "expert, not because it had stopped improving.",
        "Scores use D4RL's reference returns, which belong to its older physics (see",
        "[environments.md](environments.md)).",
        "",
        "## Ten episodes are few for hopper",
        "",
        *HOPPER,
        "",
    ]
    return "\n".join(lines)


def draw(curves: dict[str, list[Row]], path: Path) -> None:
    """Plot every task's return over its environment steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(3.2 * len(curves), 2.8), squeeze=False)
    for axis, (task, curve) in zip(axes[0], curves.items(), strict=True):
        axis.plot([row["step"] / 1000 for row in curve], [row["return_mean"] for row in curve])
        axis.set(title=task, xlabel="environment steps (thousands)")
    axes[0][0].set_ylabel("return")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/behaviours"))
    runs = parser.parse_args().runs
    environments = {
        "hopper": "Hopper-v5",
        "walker2d": "Walker2d-v5",
        "halfcheetah": "HalfCheetah-v5",
        "ant": "Ant-v5",
    }
    manifest: dict[str, Any] = json.loads((POLICIES / "manifest.json").read_text())
    known: dict[str, list[list[float]]] = json.loads((ROOT / "docs/behaviours.json").read_text())
    curves: dict[str, list[Row]] = {
        task: [{"step": int(step), "return_mean": mean} for step, mean in curve]
        for task, curve in known.items()
    }
    for task, environment in environments.items():
        if (runs / task / "curve.jsonl").exists():
            manifest[task], curves[task] = ship(task, environment, runs / task)
    write_json(POLICIES / "manifest.json", manifest)
    (ROOT / "docs" / "behaviours.md").write_text(describe(manifest, curves))
    draw(curves, ROOT / "docs" / "behaviours.png")
    record = {
        task: [[row["step"], round(row["return_mean"], 1)] for row in c]
        for task, c in curves.items()
    }
    write_json(ROOT / "docs" / "behaviours.json", record)
    print(describe(manifest, curves))


if __name__ == "__main__":
    main()
