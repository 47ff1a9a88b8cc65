"""HyPO (Song et al. 2024): DPO on the pairs, a reverse KL on the policy's own samples.

arXiv 2406.01462, "The Importance of Online Data: Understanding Preference Fine-tuning via
Coverage".
Two other methods go by that name, arXiv 2602.11902 and 2405.17956; this is neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from rlalign.settings import require
from rlalign.trainers.dpo import DPOTrainer
from rlalign.trainers.losses import (
    importance,
    reverse_kl_surrogate,
    reverse_kl_surrogate_to_go,
)
from rlalign.trainers.sample_files import load_samples, save_samples
from rlalign.trainers.scoring import Scored, score
from rlalign.trainers.settings import DPO_ONLY, PreferenceConfig

ESTIMATORS = ("trajectory", "reward_to_go")


@dataclass
class HyPOConfig(PreferenceConfig):
    """Settings of HyPO; see also `PreferenceConfig` and `transformers.TrainingArguments`.

    The paper's values for summaries on TL;DR: beta 0.05, kl_weight 1e-4, 2 samples, learning rate
    3e-6 (unverified). `kl_weight` multiplies a sum over tokens: 1e-4 to 1e-2 for completions of 50
    to 500 tokens, 0.01 to 0.2 for ten.

    Args:
        kl_weight: lambda, the weight of the online KL; 0 draws no samples and is DPO.
        num_samples: k, completions of each prompt; with 2 or more each has the others' mean as
            its baseline.
        sample_every: draw samples at every n-th optimiser step. Without reuse the KL term is then
            in those steps alone, with n times the weight, so that its expectation stays.
        reuse_samples: between draws, use the last samples again, weighed by importance ratios.
        kl_estimator: ``"trajectory"`` weighs a completion by its whole log-ratio, as the paper
            does; ``"reward_to_go"`` weighs a token by the log-ratio from it onwards: the same
            expectation, less variance.
        label_smoothing: probability in [0, 0.5) that a label is wrong.
    """

    unused: ClassVar[tuple[str, ...]] = DPO_ONLY

    kl_weight: float = field(default=1e-3, metadata={"help": "Weight lambda of the online KL."})
    num_samples: int = field(default=2, metadata={"help": "Completions drawn of each prompt."})
    sample_every: int = field(
        default=1, metadata={"help": "Draw samples at every n-th optimiser step."}
    )
    reuse_samples: bool = field(
        default=False, metadata={"help": "Use the last samples again between draws."}
    )
    kl_estimator: str = field(
        default="trajectory",
        metadata={"help": "How samples are weighed.", "choices": list(ESTIMATORS)},
    )

    def check(self) -> None:
        """Check ranges."""
        super().check()
        require(self.kl_weight >= 0, "kl_weight", self.kl_weight, "at least 0")
        require(self.num_samples >= 1, "num_samples", self.num_samples, "at least 1")
        require(self.sample_every >= 1, "sample_every", self.sample_every, "at least 1")
        known = self.kl_estimator in ESTIMATORS
        require(known, "kl_estimator", self.kl_estimator, "'trajectory' or 'reward_to_go'")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 0.5, "label_smoothing", smoothing, "in [0, 0.5)")

    @property
    def samples_in_training(self) -> bool:
        """Whether completions are drawn from the policy while it learns."""
        return self.kl_weight > 0 or super().samples_in_training


class HyPOTrainer(DPOTrainer):
    """Hybrid preference optimisation.

    L = E_pairs[ -log sigmoid( beta (ratio_w - ratio_l) ) ] + lambda E_x KL( pi(.|x) || ref(.|x) )

    The KL is under the policy itself, estimated from its own completions of the pairs' prompts; its
    gradient is that of `losses.reverse_kl_surrogate`. The samples of a step's micro-batches are
    drawn together, before the first. In evaluations the loss is the first term.
    """

    config_class = HyPOConfig
    takes_trl_config = False
    _name = "HyPO"
    _tag_names: ClassVar[list[str]] = ["trl", "rlalign", "hypo"]
    _paper: ClassVar[dict[str, str]] = {
        "title": "The Importance of Online Data: Understanding Preference Fine-tuning via Coverage",
        "id": "2406.01462",
    }

    # One for each micro-batch of the step; `logps` is [rows], under the policy that drew.
    _samples: Sequence[dict[str, Tensor]] = ()
    _next = 0

    @staticmethod
    def takes_trl_loss(args: Any) -> bool:
        """Never: HyPO has one loss."""
        return False

    def method_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The pairs' loss, and in training lambda times the surrogate of the online KL."""
        loss = self.pair_loss(model, inputs)
        self.record({"loss/pairs": loss})
        if self.mode == "train" and self._samples:
            repeats = self.args.sample_every if not self.args.reuse_samples else 1
            loss = loss + repeats * self.args.kl_weight * self._online_term(model)
        return loss

    def _online_term(self, model: Any) -> Tensor:
        """The online KL on the samples of the next micro-batch."""
        # The last step of an epoch may have fewer micro-batches than the one that drew.
        rows = self._samples[self._next % len(self._samples)]
        self._next += 1
        policy, reference = score(model, rows), self.reference_scores(rows)
        sampled = rows.get("logps")
        if sampled is None:  # these were drawn for this very step
            rows["logps"] = policy.sums.detach()
        weight = importance(policy.sums, sampled)
        ratio = weight * (policy.sums - reference.sums).detach()
        self.record_samples(rows, ratio=ratio)
        if self.args.reuse_samples:
            self.record({"samples/importance": weight})
        surrogate = self._surrogate(policy, reference, sampled)
        # The surrogate's gradient, the estimate's value: what is logged is the objective.
        return surrogate - surrogate.detach() + ratio.mean()

    def _surrogate(self, policy: Scored, reference: Scored, sampled: Tensor | None) -> Tensor:
        k = self.args.num_samples
        before = None if sampled is None else sampled.view(-1, k)
        if self.args.kl_estimator == "trajectory":
            return reverse_kl_surrogate(
                policy=policy.sums.view(-1, k), reference=reference.sums.view(-1, k), sampled=before
            )
        return reverse_kl_surrogate_to_go(
            policy=_from_left(policy.tokens, policy.mask, k),
            reference=_from_left(reference.tokens, policy.mask, k),
            mask=_from_left(policy.mask, policy.mask, k),
            sampled=before,
        )

    def before_step(self, batches: list[dict[str, Tensor]]) -> None:
        """Draw the samples of a step where they are due."""
        super().before_step(batches)
        self._next = 0
        if self.args.kl_weight == 0:
            return
        if self.state.global_step % self.args.sample_every == 0:
            self._samples = self._draw_all(batches)
        elif not self.args.reuse_samples:
            self._samples = []

    def _draw_all(self, batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Draw for all micro-batches at once: the policy is the same in all of them."""
        prompts = [self.prompts(batch) for batch in batches]
        k = self.args.num_samples
        everything = self.draw([p for group in prompts for p in group], count=k)
        counts = [len(group) * k for group in prompts]
        parts = {name: value.split(counts) for name, value in everything.items()}
        return [{name: value[i] for name, value in parts.items()} for i in range(len(counts))]

    # Samples that will be used again belong into a checkpoint.

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._between_draws():
            save_samples(self._samples, self._samples_file(self.checkpoint_folder(trial)))
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._between_draws():
            path = self._samples_file(Path(checkpoint))
            self._samples = load_samples(path, self.accelerator.device)

    def _between_draws(self) -> bool:
        inside = self.state.global_step % self.args.sample_every != 0
        return self.args.reuse_samples and self.args.kl_weight > 0 and inside

    def _samples_file(self, folder: Path) -> Path:
        return folder / f"online_samples_{self.accelerator.process_index}.safetensors"


def _from_left(values: Tensor, mask: Tensor, k: int) -> Tensor:
    """Move each row's completion to the left: [rows, length] to [prompts, k, longest]."""
    longest = int(mask.sum(1).max())
    order = (1 - mask).argsort(dim=1, stable=True)[:, :longest]
    return (values * mask).gather(1, order).view(-1, k, longest)
