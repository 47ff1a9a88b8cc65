"""DPO: TRL's trainer and all its losses, with rlalign's additions (arXiv 2305.18290)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trl
from torch import Tensor

from rlalign.settings import require
from rlalign.trainers.base import PreferenceTrainer
from rlalign.trainers.settings import PreferenceConfig

SMOOTHED = {"robust", "exo_pair", "aot", "aot_unpaired"}


@dataclass
class DPOConfig(PreferenceConfig):
    """Settings of DPO; see `PreferenceConfig` and `trl.DPOConfig`."""

    def check(self) -> None:
        """Refuse label smoothing for losses that would ignore it."""
        super().check()
        require(
            self.label_smoothing == 0 or bool(SMOOTHED & set(self.loss_type)),
            "label_smoothing",
            self.label_smoothing,
            f"0 with loss_type {', '.join(self.loss_type)}: only {', '.join(sorted(SMOOTHED))} "
            "read it",
        )


class DPOTrainer(PreferenceTrainer):
    """Direct preference optimisation: TRL's own loss, bit for bit.

    L = -log sigmoid( beta [ log pi(w|x)/ref(w|x) - log pi(l|x)/ref(l|x) ] ), and the variants that
    `loss_type` names. `args` may also be a plain `trl.DPOConfig`.
    """

    config_class = DPOConfig
    uses_trl_loss = True

    def method_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """TRL's loss."""
        return trl.DPOTrainer._compute_loss(self, model, inputs, False)
