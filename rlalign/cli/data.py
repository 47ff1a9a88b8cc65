"""`rlalign collect` and `rlalign data {list,info,convert,verify}`."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlalign.cli.arguments import (
    LARGEST_SEED,
    AnyDatasetName,
    Checkpoint,
    DatasetName,
    Device,
    Progress,
    progress_wanted,
    refuse_options,
)
from rlalign.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np

    from rlalign.agent import Agent
    from rlalign.interop.sb3_policy import SB3Policy

COLLECT_EXAMPLE = (
    "Example: rlalign collect local/hopper-medium-v0, "
    "or rlalign collect runs/demo-seed0 --transitions 100000 --out mine.hdf5"
)
LIST_EXAMPLE = "Example: rlalign data list | grep hopper"
INFO_EXAMPLE = (
    "Example: rlalign data info local/hopper-medium-v0, "
    "or rlalign data info pairs.jsonl --model models/mine --max-length 1024"
)
CONVERT_EXAMPLE = "Example: rlalign data convert minari/mujoco/hopper/medium-v0 hopper.hdf5"
VERIFY_EXAMPLE = "Example: rlalign data verify local/hopper-medium-v0 mine.hdf5"

app = typer.Typer(
    help="List, describe, convert and check datasets.",
    epilog=LIST_EXAMPLE,
    no_args_is_help=True,
    rich_markup_mode=None,
)
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def collect(
    source: Annotated[
        str,
        typer.Argument(
            help="A local/... dataset, or who shall act: a run directory, an agent's file, or a "
            "model of stable-baselines3.",
            metavar="SOURCE",
        ),
    ],
    transitions: Annotated[
        int | None,
        typer.Option("--transitions", "-n", min=1, help="How many. [default: 100000]"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="HDF5 file to write. [default: local/...: the cache]"),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", "-e", help="A gymnasium id. [default: the run's]"),
    ] = None,
    checkpoint: Checkpoint = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=LARGEST_SEED, help="Of everything random."),
    ] = None,
    device: Device = None,
    progress: Progress = None,
) -> None:
    """Collect a dataset by acting in MuJoCo.

    Local datasets come from the behaviour policies that rlalign ships; others from an agent.
    """
    from rlalign.data.verify import describe

    if out is not None:
        from rlalign.data.saving import require_writable

        if out.exists():
            raise DatasetError(f"{out}: the file exists already")
        require_writable(out)  # said before anything is collected
    shown = progress_wanted(progress)
    if _is_local_name(source):
        from rlalign.data.local import collect_local, load_local

        if device not in (None, "cpu"):
            raise DatasetError(
                f"{source}: --device {device}, but the policies that rlalign ships act on the CPU "
                "alone; leave --device out"
            )
        refuse_options(source, "is for runs", checkpoint=checkpoint)
        name = source.removeprefix("local/")
        if environment is not None:
            raise DatasetError(
                f"{source}: --environment {environment}, but its policies act in an environment of "
                "their own; leave --environment out"
            )
        if out is None:
            dataset = load_local(name, transitions=transitions, seed=seed, progress=shown)
        else:
            dataset = collect_local(name, transitions=transitions, seed=seed, progress=shown)
            dataset.save(out)
        typer.echo(_as_text(describe(dataset)))
        return
    if out is None:
        raise DatasetError(f"collecting from {source} needs --out FILE.hdf5")
    dataset = _collect_from(
        Path(source), environment, checkpoint, device, transitions or 100_000, seed or 0, shown
    )
    dataset.save(out)
    typer.echo(_as_text(describe(dataset)))


@app.command("list", epilog=LIST_EXAMPLE)
def list_datasets(as_json: _Json = False) -> None:
    """List the datasets known by name.

    Beside each stands the environment that plays it. Minari's are not listed: `minari list
    remote` does that.
    """
    from rlalign.data.d4rl import tasks
    from rlalign.data.local import ENVIRONMENTS, local_names
    from rlalign.textworld.pairs import NAMES as PAIRS

    rows = [
        {"name": f"local/{name}", "environment": ENVIRONMENTS[name.split("-")[0]]}
        for name in local_names()
    ] + [{"name": f"d4rl/{task.name}", "environment": task.played_as} for task in tasks()]
    rows += [{"name": name, "environment": None} for name in PAIRS]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        other = "(preference pairs)" if row["name"] in PAIRS else "(offline only)"
        typer.echo(f"{row['name']:{width}}  {row['environment'] or other}")


@app.command("info", epilog=INFO_EXAMPLE)
def info(
    dataset: AnyDatasetName,
    as_json: _Json = False,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Whose tokenizer reads preference data. [default: words]"),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", min=1, help="Tokens at which trainers cut.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Of preference data. [default: train]")
    ] = None,
    sample: Annotated[
        int | None, typer.Option("--sample", min=0, help="The pair to show. [default: 0]")
    ] = None,
) -> None:
    """Print what a dataset holds.

    Transitions: sizes, returns, scores and fingerprint. Preference data: counts, lengths, what
    would be cut, duplicate and identical pairs, prompts that grow together with completions,
    completions without an end, and a pair as the model reads it.
    """
    from rlalign.data.preferences import is_preference_name

    if is_preference_name(dataset):
        from rlalign.cli.preferences import describe as describe_pairs

        describe_pairs(dataset, model, max_length, split or "train", sample or 0, as_json=as_json)
        return
    refuse_options(
        dataset,
        "is for preference data",
        model=model,
        max_length=max_length,
        split=split,
        sample=sample,
    )
    from rlalign.data.dataset import load_dataset
    from rlalign.data.verify import describe

    facts = describe(load_dataset(dataset))
    typer.echo(json.dumps(facts, indent=2) if as_json else _as_text(facts))


@app.command("convert", epilog=CONVERT_EXAMPLE)
def convert(
    dataset: DatasetName,
    target: Annotated[Path, typer.Argument(help="HDF5 file to write.", metavar="FILE")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    horizon: Annotated[
        int | None,
        typer.Option("--horizon", min=1, help="Steps per episode, for a file without timeouts."),
    ] = None,
) -> None:
    """Write a dataset as HDF5 in D4RL's layout."""
    from rlalign.data.verify import convert as convert_dataset

    _require_transitions(dataset, "convert")
    path = convert_dataset(dataset, target, overwrite=overwrite, horizon=horizon)
    typer.echo(f"wrote {path}")


@app.command("verify", epilog=VERIFY_EXAMPLE)
def verify(
    datasets: Annotated[
        list[str], typer.Argument(help="Names or files of datasets.", metavar="DATASETS...")
    ],
) -> None:
    """Check datasets: values, bounds, ends, order of rows, fingerprint."""
    from rlalign.data.verify import verify as check

    for name in datasets:
        _require_transitions(name, "verify")
    wrong = []
    for name in datasets:
        findings = check(name)
        typer.echo(name)
        for finding in findings:
            typer.echo(f"  {finding.level:8}{finding.check:13}{finding.message}")
        errors = [one.message for one in findings if one.level == "error"]
        # A file that cannot be read is named in its message already.
        wrong += [text if text.startswith(f"{name}: ") else f"{name}: {text}" for text in errors]
    if wrong:
        more = f" (and {len(wrong) - 1} more errors above)" if len(wrong) > 1 else ""
        raise DatasetError(wrong[0] + more)


def _is_local_name(source: str) -> bool:
    """Whether a local dataset is meant: of folders in local/, those not called so may be runs."""
    from rlalign.data.local import local_names

    kind, _, name = source.partition("/")
    path = Path(source)
    if kind != "local" or path.is_file():
        return False
    return name in local_names() or not path.exists()


def _require_transitions(name: str, command: str) -> None:
    from rlalign.data.preferences import is_preference_name
    from rlalign.textworld.pairs import NAMES

    # A path that leads nowhere may be meant for anything.
    if name in NAMES or (Path(name).expanduser().exists() and is_preference_name(name)):
        raise DatasetError(
            f"{name}: preference data, which `rlalign data info` describes and trainers learn "
            f"from; `rlalign data {command}` takes transitions"
        )


class _ActingAgent:
    """An agent as the collecting loop asks for it, with noise of its own generator."""

    def __init__(self, agent: Agent, seed: int) -> None:
        self.agent = agent
        agent.exploration_generator.manual_seed(seed)

    def act(self, observations: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        import torch

        return self.agent.act(torch.from_numpy(observations), deterministic=False)


def _collect_from(
    source: Path,
    environment: str | None,
    checkpoint: str | None,
    device: str | None,
    transitions: int,
    seed: int,
    progress: bool,
) -> Any:
    from rlalign.agent import Agent
    from rlalign.cli.policies import check_spaces, load
    from rlalign.data.collecting import collect as play

    policy, venue = load(source, checkpoint, environment, device)
    env_id = str(venue.environment)
    first = venue.make()
    try:
        check_spaces(policy, first, env_id)
    finally:
        first.close()
    acting = _ActingAgent(policy, seed) if isinstance(policy, Agent) else policy
    dataset = play(
        acting,
        venue.make,
        transitions,
        seed=seed,
        name=f"collected from {source}",
        progress=progress,
    )
    dataset.environment = env_id
    if venue.options:
        dataset.metadata["environment_options"] = dict(venue.options)
    dataset.reference = venue.reference
    dataset.metadata["collected"] = {
        "from": str(source),
        **_trained(policy),
        "seed": seed,
        **{name: version(name) for name in ("gymnasium", "mujoco", "torch")},
    }
    return dataset


def _trained(policy: Agent | SB3Policy) -> dict[str, Any]:
    """What a policy is: the method, and how far an agent of ours was trained."""
    from rlalign.agent import Agent

    if not isinstance(policy, Agent):
        return {"policy": f"stable-baselines3 {policy.algorithm}"}
    return {
        "policy": policy.name,
        "updates": policy.learner.step_count,
        "timesteps": policy.num_timesteps,
    }


def _as_text(facts: dict[str, Any]) -> str:
    """A line for each fact, numbers of a group side by side; metadata as JSON."""
    lines = []
    for key, value in facts.items():
        if key == "metadata":
            text = json.dumps(value) if value else "–"
        elif isinstance(value, dict):
            text = ", ".join(f"{name} {number:g}" for name, number in value.items())
        elif isinstance(value, tuple | list):
            text = ", ".join(f"{number:g}" for number in value)
        else:
            text = "–" if value is None else str(value)
        lines.append(f"{key:18}{text}")
    return "\n".join(lines)
