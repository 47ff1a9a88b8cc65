"""SAC-N: soft actor-critic whose only pessimism is the minimum of N critics (arXiv 2110.01548)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from rlalign.agent import Spec
from rlalign.agents.sac import SAC, SACSettings
from rlalign.constraints import LogMultiplier
from rlalign.learner import Update
from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.initialization import small_head
from rlalign.nn.policies import TanhGaussianActor
from rlalign.settings import OnlineSettings, require, require_bounds


@dataclass(frozen=True)
class SACNSettings(SACSettings):
    """Settings of SAC-N, with the paper's networks.

    Args:
        critics: N. D4RL needs 10 (halfcheetah), 20 (walker2d) and up to 500 (hopper).
        log_std_bounds: clamp of the policy's log standard deviation.
        initialization: ``"edac"`` draws hidden weights by fan-in, hidden biases 0.1, small heads
            (authors' code); ``"corl"`` draws the critics' by fan-out, as CORL's and RO2O's stacked
            critics come to: less disagreement at the start; ``"torch"`` is SAC's.
        update_order: ``"actor_first"`` trains the critics toward the new policy, which CORL found
            to do better; ``"critic_first"`` is SAC's order. The authors' code takes both steps from
            the parameters before either.
    """

    critics: int = 10
    hidden: tuple[int, ...] = (256, 256, 256)
    log_std_bounds: tuple[float, ...] = (-5.0, 2.0)
    initialization: Literal["edac", "corl", "torch"] = "edac"
    update_order: Literal["actor_first", "critic_first"] = "actor_first"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_bounds("log_std_bounds", self.log_std_bounds)


class SACN(SAC):
    """SAC with N critics, their minimum in the target and in the actor's loss."""

    name = "sac_n"
    settings_type = SACNSettings
    settings: SACNSettings
    online_defaults = OnlineSettings(warmup_steps=2_500)

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        s = self.settings
        sizes = spec.observation_size, spec.action_size
        low, high = s.log_std_bounds
        actor = TanhGaussianActor(*sizes, s.hidden, log_std_bounds=(low, high))
        critic = EnsembleCritic(*sizes, s.hidden, s.critics)
        if s.initialization != "torch":
            small_head(actor.trunk, 1e-3)
            small_head(critic.trunk, 3e-3, fan="out" if s.initialization == "corl" else "in")
        temperature = LogMultiplier(s.initial_temperature)
        return {"actor": actor, "critic": critic, "temperature": temperature}

    @property
    def updates(self) -> tuple[Update, ...]:
        critic, actor = super().updates
        if self.settings.update_order == "critic_first":
            return critic, actor
        return actor, critic


def require_ensemble(settings: SACNSettings, method: str) -> None:
    """Raise SettingsError for a single critic, which disagrees with none."""
    require(settings.critics >= 2, "critics", settings.critics, f"at least 2 for {method}")
