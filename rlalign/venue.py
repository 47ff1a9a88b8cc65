"""Where a run's agent acts: in an environment, or nowhere, with the sizes of its dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlalign.envs.vector import Environments
from rlalign.errors import DatasetError, RlalignError
from rlalign.recipe import Recipe

if TYPE_CHECKING:
    from gymnasium.spaces import Box

    from rlalign.data.dataset import Dataset

BOUNDS = (-1.0, 1.0)  # of actions, where a dataset does not say
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Venue:
    """Where a run's agent acts.

    Args:
        environment: a gymnasium id or a D4RL task, None where nothing plays the dataset.
        sizes: of observations and actions, JSON-able, where there is no environment.
    """

    environment: str | None
    sizes: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset | None) -> Venue:
        """The recipe's environment, or else the dataset's.

        Raises:
            RlalignError: if there is none and the recipe asks for evaluation or interaction.
            DatasetError: if there is none and the bounds of the dataset's actions are unknown.
        """
        environment = recipe.environment
        if environment is None and dataset is not None:
            environment = dataset.environment
        if environment is not None:
            return cls(environment)
        assert dataset is not None  # the recipe's own check
        if recipe.online.steps or recipe.evaluation.every:
            offline_only = "evaluation.every=null" + (
                " and online.steps=0" if recipe.online.steps else ""
            )
            raise RlalignError(
                f"no environment is known for dataset {recipe.dataset}; set `environment:` in the "
                f"recipe, or {offline_only} to learn offline without one"
            )
        return cls(None, _sizes(dataset))

    @classmethod
    def of_run(cls, recipe: Recipe, dataset: Mapping[str, Any] | None) -> Venue:
        """Where a run acts whose run.json says this of its dataset."""
        known = dataset or {}
        return cls(known.get("environment") or recipe.environment, known.get("sizes"))

    def environments(self, count: int, *, seed: int) -> Environments:
        """Training environments."""
        assert self.environment is not None
        return Environments(self.environment, count, seed=seed)

    def for_agent(self) -> str | tuple[Box, Box]:
        """What agents are made from: the environment, or observation and action space."""
        if self.environment is not None:
            return self.environment
        from gymnasium.spaces import Box

        assert self.sizes is not None
        low, high = (np.array(self.sizes[f"action_{end}"], np.float32) for end in ("low", "high"))
        observations = Box(-np.inf, np.inf, (int(self.sizes["observations"]),), np.float32)
        return observations, Box(low, high, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """What run.json says beside the dataset's name."""
        known: dict[str, Any] = {"environment": self.environment}
        return known if self.sizes is None else {**known, "sizes": dict(self.sizes)}


def _sizes(dataset: Dataset) -> dict[str, Any]:
    layout = dataset.layout
    low, high = dataset.action_low, dataset.action_high
    if low is None or high is None:
        low, high = (np.full(layout.action_size, bound, np.float32) for bound in BOUNDS)
        found = float(dataset.actions.min()), float(dataset.actions.max())
        if found[0] < BOUNDS[0] - _TOLERANCE or found[1] > BOUNDS[1] + _TOLERANCE:
            raise DatasetError(
                f"{dataset.name}: its actions reach from {found[0]:g} to {found[1]:g} and nothing "
                "says their bounds; without an environment they must lie in [-1, 1], or the "
                "dataset name them (action_low and action_high of Dataset.from_arrays)"
            )
    return {
        "observations": layout.observation_size,
        "action_low": [float(bound) for bound in low],
        "action_high": [float(bound) for bound in high],
    }
