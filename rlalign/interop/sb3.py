"""rlalign's environments as stable-baselines3's tools want to see them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from rlalign.envs.vector import Environments, StepResult
from rlalign.interop.sb3_policy import SB3Policy, load_sb3_policy

__all__ = [
    "SB3Policy",
    "SB3VecEnv",
    "load_sb3_policy",
    "step_infos",
    "step_locals",
    "view_of",
]

Indices = int | Iterable[int] | None


class SB3VecEnv(DummyVecEnv):
    """Environments behind the VecEnv interface; stepping it steps them.

    It counts as a DummyVecEnv because EvalCallback warns when the training environment is of
    another kind than the evaluation's, and as wrapped in Monitor because its infos carry the same
    `episode` entry; it inherits the behaviour of neither.
    """

    def __init__(self, environments: Environments) -> None:
        self.environments = environments
        self._started = time.time()
        self._actions: np.ndarray | None = None
        VecEnv.__init__(
            self, environments.count, environments.observation_space, environments.action_space
        )

    def reset(self) -> np.ndarray:
        """Begin a new episode everywhere; a seed given by `seed` takes effect here."""
        if self._seeds[0] is not None:
            self.environments.reseed(int(self._seeds[0]))
        observations = self.environments.reset().copy()
        self.reset_infos = list(self.environments.reset_infos)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: np.ndarray) -> None:
        """Keep `actions` [count, act] for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step; return the observations to act on next, rewards, episode ends and infos."""
        assert self._actions is not None, "call step_async first"
        result = self.environments.step(self._actions)
        infos = step_infos(result, time.time() - self._started)
        dones = result.terminated | result.truncated
        self.reset_infos = list(self.environments.reset_infos)
        rewards = result.rewards.astype(np.float32)
        return self.environments.current.copy(), rewards, dones, infos

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def get_images(self) -> list[np.ndarray | None]:
        """One picture of each environment, None unless they were made to draw arrays."""
        if self.render_mode != "rgb_array":
            return [None] * self.num_envs
        return list(self.environments.call("render"))

    def render(self, mode: str | None = None) -> np.ndarray | None:
        """Draw all environments, tiled into one picture."""
        return VecEnv.render(self, mode)

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """Attribute `attr_name` of the environments."""
        return self.environments.get(attr_name, indices=self._chosen(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the environments."""
        self.environments.set(attr_name, value, indices=self._chosen(indices))

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environments."""
        chosen = self._chosen(indices)
        return self.environments.call(method_name, *method_args, indices=chosen, **method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Whether the environments have that wrapper; always true for Monitor."""
        chosen = self._chosen(indices)
        if issubclass(wrapper_class, Monitor):
            return [True] * len(chosen)
        wrapped = self.environments.wrapped_by(wrapper_class)
        return [wrapped[index] for index in chosen]

    def _chosen(self, indices: Indices) -> list[int]:
        return [int(index) for index in self._get_indices(indices)]


_VIEWS: WeakKeyDictionary[Environments, SB3VecEnv] = WeakKeyDictionary()


def view_of(environments: Environments) -> SB3VecEnv:
    """The view of `environments`, the same one each time: callbacks ask for it at every step."""
    if environments not in _VIEWS:
        _VIEWS[environments] = SB3VecEnv(environments)
    return _VIEWS[environments]


def step_infos(result: StepResult, seconds: float) -> list[dict[str, Any]]:
    """A step's infos with the entries that stable-baselines3 adds.

    `TimeLimit.truncated` everywhere; where an episode ended, `terminal_observation` and Monitor's
    `episode` with return `r`, length `l` and time `t`, here `seconds` since the start.
    """
    infos = [dict(info) for info in result.infos]
    for index, info in enumerate(infos):
        info["TimeLimit.truncated"] = bool(result.truncated[index] and not result.terminated[index])
    for episode in result.finished:
        info = infos[episode.environment]
        info["terminal_observation"] = result.next_observations[episode.environment]
        info["episode"] = {
            "r": round(episode.episode_return, 6),
            "l": episode.length,
            "t": round(seconds, 6),
        }
    return infos


def step_locals(
    result: StepResult, actions: np.ndarray, environments: Environments, seconds: float
) -> dict[str, Any]:
    """The local variables of a step that stable-baselines3's callbacks look at.

    Pass them to `callback.update_locals` before `callback.on_step()`.
    """
    return {
        "actions": actions,
        "new_obs": environments.current,
        "rewards": result.rewards,
        "dones": result.terminated | result.truncated,
        "infos": step_infos(result, seconds),
    }
