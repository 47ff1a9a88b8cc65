"""Fills the replay buffer that stable-baselines3 and sbx share."""

from __future__ import annotations

from stable_baselines3.common.buffers import ReplayBuffer

from benchmarks.workers.task import Transitions


def fill(buffer: ReplayBuffer | None, data: Transitions) -> None:
    """Put `data` into the buffer's arrays, as so many calls of its `add` would have."""
    assert buffer is not None
    assert buffer.buffer_size == len(data.rewards), (buffer.buffer_size, len(data.rewards))
    buffer.observations[:, 0] = data.observations
    buffer.actions[:, 0] = data.actions
    buffer.rewards[:, 0] = data.rewards
    buffer.next_observations[:, 0] = data.next_observations
    buffer.dones[:] = 0.0
    buffer.timeouts[:] = 0.0
    buffer.full = True
