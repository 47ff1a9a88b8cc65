"""ReBRAC: TD3+BC with a normalised critic and a penalty in the target too (arXiv 2305.09836)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from rlalign.agent import Spec
from rlalign.agents.penalty_decay import PenaltyDecay
from rlalign.agents.td3 import TD3, TD3Settings
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks
from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.initialization import small_head
from rlalign.nn.normalized import NormalizedMLP
from rlalign.nn.policies import DeterministicActor
from rlalign.settings import OnlineSettings, require

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset


@dataclass(frozen=True)
class ReBRACSettings(TD3Settings):
    """Settings of ReBRAC; the defaults are those for locomotion.

    Args:
        actor_penalty: beta_1, the weight of |pi(s) - a|^2 against the normalised critic.
        critic_penalty: beta_2, the weight of |a' - a'_data|^2 in the target, offline alone.
        normalize_critic: divide the critic in the actor's loss by its mean absolute value; the
            paper's text says so, its formula leaves it out.
        layer_norm: normalise the critics' hidden layers after their ReLU.
        online_penalty: share of beta_1 that is left at the end of its linear fall online; the paper
            goes to a half, the released code to 0.
        online_penalty_updates: updates that this fall takes.
    """

    batch_size: int = 1024
    hidden: tuple[int, ...] = (256, 256, 256)
    actor_learning_rate: float = 1e-3
    critic_learning_rate: float = 1e-3
    exploration_noise: float = 0.03
    actor_penalty: float = 0.01
    critic_penalty: float = 0.01
    normalize_critic: bool = True
    layer_norm: bool = True
    online_penalty: float = 0.5
    online_penalty_updates: int = 1_000_000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("actor_penalty", "critic_penalty"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        share, updates = self.online_penalty, self.online_penalty_updates
        require(0.0 <= share <= 1.0, "online_penalty", share, "in [0, 1]")
        require(updates >= 1, "online_penalty_updates", updates, "at least 1")


class ReBRAC(PenaltyDecay, TD3):
    """Behaviour-regularised TD3 for offline learning and for going on online.

    Online the critic's penalty ends and the actor's falls. Both penalties are sums over action
    dimensions: TD3+BC's weight 2.5 is actor_penalty 0.4 / action size.
    """

    name = "rebrac"
    settings_type = ReBRACSettings
    settings: ReBRACSettings
    online_defaults = OnlineSettings(replay="mixture")

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        hidden = self.settings.hidden
        actor = DeterministicActor(spec.observation_size, spec.action_size, hidden)
        critic = EnsembleCritic(spec.observation_size, spec.action_size, hidden)
        if self.settings.layer_norm:
            critic.trunk = NormalizedMLP(critic.trunk.sizes, critic.trunk.members)
        small_head(actor.trunk, 1e-3)
        small_head(critic.trunk, 3e-3)
        return {"actor": actor, "critic": critic}

    @property
    def extras(self) -> Mapping[str, int]:
        return {"next_actions": self.spec.action_size, "has_next_action": 1}

    @property
    def waits_for_episodes(self) -> bool:
        """The penalty in the target, which needs the next action, is offline alone."""
        return False

    def extra_columns(self, trajectories: Dataset) -> Mapping[str, np.ndarray]:
        """a'_data in [-1, 1], and 1 where there is one.

        The last transition of an episode has none. The official loader drops it where the episode
        was cut off; here it stays, without a penalty.
        """
        low, high = self.action_scale.low, self.action_scale.high
        actions = -1.0 + 2.0 * (trajectories.actions - low) / (high - low)
        following = np.zeros_like(actions)
        following[:-1] = actions[1:]
        known = np.ones(len(actions), np.float32)
        last = trajectories.ends - 1
        following[last], known[last] = 0.0, 0.0
        return {"next_actions": following, "has_next_action": known}

    # The critics.

    def next_value(self, nets: Networks, batch: Batch, action: Tensor) -> Tensor:
        """min_i Q'_i(s', a') - beta_2 |a' - a'_data|^2, [batch]; online without the penalty."""
        value = super().next_value(nets, batch, action)
        weight = self.settings.critic_penalty
        if self.online or weight == 0:
            return value
        data_action = batch["next_actions"].reshape(action.shape)  # a column of size 1 is [batch]
        distance = (action - data_action).square().sum(-1)
        return value - weight * batch["has_next_action"] * distance

    # The actor.

    @property
    def penalty_weight(self) -> float | Tensor:
        """beta_1; online it falls linearly with the critic optimiser's count of updates."""
        s = self.settings
        return s.actor_penalty * self.left_online(s.online_penalty, s.online_penalty_updates)

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """mean (beta_1 |pi(s) - a|^2 - lambda min_i Q_i(s, pi(s))), lambda = 1 / mean |min Q|.

        lambda carries no gradient.
        """
        action = nets.actor(batch.observations)
        value = nets.critic.minimum(batch.observations, action)
        penalty = (action - batch.actions).square().sum(-1).mean()
        objective = value.mean()
        if self.settings.normalize_critic:
            objective = objective / value.detach().abs().mean()
        return self.penalty_weight * penalty - objective, {"penalty": penalty}
