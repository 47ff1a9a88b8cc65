"""SRPO: Self-Improving Robust Preference Optimization (Choi et al., arXiv 2406.01660).

Several other methods are called SRPO. There is no official code; the losses were derived anew from
the paper's objective, and the weights' defaults come from a public reimplementation (unverified).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from trl.data_utils import extract_prompt

from rlalign.errors import DatasetError, SettingsError
from rlalign.settings import require
from rlalign.trainers.base import PreferenceTrainer
from rlalign.trainers.losses import srpo_generative_loss, srpo_improvement_losses
from rlalign.trainers.reference import is_peft
from rlalign.trainers.reference_cache import with_column
from rlalign.trainers.revision import RevisionTemplate, revision_template
from rlalign.trainers.scoring import Scored, score
from rlalign.trainers.settings import DPO_ONLY, PreferenceConfig
from rlalign.trainers.srpo_data import COLUMNS, SEQUENCES, EncodePair, SRPOCollator, longest

log = logging.getLogger(__name__)


@dataclass
class SRPOConfig(PreferenceConfig):
    """Settings of SRPO; see also `PreferenceConfig` and `transformers.TrainingArguments`.

    Rows whose longest sequence exceeds `max_length` are left out, not cut.

    Args:
        alpha: weight in (0, 1) of the self-improvement loss, against 1 - alpha of the generative
            one.
        template: ``"chat"``, ``"tldr"``, or a JSON file or model folder with a `RevisionTemplate`.
        length_normalize: divide log-ratios by the completion's tokens. The closed form then no
            longer holds for whole completions, and beta is in nats per token.
        improvement_reduction: ``"sum"`` of the loss given the rejected draft and that given the
            chosen one, or their ``"mean"``.
        detach_improver: let the generative loss train the plain view alone. The optimum is the
            same, the way to it is not.
    """

    unused: ClassVar[tuple[str, ...]] = (
        *DPO_ONLY,
        "label_smoothing",
        "truncation_mode",  # long rows are left out
        "pad_token",
        "sync_ref_model",
        "ref_model_mixup_alpha",
        "ref_model_sync_steps",
    )

    alpha: float = field(default=0.8, metadata={"help": "Weight of the self-improvement loss."})
    template: str = field(
        default="chat", metadata={"help": "Revision template: chat, tldr, or a JSON file."}
    )
    length_normalize: bool = field(
        default=False, metadata={"help": "Divide log-ratios by the completion's tokens."}
    )
    improvement_reduction: str = field(
        default="sum",
        metadata={"help": "Of the two self-improvement terms.", "choices": ["sum", "mean"]},
    )
    detach_improver: bool = field(
        default=False, metadata={"help": "Let the generative loss train the plain view alone."}
    )

    def check(self) -> None:
        """Check ranges."""
        super().check()
        require(0 < self.alpha < 1, "alpha", self.alpha, "above 0 and below 1")
        known = self.improvement_reduction in ("sum", "mean")
        require(known, "improvement_reduction", self.improvement_reduction, "'sum' or 'mean'")


class SRPOTrainer(PreferenceTrainer):
    """Self-improving robust preference optimisation: one model that writes, and that revises.

    L = (1 - alpha) L_gen + alpha (L_move + L_stay), squared losses of log-ratios to the reference
    (`losses.srpo_generative_loss`, `losses.srpo_improvement_losses`). A pair makes six sequences,
    scored in one forward pass each of policy and reference, both of which see the same views. The
    template is saved beside the tokenizer; `rlalign.trainers.self_revise` uses it.
    """

    config_class = SRPOConfig
    rows_per_pair = len(SEQUENCES)
    _signature_columns: list[str] | None
    _name = "SRPO"
    _tag_names: ClassVar[list[str]] = ["trl", "rlalign", "srpo"]
    _paper: ClassVar[dict[str, str]] = {
        "title": "Self-Improving Robust Preference Optimization",
        "id": "2406.01660",
    }

    def choose_collator(self, args: Any, data_collator: Any) -> Any:
        """Lay out pairs as six sequences, in the views of `args.template`."""
        if data_collator is not None:
            raise SettingsError("SRPO lays out its own batches; leave data_collator out")
        self.template: RevisionTemplate = revision_template(args.template)
        self._collator = SRPOCollator(multiple=args.pad_to_multiple_of)
        return self._collator

    def method_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """The weighted sum of both halves on a batch of pairs."""
        policy = self.policy_scores(model, inputs)
        ratios = self._ratios(policy, inputs)
        beta, alpha = self.args.beta, self.args.alpha
        across = {name: ratios[name] for name in ("chosen_from_rejected", "rejected_from_chosen")}
        shown = {n: r.detach() for n, r in across.items()} if self.args.detach_improver else across
        generative = srpo_generative_loss(
            chosen=ratios["chosen"], rejected=ratios["rejected"], **shown, beta=beta
        )
        move, stay = srpo_improvement_losses(
            rejected_from_rejected=ratios["rejected_from_rejected"],
            chosen_from_chosen=ratios["chosen_from_chosen"],
            **across,
            beta=beta,
        )
        scale = 0.5 if self.args.improvement_reduction == "mean" else 1.0
        loss = ((1 - alpha) * generative + alpha * scale * (move + stay)).mean()
        self.record({"loss/generative": generative, "loss/move": move, "loss/stay": stay})
        self._record_ratios(ratios, policy)
        return self.with_router_loss(loss, policy)

    def _ratios(self, policy: Scored, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return log pi - log ref, [B], of each of the six sequences by name."""
        if self.precompute_ref_logps:
            reference = inputs["ref_logps"].T.reshape(-1)
        else:
            reference = self.reference_scores(inputs).sums
        ratios = policy.sums - reference
        if self.args.length_normalize:
            ratios = ratios / policy.lengths
        return dict(zip(SEQUENCES, ratios.chunk(len(SEQUENCES)), strict=True))

    def _record_ratios(self, ratios: dict[str, Tensor], policy: Scored) -> None:
        pairs = 2 * len(policy.mask) // len(SEQUENCES)
        beta = self.args.beta
        self.record_pairs(
            chosen=beta * ratios["chosen"],
            rejected=beta * ratios["rejected"],
            scored=Scored(policy.tokens[:pairs], policy.mask[:pairs]),
        )
        moves = ratios["chosen_from_rejected"] > ratios["rejected_from_rejected"]
        stays = ratios["chosen_from_chosen"] > ratios["rejected_from_chosen"]
        self.record({"revision/moves": moves.float(), "revision/stays": stays.float()})
        self.record({f"ratios/{name}": value for name, value in ratios.items()})

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, see `transformers.Trainer.save_model`, and the revision template."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.template.save(Path(output_dir or self.args.output_dir))

    # Data.

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        self._collator.pad = processing_class.pad_token_id
        first = next(iter(dataset))
        if set(COLUMNS) <= set(first):
            return dataset
        options = {"num_proc": args.dataset_num_proc} if isinstance(dataset, Dataset) else {}
        with args.main_process_first():
            if "prompt" not in first:
                dataset = dataset.map(extract_prompt, **options)
            dataset = dataset.map(EncodePair(processing_class, self.template), **options)
            if args.max_length is None:
                return dataset
            return self._without_long(dataset, args.max_length, dataset_name, options)

    @staticmethod
    def _without_long(dataset: Any, limit: int, name: str, options: dict[str, Any]) -> Any:
        kept = dataset.filter(lambda row: longest(row) <= limit, **options)
        if isinstance(kept, Dataset) and len(kept) < len(dataset):
            if not len(kept):
                raise DatasetError(
                    f"every row of the {name} dataset is longer than max_length {limit} once a "
                    "draft is shown; raise max_length"
                )
            log.warning(
                "%d of %d rows of the %s dataset exceed max_length %d and are left out",
                len(dataset) - len(kept),
                len(dataset),
                name,
                limit,
            )
        return kept

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = [*COLUMNS, "ref_logps"]

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Score the six sequences of each row once; six numbers in the column `ref_logps`."""
        if not isinstance(dataset, Dataset):
            raise SettingsError("precompute_ref_log_probs needs a dataset that is not streamed")
        if self.is_deepspeed_enabled:
            raise SettingsError("precompute_ref_log_probs is not supported under DeepSpeed")

        def compute() -> list[list[float]]:
            loader = self.accelerator.prepare(
                DataLoader(dataset, batch_size=batch_size, collate_fn=self.data_collator)
            )
            known: list[list[float]] = []
            for batch in loader:
                sums = self._initial_scores(batch).sums.view(len(SEQUENCES), -1).T.contiguous()
                known += self.accelerator.gather_for_metrics(sums).tolist()
            return known

        reference = self._precompute_model_hash
        return with_column(dataset, "ref_logps", reference, compute, self.accelerator)

    def _initial_scores(self, batch: dict[str, Tensor]) -> Scored:
        with torch.no_grad(), self.accelerator.autocast():
            if self.ref_model is not None or is_peft(self.model):
                return self.reference_scores(batch)
            return score(self.model, batch)  # before training the policy is the reference
