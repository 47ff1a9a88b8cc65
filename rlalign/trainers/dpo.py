"""DPO, and every loss that TRL's DPO trainer offers (arXiv 2305.18290)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import trl
from torch import Tensor

from rlalign.errors import SettingsError
from rlalign.settings import require
from rlalign.suggestions import did_you_mean
from rlalign.trainers.base import PreferenceTrainer
from rlalign.trainers.losses import dpo_loss
from rlalign.trainers.settings import PreferenceConfig

# Those of TRL 1.16, whose trainer looks at the name only when the first loss is due.
LOSSES = (
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
)
SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}


@dataclass
class DPOConfig(PreferenceConfig):
    """Settings of DPO; see `PreferenceConfig` and `trl.DPOConfig`.

    Args:
        token_metrics: log TRL's entropy, mean logits and token accuracy too. They cost time in each
            step, on a CPU more than all else together.
    """

    token_metrics: bool = field(
        default=False, metadata={"help": "Log entropy, mean logits and token accuracy too."}
    )

    def check(self) -> None:
        """Refuse unknown losses, and label smoothing for those that would ignore it."""
        super().check()
        for name in self.loss_type:
            if name not in LOSSES:
                hint = did_you_mean(name, LOSSES) or f"; there are {', '.join(LOSSES)}"
                raise SettingsError(f"there is no loss_type {name!r}{hint}", "loss_type")
        require(
            self.label_smoothing == 0 or bool(SMOOTHED & set(self.loss_type)),
            "label_smoothing",
            self.label_smoothing,
            f"0 with loss_type {', '.join(self.loss_type)}: only {', '.join(sorted(SMOOTHED))} "
            "read it",
        )


class DPOTrainer(PreferenceTrainer):
    """Direct preference optimisation.

    L = -log sigmoid( beta [ log pi(w|x)/ref(w|x) - log pi(l|x)/ref(l|x) ] ). With any other loss of
    TRL's, or `token_metrics`, the loss is computed by TRL's code, with the same numbers. `args`
    may also be a plain `trl.DPOConfig`, and then all is as in TRL.
    """

    config_class: ClassVar[type[PreferenceConfig]] = DPOConfig
    takes_trl_config = True

    @staticmethod
    def takes_trl_loss(args: Any) -> bool:
        """Whether anything but the plain logistic loss is asked for."""
        plain = (
            list(args.loss_type) == ["sigmoid"]
            and args.loss_weights in (None, [1.0])
            and args.ld_alpha is None
            and args.f_divergence_type == "reverse_kl"
            and not args.use_weighting
        )
        return not plain or getattr(args, "token_metrics", True)

    def method_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Equation 7 on the batch's pairs, or TRL's loss."""
        if self.takes_trl_loss(self.args):
            return trl.DPOTrainer._compute_loss(self, model, inputs, False)
        return self.pair_loss(model, inputs)

    def pair_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The logistic loss of the pairs' log-ratios."""
        scored = self.policy_scores(model, inputs)
        chosen, rejected = scored.sums.chunk(2)
        ref_chosen, ref_rejected = self.pair_references(inputs)
        chosen, rejected = chosen - ref_chosen, rejected - ref_rejected
        beta = self.args.beta
        loss = dpo_loss(
            chosen_ratio=chosen,
            rejected_ratio=rejected,
            beta=beta,
            label_smoothing=self.args.label_smoothing,
        ).mean()
        self.record_pairs(chosen=beta * chosen, rejected=beta * rejected, scored=scored)
        return self.with_router_loss(loss, scored)
