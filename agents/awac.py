"""Advantage-weighted actor-critic (arXiv 2006.09359)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rlalign.agent import Agent, Spec
from rlalign.agents.iql import advantage_weight
from rlalign.agents.sac import summed_squared_error, td_target
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Noise, Target, Update
from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.distributions import normal_log_prob
from rlalign.nn.policies import GaussianActor
from rlalign.optim import AdamSettings
from rlalign.settings import AgentSettings, OnlineSettings, require, require_bounds


@dataclass(frozen=True)
class AWACSettings(AgentSettings):
    """Settings of AWAC; the defaults are CORL's for D4RL locomotion.

    Args:
        temperature: lambda, the divisor of the advantage (the inverse of IQL's beta).
        weight: ``"exp"`` is min(exp(A / lambda), max_weight) as in CORL; ``"softmax"`` normalises
            over the batch to a mean of 1, as in the authors' code.
        max_weight: upper limit of ``"exp"`` weights.
        value_samples: policy actions whose mean Q is the baseline; the papers' codes use one.
        actor_learning_rate, critic_learning_rate: of Adam.
        actor_weight_decay: decoupled weight decay of the actor, as in jaxrl (1e-4 there); the
            authors' code adds its 1e-4 to the gradient instead.
        tanh_mean: squash the policy's mean (authors' code) or not (CORL).
        log_std_bounds: clamp of the Gaussian's log standard deviation.
        initialization: ``"torch"`` or ``"orthogonal"``.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    observation_normalization: Literal["none", "standard"] = "standard"
    temperature: float = 1.0 / 3.0
    weight: Literal["exp", "softmax"] = "exp"
    max_weight: float = 100.0
    value_samples: int = 1
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    actor_weight_decay: float = 0.0
    tanh_mean: bool = False
    log_std_bounds: tuple[float, ...] = (-20.0, 2.0)
    initialization: Literal["torch", "orthogonal"] = "torch"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(self.max_weight > 0, "max_weight", self.max_weight, "above 0")
        require(self.value_samples >= 1, "value_samples", self.value_samples, "at least 1")
        require(self.actor_weight_decay >= 0, "actor_weight_decay", self.actor_weight_decay, ">= 0")
        require_bounds("log_std_bounds", self.log_std_bounds)


class AWAC(Agent):
    """Policy evaluation with two critics, policy improvement by weighted regression on the data.

    Order of CORL: the critics, then the actor with the fresh critics, then the targets.
    """

    name = "awac"
    settings_type = AWACSettings
    settings: AWACSettings
    online_defaults = OnlineSettings(replay="union")

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        s = self.settings
        sizes = spec.observation_size, spec.action_size
        low, high = s.log_std_bounds
        return {
            "actor": GaussianActor(
                *sizes,
                s.hidden,
                log_std_bounds=(low, high),
                tanh_mean=s.tanh_mean,
                initialization=s.initialization,
            ),
            "critic": EnsembleCritic(*sizes, s.hidden, initialization=s.initialization),
        }

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"critic_target": Target("critic", self.settings.target_rate)}

    @property
    def updates(self) -> tuple[Update, ...]:
        s = self.settings
        actor = AdamSettings(s.actor_learning_rate, weight_decay=s.actor_weight_decay)
        return (
            Update(("critic",), "critic_loss", AdamSettings(s.critic_learning_rate)),
            Update(("actor",), "actor_loss", actor),
        )

    @property
    def noise(self) -> Mapping[str, Noise]:
        action = self.spec.action_size
        return {
            "next_action": Noise((action,)),
            "baseline": Noise((self.settings.value_samples, action)),
        }

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """sum_i mean (Q_i(s, a) - r - discount (1 - d) min Q'(s', a'))^2, a' from the policy."""
        with torch.no_grad():
            inputs = self.next_policy_inputs(nets, batch)
            action = nets.actor.act(inputs, batch.noise["next_action"])
            next_value = nets.critic_target(batch.next_observations, action).amin(0)
        target = td_target(batch, next_value, self.settings.discount)
        values = nets.critic.joint(batch.observation_actions)
        return summed_squared_error(values, target), {"q": values, "q_target": target}

    def coefficient(self, nets: Networks, batch: Batch) -> float | Tensor:
        """1 / lambda, for all rows or one per row [batch]."""
        return 1.0 / self.settings.temperature

    @torch.no_grad()
    def advantage(self, nets: Networks, batch: Batch, mean: Tensor, log_std: Tensor) -> Tensor:
        """min Q(s, a) - mean over samples of min Q(s, a_pi), online critics, [batch].

        Args:
            mean: of the policy at the batch's states [batch, act].
            log_std: of the policy [act].
        """
        noise = batch.noise["baseline"]  # [batch, samples, act]
        samples = (mean.unsqueeze(1) + log_std.exp() * noise).clamp(-1.0, 1.0)
        observations = batch.observations.unsqueeze(1).expand(-1, noise.shape[1], -1)
        baseline = nets.critic(observations.flatten(0, 1), samples.flatten(0, 1)).amin(0)
        value = nets.critic.joint(batch.observation_actions).amin(0)
        return value - baseline.view(len(batch), -1).mean(1)

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """-mean w(A) log pi(a|s)."""
        s = self.settings
        inputs = self.policy_inputs(nets, batch)
        mean, log_std = nets.actor.mean(inputs), nets.actor.clamped_log_std()
        advantage = self.advantage(nets, batch, mean, log_std)
        if s.weight == "softmax":
            weight = len(batch) * torch.softmax(advantage / s.temperature, dim=0)
        else:
            beta = self.coefficient(nets, batch)
            weight = advantage_weight(advantage, beta, s.max_weight)
        log_prob = normal_log_prob(batch.actions, mean, log_std)
        loss = -(weight * log_prob).mean()
        return loss, {"advantage": advantage, "advantage_weight": weight}
