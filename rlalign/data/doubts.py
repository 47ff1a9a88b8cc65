"""What may be wrong with a dataset for an environment though all its sizes fit."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from rlalign.data.d4rl import task_of_environment

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset
    from rlalign.envs.spaces import ActionScale


def warn_of_bounds(dataset: Dataset, scale: ActionScale, *, clips: bool) -> None:
    """Say so where actions lie beyond the environment's bounds.

    Args:
        dataset: to be learned from.
        scale: holds the bounds.
        clips: whether the agent clips the data's actions to them.
    """
    actions = dataset.actions
    slack = 1e-3 * (scale.high - scale.low)
    low, high = scale.low - slack, scale.high + slack
    if (actions.min(0) >= low).all() and (actions.max(0) <= high).all():
        return
    beyond = ((actions < low) | (actions > high)).any(1).mean()
    treated = "clipped to them" if clips else "learned from as they are"
    warnings.warn(
        f"{dataset.name}: {beyond:.1%} of the actions lie outside the environment's bounds "
        f"(from {actions.min():.4g} to {actions.max():.4g}) and are {treated}; were they "
        "recorded in other units?",
        stacklevel=3,
    )


def warn_of_another_task(dataset: Dataset, environment: str | None) -> None:
    """Say so where a dataset is of another of D4RL's tasks than the agent acts in.

    HalfCheetah and Walker2d, for example, have equal sizes, and so have all mazes.
    """
    recorded = dataset.environment
    if environment is None or recorded is None or recorded == environment:
        return
    theirs, ours = task_of_environment(recorded), task_of_environment(environment)
    # Not by their reference returns: those of all AntMaze tasks are the same.
    if theirs is not None and ours is not None and theirs.world != ours.world:
        warnings.warn(
            f"{dataset.name}: was recorded in {recorded}, but the agent acts in {environment}; "
            "is that the dataset you meant?",
            stacklevel=3,
        )
