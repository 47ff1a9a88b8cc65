"""Where an agent's interaction stands, so that the next call of `learn` goes on from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rlalign.envs.vector import Environments
from rlalign.extras import RunningEpisodes
from rlalign.replay import GrowingReplay

if TYPE_CHECKING:
    from rlalign.agent import Agent


@dataclass
class Interaction:
    """What a stretch of interaction leaves for the next one.

    Args:
        environments: acted in; their episodes run on.
        episodes: rows of the running episodes that are kept back.
        random: draws the actions of the random steps.
        begun: the agent's `num_timesteps` when its replay buffer was begun.
        trained: the agent had learned before, from a dataset: it takes no random steps.
        owed: updates that a fraction of updates_per_step has not yet made up.
        moves: those of `environments` when the stretch ended; None has their episodes begin anew.
    """

    environments: Environments
    episodes: RunningEpisodes
    random: np.random.Generator
    begun: int
    trained: bool = False
    owed: float = 0.0
    moves: int | None = 0

    @classmethod
    def of(cls, agent: Agent, environments: Environments, buffer_size: int) -> Interaction:
        """Go on with the agent's interaction, or begin it; `agent.replay_buffer` exists then.

        Episodes begin anew in other environments, and where somebody else has moved these.
        """
        kept = agent.replay_buffer
        agent.replay_buffer = _resized(agent, kept, buffer_size)
        old = agent.interaction
        if old is not None and old.runs_on_in(environments):
            return old
        environments.reset()
        if old is None:
            random = np.random.Generator(np.random.PCG64([agent.seed, 1]))
            # Transitions that were loaded count as interaction from the first step on.
            begun, owed = (0 if kept is not None and len(kept) else agent.num_timesteps), 0.0
            trained = agent.learner.step_count > 0
        else:
            random, begun, trained, owed = old.random, old.begun, old.trained, old.owed
        agent.interaction = cls(
            environments, RunningEpisodes(agent, environments.count), random, begun, trained, owed
        )
        return agent.interaction

    def runs_on_in(self, environments: Environments) -> bool:
        """Whether `environments` are where this stretch left them."""
        same = self.environments is environments and self.moves == environments.moves
        return same and not environments.disturbed

    def count_anew(self) -> None:
        """Have warm-up and random steps count from 0 again, with new episodes."""
        self.begun, self.owed, self.moves = 0, 0.0, None

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return everything but the environments."""
        return self.episodes.state_dict(), {
            "random": self.random.bit_generator.state,
            "begun": self.begun,
            "trained": self.trained,
            "owed": self.owed,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.episodes.load_state_dict(tensors)
        self.random.bit_generator.state = state["random"]
        self.begun = int(state.get("begun", 0))  # older checkpoints lack it
        self.trained = bool(state.get("trained", False))  # likewise
        self.owed = float(state["owed"])


def _resized(agent: Agent, buffer: GrowingReplay | None, capacity: int) -> GrowingReplay:
    """Return the agent's buffer with that capacity; its newest transitions are kept."""
    if buffer is not None and buffer.capacity == capacity:
        return buffer
    resized = GrowingReplay(agent.layout, capacity, agent.device)
    if buffer is not None:
        resized.add(buffer.newest(capacity))
    return resized
