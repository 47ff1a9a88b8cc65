"""TD3 plus one behaviour-cloning term (arXiv 2106.06860)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rlalign.agents.penalty_decay import PenaltyDecay
from rlalign.agents.td3 import TD3, TD3Settings
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks
from rlalign.settings import OnlineSettings, require


@dataclass(frozen=True)
class TD3BCSettings(TD3Settings):
    """Settings of TD3+BC.

    Args:
        alpha: weight of the critic against cloning; 0 is behaviour cloning.
        online_cloning: share of the cloning term that is left at the end of its linear fall online,
            as ReBRAC's authors do (arXiv 2305.09836, section 4.3); 1 keeps all of it. The paper
            does not go online.
        online_cloning_updates: updates that this fall takes.
        observation_normalization: the paper's default is ``"standard"``.
    """

    alpha: float = 2.5
    online_cloning: float = 0.5
    online_cloning_updates: int = 1_000_000
    observation_normalization: Literal["none", "standard"] = "standard"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha >= 0, "alpha", self.alpha, "at least 0")
        share, updates = self.online_cloning, self.online_cloning_updates
        require(0.0 <= share <= 1.0, "online_cloning", share, "in [0, 1]")
        require(updates >= 1, "online_cloning_updates", updates, "at least 1")


class TD3BC(PenaltyDecay, TD3):
    """The cheapest sane offline baseline: TD3 whose actor also regresses on the data's actions."""

    name = "td3_bc"
    settings_type = TD3BCSettings
    settings: TD3BCSettings
    online_defaults = OnlineSettings(replay="union")

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """-lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2, lambda = alpha / mean |Q_1(s, pi(s))|.

        lambda carries no gradient; the cloning term is a mean over batch and action dimensions.
        Online its weight falls, see `TD3BCSettings.online_cloning`.
        """
        action = nets.actor(batch.observations)
        value = nets.critic.first(batch.observations, action)
        weight = self.settings.alpha / value.detach().abs().mean()
        cloning = (action - batch.actions).square().mean()
        s = self.settings
        kept = self.left_online(s.online_cloning, s.online_cloning_updates)
        return kept * cloning - weight * value.mean(), {"cloning": cloning, "critic_weight": weight}
