"""Behaviour cloning: the baseline that only imitates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from rlalign.agent import Agent, Spec
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Update
from rlalign.nn.policies import DeterministicActor
from rlalign.optim import AdamSettings
from rlalign.settings import AgentSettings


@dataclass(frozen=True)
class BCSettings(AgentSettings):
    """Settings of behaviour cloning.

    Args:
        actor_learning_rate: of Adam.
    """

    actor_learning_rate: float = 3e-4
    observation_normalization: Literal["none", "standard"] = "standard"


class BC(Agent):
    """Regression of a deterministic policy on the data's actions; rewards are not used."""

    name = "bc"
    settings_type = BCSettings
    settings: BCSettings

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        return {
            "actor": DeterministicActor(
                spec.observation_size, spec.action_size, self.settings.hidden
            )
        }

    @property
    def updates(self) -> tuple[Update, ...]:
        return (Update(("actor",), "actor_loss", AdamSettings(self.settings.actor_learning_rate)),)

    def explore(self, nets: Networks, observations: Tensor, noise: Tensor) -> Tensor:
        return self.exploit(nets, observations)

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """mean (pi(s) - a)^2 over batch and action dimensions."""
        error = nets.actor(batch.observations) - batch.actions
        return error.square().mean(), {}
