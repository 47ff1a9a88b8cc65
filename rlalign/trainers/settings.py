"""What every preference trainer can be told: TRL's DPOConfig, and how to sample and watch KL."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar

import trl
from transformers.utils import is_torch_bf16_gpu_available

from rlalign.settings import require


@dataclass
class PreferenceConfig(trl.DPOConfig):
    """TRL's DPOConfig with fields for sampling, and defaults that work on any machine.

    All fields of `trl.DPOConfig` and `transformers.TrainingArguments` are there. Defaults that
    differ: `bf16` is on only where a GPU computes in it, and `logging_nan_inf_filter` is off,
    because a loss that is not finite stops the run instead of vanishing from the logs.

    Args:
        online_kl_every: every so many optimiser steps, and at each evaluation, draw one completion
            for each prompt of the batch from the policy and log the reverse KL to the reference,
            `online_kl`, in nats a completion. 0 never does.
        max_new_tokens: length at most of a completion drawn in training, in tokens.
        generation_batch_size: prompts at most that are completed at once; None is all of them.
        use_vllm: draw with vLLM instead of transformers; needs `vllm`.
        vllm_mode: ``"colocate"`` runs vLLM on the training GPUs, ``"server"`` asks a server.
        vllm_server_base_url: address of that server, such as ``http://localhost:8000``.
        vllm_gpu_memory_utilization: share in (0, 1] of a GPU's memory for a colocated vLLM.
    """

    unused: ClassVar[tuple[str, ...]] = ()  # inherited fields without meaning for the method

    bf16: bool | None = field(
        default=None,
        metadata={"help": "Compute in bfloat16; by default where a GPU does, unless fp16 is set."},
    )
    loss_type: list[str] = field(
        default_factory=lambda: ["sigmoid"],
        metadata={"help": "Losses of TRL's DPO, see trl.DPOConfig; other methods have one loss."},
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Leave losses that are not finite out of the logs; they stop the run."},
    )
    online_kl_every: int = field(
        default=0,
        metadata={
            "help": "Sample and log the reverse KL to the reference every so many steps; 0: never."
        },
    )
    max_new_tokens: int = field(
        default=64, metadata={"help": "Tokens at most in a completion drawn in training."}
    )
    generation_batch_size: int | None = field(
        default=None, metadata={"help": "Prompts at most that are completed at once; None: all."}
    )
    use_vllm: bool = field(
        default=False, metadata={"help": "Draw completions with vLLM instead of transformers."}
    )
    vllm_mode: str = field(
        default="colocate",
        metadata={
            "help": "Run vLLM on the training GPUs, or ask a server.",
            "choices": ["colocate", "server"],
        },
    )
    vllm_server_base_url: str | None = field(
        default=None, metadata={"help": "Address of the vLLM server for vllm_mode 'server'."}
    )
    vllm_gpu_memory_utilization: float = field(
        default=0.3, metadata={"help": "Share of a GPU's memory for a colocated vLLM."}
    )

    def __post_init__(self) -> None:
        if self.bf16 is None and not self.fp16:
            self.bf16 = not self.use_cpu and is_torch_bf16_gpu_available()
        losses: Any = self.loss_type  # one name, as TRL takes it too
        self.loss_type = [losses] if isinstance(losses, str) else losses
        self.check()
        super().__post_init__()

    def check(self) -> None:
        """Raise SettingsError for a value out of range or a field without meaning here."""
        for name in self.unused:
            value, default = getattr(self, name), _default(trl.DPOConfig, name)
            require(value == default, name, value, f"left at {default!r}: the method has no use")
        require(self.beta > 0, "beta", self.beta, "above 0")
        require(self.online_kl_every >= 0, "online_kl_every", self.online_kl_every, "at least 0")
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        size = self.generation_batch_size
        require(size is None or size >= 1, "generation_batch_size", size, "at least 1 or null")
        modes = ("colocate", "server")
        require(self.vllm_mode in modes, "vllm_mode", self.vllm_mode, "'colocate' or 'server'")
        cuts = self.truncation_mode == "keep_end" and self.samples_in_training
        keep = "'keep_start' where completions are drawn, which begin behind whole prompts"
        require(not cuts, "truncation_mode", self.truncation_mode, keep)
        share = self.vllm_gpu_memory_utilization
        require(0 < share <= 1, "vllm_gpu_memory_utilization", share, "in (0, 1]")

    @property
    def samples_in_training(self) -> bool:
        """Whether completions are drawn from the policy while it learns."""
        return self.online_kl_every > 0


# Fields that change TRL's own DPO loss and that no other method reads.
DPO_ONLY = (
    "loss_type",
    "loss_weights",
    "ld_alpha",
    "f_divergence_type",
    "f_alpha_divergence_coef",
    "use_weighting",
    "discopop_tau",
)
# Fields about a reference model that moves or is computed beforehand.
REFERENCE_ONLY = (
    "precompute_ref_log_probs",
    "precompute_ref_batch_size",
    "sync_ref_model",
    "ref_model_mixup_alpha",
    "ref_model_sync_steps",
)


def _default(config: Any, name: str) -> Any:
    (found,) = (item for item in dataclasses.fields(config) if item.name == name)
    if found.default_factory is not dataclasses.MISSING:
        return found.default_factory()
    return found.default
