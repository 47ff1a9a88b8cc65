"""What all preference trainers share: a TRL DPO trainer whose loss is a method's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import trl
from datasets import Dataset
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from rlalign.errors import SettingsError
from rlalign.trainers.head import add_head
from rlalign.trainers.interruption import SaveOnSignal
from rlalign.trainers.ledger import FiniteWatch, Ledger
from rlalign.trainers.online import EVALUATION, OnlineSamples
from rlalign.trainers.reference import (
    copied_reference,
    is_peft,
    load_reference,
    loading_no_reference,
    save_reference,
    shards_by_zero,
)
from rlalign.trainers.reference_cache import on_disk
from rlalign.trainers.scoring import Scored, check_head, score
from rlalign.trainers.settings import PreferenceConfig


class PreferenceTrainer(OnlineSamples, trl.DPOTrainer):
    """TRL's `DPOTrainer`, with its arguments and dataset formats, and a loss to override.

    Beyond TRL: a policy that is an object is copied for the reference, so that both agree at the
    start whatever its name; metrics stay on the device until they are logged; a loss that is not
    finite stops the run; SIGTERM saves a checkpoint (`interrupted` then tells the signal); the
    online KL to the reference can be logged.

    A method overrides `method_loss`, `needs_reference` where it has none, and `choose_collator`
    where it lays out batches of its own.

    Args:
        model: name or path, a causal language model, or a PEFT model.
        ref_model: the reference; by default the initial policy. With PEFT the adapter is switched
            off instead.
        args: the method's config.
        data_collator: makes batches of tokenised rows; TRL's by default.
        train_dataset: pairs in one of TRL's preference formats.
        eval_dataset: held-out pairs, or several datasets by name.
        processing_class: the tokenizer; the model's own by default.
        kwargs: `callbacks`, `optimizers`, `quantization_config` and `peft_config`, see
            `trl.DPOTrainer`; `compute_metrics` is not supported.
    """

    config_class: ClassVar[type[PreferenceConfig]] = PreferenceConfig
    takes_trl_config: ClassVar[bool] = False  # whether a plain trl.DPOConfig says all
    needs_reference: ClassVar[bool] = True
    rows_per_pair: ClassVar[int] = 2

    _head_checked = False
    _tokens_seen: Tensor | None = None  # by this process in training, once there were any

    def __init__(
        self,
        model: Any,
        ref_model: Any = None,
        args: Any = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path or "model"
            args = self.config_class(f"{name.split('/')[-1]}-{self._name}")
        if not isinstance(args, self.config_class) and not self.takes_trl_config:
            wanted, found = self.config_class.__name__, type(args).__name__
            raise SettingsError(f"args of {self._name} must be a {wanted}, got a {found}")
        if kwargs.get("compute_metrics") is not None:
            raise SettingsError("compute_metrics needs logits, which are never made; use callbacks")
        self.online_kl_every: int = getattr(args, "online_kl_every", 0)
        self._ledgers = {"train": Ledger(), "eval": Ledger()}
        self._watch = FiniteWatch()
        without_reference = not self.needs_reference and self.online_kl_every == 0
        if without_reference and ref_model is not None:
            raise SettingsError(f"{self._name} has no reference model; leave ref_model out")
        if ref_model is model:
            raise SettingsError("ref_model is the policy itself; leave it out to have a copy")
        _check_reference(model, ref_model, args, kwargs.get("peft_config"))
        if ref_model is None and not without_reference:
            ref_model = copied_reference(model, args, kwargs.get("peft_config"))
        with loading_no_reference(args) if without_reference else contextlib.nullcontext():
            self._prepares_reference = not without_reference
            collator = self.choose_collator(args, data_collator)
            super().__init__(
                model, ref_model, args, collator, train_dataset, eval_dataset, processing_class,
                **kwargs,
            )  # fmt: skip
        self.precompute_ref_logps = args.precompute_ref_log_probs
        if self.ref_model is not None:
            self.ref_model.requires_grad_(False)
        self._check_room_for_samples()
        if not self.takes_trl_loss(args):
            self._add_heads()
        self._stopper = SaveOnSignal()
        self.add_callback(self._stopper)

    # The method's part.

    @staticmethod
    def takes_trl_loss(args: Any) -> bool:
        """Whether the loss is TRL's own, which needs more of its head than log-probabilities."""
        return False

    def choose_collator(self, args: Any, data_collator: Any) -> Any:
        """Return what makes batches, before anything is loaded; None is TRL's."""
        return data_collator

    def method_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """Return the scalar loss of a collated batch; metrics go to `record`."""
        raise NotImplementedError

    # What methods use.

    @property
    def mode(self) -> str:
        """`"train"` or `"eval"`."""
        return "train" if self.model.training else "eval"

    @property
    def interrupted(self) -> int | None:
        """The signal that ended the last `train`, or None."""
        return self._stopper.received

    def record(self, metrics: dict[str, Tensor]) -> None:
        """Keep the mean of each metric for the next log, on the device."""
        self._ledgers[self.mode].add(metrics)

    def policy_scores(self, model: Any, inputs: dict[str, Tensor]) -> Scored:
        """Score a batch's completions by the policy, with gradient.

        Raises `ModelError` at the first batch where the head does not do what the model does.
        """
        if not self._head_checked:
            check_head(model, inputs)
            self._head_checked = True
        scored = score(model, inputs, router=self.aux_loss_enabled)
        if self.mode == "train":
            tokens = inputs["attention_mask"].sum()
            before = self._tokens_before() if self._tokens_seen is None else self._tokens_seen
            self._tokens_seen = tokens + before
        return scored

    def reference_scores(self, inputs: dict[str, Tensor]) -> Scored:
        """Score a batch's completions by the reference: its model, or the policy's adapter off.

        It computes in the policy's precision, so that both agree where their weights do.
        """
        with (
            torch.no_grad(),
            self.accelerator.autocast(),
            disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs),
        ):
            if self.ref_model is not None:
                return score(self.ref_model, inputs)
            unwrapped = self.accelerator.unwrap_model(self.model)
            frozen = "ref" if "ref" in unwrapped.peft_config else None
            with use_adapter(unwrapped, adapter_name=frozen):
                return score(self.model, inputs)

    def pair_references(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the reference's log-probabilities [B] of chosen and rejected completions."""
        if self.precompute_ref_logps:
            return inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        chosen, rejected = self.reference_scores(inputs).sums.chunk(2)
        return chosen, rejected

    def record_pairs(self, *, chosen: Tensor, rejected: Tensor, scored: Scored) -> None:
        """Record the metrics of pairs under TRL's names.

        Args:
            chosen: [B], rewards of the chosen completions.
            rejected: [B].
            scored: of the pairs, chosen rows first.
        """
        log_w, log_l = scored.sums.chunk(2)
        lengths_w, lengths_l = scored.mask.sum(1).chunk(2)
        self.record(
            {
                "rewards/chosen": chosen,
                "rewards/rejected": rejected,
                "rewards/accuracies": (chosen > rejected).float(),
                "rewards/margins": chosen - rejected,
                "logps/chosen": log_w,
                "logps/rejected": log_l,
                "lengths/chosen": lengths_w,
                "lengths/rejected": lengths_l,
            }
        )

    def with_router_loss(self, loss: Tensor, scored: Scored) -> Tensor:
        """Add the load-balancing loss of a mixture of experts, where the model has one."""
        if scored.router_loss is None:
            return loss
        self.record({"aux_loss": scored.router_loss})
        return loss + self.router_aux_loss_coef * scored.router_loss

    # TRL's and transformers' hooks.

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of an optimiser step; sample from their prompts if it is due.

        After the last step there are none: transformers, resumed from there, would take another.
        """
        if self.state.global_step >= self.state.max_steps:
            return [], None
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:  # none where a streamed dataset has ended
            self.before_step([self._prepare_inputs(batch) for batch in batches])
        return batches, items

    def before_step(self, batches: list[dict[str, Tensor]]) -> None:
        """Do what is due before an optimiser step on these micro-batches."""
        if self.online_kl_every and self.state.global_step % self.online_kl_every == 0:
            self.model.train()  # the mode under which metrics are recorded
            for stream, batch in enumerate(batches):
                self.measure_online_kl(batch, stream)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Tensor:
        if return_outputs:
            raise SettingsError("predict needs logits, which are never made; use evaluate")
        loss = self.method_loss(model, inputs)
        if self.mode == "train":
            self._watch.see(loss, self.state.global_step + 1)
        elif self.online_kl_every:
            self.measure_online_kl(inputs, EVALUATION + self._ledgers["eval"].count("online_kl"))
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log TRL's metrics and ours; raise TrainingError if a loss was not finite."""
        self._check_finite()
        mode = self.mode
        for name, value in self._ledgers[mode].flush(self.accelerator).items():
            self._metrics[mode][name] = [value]
        if mode == "train" and self._tokens_seen is not None:
            self._metrics[mode]["num_tokens"] = [self._all_tokens_seen()]
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._check_finite()  # what is saved is good
        if self._counts_tokens and self._tokens_seen is not None:
            self.state.num_input_tokens_seen = self._all_tokens_seen()
        if self.args.sync_ref_model and not self._shards and self.args.should_save:
            reference = self.accelerator.unwrap_model(self.ref_model)
            save_reference(reference, self.checkpoint_folder(trial))
        super()._save_checkpoint(model, trial)

    def checkpoint_folder(self, trial: Any) -> Path:
        """Return where the checkpoint of the present step is saved."""
        return Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.args.sync_ref_model:
            load_reference(self.accelerator.unwrap_model(self.ref_model), Path(checkpoint))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, see `transformers.Trainer.train`; give the signals back however it ends."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self._stopper.release()

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        if not self._prepares_reference:
            return dataset
        if isinstance(dataset, Dataset):
            dataset = on_disk(dataset, self.accelerator)
        return super()._precompute_ref_logps(dataset, name, batch_size)

    # Internals.

    def _add_heads(self) -> None:
        """Replace TRL's heads by ones that compute log-probabilities and nothing besides."""
        single = self.accelerator.num_processes == 1
        policy = self.model.get_base_model() if is_peft(self.model) else self.model
        add_head(policy, single_process=single)
        if self.ref_model is not None and single and not self.is_deepspeed_enabled:
            add_head(self.ref_model, single_process=single)

    def _check_finite(self) -> None:
        self._watch.check(self._name, self._last_checkpoint, self.accelerator)

    def _last_checkpoint(self) -> str | None:
        # A process that saves nothing may have no such folder on its machine.
        folder = Path(self.args.output_dir)
        return get_last_checkpoint(str(folder)) if folder.is_dir() else None

    @property
    def _shards(self) -> bool:
        """Whether each process holds a part of every parameter."""
        return self.is_fsdp_enabled or shards_by_zero(self.args)

    @property
    def _counts_tokens(self) -> bool:
        """Whether transformers leaves its own count of tokens, which a checkpoint keeps, alone."""
        return str(self.args.include_num_input_tokens_seen) == "no"

    def _tokens_before(self) -> int:
        """This process's share of the tokens that were seen before a run was resumed."""
        first = self.is_world_process_zero() and self._counts_tokens
        return self.state.num_input_tokens_seen if first else 0

    def _all_tokens_seen(self) -> int:
        return int(self.accelerator.gather(self._tokens_seen).sum().item())

    def _check_room_for_samples(self) -> None:
        """Say before training, not in its midst, where a sample would not fit behind a prompt."""
        if not getattr(self.args, "samples_in_training", False):
            return
        held_out = self.eval_dataset if self.online_kl_every else None
        others = held_out.values() if isinstance(held_out, dict) else [held_out]
        for dataset in (self.train_dataset, *others):
            if isinstance(dataset, Dataset) and "prompt_ids" in dataset.column_names:
                self.check_room(dataset["prompt_ids"])


def _check_reference(model: Any, ref_model: Any, args: Any, peft_config: Any) -> None:
    """Say so before references are computed, where sampling would need the model afterwards."""
    samples = getattr(args, "samples_in_training", False)
    adapter = peft_config is not None or (not isinstance(model, str) and is_peft(model))
    if samples and args.precompute_ref_log_probs and ref_model is None and not adapter:
        raise SettingsError(
            "sampling in training needs the reference at hand: set precompute_ref_log_probs "
            "to false or train an adapter"
        )
