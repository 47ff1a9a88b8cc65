"""stable-baselines3's vector environments driven by explicit seeds for each episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from rlalign.envs.backends import Backend, Infos, Outcome, SerialBackend
from rlalign.envs.goals import flat_goal_space, flatten_goal, is_goal_space
from rlalign.envs.make import flat
from rlalign.errors import EnvError


def backend_of(vector: VecEnv) -> Backend:
    """`vector` without its automatic resets.

    Raises EnvError for wrappers other than VecMonitor: they change what is observed or rewarded
    and keep statistics of their own, which would be lost.
    """
    while isinstance(vector, VecMonitor):
        vector = vector.venv
    if type(vector) is DummyVecEnv:
        return SerialBackend([flat(env) for env in vector.envs])
    if type(vector) is SubprocVecEnv:
        return SubprocessBackend(vector)
    raise EnvError(
        f"{type(vector).__name__} cannot be used; pass a DummyVecEnv or SubprocVecEnv without "
        "wrappers, or the environment's id"
    )


class SubprocessBackend:
    """A SubprocVecEnv; its own resets happen but their observations are never used."""

    def __init__(self, vector: SubprocVecEnv) -> None:
        self._vector = vector
        self.count = vector.num_envs
        space = vector.observation_space
        self._goal = is_goal_space(space)
        self.observation_space = flat_goal_space(space) if self._goal else space
        self.action_space = vector.action_space
        self.spec: EnvSpec | None = vector.get_attr("spec")[0]

    def reset(self, seeds: Sequence[int | None], observations: np.ndarray) -> Infos:
        """Reset the environments with a seed."""
        infos: Infos = [{} for _ in seeds]
        for index, seed in enumerate(seeds):
            if seed is not None:
                found, infos[index] = self._vector.env_method("reset", seed=seed, indices=index)[0]
                observations[index] = flatten_goal(found) if self._goal else found
        return infos

    def step(self, actions: np.ndarray) -> Outcome:
        """Step them together and put the true successors back where an episode ended."""
        found, rewards, done, infos = self._vector.step(actions)
        if self._goal:
            assert isinstance(found, dict)
            found = flatten_goal(found)
        observations = np.array(found, np.float32)
        truncated = np.array([bool(info.get("TimeLimit.truncated")) for info in infos])
        for index in np.flatnonzero(done):
            last = infos[index]["terminal_observation"]
            observations[index] = flatten_goal(last) if self._goal else last
        return Outcome(
            observations, np.asarray(rewards, np.float64), done & ~truncated, truncated, infos
        )

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """Attribute `name` of some environments."""
        return self._vector.get_attr(name, indices)

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set attribute `name` of some environments."""
        self._vector.set_attr(name, value, indices)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call method `name` of some environments."""
        return self._vector.env_method(name, *args, indices=indices, **kwargs)

    def wrapped_by(self, wrapper: type) -> list[bool]:
        """Look through the wrappers in the processes."""
        return self._vector.env_is_wrapped(wrapper)

    def close(self) -> None:
        """End the processes; a second call does nothing."""
        self._vector.close()
