"""Where a run's agent acts: in an environment, or nowhere, with the sizes of its dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rlalign.envs.building import Make
from rlalign.envs.make import make_environment
from rlalign.envs.vector import Environments
from rlalign.errors import DatasetError, RlalignError
from rlalign.recipe import Recipe

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.spaces import Box

    from rlalign.data.dataset import Dataset

BOUNDS = (-1.0, 1.0)  # of actions, where a dataset does not say
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Venue:
    """Where a run's agent acts.

    Args:
        environment: a gymnasium id or a D4RL task, None where nothing plays the dataset.
        options: what the environment is made with.
        sizes: of observations and actions, JSON-able, where there is no environment.
        reference: the returns that score 0 and 100, None where nobody says.
    """

    environment: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, Any] | None = None
    reference: tuple[float, float] | None = None

    @classmethod
    def named(cls, environment: str | None) -> Venue:
        """An environment as its id makes it, with D4RL's reference where it has one."""
        return cls(environment, reference=_reference(environment))

    @classmethod
    def of(cls, recipe: Recipe, dataset: Dataset | None) -> Venue:
        """The recipe's environment, or else the dataset's, and likewise its options.

        The reference is the dataset's, unless it is of another environment that D4RL has one for.

        Raises:
            RlalignError: if there is none and the recipe asks for evaluation or interaction, or
                says what to make it with.
            DatasetError: if there is none and the bounds of the dataset's actions are unknown.
        """
        environment, options = recipe.environment, recipe.environment_options
        if dataset is not None:
            environment = environment or dataset.environment
            if options is None and environment == dataset.environment:
                options = dataset.metadata.get("environment_options")
        if environment is not None:
            return cls(environment, options or {}, reference=_scale(environment, dataset))
        assert dataset is not None  # the recipe's own check
        if options:
            raise RlalignError(
                f"environment_options are given, but no environment is known for dataset "
                f"{recipe.dataset}; set `environment:` in the recipe"
            )
        if recipe.online.steps or recipe.evaluation.every:
            offline_only = "evaluation.every=null" + (
                " and online.steps=0" if recipe.online.steps else ""
            )
            raise RlalignError(
                f"no environment is known for dataset {recipe.dataset}; set `environment:` in the "
                f"recipe, or {offline_only} to learn offline without one"
            )
        return cls(None, sizes=_sizes(dataset), reference=dataset.reference)

    @classmethod
    def of_run(cls, recipe: Recipe, dataset: Mapping[str, Any] | None) -> Venue:
        """Where a run acts whose run.json says this of its dataset."""
        known = dataset or {}
        return cls(
            known.get("environment") or recipe.environment,
            known.get("environment_options") or recipe.environment_options or {},
            known.get("sizes"),
            _recorded_reference(known, recipe.environment),
        )

    def environments(self, count: int, *, seed: int, record: bool = True) -> Environments:
        """Environments to train in, or to evaluate in where nothing is recorded."""
        assert self.environment is not None
        options = self.options
        return Environments(self.environment, count, seed=seed, env_kwargs=options, record=record)

    @property
    def maker(self) -> Make:
        """What evaluation makes its environments from."""
        return self.make if self.options else self.environment

    def make(self) -> gymnasium.Env[Any, Any]:
        """One environment."""
        assert self.environment is not None
        return make_environment(self.environment, **self.options)

    def for_agent(self, seed: int) -> Environments | str | tuple[Box, Box]:
        """What agents are made from: the environment, or observation and action space."""
        if self.environment is not None:
            return self.environments(1, seed=seed) if self.options else self.environment
        from gymnasium.spaces import Box

        assert self.sizes is not None
        low, high = (np.array(self.sizes[f"action_{end}"], np.float32) for end in ("low", "high"))
        observations = Box(-np.inf, np.inf, (int(self.sizes["observations"]),), np.float32)
        return observations, Box(low, high, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """What run.json says beside the dataset's name."""
        known: dict[str, Any] = {"environment": self.environment, "reference": self.reference}
        if self.options:
            known["environment_options"] = dict(self.options)
        return known if self.sizes is None else {**known, "sizes": dict(self.sizes)}


def _reference(environment: str | None) -> tuple[float, float] | None:
    from rlalign.data.d4rl import reference_of_environment

    return None if environment is None else reference_of_environment(environment)


def _scale(environment: str, dataset: Dataset | None) -> tuple[float, float] | None:
    """The returns that score 0 and 100 in an environment which may not be the dataset's own."""
    played = _reference(environment)
    if dataset is None:
        return played
    foreign = dataset.environment not in (None, environment)
    return (played if foreign else None) or dataset.reference or played


def _recorded_reference(
    dataset: Mapping[str, Any], environment: str | None
) -> tuple[float, float] | None:
    """The dataset's, or that of the environment where no dataset is known to have its own."""
    if "reference" not in dataset:
        return _reference(dataset.get("environment") or environment)
    recorded = dataset["reference"]
    return None if recorded is None else (float(recorded[0]), float(recorded[1]))


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
