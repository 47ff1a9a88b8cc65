"""Soft actor-critic with any number of critics (arXiv 1812.05905; SAC-N: arXiv 2110.01548)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlalign.agent import Agent, Spec
from rlalign.constraints import LogMultiplier
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Noise, Target, Update
from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.policies import TanhGaussianActor
from rlalign.optim import AdamSettings
from rlalign.settings import AgentSettings, OnlineSettings, require


@dataclass(frozen=True)
class SACSettings(AgentSettings):
    """Settings of SAC.

    Args:
        critics: how many; their minimum is the pessimism. Two is SAC, more is SAC-N.
        actor_learning_rate, critic_learning_rate, temperature_learning_rate: of Adam.
        target_entropy: of the policy; None is minus the action dimension.
        initial_temperature: weight of the entropy at the start.
        entropy_backup: whether targets count the next action's entropy; without it only the actor
            is rewarded for entropy.
    """

    critics: int = 2
    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    target_entropy: float | None = None
    initial_temperature: float = 1.0
    entropy_backup: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.critics >= 1, "critics", self.critics, "at least 1")
        require(
            self.initial_temperature > 0, "initial_temperature", self.initial_temperature, "above 0"
        )


class SAC(Agent):
    """Off-policy maximum-entropy actor-critic with a learned temperature.

    Critic and actor steps follow one another; the temperature moves with the actor, from the same
    sample, and weighs the losses of the next update (as in stable-baselines3).
    """

    name = "sac"
    settings_type = SACSettings
    settings: SACSettings
    online_defaults = OnlineSettings(random_steps=5_000, warmup_steps=5_000)

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        hidden = self.settings.hidden
        return {
            "actor": TanhGaussianActor(spec.observation_size, spec.action_size, hidden),
            "critic": EnsembleCritic(
                spec.observation_size, spec.action_size, hidden, self.settings.critics
            ),
            "temperature": LogMultiplier(self.settings.initial_temperature),
        }

    @property
    def targets(self) -> Mapping[str, Target]:
        return {"critic_target": Target("critic", self.settings.target_rate)}

    @property
    def updates(self) -> tuple[Update, ...]:
        s = self.settings
        return (
            Update(("critic",), "critic_loss", AdamSettings(s.critic_learning_rate)),
            Update(
                ("actor", "temperature"),
                "actor_loss",
                {
                    "actor": AdamSettings(s.actor_learning_rate),
                    "temperature": AdamSettings(s.temperature_learning_rate),
                },
            ),
        )

    @property
    def noise(self) -> Mapping[str, Noise]:
        action = (self.spec.action_size,)
        return {"action": Noise(action), "next_action": Noise(action)}

    @property
    def target_entropy(self) -> float:
        """Entropy the temperature steers to; by default minus the action dimension."""
        chosen = self.settings.target_entropy
        return -float(self.spec.action_size) if chosen is None else chosen

    @torch.no_grad()
    def critic_target(self, nets: Networks, batch: Batch) -> Tensor:
        """y = r + discount (1 - d) [min_i Q'_i(s', a') - alpha log pi(a'|s')], [batch].

        An ensemble whose members have targets of their own gives [member, batch].
        """
        action, log_prob = nets.actor(batch.next_observations).sample(batch.noise["next_action"])
        value = self.next_value(nets, batch, action)
        if self.settings.entropy_backup:
            value = value - nets.temperature() * log_prob
        return td_target(batch, value, self.settings.discount)

    def next_value(self, nets: Networks, batch: Batch, action: Tensor) -> Tensor:
        """min_i Q'_i(s', a'), [batch]: what the targets bootstrap from."""
        value: Tensor = nets.critic_target(batch.next_observations, action).amin(0)
        return value

    def policy_value(self, nets: Networks, observations: Tensor, action: Tensor) -> Tensor:
        """min_i Q_i(s, a), [batch]: what the actor climbs."""
        value: Tensor = nets.critic.minimum(observations, action)
        return value

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2."""
        target = self.critic_target(nets, batch)
        values = nets.critic.joint(batch.observation_actions)
        return summed_squared_error(values, target), {"q": values, "q_target": target}

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """mean (alpha log pi(a|s) - min_i Q_i(s, a)), and the temperature's dual loss."""
        action, log_prob = nets.actor(batch.observations).sample(batch.noise["action"])
        return self.policy_loss(nets, batch, action, log_prob)

    def policy_loss(
        self, nets: Networks, batch: Batch, action: Tensor, log_prob: Tensor
    ) -> tuple[Tensor, Metrics]:
        """`actor_loss`, given the policy's sample [batch, act] and its log-density [batch]."""
        value = self.policy_value(nets, batch.observations, action)
        return self.soft_loss(nets, value, log_prob)

    def soft_loss(self, nets: Networks, value: Tensor, log_prob: Tensor) -> tuple[Tensor, Metrics]:
        """mean (alpha log pi - value), both [batch], and the temperature's dual loss."""
        temperature = nets.temperature()
        actor = (temperature * log_prob - value).mean()
        # The temperature rises while the entropy -log pi lies below its target.
        dual = nets.temperature.dual_loss(log_prob.detach() + self.target_entropy)
        return actor + dual, {"entropy": -log_prob, "temperature": temperature}


def td_target(batch: Batch, next_value: Tensor, discount: float) -> Tensor:
    """r + discount (1 - terminated) next_value, in its shape; time limits bootstrap.

    Args:
        next_value: [batch], or [member, batch].
    """
    return torch.addcmul(batch.rewards, 1.0 - batch.terminations, next_value, value=discount)


def summed_squared_error(values: Tensor, target: Tensor) -> Tensor:
    """Sum over critics of the mean squared error.

    Args:
        values: [member, batch].
        target: [batch] for all, or each member's own [member, batch]; used without gradient.
    """
    assert target.shape in (values.shape, values.shape[1:]), (target.shape, values.shape)
    error = nn.functional.mse_loss(values, target.detach().expand_as(values))
    return error * len(values)
