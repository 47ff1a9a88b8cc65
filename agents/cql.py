"""Conservative Q-learning on SAC, CQL(H) with importance sampling (arXiv 2006.04779)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from rlalign.agent import Spec
from rlalign.agents.sac import SAC, SACSettings, summed_squared_error, td_target
from rlalign.constraints import LogMultiplier
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Noise, Update
from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.distributions import TanhGaussian
from rlalign.nn.mlp import StackedMLP
from rlalign.nn.scaled_policy import ScaledTanhGaussianActor
from rlalign.settings import OnlineSettings, require

MULTIPLIER_LIMIT = 1e6
DATA_LIMIT = 1.0 - 1e-5  # of the data's actions in a log-density, where atanh is finite


@dataclass(frozen=True)
class CQLSettings(SACSettings):
    """Settings of CQL; the defaults are CORL's for D4RL locomotion.

    Args:
        cql_weight: w, of the penalty against the squared errors; 0 is SAC.
        online_cql_weight: w online; None keeps it, 0 goes on as SAC.
        action_samples: N, actions from each of three proposals.
        penalty_temperature: of the soft maximum; toward 0 it becomes the maximum.
        importance_sampling: divide by the proposals' densities. Without it the soft maximum runs
            over the samples and the data's action as they are.
        clip_min, clip_max: of each state's gap; None is no limit (CORL's AntMaze: -200).
        lagrange: learn a multiplier that holds the gap at `gap`.
        gap: that the multiplier steers to. The authors' CQL code multiplies w into the measured gap
            alone, a'(w D - gap), the JAX code that others follow into both: the former's gap
            divided by w is the latter's.
        initial_multiplier: e in the JAX code and CORL, 1 in the authors' CQL code.
        backup: what a target bootstraps from: ``"sample"``, one action of the policy;
            ``"max_min"``, the best of N by the least critic (AntMaze); ``"min_max"``, the least of
            the critics' own bests (the authors' CQL code).
        cloning_steps: actor updates at the start of offline learning that climb log pi(a|s) of the
            data in place of min Q: 40,000 in the authors' CQL code, none in CORL.
        critic_hidden: widths of the critics' hidden layers; None is `hidden`.
        initialization: ``"orthogonal"``, gain sqrt(2) and zero biases, or ``"torch"``.
        layer_norm: normalise the critics' hidden layers before their ReLU (FamO2O's code).
        head_gain: gain of orthogonal output layers; None is sqrt(2), Cal-QL's code has 0.01.
        log_std_multiplier, log_std_offset: m and c of log std = m l + c at the start; both learn.
    """

    hidden: tuple[int, ...] = (256, 256, 256)
    observation_normalization: Literal["none", "standard"] = "standard"
    actor_learning_rate: float = 3e-5
    temperature_learning_rate: float = 3e-5
    entropy_backup: bool = False
    cql_weight: float = 10.0
    online_cql_weight: float | None = None
    action_samples: int = 10
    penalty_temperature: float = 1.0
    importance_sampling: bool = True
    clip_min: float | None = None
    clip_max: float | None = None
    lagrange: bool = False
    gap: float = 1.0
    initial_multiplier: float = math.e
    backup: Literal["sample", "max_min", "min_max"] = "sample"
    cloning_steps: int = 0
    critic_hidden: tuple[int, ...] | None = None
    initialization: Literal["torch", "orthogonal"] = "orthogonal"
    layer_norm: bool = False
    head_gain: float | None = None
    log_std_multiplier: float = 1.0
    log_std_offset: float = -1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.cql_weight >= 0, "cql_weight", self.cql_weight, "at least 0")
        online = self.online_cql_weight
        require(online is None or online >= 0, "online_cql_weight", online, "at least 0")
        require(self.action_samples >= 1, "action_samples", self.action_samples, "at least 1")
        temperature = self.penalty_temperature
        require(temperature > 0, "penalty_temperature", temperature, "above 0")
        limits = (-math.inf if self.clip_min is None else self.clip_min, self.clip_max)
        fit = self.clip_max is None or limits[0] < self.clip_max
        require(fit, "clip_min", self.clip_min, "below clip_max")
        require(self.cloning_steps >= 0, "cloning_steps", self.cloning_steps, "at least 0")
        require(self.initial_multiplier > 0, "initial_multiplier", self.initial_multiplier, "> 0")
        require(
            not (self.entropy_backup and self.backup == "min_max"),
            "entropy_backup",
            self.entropy_backup,
            "false with backup 'min_max', where no one action is chosen",
        )
        require(
            self.head_gain is None or (self.head_gain > 0 and self.initialization == "orthogonal"),
            "head_gain",
            self.head_gain,
            "above 0, and given only with initialization 'orthogonal'",
        )


class CQL(SAC):
    """SAC whose critics are pressed down where the data have no actions, and up where they have.

    The codes take all losses at the same parameters; here the critics step before the actor.
    """

    name = "cql"
    settings_type = CQLSettings
    settings: CQLSettings
    online_defaults = OnlineSettings(replay="union")

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        s = self.settings
        sizes = spec.observation_size, spec.action_size
        actor = ScaledTanhGaussianActor(
            *sizes,
            s.hidden,
            multiplier=s.log_std_multiplier,
            offset=s.log_std_offset,
            initialization=s.initialization,
        )
        widths = s.hidden if s.critic_hidden is None else s.critic_hidden
        critic = EnsembleCritic(
            *sizes,
            widths,
            s.critics,
            layer_norm=s.layer_norm,
            initialization=s.initialization,
        )
        critic.trunk.norm_epsilon = 1e-6  # flax's, in which FamO2O's normalised CQL is written
        if s.head_gain is not None:
            for trunk in (actor.trunk, critic.trunk):
                scale_head(trunk, s.head_gain)
        networks: dict[str, nn.Module] = {
            "actor": actor,
            "critic": critic,
            "temperature": LogMultiplier(s.initial_temperature),
        }
        if s.lagrange:
            networks["multiplier"] = LogMultiplier(s.initial_multiplier)
        return networks

    @property
    def updates(self) -> tuple[Update, ...]:
        critic, *others = super().updates
        if self.settings.lagrange:
            critic = replace(critic, networks=(*critic.networks, "multiplier"))
        return (critic, *others)

    @property
    def noise(self) -> Mapping[str, Noise]:
        action, samples = self.spec.action_size, self.settings.action_samples
        noise = {**super().noise, "proposals": Noise((2, samples, action))}
        if self.settings.backup != "sample":
            noise["next_action"] = Noise((samples, action))
        return {**noise, "uniform": Noise((samples, action), kind="uniform")}

    @property
    def weight(self) -> float:
        """w of the present phase."""
        online: float | None = self.settings.online_cql_weight
        return self.settings.cql_weight if not self.online or online is None else online

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """sum_i [mean (Q_i(s, a) - y)^2 + P_i], and the multiplier's dual loss (equation 4).

        P_i = w D_i, or a' w (D_i - gap) with a learned multiplier a'.
        """
        with torch.no_grad():
            policy = self.policies(nets, batch)
            target = self.bootstrap(nets, batch, policy)
        if self.weight == 0.0:
            values = nets.critic.joint(batch.observation_actions)
            return summed_squared_error(values, target), {"q": values, "q_target": target}
        with torch.no_grad():
            actions, log_density = self.proposals(batch, policy)
        values, sampled = _values(nets.critic, batch, actions)
        gap, metrics = self.conservative_gap(batch, values, sampled, log_density)
        metrics = {"q": values, "q_target": target, "conservative_gap": gap, **metrics}
        loss = summed_squared_error(values, target)
        if not self.settings.lagrange:
            return loss + self.weight * gap.sum(), metrics
        excess = self.weight * (gap - self.settings.gap)  # [member]
        multiplier = nets.multiplier.log.exp().clamp(max=MULTIPLIER_LIMIT)
        dual = -(multiplier * excess.detach()).mean()
        metrics["multiplier"] = multiplier.detach()
        return loss + (multiplier.detach() * excess).sum() + dual, metrics

    def coefficient(self, nets: Networks, batch: Batch) -> float | Tensor:
        """Weight of Q beside the entropy, for all rows or one per row [batch]; 1 is SAC's."""
        return 1.0

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """SAC's; in the first `cloning_steps` offline log pi(a|s) of the data stands for min Q."""
        policy = nets.actor(self.policy_inputs(nets, batch))
        action, log_prob = policy.sample(batch.noise["action"])
        value = self.policy_value(nets, batch.observations, action)
        value = self.coefficient(nets, batch) * value
        if self.settings.cloning_steps and not self.online:
            # The optimiser's own count: exact under resume, and it moves in a captured graph.
            cloning = self.learner.optimizers["actor"].steps < self.settings.cloning_steps
            value = torch.where(cloning, policy.log_prob(batch.actions, DATA_LIMIT), value)
        return self.soft_loss(nets, value, log_prob)

    def policies(self, nets: Networks, batch: Batch) -> TanhGaussian:
        """The policy at s and at s', in one pass; mean and log std [2, batch, act]."""
        here, there = self.policy_inputs(nets, batch), self.next_policy_inputs(nets, batch)
        policy: TanhGaussian = nets.actor(torch.cat((here, there)))
        mean, log_std = (part.unflatten(0, (2, -1)) for part in (policy.mean, policy.log_std))
        return replace(policy, mean=mean, log_std=log_std)

    def bootstrap(self, nets: Networks, batch: Batch, policy: TanhGaussian) -> Tensor:
        """y = r + discount (1 - d) T, [batch]; T of `backup`, less alpha log pi if asked for."""
        noise = batch.noise["next_action"]  # [batch, act] or [batch, samples, act]
        noise = noise.unsqueeze(1) if self.settings.backup == "sample" else noise
        action, log_prob = _at(policy, 1).sample(noise)  # [batch, samples, act]
        observations = batch.next_observations.unsqueeze(1).expand(-1, noise.shape[1], -1)
        values = nets.critic_target(observations.flatten(0, 1), action.flatten(0, 1))
        values = values.unflatten(1, noise.shape[:2])  # [member, batch, samples]
        if self.settings.backup == "min_max":
            value = values.amax(2).amin(0)
        else:
            value, best = values.amin(0).max(1, keepdim=True)
            value = value.squeeze(1)
            if self.settings.entropy_backup:
                value = value - nets.temperature() * log_prob.gather(1, best).squeeze(1)
        return td_target(batch, value, self.settings.discount)

    def proposals(self, batch: Batch, policy: TanhGaussian) -> tuple[Tensor, Tensor]:
        """Actions whose values are pressed down, uniform | pi(.|s') | pi(.|s).

        Returns:
            actions [batch, 3 N, act] and log-densities [batch, 3 N].
        """
        both = replace(policy, mean=policy.mean.unsqueeze(2), log_std=policy.log_std.unsqueeze(2))
        (current, following), (log_current, log_following) = both.sample(
            batch.noise["proposals"].transpose(0, 1)  # [2, batch, N, act]
        )
        uniform = batch.noise["uniform"]
        log_uniform = torch.full_like(log_current, uniform.shape[-1] * math.log(0.5))
        actions = torch.cat((uniform, following, current), 1)
        return actions, torch.cat((log_uniform, log_following, log_current), 1)

    def conservative_gap(
        self, batch: Batch, values: Tensor, sampled: Tensor, log_density: Tensor
    ) -> tuple[Tensor, Metrics]:
        """D_i = mean clip(log sum_a exp(Q_i(s, a)) - Q_i(s, a_data)), [member].

        Args:
            values: at the data's actions [member, batch].
            sampled: at the proposals [member, batch, 3 N].
            log_density: of the proposals [batch, 3 N].
        """
        s = self.settings
        uniform, chosen = sampled.split((s.action_samples, 2 * s.action_samples), -1)
        chosen, metrics = self.calibrate(batch, chosen)
        if s.importance_sampling:
            level = torch.cat((uniform, chosen), -1) - log_density
        else:
            level = torch.cat((uniform, chosen, values.unsqueeze(-1)), -1)
        temperature = s.penalty_temperature
        gap = temperature * torch.logsumexp(level / temperature, -1) - values
        if s.clip_min is not None or s.clip_max is not None:
            gap = gap.clamp(s.clip_min, s.clip_max)
        return gap.mean(1), metrics

    def calibrate(self, batch: Batch, values: Tensor) -> tuple[Tensor, Metrics]:
        """The values at the policy's actions [member, batch, 2 N] as the penalty sees them.

        CQL presses them down wherever they are; Cal-QL not below a bound.
        """
        return values, {}


def _values(critic: EnsembleCritic, batch: Batch, actions: Tensor) -> tuple[Tensor, Tensor]:
    """All critics at the data's action and at `actions` [batch, n, act], in one pass.

    Returns:
        [member, batch] and [member, batch, n].
    """
    every = torch.cat((batch.actions.unsqueeze(1), actions), 1)
    observations = batch.observations.unsqueeze(1).expand(-1, every.shape[1], -1)
    values = critic.joint(torch.cat((observations, every), -1).flatten(0, 1))
    values = values.unflatten(1, every.shape[:2])
    return values[..., 0], values[..., 1:]


def _at(policy: TanhGaussian, index: int) -> TanhGaussian:
    """The policy at s (0) or at s' (1), with an axis for samples [batch, 1, act]."""
    mean, log_std = policy.mean[index].unsqueeze(1), policy.log_std[index].unsqueeze(1)
    return replace(policy, mean=mean, log_std=log_std)


def scale_head(trunk: StackedMLP, gain: float) -> None:
    """Give an orthogonal output layer another gain than sqrt(2)."""
    with torch.no_grad():
        trunk.weights[-1].mul_(gain / math.sqrt(2.0))
