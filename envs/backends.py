"""Several environments behind one step and one reset: in this process, or in gymnasium's workers.

gymnasium's SyncVectorEnv costs about 20 us a step on top of a single environment, so environments
of this process are driven directly; those of other processes through AsyncVectorEnv.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rlalign.envs.goals import flat_goal_space, flatten_goal, is_goal_space
from rlalign.errors import EnvError

Infos = list[dict[str, Any]]


class Outcome(NamedTuple):
    """What one step of all environments gave, before any of them is reset."""

    observations: np.ndarray  # [count, obs] float32
    rewards: np.ndarray  # [count] float64
    terminated: np.ndarray  # [count] bool
    truncated: np.ndarray  # [count] bool
    infos: Infos


class Backend(Protocol):
    """Environments that never reset by themselves."""

    count: int
    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    spec: EnvSpec | None

    def reset(self, seeds: Sequence[int | None], observations: np.ndarray) -> Infos:
        """Start an episode where a seed is given and write its observation into `observations`."""

    def step(self, actions: np.ndarray) -> Outcome:
        """Take `actions` [count, act] in the environments' own units and dtype."""

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """Attribute `name` of some environments, looked up through their wrappers."""

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set attribute `name` of some environments."""

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call method `name` of some environments."""

    def wrapped_by(self, wrapper: type) -> list[bool]:
        """For each environment, whether one of its wrappers is a `wrapper`."""

    def close(self) -> None:
        """Close every environment."""


class SerialBackend:
    """Environments of this process, one after another."""

    def __init__(self, envs: Sequence[gymnasium.Env[Any, Any]]) -> None:
        self.envs = list(envs)
        self.count = len(self.envs)
        self.observation_space = self.envs[0].observation_space
        self.action_space = self.envs[0].action_space
        self.spec = self.envs[0].spec
        self._shape = (self.count, *(self.observation_space.shape or ()))

    def reset(self, seeds: Sequence[int | None], observations: np.ndarray) -> Infos:
        """Reset the environments with a seed."""
        infos: Infos = [{} for _ in seeds]
        for index, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            if seed is not None:
                observation, infos[index] = env.reset(seed=seed)
                _check_shape(observation, self._shape[1:], id_of(self.spec))
                observations[index] = observation
        return infos

    def step(self, actions: np.ndarray) -> Outcome:
        """Step them in order."""
        count = self.count
        observations = np.empty(self._shape, np.float32)
        rewards = np.empty(count)
        terminated = np.empty(count, np.bool_)
        truncated = np.empty(count, np.bool_)
        infos: Infos = []
        for index, env in enumerate(self.envs):
            (
                observations[index],
                rewards[index],
                terminated[index],
                truncated[index],
                info,
            ) = env.step(actions[index])
            infos.append(info)
        return Outcome(observations, rewards, terminated, truncated, infos)

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """Attribute `name`, looked up through the wrappers."""
        return [self.envs[index].get_wrapper_attr(name) for index in indices]

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set attribute `name` on the wrapper that has it."""
        for index in indices:
            self.envs[index].set_wrapper_attr(name, value)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call method `name`, looked up through the wrappers."""
        return [method(*args, **kwargs) for method in self.get(name, indices)]

    def wrapped_by(self, wrapper: type) -> list[bool]:
        """Look through the wrappers."""
        return [_is_wrapped(env, wrapper) for env in self.envs]

    def close(self) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


