"""RORL: SAC-N that is smooth around the data and pessimistic just outside it (arXiv 2206.02829)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rlalign.agents.ensemble import (
    asymmetric_change,
    jeffreys_divergence,
    perturbed,
    uncertainty_penalty,
    worst,
)
from rlalign.agents.sac import summed_squared_error
from rlalign.agents.sac_n import SACN, SACNSettings, require_ensemble
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Noise
from rlalign.nn.distributions import TanhGaussian
from rlalign.settings import require

Term = Literal["critic_smoothing", "policy_smoothing", "ood"]


@dataclass(frozen=True)
class RORLSettings(SACNSettings):
    """Settings of RORL. Weights and radii are per dataset; the defaults are for an unknown one.

    Radii are half-widths of an l-infinity ball around normalised observations.

    Args:
        observation_normalization: the radii's unit; ``"none"`` means raw observations.
        perturbations: n, perturbed states per state and term; their worst counts.
        shared_perturbations: add one set of n to every state of a batch, as the authors' code does;
            otherwise each state has its own, with the same expectation and less variance.
        critic_smoothing, critic_radius: weight and radius of the critics' smoothness.
        critic_asymmetry: tau, the weight of a fall of Q under a perturbation; a rise has 1 - tau.
        policy_smoothing, policy_radius: weight and radius of the policy's smoothness.
        ood_weight, ood_radius: of the penalty on the policy's own actions near the data; a radius
            of 0 is PBRL's, at the data's states.
        uncertainty, uncertainty_floor, uncertainty_decay: lambda in that penalty, at first, at
            least, and its fall per update.
    """

    observation_normalization: Literal["none", "standard"] = "standard"
    perturbations: int = 10
    shared_perturbations: bool = True
    critic_smoothing: float = 1e-4
    critic_radius: float = 0.005
    critic_asymmetry: float = 0.2
    policy_smoothing: float = 0.1
    policy_radius: float = 0.005
    ood_weight: float = 0.5
    ood_radius: float = 0.01
    uncertainty: float = 1.0
    uncertainty_floor: float = 0.1
    uncertainty_decay: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ensemble(self, "RORL")
        require(self.perturbations >= 1, "perturbations", self.perturbations, "at least 1")
        for term in ("critic", "policy", "ood"):
            for kind in ("radius", "weight" if term == "ood" else "smoothing"):
                name = f"{term}_{kind}"
                require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        asymmetry = self.critic_asymmetry
        require(0.0 <= asymmetry <= 1.0, "critic_asymmetry", asymmetry, "in [0, 1]")
        floor, decay = self.uncertainty_floor, self.uncertainty_decay
        require(floor >= 0, "uncertainty_floor", floor, "at least 0")
        require(self.uncertainty >= floor, "uncertainty", self.uncertainty, "at least its floor")
        require(decay >= 0, "uncertainty_decay", decay, "at least 0")


class RORL(SACN):
    """Three terms over SAC-N; without any of them it is SAC-N, random numbers included.

    "Adversarial" perturbations are the worst of n random ones, as in the authors' code. All n are
    tried in one pass without gradients, and only the worst passes with them: the gradient of a
    maximum is that of the element it chose.
    """

    name = "rorl"
    settings_type = RORLSettings
    settings: RORLSettings

    def has(self, term: Term) -> bool:
        """Whether the settings leave anything of a term."""
        s = self.settings
        if term == "critic_smoothing":
            return s.critic_smoothing > 0 and s.critic_radius > 0
        if term == "policy_smoothing":
            return s.policy_smoothing > 0 and s.policy_radius > 0
        return s.ood_weight > 0 and s.uncertainty > 0

    def uses(self, term: Term) -> bool:
        """Whether a term counts at present; the penalty's passes end once lambda has come to 0."""
        return self.has(term) and not (term == "ood" and self.uncertainty_is_spent)

    @property
    def uncertainty_is_spent(self) -> bool:
        """Whether lambda has fallen to a floor of 0, which some datasets have from early on."""
        s = self.settings
        if s.uncertainty_floor > 0:
            return False
        return self.online or s.uncertainty <= s.uncertainty_decay * self.learner.step_count

    @property
    def noise(self) -> Mapping[str, Noise]:
        noise = dict(super().noise)
        draws, shared = self.settings.perturbations, self.settings.shared_perturbations
        for term in ("critic_smoothing", "policy_smoothing", "ood"):
            if self.has(term):
                noise[term] = Noise((draws, self.spec.observation_size), "uniform", shared)
        if self.has("ood"):
            noise["ood_action"] = Noise((draws, self.spec.action_size))
        return noise

    @property
    def uncertainty_weight(self) -> Tensor:
        """lambda after k critic updates: max(lambda_0 - k decay, floor), 0-dim; online the floor.

        k is the critic optimiser's own count of steps. So lambda needs no state besides the
        learner's exact one, is used before it falls, and moves within a captured graph.
        """
        s = self.settings
        steps = self.learner.optimizers["critic"].steps.double()
        start = s.uncertainty_floor if self.online else s.uncertainty
        annealed = start - s.uncertainty_decay * steps
        return annealed.clamp(min=s.uncertainty_floor).float()

    def around(self, batch: Batch, term: Term, radius: float) -> Tensor:
        """Perturbed states of a term, [batch, draw, obs]."""
        return perturbed(batch.observations, batch.noise[term], radius)

    # The critics.

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """SAC-N's loss + eta_1 L_smooth + eta_2 L_ood; a sum over critics, and two means.

        L_ood is the `uncertainty_penalty` at perturbed states and the policy's actions.
        Its pass is the same as that at the data.
        """
        s = self.settings
        if not self.uses("critic_smoothing") and not self.uses("ood"):
            return super().critic_loss(nets, batch)
        target = self.critic_target(nets, batch)
        inputs = batch.observation_actions
        if self.uses("ood"):
            inputs = torch.cat((inputs, self.ood_inputs(nets, batch)))
        values = nets.critic.joint(inputs)
        values, outside = values.split((len(batch), len(inputs) - len(batch)), dim=1)
        loss = summed_squared_error(values, target)
        metrics = {"q": values, "q_target": target}
        if self.uses("ood"):
            weight = self.uncertainty_weight
            penalty = uncertainty_penalty(outside, weight)
            loss = loss + s.ood_weight * penalty
            metrics |= {"ood_penalty": penalty, "ood_q": outside, "uncertainty_weight": weight}
        if self.uses("critic_smoothing"):
            roughness = self.critic_roughness(nets, batch, values)
            loss = loss + s.critic_smoothing * roughness
            metrics["critic_roughness"] = roughness
        return loss, metrics

    @torch.no_grad()
    def ood_inputs(self, nets: Networks, batch: Batch) -> Tensor:
        """Perturbed states and the policy's sampled actions there, [batch * draw, obs + act]."""
        states = self.around(batch, "ood", self.settings.ood_radius).flatten(0, 1)
        action = nets.actor.act(states, batch.noise["ood_action"].flatten(0, 1))
        return torch.cat((states, action), dim=-1)

    def critic_roughness(self, nets: Networks, batch: Batch, values: Tensor) -> Tensor:
        """mean over s of max over s^ of mean_i (1 - tau) [Q_i(s^, a) - Q_i(s, a)]_+^2 + tau []_-^2.

        The gradient flows into Q(s^, a) and Q(s, a) alike.

        Args:
            values: Q_i(s, a), [member, batch].
        """
        s = self.settings
        with torch.no_grad():
            states = self.around(batch, "critic_smoothing", s.critic_radius)
            actions = batch.actions.unsqueeze(1).expand(-1, s.perturbations, -1)
            moved = nets.critic(states.flatten(0, 1), actions.flatten(0, 1))
            change = moved.unflatten(1, (len(batch), -1)) - values.unsqueeze(-1)
            chosen = worst(asymmetric_change(change, s.critic_asymmetry), states)
        change = nets.critic(chosen, batch.actions) - values
        return asymmetric_change(change, s.critic_asymmetry).mean()

    # The actor.

    def actor_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """SAC-N's loss + eta_3 mean over s of max over s^ of D_J(pi(.|s) || pi(.|s^))."""
        if not self.uses("policy_smoothing"):
            return super().actor_loss(nets, batch)
        policy = nets.actor(batch.observations)
        loss, metrics = self.policy_loss(nets, batch, *policy.sample(batch.noise["action"]))
        roughness = self.policy_roughness(nets, batch, policy)
        loss = loss + self.settings.policy_smoothing * roughness
        return loss, {**metrics, "policy_roughness": roughness}

    def policy_roughness(self, nets: Networks, batch: Batch, policy: TanhGaussian) -> Tensor:
        """mean over s of the largest Jeffreys divergence between pi(.|s) and pi(.|s^).

        Args:
            policy: pi(.|s) at the batch's observations; the gradient flows through it too.
        """
        mean, log_std = normal_of(policy)
        with torch.no_grad():
            states = self.around(batch, "policy_smoothing", self.settings.policy_radius)
            moved = normal_of(nets.actor(states.flatten(0, 1)))
            others = (part.unflatten(0, (len(batch), -1)) for part in moved)
            divergence = jeffreys_divergence(mean.unsqueeze(1), log_std.unsqueeze(1), *others)
            chosen = worst(divergence, states)
        return jeffreys_divergence(mean, log_std, *normal_of(nets.actor(chosen))).mean()


def normal_of(policy: TanhGaussian) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation [..., act] before the tanh."""
    return policy.mean, policy.log_std.clamp(policy.low, policy.high)
