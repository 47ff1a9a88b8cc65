"""Whether an id alone makes, in any other process, environments like those that are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.vector import VectorEnv

from rlalign.envs.backends import Backend
from rlalign.envs.building import RECORDERS, Make
from rlalign.envs.goals import GOAL_ORDER

# Ids of these packages are known without a module that registers them being imported first.
_PACKAGES = ("gymnasium.envs.", "gymnasium_robotics.")

# What does not change how a single environment plays.
_HARMLESS = ("render_mode", "num_envs", "vectorization_mode", "vector_kwargs")


def plain_id(make: Make, env_kwargs: Mapping[str, Any], backend: Backend) -> str | None:
    """The id that says all about `backend`, which `build_backend` made of `make` and `env_kwargs`.

    None where there is no id, where options or wrappers came beside it, and for the id of an object
    that a module of the user's own registered: nothing tells which module that was.
    """
    if isinstance(make, str):
        return make if _same(env_kwargs, {}) else None
    if isinstance(make, VectorEnv) and make is not make.unwrapped:
        return None  # the spec of a vector environment does not tell of its wrappers
    spec = backend.spec
    return spec.id if spec is not None and _is_plain(spec) else None


def _is_plain(spec: EnvSpec) -> bool:
    registered = gymnasium.registry.get(spec.id)
    return (
        registered is not None
        and str(registered.entry_point).startswith(_PACKAGES)
        and spec.entry_point == registered.entry_point
        and spec.max_episode_steps == registered.max_episode_steps
        and _same(spec.kwargs, registered.kwargs)
        and all(_changes_nothing(wrapper) for wrapper in spec.additional_wrappers)
    )


def _same(given: Mapping[str, Any], registered: Mapping[str, Any]) -> bool:
    ours, theirs = (
        {name: value for name, value in options.items() if name not in _HARMLESS}
        for options in (given, registered)
    )
    return ours.keys() == theirs.keys() and all(
        np.array_equal(value, theirs[name]) for name, value in ours.items()
    )


def _changes_nothing(wrapper: WrapperSpec) -> bool:
    # FlattenGoal is what an id of a goal environment is put into as well.
    flattens = wrapper.name == "FlattenGoal" and wrapper.kwargs == {"keys": GOAL_ORDER}
    return flattens or wrapper.name in RECORDERS
