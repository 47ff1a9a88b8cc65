"""Train the behaviour policies that collect the `local/` datasets, with rlalign's own SAC.

    python scripts/train_behaviours.py hopper --steps 500000 --out runs/behaviours

Every snapshot of the actor and its evaluation is kept; the run resumes from its last checkpoint
when started again. `scripts/ship_behaviours.py` then chooses which snapshots the package ships.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from rlalign.agents import SAC
from rlalign.checkpoint import Checkpoints, join, part, save_state
from rlalign.envs.vector import Environments
from rlalign.evaluate import evaluate
from rlalign.phases import Events, Intervals, OnlinePhase, Phase, run_phase
from rlalign.settings import OnlineSettings

ENVIRONMENTS = {
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "halfcheetah": "HalfCheetah-v5",
    "ant": "Ant-v5",
}
SNAPSHOT_EVERY = 10_000
CHECKPOINT_EVERY = 20_000
HIDDEN = (128, 128)  # small, because the policies are shipped
# Batch size and updates per step. Half an update at batch 128 suffices for halfcheetah; hopper and
# walker2d got stuck with it.
BUDGETS = {
    "hopper": (256, 1.0),
    "walker2d": (256, 1.0),
    "halfcheetah": (128, 0.5),
    "ant": (128, 0.5),
}


class Snapshots(Events):
    """Keeps the actor and its returns at set points, and checkpoints of the whole run."""

    def __init__(self, folder: Path, environment: str) -> None:
        self.folder = folder
        self.environment = environment
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=1)

    def on_log(self, phase: Phase, metrics: Mapping[str, float]) -> None:
        figures = {name: round(value, 4) for name, value in metrics.items()}
        self._append("metrics.jsonl", {"step": phase.done, **figures})

    def on_evaluate(self, phase: Phase) -> None:
        environments = Environments(self.environment, 10, seed=phase.done + 7, record=False)
        sampled = evaluate(phase.agent, environments, 10, deterministic=False)
        environments.close()
        row = {
            "step": phase.done,
            "return_mean": sampled.mean_return,
            "returns": list(sampled.returns),
            "lengths": list(sampled.lengths),
        }
        self._append("curve.jsonl", row)
        print(self.environment, phase.done, round(sampled.mean_return, 1), flush=True)
        actor = phase.agent.learner.nets.actor.trunk
        tensors = {}
        for layer, (weight, bias) in enumerate(zip(actor.weights, actor.biases, strict=True)):
            tensors[f"layers.{layer}.weight"] = weight.detach()[0]
            tensors[f"layers.{layer}.bias"] = bias.detach()[0, 0]
        save_state(self.folder / "snapshots" / f"step-{phase.done:07d}.safetensors", (tensors, row))

    def on_checkpoint(self, phase: Phase) -> None:
        state = join(agent=phase.agent.state_dict(), phase=phase.state_dict())
        self.checkpoints.save(f"step-{phase.done:07d}", state)

    def resume(self, phase: OnlinePhase) -> None:
        """Load the last checkpoint, if there is one, and drop log lines that came after it."""
        if not (self.folder / "checkpoints" / "latest").exists():
            return
        saved = self.checkpoints.load()
        phase.agent.load_state_dict(*part(saved, "agent"))
        phase.load_state_dict(*part(saved, "phase"))
        for name in ("metrics.jsonl", "curve.jsonl"):
            lines = (self.folder / name).read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= phase.done]
            (self.folder / name).write_text("".join(line + "\n" for line in kept))

    def _append(self, name: str, row: dict[str, object]) -> None:
        with open(self.folder / name, "a") as file:
            file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=ENVIRONMENTS)
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/behaviours"))
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    environment = ENVIRONMENTS[arguments.task]
    folder = arguments.out / arguments.task
    folder.mkdir(parents=True, exist_ok=True)
    batch_size, updates_per_step = BUDGETS[arguments.task]
    agent = SAC(environment, seed=arguments.seed, batch_size=batch_size, hidden=HIDDEN)
    online = OnlineSettings(
        updates_per_step=updates_per_step, random_steps=5_000, warmup_steps=5_000
    )
    environments = Environments(environment, seed=arguments.seed)
    phase = OnlinePhase(agent, environments, arguments.steps, online)
    events = Snapshots(folder, environment)
    events.resume(phase)
    intervals = Intervals(log=5_000, evaluate=SNAPSHOT_EVERY, checkpoint=CHECKPOINT_EVERY)
    run_phase(phase, intervals, events)


if __name__ == "__main__":
    main()
