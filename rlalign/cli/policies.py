"""What `evaluate` and `collect` act with: a run, an agent's file, or stable-baselines3's."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from rlalign.errors import EnvError

if TYPE_CHECKING:
    from rlalign.agent import Agent
    from rlalign.interop.sb3_policy import SB3Policy

SB3_MEMBER = "policy.pth"


def load(source: Path, checkpoint: str, environment: str | None) -> tuple[Agent | SB3Policy, str]:
    """The policy and the environment to act in: `environment`, or the one it was trained in.

    Raises `CheckpointError` when `source` holds none, `EnvError` when no environment is known.
    """
    policy, recorded = _load(source, checkpoint, environment)
    env_id = environment or recorded
    if env_id is None:
        raise EnvError(f"{source}: does not say which environment; add --environment ID")
    return policy, env_id


def _load(
    source: Path, checkpoint: str, environment: str | None
) -> tuple[Agent | SB3Policy, str | None]:
    if source.is_dir():
        return _load_run(source, checkpoint)
    if _is_sb3(source):
        from rlalign.interop.sb3_policy import load_sb3_policy

        return load_sb3_policy(source, environment), None
    from rlalign.agent_files import load_any_agent
    from rlalign.checkpoint import load_state

    return load_any_agent(source), load_state(source)[1].get("environment")


def _load_run(directory: Path, checkpoint: str) -> tuple[Agent, str | None]:
    from rlalign.experiment import load_run
    from rlalign.rundir import RunDirectory

    run = RunDirectory.open(directory)
    dataset = run.info.get("dataset") or {}
    return load_run(directory, checkpoint), run.recipe.environment or dataset.get("environment")


def _is_sb3(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return SB3_MEMBER in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
