"""FamO2O over IQL, AWAC and CQL (arXiv 2310.17966): what is particular to each base.

The method itself is in `rlalign.agents.family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from rlalign.agent import Spec
from rlalign.agents.awac import AWAC, AWACSettings
from rlalign.agents.cql import CQL, CQLSettings, scale_head
from rlalign.agents.family import FamilySettings, FamO2O, require_default
from rlalign.agents.iql import IQL, IQLSettings
from rlalign.layout import Batch
from rlalign.learner import Networks, Noise
from rlalign.nn.scaled_policy import ScaledTanhGaussianActor


@dataclass(frozen=True)
class FamO2OIQLSettings(IQLSettings, FamilySettings):
    """Settings of FamO2O on IQL; the defaults are those for locomotion.

    Args:
        clip_balance_actions: clip the actions by which the balance policy is judged to [-1, 1],
            where the critics know them; the authors' code asks about the samples as they are.
    """

    actor_schedule: Literal["constant", "cosine"] = "constant"
    clip_balance_actions: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_default(self, IQLSettings, "beta")
        require_default(self, IQLSettings, "deterministic_actor")


class FamO2OIQL(FamO2O, IQL):
    """FamO2O on IQL, in the order of the authors' code: V, pi_b with alpha_b, pi_u, Q.

    The balance policy is judged by the target critics.
    """

    name = "famo2o_iql"
    settings_type = FamO2OIQLSettings
    settings: FamO2OIQLSettings
    balance_critic = "critic_target"

    def balance_action(self, nets: Networks, inputs: Tensor, noise: Tensor) -> Tensor:
        if self.settings.clip_balance_actions:
            return super().balance_action(nets, inputs, noise)
        mean: Tensor = nets.actor.mean(inputs)
        return mean + nets.actor.clamped_log_std().exp() * noise


@dataclass(frozen=True)
class FamO2OAWACSettings(AWACSettings, FamilySettings):
    """Settings of FamO2O on AWAC; `coefficient_range` is one of 1 / lambda."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_default(self, AWACSettings, "temperature")
        # A softmax over the batch would mix rows of different coefficients.
        require_default(self, AWACSettings, "weight")


class FamO2OAWAC(FamO2O, AWAC):
    """FamO2O on AWAC: an extension, of which there is no code of the authors.

    The baseline of an advantage is the value of the family member that the row is for, and the
    critic's target evaluates the members that the phase draws at s'. Order: Q, pi_b with alpha_b,
    pi_u; the balance policy is judged by the online critics, by clipped actions like AWAC's own.
    """

    name = "famo2o_awac"
    settings_type = FamO2OAWACSettings
    settings: FamO2OAWACSettings

    @property
    def noise(self) -> Mapping[str, Noise]:
        return {
            **super().noise,
            "next_coefficient": Noise((1,), "uniform"),
            "next_balance": Noise((1,)),
        }

    @torch.no_grad()
    def next_policy_inputs(self, nets: Networks, batch: Batch) -> Tensor:
        """[s', enc(beta')], beta' uniform offline, the balance policy's sample at s' online."""
        if self.online:
            sample = nets.balance.sample(batch.next_observations, batch.noise["next_balance"])
            return nets.balance.condition(batch.next_observations, sample[0])
        coefficient = nets.balance.stretch(batch.noise["next_coefficient"].squeeze(-1))
        return nets.balance.condition(batch.next_observations, coefficient)


@dataclass(frozen=True)
class FamO2OCQLSettings(CQLSettings, FamilySettings):
    """Settings of FamO2O on CQL; the defaults are the authors' for locomotion.

    Their critics are normalised and their weight of the penalty is 1, unlike those of the CQL that
    they compare with (no normalisation, weight 5): give the base the same for a fair comparison.

    Args:
        next_coefficient: beta of the actions at s' in targets and penalty, always the balance
            policy's: sampled at ``"next_state"``, or at ``"state"`` as in the authors' code.
    """

    hidden: tuple[int, ...] = (256, 256)
    observation_normalization: Literal["none", "standard"] = "none"
    actor_learning_rate: float = 3e-4
    temperature_learning_rate: float = 3e-4
    cql_weight: float = 1.0
    layer_norm: bool = True
    head_gain: float | None = 0.1
    coefficient_range: tuple[float, ...] = field(default=(0.5, 1.5), kw_only=True)
    balance_every: int = field(default=1, kw_only=True)
    balance_entropy: bool = field(default=False, kw_only=True)
    next_coefficient: Literal["next_state", "state"] = "next_state"


class FamO2OCQL(FamO2O, CQL):
    """FamO2O on CQL: beta multiplies Q in SAC's actor loss, so that 1 is CQL's own.

    The authors' code maps u to (2 low - high, high) by mistake, half of it below the range; here
    the map is the right one. It takes all losses at the same parameters; here the balance policy
    steps first, judged by the critics before their step.
    """

    name = "famo2o_cql"
    settings_type = FamO2OCQLSettings
    settings: FamO2OCQLSettings
    balance_before = "critic"

    def unit_policy(self, spec: Spec) -> nn.Module:
        s = self.settings
        policy = ScaledTanhGaussianActor(
            spec.observation_size,
            1,
            s.hidden,
            multiplier=s.log_std_multiplier,
            offset=s.log_std_offset,
            initialization=s.initialization,
        )
        if s.head_gain is not None:
            scale_head(policy.trunk, s.head_gain)
        return policy

    @property
    def noise(self) -> Mapping[str, Noise]:
        return {**super().noise, "next_balance": Noise((1,))}

    @torch.no_grad()
    def next_policy_inputs(self, nets: Networks, batch: Batch) -> Tensor:
        """[s', enc(beta')], beta' of the balance policy in both phases: that is what will act."""
        observations = batch.next_observations
        if self.settings.next_coefficient == "state":
            return nets.balance.condition(observations, self.balance_sample(nets, batch))
        sample = nets.balance.sample(observations, batch.noise["next_balance"])
        return nets.balance.condition(observations, sample[0])
