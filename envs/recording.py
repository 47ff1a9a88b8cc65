"""The actions of running episodes, kept so that an interrupted run can play them again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium.spaces import Box

from rlalign.envs.backends import Backend
from rlalign.errors import EnvError

_START = 1024


class Recording:
    """For each environment the actions since its last reset, in the action space's dtype."""

    def __init__(self, count: int, action_space: Box) -> None:
        self._buffers = [
            np.empty((_START, *action_space.shape), action_space.dtype) for _ in range(count)
        ]
        self._lengths = [0] * count

    def append(self, actions: np.ndarray) -> None:
        """Add one action for each environment, [count, act]."""
        for index, length in enumerate(self._lengths):
            buffer = self._buffers[index]
            if length == len(buffer):
                buffer = self._buffers[index] = np.concatenate([buffer, np.empty_like(buffer)])
            buffer[length] = actions[index]
            self._lengths[index] = length + 1

    def clear(self, index: int) -> None:
        """Forget the actions of environment `index`: its next episode begins."""
        self._lengths[index] = 0

    def actions(self, index: int) -> np.ndarray:
        """The actions [steps, act] of environment `index` in its running episode."""
        return self._buffers[index][: self._lengths[index]]

    def restore(self, actions: Sequence[np.ndarray]) -> None:
        """Take over the `actions` [steps, act] of each environment."""
        for index, taken in enumerate(actions):
            empty = np.empty((_START, *taken.shape[1:]), self._buffers[index].dtype)
            self._buffers[index] = np.concatenate([taken.astype(empty.dtype), empty])
            self._lengths[index] = len(taken)


def replay(
    backend: Backend, seeds: Sequence[int], actions: Sequence[np.ndarray], *, name: str
) -> np.ndarray:
    """Play each environment's episode again and return the observations [count, obs] it led to.

    Episodes of different length end together: the shorter ones begin later, and until then their
    environments idle, because a vector environment only steps as a whole.
    """
    count = backend.count
    idle = _idle_action(backend.action_space)
    longest = max(len(taken) for taken in actions)
    starts = [longest - len(taken) for taken in actions]
    observations = np.empty((count, *(backend.observation_space.shape or ())), np.float32)
    backend.reset(seeds, observations)
    for step in range(longest):
        chosen = [
            taken[step - start] if step >= start else idle
            for start, taken in zip(starts, actions, strict=True)
        ]
        outcome = backend.step(np.stack(chosen))
        observations = outcome.observations
        ended = outcome.terminated | outcome.truncated
        for index in map(int, np.flatnonzero(ended)):
            if step >= starts[index]:
                raise EnvError(
                    f"{name} cannot be resumed exactly: its running episode of "
                    f"{len(actions[index])} steps ended after {step - starts[index] + 1} when "
                    "played again"
                )
        begin = [
            seeds[index] if starts[index] == step + 1 or ended[index] else None
            for index in range(count)
        ]
        backend.reset(begin, observations)
    return observations


def _idle_action(space: object) -> np.ndarray:
    assert isinstance(space, Box)
    return np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
