"""SimPO: the average log-probability as reward, and no reference (arXiv 2405.14734)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from rlalign.settings import require
from rlalign.trainers.base import PreferenceTrainer
from rlalign.trainers.losses import simpo_loss
from rlalign.trainers.settings import DPO_ONLY, REFERENCE_ONLY, PreferenceConfig

KINDS = ("sigmoid", "hinge")


@dataclass
class SimPOConfig(PreferenceConfig):
    """Settings of SimPO; see also `PreferenceConfig` and `transformers.TrainingArguments`.

    Args:
        beta: scale of the reward, 2 to 10.
        gamma_beta_ratio: target margin gamma / beta, 0 to 1; gamma = beta * gamma_beta_ratio. TRL's
            CPO takes gamma itself as `simpo_gamma`.
        gamma: target margin gamma, in place of `gamma_beta_ratio`.
        sft_weight: weight of the chosen completions' cross-entropy per token; 0 is SimPO.
        simpo_loss: ``"sigmoid"`` or ``"hinge"``.
        label_smoothing: probability in [0, 0.5) that a label is wrong.
    """

    unused: ClassVar[tuple[str, ...]] = DPO_ONLY + REFERENCE_ONLY

    beta: float = field(default=2.0, metadata={"help": "Scale of the reward."})
    gamma_beta_ratio: float | None = field(
        default=None, metadata={"help": "Target margin gamma / beta; 0.5 if gamma is not given."}
    )
    gamma: float | None = field(
        default=None, metadata={"help": "Target margin, in place of gamma_beta_ratio."}
    )
    sft_weight: float = field(
        default=0.0, metadata={"help": "Weight of the chosen completions' cross-entropy."}
    )
    simpo_loss: str = field(
        default="sigmoid",
        metadata={"help": "Logistic or hinge loss of the margin.", "choices": list(KINDS)},
    )

    def check(self) -> None:
        """Settle the margin from its two names, and check ranges."""
        super().check()
        both = self.gamma is not None and self.gamma_beta_ratio is not None
        # A config that was checked, saved and read again has both, and they agree.
        if both and abs(self.gamma - self.beta * self.gamma_beta_ratio) > 1e-9:  # type: ignore[operator]
            expected = "left out where gamma_beta_ratio is given (None in dataclasses.replace)"
            require(False, "gamma", self.gamma, expected)
        if self.gamma_beta_ratio is None:
            self.gamma_beta_ratio = 0.5 if self.gamma is None else self.gamma / self.beta
        self.gamma = self.beta * self.gamma_beta_ratio
        require(self.gamma >= 0, "gamma_beta_ratio", self.gamma_beta_ratio, "at least 0")
        require(self.sft_weight >= 0, "sft_weight", self.sft_weight, "at least 0")
        require(self.simpo_loss in KINDS, "simpo_loss", self.simpo_loss, "'sigmoid' or 'hinge'")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, "label_smoothing", smoothing, "in [0, 0.5)")
        hinge = self.simpo_loss == "hinge"
        require(not (hinge and smoothing), "label_smoothing", smoothing, "0 with the hinge loss")


class SimPOTrainer(PreferenceTrainer):
    """Simple preference optimisation.

    L = -log sigmoid( beta [ log pi(w|x) / |w| - log pi(l|x) / |l| - gamma_beta_ratio ] ), where |y|
    counts the scored tokens. No reference model is in memory, unless the online KL is logged.
    """

    config_class = SimPOConfig
    needs_reference = False
    _name = "SimPO"
    _tag_names: ClassVar[list[str]] = ["trl", "rlalign", "simpo"]
    _paper: ClassVar[dict[str, str]] = {
        "title": "SimPO: Simple Preference Optimization with a Reference-Free Reward",
        "id": "2405.14734",
    }

    def method_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Equation 6 on the batch's pairs."""
        scored = self.policy_scores(model, inputs)
        chosen, rejected = scored.averages.chunk(2)
        loss = simpo_loss(
            chosen_average=chosen,
            rejected_average=rejected,
            beta=self.args.beta,
            gamma_beta_ratio=self.args.gamma_beta_ratio,
            label_smoothing=self.args.label_smoothing,
            kind=self.args.simpo_loss,
        ).mean()
        if self.args.sft_weight:
            sums, lengths = scored.sums.chunk(2)[0], scored.lengths.chunk(2)[0]
            loss = loss - self.args.sft_weight * sums.sum() / lengths.sum()
        beta = self.args.beta
        self.record_pairs(chosen=beta * chosen, rejected=beta * rejected, scored=scored)
        return self.with_router_loss(loss, scored)
