"""Implicit Q-learning (arXiv 2110.06169)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rlalign.agent import Agent, Spec
from rlalign.agents.sac import summed_squared_error, td_target
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Target, Update
from rlalign.nn.critics import EnsembleCritic, ValueCritic
from rlalign.nn.policies import DeterministicActor, GaussianActor
from rlalign.optim import AdamSettings
from rlalign.settings import AgentSettings, OnlineSettings, require, require_bounds


@dataclass(frozen=True)
class IQLSettings(AgentSettings):
    """Settings of IQL.

    Args:
        expectile: how far V leans toward good actions, in (0, 1); 0.5 is the mean.
        beta: inverse temperature of the advantage weights; 0 is behaviour cloning.
        max_weight: upper limit of the advantage weights.
        actor_learning_rate, critic_learning_rate, value_learning_rate: of Adam.
        actor_schedule: of the actor's rate over the offline steps; online it is constant.
        deterministic_actor: regress the mean with weighted squared errors instead of the weighted
            log-density, and act with it (CORL's setting for two hopper datasets).
        exploration_noise: standard deviation of noise on a deterministic actor's actions online.
        fresh_value: the advantage and the critic's target take V after its step, as in the official
            code; false takes it before, as CORL does, and saves one evaluation of V in two.
        log_std_bounds: clamp of the Gaussian's log standard deviation.
        initialization: ``"orthogonal"`` as in the official code, or ``"torch"``.
    """

    expectile: float = 0.7
    beta: float = 3.0
    max_weight: float = 100.0
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    value_learning_rate: float = 3e-4
    actor_schedule: Literal["constant", "cosine"] = "cosine"
    deterministic_actor: bool = False
    exploration_noise: float = 0.1
    fresh_value: bool = True
    log_std_bounds: tuple[float, ...] = (-5.0, 2.0)
    initialization: Literal["torch", "orthogonal"] = "orthogonal"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0.0 < self.expectile < 1.0, "expectile", self.expectile, "in (0, 1)")
        require(self.beta >= 0, "beta", self.beta, "at least 0")
        require(self.max_weight > 0, "max_weight", self.max_weight, "above 0")
        require(self.exploration_noise >= 0, "exploration_noise", self.exploration_noise, ">= 0")
        require_bounds("log_std_bounds", self.log_std_bounds)


def expectile_loss(difference: Tensor, expectile: float) -> Tensor:
    """Squared error weighing positive differences by `expectile`, the others by 1 - expectile.

    At 0.5 this is half the mean squared error.
    """
    weight = torch.where(difference > 0, expectile, 1.0 - expectile)
    return (weight * difference.square()).mean()


def advantage_weight(advantage: Tensor, beta: float | Tensor, limit: float) -> Tensor:
    """min(exp(beta advantage), limit), [batch], without gradient; beta for all or [batch]."""
    assert not isinstance(beta, Tensor) or beta.shape == advantage.shape, beta.shape
    return (beta * advantage.detach()).exp().clamp(max=limit)


class IQL(Agent):
    """Offline learning that never asks the critic about actions outside the data.

    Order of the official code: V, then the actor with the new V, then Q with the new V (see
    `IQLSettings.fresh_value`). Data actions are clipped to +-(1 - 1e-5).
    """

    name = "iql"
    settings_type = IQLSettings
    settings: IQLSettings
    online_defaults = OnlineSettings(replay="union")
    action_limit = 1.0 - 1e-5

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        s = self.settings
        sizes = spec.observation_size, spec.action_size
        actor: nn.Module
        if s.deterministic_actor:
            actor = DeterministicActor(*sizes, s.hidden, initialization=s.initialization)
        else:
            low, high = s.log_std_bounds
            actor = GaussianActor(
                *sizes, s.hidden, log_std_bounds=(low, high), initialization=s.initialization
            )
        return {
            "actor": actor,
            "critic": EnsembleCritic(*sizes, s.hidden, initialization=s.initialization),
            "value": ValueCritic(spec.observation_size, s.hidden, initialization=s.initialization),
        }

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"critic_target": Target("critic", self.settings.target_rate)}

    @property
    def updates(self) -> tuple[Update, ...]:
        s = self.settings
        return (
            Update(("value",), "value_loss", AdamSettings(s.value_learning_rate)),
            Update(
                ("actor",),
                "actor_loss",
                AdamSettings(s.actor_learning_rate),
                schedule=s.actor_schedule,
            ),
            Update(("critic",), "critic_loss", AdamSettings(s.critic_learning_rate)),
        )

    def explore(self, nets: Networks, observations: Tensor, noise: Tensor) -> Tensor:
        if not self.settings.deterministic_actor:
            return super().explore(nets, observations, noise)
        action: Tensor = nets.actor(observations)
        return (action + self.settings.exploration_noise * noise).clamp(-1.0, 1.0)

    def coefficient(self, nets: Networks, batch: Batch) -> float | Tensor:
        """beta, for all rows or one per row [batch]."""
        return self.settings.beta

    @torch.no_grad()
    def data_value(self, nets: Networks, batch: Batch) -> Tensor:
        """min_i Q'_i(s, a) at the data's actions [batch]; V and the actor share it."""
        return batch.once(
            "data_value", lambda: nets.critic_target.joint(batch.observation_actions).amin(0)
        )

    @torch.no_grad()
    def next_value(self, nets: Networks, batch: Batch) -> Tensor:
        """V(s') [batch], of the parameters at the first call for this batch."""
        return batch.once("next_value", lambda: nets.value(batch.next_observations))

    def value_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """Expectile regression of V on min Q' (equation 5)."""
        value = nets.value(batch.observations)
        if not self.settings.fresh_value:
            batch.once("value", value.detach)
            self.next_value(nets, batch)
        loss = expectile_loss(self.data_value(nets, batch) - value, self.settings.expectile)
        return loss, {"v": value}

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """Advantage-weighted regression (equation 7): -mean exp(beta A) log pi(a|s)."""
        with torch.no_grad():
            value = batch.once("value", lambda: nets.value(batch.observations))
            advantage = self.data_value(nets, batch) - value
        beta, inputs = self.coefficient(nets, batch), self.policy_inputs(nets, batch)
        weight = advantage_weight(advantage, beta, self.settings.max_weight)
        if self.settings.deterministic_actor:
            error = nets.actor(inputs) - batch.actions
            loss = (weight * error.square().sum(-1)).mean()
        else:
            log_prob = nets.actor.log_prob(inputs, batch.actions)
            loss = -(weight * log_prob).mean()
        return loss, {"advantage": advantage, "advantage_weight": weight}

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """sum_i mean (Q_i(s, a) - r - discount (1 - d) V(s'))^2 (equation 6)."""
        target = td_target(batch, self.next_value(nets, batch), self.settings.discount)
        values = nets.critic.joint(batch.observation_actions)
        return summed_squared_error(values, target), {"q": values}
