"""What `evaluate` and `collect` act with: a run, an agent's file, or stable-baselines3's."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.cli.arguments import refuse_options
from rlalign.errors import EnvError, SettingsError

if TYPE_CHECKING:
    import numpy as np

    from rlalign.agent import Agent
    from rlalign.interop.sb3_policy import SB3Policy
    from rlalign.venue import Venue

SB3_MEMBER = "policy.pth"


def load(
    source: Path, checkpoint: str | None, environment: str | None, device: str | None
) -> tuple[Agent | SB3Policy, Venue]:
    """The policy and the environment to act in: `environment`, or the one it was trained in.

    The options of a run's environment are kept where it is the run's that is acted in. An agent is
    put on `device`, by default the CPU. Raises `CheckpointError` when `source` holds none,
    `SettingsError` when it cannot be put there, `EnvError` when no environment is known, and
    `RlalignError` for a `checkpoint` of what is no run; None is the latest one of a run.
    """
    from rlalign.venue import Venue

    policy, venue = _load(source, checkpoint or "latest", environment, device or "cpu")
    if environment is not None and environment != venue.environment:
        venue = Venue.named(environment)
    elif venue.environment is None:
        raise EnvError(f"{source}: does not say which environment; add --environment ID")
    if not source.is_dir():
        refuse_options(source, "is for runs", checkpoint=checkpoint)
    return policy, venue


def check_spaces(policy: Agent | SB3Policy, environment: Any, env_id: str) -> None:
    """Refuse an environment, or several of a kind, of other sizes or action bounds than a policy's.

    Raises `EnvError`.
    """
    import numpy as np

    from rlalign.envs.spaces import check_spaces as check_usable

    for kind in ("observation", "action"):
        wanted = getattr(policy, f"{kind}_space").shape
        found = getattr(environment, f"{kind}_space").shape
        if wanted != found:
            raise EnvError(
                f"{env_id}: {kind}s of shape {found}, but the agent was trained with {wanted}"
            )
    check_usable(environment.observation_space, environment.action_space, env_id)
    found, wanted = environment.action_space, policy.action_space
    if not np.allclose([found.low, found.high], [wanted.low, wanted.high]):
        raise EnvError(
            f"{env_id}: actions from {_listed(found.low)} to {_listed(found.high)}, but the agent "
            f"was trained with {_listed(wanted.low)} to {_listed(wanted.high)}"
        )


def _listed(bounds: np.ndarray) -> str:
    return "[" + ", ".join(f"{bound:g}" for bound in bounds) + "]"


def _load(
    source: Path, checkpoint: str, environment: str | None, device: str
) -> tuple[Agent | SB3Policy, Venue]:
    from rlalign.venue import Venue

    if source.is_dir():
        return _load_run(source, checkpoint, device)
    if _is_sb3(source):
        if device != "cpu":
            raise SettingsError(
                f"{source}: --device {device}, but a model of stable-baselines3 acts on the CPU "
                "alone; leave --device out"
            )
        from rlalign.interop.sb3_policy import load_sb3_policy

        return load_sb3_policy(source, environment), Venue(None)
    from rlalign.agent_files import load_any_agent, with_ending
    from rlalign.checkpoint import load_state

    source = with_ending(source)  # as `Agent.load` takes it
    agent = load_any_agent(source, device=device)
    return agent, Venue.named(load_state(source)[1].get("environment"))


def _load_run(directory: Path, checkpoint: str, device: str) -> tuple[Agent, Venue]:
    from rlalign.experiment import load_run
    from rlalign.rundir import RunDirectory
    from rlalign.venue import Venue

    run = RunDirectory.open(directory)
    agent = load_run(directory, checkpoint, device)
    return agent, Venue.of_run(run.recipe, run.info.get("dataset"))


def _is_sb3(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return SB3_MEMBER in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
