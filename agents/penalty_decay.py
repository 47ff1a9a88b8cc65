"""A penalty that holds an offline policy near its data, and lets go of it online."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rlalign.agent import Agent, Prefixed


class PenaltyDecay(Agent):
    """Counts the critic's updates since interaction began, and lets a weight fall over them.

    The clock is the critic optimiser's own count, which lives on the device and is saved with it;
    an agent that is saved and read again goes on where it was.
    """

    _online_since = 0  # what the critic optimiser had counted when interaction began

    def left_online(self, share: float, updates: int) -> float | Tensor:
        """Return 1 offline; online a number that falls linearly from 1 to `share`.

        Args:
            share: in [0, 1], what is left in the end.
            updates: of the critic, that the fall takes.
        """
        if not self.online:
            return 1.0
        count = self.learner.optimizers["critic"].steps - self._online_since
        left: Tensor = 1.0 - (1.0 - share) * count / updates
        return left.clamp(share, 1.0)

    def begin_online(self) -> None:
        if not self.online:
            self._online_since = int(self.learner.optimizers["critic"].steps)
        super().begin_online()

    def state_dict(self) -> Prefixed:
        tensors, state = super().state_dict()
        return tensors, {**state, "online_since": self._online_since}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().load_state_dict(tensors, state)
        # TD3+BC's older checkpoints lack it: let the fall begin where they are.
        now = int(self.learner.optimizers["critic"].steps)
        self._online_since = int(state.get("online_since", now))
