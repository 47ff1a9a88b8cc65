"""RLPD: online learning with prior data in every batch (arXiv 2302.02948)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from rlalign.agent import Spec
from rlalign.agents.ensemble import random_members
from rlalign.agents.sac import SAC, SACSettings
from rlalign.constraints import LogMultiplier
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Noise, Update
from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.initialization import xavier_uniform
from rlalign.nn.policies import TanhGaussianActor
from rlalign.settings import OnlineSettings, require


@dataclass(frozen=True)
class RLPDSettings(SACSettings):
    """Settings of RLPD; the defaults are those for locomotion.

    Args:
        critics: size of the ensemble.
        target_critics: M, size of the random subset whose minimum is the target (AntMaze: 1).
        actor_value: ``"mean"`` of all critics as in the authors' code, or their ``"min"``.
        critic_reduction: ``"mean"`` of the critics' squared errors, or SAC's ``"sum"``.
        layer_norm: normalise the critics' hidden layers before their ReLU.
        initialization: ``"xavier"`` as in the authors' code, or ``"torch"``, SAC's.
        updates_per_actor_update: critic updates for one of actor and temperature; None is the
            online phase's update-to-data ratio, that is once per environment step.
        target_entropy: None is minus half the action dimension.
        entropy_backup: the authors switch it off for AntMaze and Adroit.
    """

    critics: int = 10
    target_critics: int = 2
    actor_value: Literal["mean", "min"] = "mean"
    critic_reduction: Literal["mean", "sum"] = "mean"
    layer_norm: bool = True
    initialization: Literal["xavier", "torch"] = "xavier"
    updates_per_actor_update: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size, every = self.target_critics, self.updates_per_actor_update
        require(1 <= size <= self.critics, "target_critics", size, "from 1 to critics")
        require(
            every is None or every >= 1, "updates_per_actor_update", every, "at least 1 or null"
        )


class RLPD(SAC):
    """SAC with a normalised ensemble, many updates a step, and half of each batch from a dataset.

    There is no offline phase. The actor's update comes with the last of an environment step's
    critic updates, as in the authors' code.
    """

    name = "rlpd"
    settings_type = RLPDSettings
    settings: RLPDSettings
    online_defaults = OnlineSettings(
        updates_per_step=20, random_steps=5_000, warmup_steps=5_000, replay="mixture"
    )

    _update_ratio = 20  # critic updates per environment step

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        s = self.settings
        sizes = spec.observation_size, spec.action_size
        actor = TanhGaussianActor(*sizes, s.hidden)
        critic = EnsembleCritic(*sizes, s.hidden, s.critics, layer_norm=s.layer_norm)
        critic.trunk.norm_epsilon = 1e-6  # flax's, in the authors' code; torch's is 1e-5
        if s.initialization == "xavier":
            xavier_uniform(actor.trunk)
            xavier_uniform(critic.trunk)
        temperature = LogMultiplier(s.initial_temperature)
        return {"actor": actor, "critic": critic, "temperature": temperature}

    @property
    def updates(self) -> tuple[Update, ...]:
        critic, actor = super().updates
        every = self.settings.updates_per_actor_update or self._update_ratio
        return critic, replace(actor, every=every, offset=every - 1)

    def set_update_ratio(self, updates_per_step: float) -> None:
        """Let the actor move once per environment step."""
        self._update_ratio = max(1, round(updates_per_step))
        self.learner.updates = self.updates

    @property
    def noise(self) -> Mapping[str, Noise]:
        noise = dict(super().noise)
        if self.settings.target_critics < self.settings.critics:
            noise["subset"] = Noise((self.settings.critics,), "uniform", shared=True)
        return noise

    @property
    def target_entropy(self) -> float:
        """Entropy the temperature steers to; by default minus half the action dimension."""
        chosen = self.settings.target_entropy
        return -0.5 * self.spec.action_size if chosen is None else chosen

    def next_value(self, nets: Networks, batch: Batch, action: Tensor) -> Tensor:
        """min over i in Z of Q'_i(s', a'), Z a random subset for the whole batch, [batch]."""
        if "subset" not in batch.noise:
            return super().next_value(nets, batch, action)
        chosen = random_members(batch.noise["subset"], self.settings.target_critics)
        values: Tensor = nets.critic_target(batch.next_observations, action, only=chosen)
        return values.amin(0)

    def policy_value(self, nets: Networks, observations: Tensor, action: Tensor) -> Tensor:
        """mean_i Q_i(s, a) over all critics, or their minimum, [batch]."""
        if self.settings.actor_value == "min":
            return super().policy_value(nets, observations, action)
        value: Tensor = nets.critic(observations, action).mean(0)
        return value

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """mean over critics and batch of (Q_i(s, a) - y)^2, all critics toward the same y."""
        loss, metrics = super().critic_loss(nets, batch)
        if self.settings.critic_reduction == "mean":
            loss = loss / self.settings.critics
        return loss, metrics
