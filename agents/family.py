"""What FamO2O makes of a base agent: a policy for every balance (arXiv 2310.17966).

A base agent weighs improving on Q against staying near the data by one number, beta. FamO2O trains
a universal policy pi_u(a | s, beta) for a whole range of it, and a balance policy pi_b(beta | s)
that chooses it by state. The base's critic and value losses stay as they are, and so does its actor
loss, given one beta a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rlalign.agent import Agent, Prefixed, Spec
from rlalign.constraints import LogMultiplier
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks, Noise, Update
from rlalign.nn.balance import BalancePolicy, PlainTanhGaussian
from rlalign.optim import AdamSettings
from rlalign.settings import AgentSettings, require


@dataclass(frozen=True, kw_only=True)
class FamilySettings(AgentSettings):
    """What FamO2O adds to its base's settings; the defaults are those for locomotion.

    Args:
        coefficient_range: lowest and highest beta. It replaces the base's own coefficient and is
            the method's main hyperparameter; equal ends make the family one policy.
        encoding_size: length of the sinusoidal encoding by which the policy sees beta, even.
        encoding_base: base of its wavelengths.
        balance_every: updates between steps of the balance policy (AntMaze: 1).
        balance_learning_rate: of Adam, for the balance policy and the weight of its entropy.
        balance_entropy: steer the balance policy's entropy (authors' IQL form; their CQL form has
            no such term).
        balance_target_entropy: where to, for u in (-1, 1) before it is stretched to the range; at
            most log 2.
        initial_balance_temperature: weight of the entropy at the start.
    """

    coefficient_range: tuple[float, ...] = (1.0, 5.0)
    encoding_size: int = 6
    encoding_base: float = 10_000.0
    balance_every: int = 5
    balance_learning_rate: float = 3e-4
    balance_entropy: bool = True
    balance_target_entropy: float = -0.5
    initial_balance_temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        ends, size = self.coefficient_range, self.encoding_size
        ordered = len(ends) == 2 and 0 <= ends[0] <= ends[1]
        require(ordered, "coefficient_range", ends, "a lower and a higher number, at least 0")
        require(size >= 2 and size % 2 == 0, "encoding_size", size, "even and at least 2")
        require(self.encoding_base > 1, "encoding_base", self.encoding_base, "above 1")
        require(self.balance_every >= 1, "balance_every", self.balance_every, "at least 1")
        entropy = self.balance_target_entropy  # log 2 is that of the uniform distribution
        require(entropy < 0.693, "balance_target_entropy", entropy, "below log 2 = 0.693")
        temperature = self.initial_balance_temperature
        require(temperature > 0, "initial_balance_temperature", temperature, "above 0")


class FamO2O(Agent):
    """What FamO2O changes in a base agent; stands before it among a class's bases.

    Offline, beta is drawn uniformly for every row; online it is the balance policy's sample.
    Acting uses the balance policy's mode. The balance policy learns in both phases, before the
    universal policy, which is given the same sample: the beta of the balance policy as it was
    before its step, as in the authors' code, at no second pass.
    """

    settings: Any
    balance_critic: ClassVar[str] = "critic"  # judges the balance policy
    balance_before: ClassVar[str] = "actor"  # whose update the balance policy's precedes
    _member: float | None = None

    def networks(self, spec: Spec) -> Mapping[str, nn.Module]:
        s = self.settings
        low, high = s.coefficient_range
        wide = replace(spec, observation_size=spec.observation_size + s.encoding_size)
        networks = {
            **super().networks(spec),  # type: ignore[safe-super]
            "actor": super().networks(wide)["actor"],  # type: ignore[safe-super]
            "balance": BalancePolicy(
                self.unit_policy(spec),
                bounds=(low, high),
                encoding_size=s.encoding_size,
                encoding_base=s.encoding_base,
            ),
        }
        if s.balance_entropy:
            networks["balance_temperature"] = LogMultiplier(s.initial_balance_temperature)
        return networks

    def unit_policy(self, spec: Spec) -> nn.Module:
        """Return the network behind pi_b, a tanh-Gaussian over u in (-1, 1)."""
        s = self.settings
        return PlainTanhGaussian(spec.observation_size, s.hidden, initialization=s.initialization)

    @property
    def updates(self) -> tuple[Update, ...]:
        s = self.settings
        trained = ("balance", "balance_temperature") if s.balance_entropy else ("balance",)
        adam = AdamSettings(s.balance_learning_rate)
        balance = Update(trained, "balance_loss", adam, every=s.balance_every)
        updates: list[Update] = []
        for update in super().updates:  # type: ignore[safe-super]
            updates += [balance, update] if self.balance_before in update.networks else [update]
        return tuple(updates)

    @property
    def noise(self) -> Mapping[str, Noise]:
        return {
            **super().noise,
            "coefficient": Noise((1,), "uniform"),
            "balance": Noise((1,)),
            "balance_action": Noise((self.spec.action_size,)),
        }

    # The coefficient.

    def coefficient(self, nets: Networks, batch: Batch) -> Tensor:
        """beta [batch]: uniform in its range offline, the balance policy's sample online."""
        if self.online:
            return self.balance_sample(nets, batch)
        return nets.balance.stretch(batch.noise["coefficient"].squeeze(-1))

    @torch.no_grad()
    def balance_sample(self, nets: Networks, batch: Batch) -> Tensor:
        """beta ~ pi_b(.|s) [batch], without gradient; `balance_loss` shares its own."""

        def sample() -> Tensor:
            return nets.balance.sample(batch.observations, batch.noise["balance"])[0]

        return batch.once("balance_sample", sample)

    @torch.no_grad()
    def policy_inputs(self, nets: Networks, batch: Batch) -> Tensor:
        """[s, enc(beta)], [batch, obs + encoding]."""

        def condition() -> Tensor:
            return nets.balance.condition(batch.observations, self.coefficient(nets, batch))

        return batch.once("policy_inputs", condition)

    def balance_action(self, nets: Networks, inputs: Tensor, noise: Tensor) -> Tensor:
        """a ~ pi_u(.|s, enc(beta)) [batch, act], reparameterised."""
        action: Tensor = nets.actor.act(inputs, noise)
        return action

    def balance_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """mean (alpha_b log pi_b(u|s) - min_i Q_i(s, a)), a ~ pi_u(.|s, enc(beta)), beta ~ pi_b.

        And alpha_b (H - H_target), H the entropy of that sample, for alpha_b alone.
        """
        s = self.settings
        policy = nets.balance(batch.observations)
        unit, log_prob = policy.sample(batch.noise["balance"])
        beta = nets.balance.stretch(unit.squeeze(-1))
        batch.once("balance_sample", beta.detach)
        inputs = nets.balance.condition(batch.observations, beta)
        action = self.balance_action(nets, inputs, batch.noise["balance_action"])
        critic = getattr(nets, self.balance_critic)
        loss = -critic.minimum(batch.observations, action).mean()
        chosen = nets.balance.stretch(policy.mode.detach().squeeze(-1))
        metrics = {
            "balance_entropy": -log_prob,
            "coefficient": chosen,
            "coefficient_spread": chosen.std(correction=0),  # over states; 0: FamO2O is its base
        }
        if s.balance_entropy:
            temperature = nets.balance_temperature()
            excess = -log_prob.detach().mean() - s.balance_target_entropy
            dual = (nets.balance_temperature.log.exp() * excess).sum()
            loss = loss + (temperature * log_prob).mean() + dual
            metrics["balance_temperature"] = temperature
        return loss, metrics

    # Acting.

    def choose(self, coefficient: float | None) -> None:
        """Act as one member of the family from now on; None lets the balance policy choose.

        Raises:
            SettingsError: if the member lies outside the range that was trained.
        """
        low, high = self.settings.coefficient_range
        inside = coefficient is None or low <= coefficient <= high
        require(inside, "coefficient", coefficient, f"in [{low:g}, {high:g}]")
        self._member = coefficient

    def acting_inputs(self, nets: Networks, observations: Tensor) -> Tensor:
        """[s, enc(beta)] with the balance policy's mode, or with the member that was chosen."""
        if self._member is None:
            coefficient = nets.balance.mode(observations)
        else:
            coefficient = observations.new_full((len(observations),), self._member)
        return nets.balance.condition(observations, coefficient)

    def exploit(self, nets: Networks, observations: Tensor) -> Tensor:
        return super().exploit(nets, self.acting_inputs(nets, observations))

    def explore(self, nets: Networks, observations: Tensor, noise: Tensor) -> Tensor:
        return super().explore(nets, self.acting_inputs(nets, observations), noise)

    # State.

    def state_dict(self) -> Prefixed:
        tensors, state = super().state_dict()
        return tensors, {**state, "member": self._member}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        super().load_state_dict(tensors, state)
        self._member = state["member"]


def require_default(settings: AgentSettings, base: type[AgentSettings], name: str) -> None:
    """Refuse a setting of the base that a family has no use for, rather than ignore it."""
    value, default = getattr(settings, name), getattr(base, name)
    require(value == default, name, value, f"left at {default!r} by FamO2O")
