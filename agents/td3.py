"""Twin delayed deep deterministic policy gradient (arXiv 1802.09477)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlalign.agent import Agent, Spec
from rlalign.agents.sac import summed_squared_error, td_target
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Noise, Target, Update
from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.policies import DeterministicActor
from rlalign.optim import AdamSettings
from rlalign.settings import AgentSettings, OnlineSettings, require


@dataclass(frozen=True)
class TD3Settings(AgentSettings):
    """Settings of TD3.

    Args:
        actor_learning_rate, critic_learning_rate: of Adam.
        policy_delay: critic updates per actor and target update.
        target_noise, target_noise_clip: smoothing of the target action, in [-1, 1] units.
        exploration_noise: standard deviation of the noise added to actions online.
    """

    actor_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    policy_delay: int = 2
    target_noise: float = 0.2
    target_noise_clip: float = 0.5
    exploration_noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.policy_delay >= 1, "policy_delay", self.policy_delay, "at least 1")
        for name in ("target_noise", "target_noise_clip", "exploration_noise"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


class TD3(Agent):
    """Deterministic actor, two critics, smoothed targets, delayed actor and target updates."""

    name = "td3"
    settings_type = TD3Settings
    settings: TD3Settings
    online_defaults = OnlineSettings(random_steps=5_000, warmup_steps=5_000)

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        hidden = self.settings.hidden
        return {
            "actor": DeterministicActor(spec.observation_size, spec.action_size, hidden),
            "critic": EnsembleCritic(spec.observation_size, spec.action_size, hidden),
        }

    @property
    def targets(self) -> Mapping[str, Target]:
        rate, delay = self.settings.target_rate, self.settings.policy_delay
        return {
            "actor_target": Target("actor", rate, delay),
            "critic_target": Target("critic", rate, delay),
        }

    @property
    def updates(self) -> tuple[Update, ...]:
        s = self.settings
        return (
            Update(("critic",), "critic_loss", AdamSettings(s.critic_learning_rate)),
            Update(
                ("actor",),
                "actor_loss",
                AdamSettings(s.actor_learning_rate),
                every=s.policy_delay,
            ),
        )

    @property
    def noise(self) -> Mapping[str, Noise]:
        return {"target": Noise((self.spec.action_size,))}

    def explore(self, nets: Networks, observations: Tensor, noise: Tensor) -> Tensor:
        action: Tensor = nets.actor(observations)
        return (action + self.settings.exploration_noise * noise).clamp(-1.0, 1.0)

    @torch.no_grad()
    def critic_target(self, nets: Networks, batch: Batch) -> Tensor:
        """y = r + discount (1 - d) min_i Q'_i(s', clip(pi'(s') + clip(noise))), [batch]."""
        s = self.settings
        noise = (s.target_noise * batch.noise["target"]).clamp(
            -s.target_noise_clip, s.target_noise_clip
        )
        action = (nets.actor_target(batch.next_observations) + noise).clamp(-1.0, 1.0)
        return td_target(batch, self.next_value(nets, batch, action), s.discount)

    def next_value(self, nets: Networks, batch: Batch, action: Tensor) -> Tensor:
        """min_i Q'_i(s', a'), [batch]: what the target bootstraps from."""
        value: Tensor = nets.critic_target(batch.next_observations, action).amin(0)
        return value

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """MSE(Q_1, y) + MSE(Q_2, y)."""
        target = self.critic_target(nets, batch)
        values = nets.critic.joint(batch.observation_actions)
        return summed_squared_error(values, target), {"q": values, "q_target": target}

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """-mean Q_1(s, pi(s))."""
        value = nets.critic.first(batch.observations, nets.actor(batch.observations))
        return -value.mean(), {}