class VectorBackend:
    """A gymnasium vector environment that resets single environments by mask."""

    def __init__(self, vector: VectorEnv[Any, Any, Any]) -> None:
        mode = vector.metadata.get("autoreset_mode")
        inner = vector.unwrapped
        stale = mode == AutoresetMode.NEXT_STEP and not getattr(inner, "shared_memory", True)
        maskable = isinstance(inner, AsyncVectorEnv | SyncVectorEnv) and not stale
        if mode != AutoresetMode.DISABLED and not maskable:
            raise EnvError(
                f"{type(inner).__name__} resets its environments by itself ({mode}); "
                "make it with autoreset_mode=AutoresetMode.DISABLED or pass the environment's id"
            )
        self._vector = vector
        self.count = vector.num_envs
        self._goal = is_goal_space(vector.single_observation_space)
        single = vector.single_observation_space
        self.observation_space = flat_goal_space(single) if self._goal else single
        self.action_space = vector.single_action_space
        self.spec = vector.spec

    def reset(self, seeds: Sequence[int | None], observations: np.ndarray) -> Infos:
        """Reset the environments with a seed, by mask."""
        mask = np.array([seed is not None for seed in seeds])
        if mask.any():
            each: Any = list(seeds)  # gymnasium's base class is annotated for one seed only
            found, infos = self._vector.reset(seed=each, options={"reset_mask": mask})
            found = flatten_goal(found) if self._goal else found
            _check_shape(found[0], observations.shape[1:], id_of(self.spec))
            observations[mask] = found[mask]
            return split_infos(infos, self.count)
        return [{} for _ in seeds]

    def step(self, actions: np.ndarray) -> Outcome:
        """Step them together."""
        found, rewards, terminated, truncated, infos = self._vector.step(actions)
        found = flatten_goal(found) if self._goal else found
        observations = np.array(found, np.float32)
        singles = split_infos(infos, self.count)
        for index in np.flatnonzero(terminated | truncated):
            last = singles[index].pop("final_obs", None)  # AutoresetMode.SAME_STEP
            if last is not None:
                observations[index] = flatten_goal(last) if self._goal else last
                singles[index] = singles[index].pop("final_info", {})
        return Outcome(
            observations,
            np.asarray(rewards, np.float64),
            np.asarray(terminated, np.bool_),
            np.asarray(truncated, np.bool_),
            singles,
        )

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """Attribute `name` of some environments."""
        found = self._inner().get_attr(name)
        return [found[index] for index in indices]

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set attribute `name` of all environments. Raises EnvError for some of them only."""
        self._require_all(name, indices)
        # gymnasium hands the elements of a list or a tuple out, one to each environment.
        self._inner().set_attr(name, [value] * self.count)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call method `name` of all environments. Raises EnvError for some of them only."""
        self._require_all(name, indices)
        return list(self._inner().call(name, *args, **kwargs))

    def _inner(self) -> Any:
        return self._vector.unwrapped

    def _require_all(self, name: str, indices: Sequence[int]) -> None:
        if len(indices) != self.count:
            raise EnvError(f"{name} can be reached in all environments of a vector, not in some")

    def wrapped_by(self, wrapper: type) -> list[bool]:
        """Always false: wrappers of other processes are out of sight."""
        return [False] * self.count

    def close(self) -> None:
        """Close the vector environment and its processes."""
        self._vector.close()


def split_infos(infos: dict[str, Any], count: int) -> Infos:
    """A vector environment's info as one dictionary for each environment."""
    singles: Infos = [{} for _ in range(count)]
    for key, values in infos.items():
        present = infos.get(f"_{key}")
        if key.startswith("_") or present is None:
            continue
        for index in np.flatnonzero(present):
            singles[index][key] = (
                split_infos(values, count)[index] if isinstance(values, dict) else values[index]
            )
    return singles


def _is_wrapped(env: gymnasium.Env[Any, Any], wrapper: type) -> bool:
    while isinstance(env, gymnasium.Wrapper):
        if isinstance(env, wrapper):
            return True
        env = env.env
    return False


def id_of(spec: EnvSpec | None) -> str | None:
    """The id in an environment's spec, if it has one."""
    return None if spec is None else spec.id


def _check_shape(observation: Any, shape: tuple[int, ...], name: str | None) -> None:
    found = np.shape(observation)
    if found != shape:
        raise EnvError(
            f"{name or 'the environment'} returned an observation of shape {found}, "
            f"its observation space says {shape}"
        )
