"""RO2O: robust offline-to-online learning by uncertainty and smoothness (arXiv 2309.16973)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rlalign.agents.ensemble import confidence_bound
from rlalign.agents.rorl import RORL, RORLSettings, Term
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks
from rlalign.settings import OnlineSettings, require

ONLINE_TERMS: dict[str, tuple[Term, ...]] = {
    "none": (),
    "ood": ("ood",),
    "smooth": ("critic_smoothing", "policy_smoothing"),
    "all": ("critic_smoothing", "policy_smoothing", "ood"),
}


@dataclass(frozen=True)
class RO2OSettings(RORLSettings):
    """Settings of RO2O; the defaults are the MuJoCo form.

    Args:
        online_regularizers: terms that stay online. The paper speaks of the same learning procedure
            (``"all"``); the released code, the only runnable record of it, computes them on MuJoCo
            without adding them to the loss (``"none"``).
        targets: ``"min"`` bootstraps all critics from their targets' minimum; ``"independent"``
            each from its own (MSG, arXiv 2205.13703; AntMaze).
        policy_bound: what the actor climbs: the critics' ``"min"``, or ``"lcb"``,
            mean + lcb_coefficient std (AntMaze).
        lcb_coefficient: below 0 is pessimism.
        cloning: weight of mean (a_pi - a)^2 in the actor's loss, offline and online (AntMaze).
    """

    online_regularizers: Literal["none", "all", "ood", "smooth"] = "none"
    targets: Literal["min", "independent"] = "min"
    policy_bound: Literal["min", "lcb"] = "min"
    lcb_coefficient: float = -4.0
    cloning: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cloning >= 0, "cloning", self.cloning, "at least 0")


class RO2O(RORL):
    """RORL that goes on online with the networks, targets and optimisers it has.

    Online it keeps the losses of actor and critics and drops the regularisers that
    `online_regularizers` does not name.
    """

    name = "ro2o"
    settings_type = RO2OSettings
    settings: RO2OSettings
    online_defaults = OnlineSettings(warmup_steps=2_500, buffer_size=250_000)

    def uses(self, term: Term) -> bool:
        kept = not self.online or term in ONLINE_TERMS[self.settings.online_regularizers]
        return kept and super().uses(term)

    def next_value(self, nets: Networks, batch: Batch, action: Tensor) -> Tensor:
        """min_i Q'_i(s', a') [batch], or every Q'_i(s', a') [member, batch]."""
        if self.settings.targets == "min":
            return super().next_value(nets, batch, action)
        values: Tensor = nets.critic_target(batch.next_observations, action)
        return values

    def policy_value(self, nets: Networks, observations: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a), or mean_i + beta std_i; the entropy term has no part in the spread."""
        s = self.settings
        if s.policy_bound == "min":
            return super().policy_value(nets, observations, action)
        return confidence_bound(nets.critic(observations, action), s.lcb_coefficient)

    def policy_loss(
        self, nets: Networks, batch: Batch, action: Tensor, log_prob: Tensor
    ) -> tuple[Tensor, Metrics]:
        """SAC-N's loss + beta_bc mean (a_pi - a)^2 over batch and action dimensions."""
        loss, metrics = super().policy_loss(nets, batch, action, log_prob)
        weight = self.settings.cloning
        if weight == 0:
            return loss, metrics
        cloning = (action - batch.actions).square().mean()
        return loss + weight * cloning, {**metrics, "cloning": cloning}
