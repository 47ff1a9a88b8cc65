"""Completions drawn from the policy while it learns, by transformers or vLLM.

They are drawn at temperature 1 from the whole distribution, whatever the model's own generation
settings say: what they estimate are expectations under the policy itself.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Protocol

import torch

from rlalign.errors import MissingPackageError
from rlalign.trainers.generation import complete, generating, sampling_settings
from rlalign.trainers.rows import Tokens, until_end


class Sampler(Protocol):
    """Draws completions for prompts."""

    def draw(self, model: Any, prompts: Tokens, *, seed: int, step: int) -> Tokens:
        """Return one completion for each prompt, each to its end token or the limit.

        Args:
            model: the policy, as the trainer wraps it.
            prompts: token ids; a prompt that stands k times is completed k times.
            seed: of these draws; the surrounding program's random numbers stay as they are.
            step: optimiser step, by which a sampler knows whether the weights are new.
        """
        ...


class TransformersSampler:
    """Draws with `generate`, on prompts padded on the left.

    Args:
        accelerator: of the trainer.
        tokenizer: with a padding token.
        ends: ids of end tokens.
        max_new_tokens: length at most of a completion.
        batch_size: prompts at most in one call; None is all.
        checkpointing: keyword arguments of gradient checkpointing, to switch it on again after.
    """

    def __init__(
        self,
        accelerator: Any,
        tokenizer: Any,
        *,
        ends: set[int],
        max_new_tokens: int,
        batch_size: int | None,
        checkpointing: dict[str, Any] | None,
    ) -> None:
        from trl.distributed import DistributedBackend

        self.accelerator = accelerator
        self.batch_size = batch_size
        self.checkpointing = checkpointing
        self._backend = DistributedBackend(accelerator)
        self._settings = sampling_settings(
            max_new_tokens=max_new_tokens, temperature=1.0, ends=ends, pad=tokenizer.pad_token_id
        )

    def draw(self, model: Any, prompts: Tokens, *, seed: int, step: int) -> Tokens:
        """See `Sampler.draw`."""
        from trl.models.utils import unwrap_model_for_generation

        device = self.accelerator.device
        size = self.batch_size or len(prompts)
        completions: Tokens = []
        with (
            unwrap_model_for_generation(
                model, self.accelerator, gradient_checkpointing_kwargs=self.checkpointing
            ) as unwrapped,
            torch.no_grad(),
            self._backend.summon_full_params(model, recurse=False),
            generating(unwrapped, self._settings, device, seed),
            self.accelerator.autocast(),
        ):
            for start in range(0, len(prompts), size):
                part = prompts[start : start + size]
                completions += complete(unwrapped, part, self._settings, device)
        return completions


class VLLMSampler:
    """Draws with vLLM through TRL's helper, which brings the policy's weights over.

    Args:
        model: the policy.
        accelerator: of the trainer.
        tokenizer: with a padding token.
        args: a `PreferenceConfig`.
        ends: ids of end tokens.
    """

    def __init__(
        self, model: Any, accelerator: Any, tokenizer: Any, args: Any, ends: set[int]
    ) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise MissingPackageError("use_vllm needs the package vllm (pip install 'trl[vllm]')")
        from trl.generation.vllm_generation import VLLMGeneration

        self.ends = ends
        self._synced = -1
        self._engine = VLLMGeneration(
            model=model,
            accelerator=accelerator,
            processing_class=tokenizer,
            mode=args.vllm_mode,
            server_base_url=args.vllm_server_base_url,
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            max_completion_length=args.max_new_tokens,
            generation_kwargs={"stop_token_ids": sorted(ends)},
        )

    def draw(self, model: Any, prompts: Tokens, *, seed: int, step: int) -> Tokens:
        """See `Sampler.draw`; vLLM has random numbers of its own, so `seed` is not used.

        Its seed is one for each request: two requests with the same prompt would get the same
        completion.
        """
        if step != self._synced:
            self._engine.sync_weights()
            self._synced = step
        _, completions, _, _ = self._engine.generate(
            prompts=prompts, images=None, num_generations=1
        )
        return [until_end(list(completion), self.ends) for completion in completions]
