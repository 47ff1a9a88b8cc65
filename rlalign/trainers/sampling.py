"""Completions drawn from the policy while it learns, by transformers or vLLM.

They are drawn at temperature 1 from the whole distribution, whatever the model's own generation
settings say: what they estimate are expectations under the policy itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from rlalign.errors import MissingPackageError
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
        from transformers import GenerationConfig
        from trl.distributed import DistributedBackend

        self.accelerator = accelerator
        self.ends = ends
        self.batch_size = batch_size
        self.checkpointing = checkpointing
        self.pad = tokenizer.pad_token_id
        self._backend = DistributedBackend(accelerator)
        # A fresh configuration: models bring temperatures and top-p of their own.
        self._generation = GenerationConfig(
            do_sample=True,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self.pad,
            use_cache=True,
            # Spoilt weights then show in the loss, which names the step, not in `multinomial`.
            remove_invalid_values=True,
        )

    def draw(self, model: Any, prompts: Tokens, *, seed: int, step: int) -> Tokens:
        """See `Sampler.draw`."""
        from trl.models.utils import unwrap_model_for_generation

        size = self.batch_size or len(prompts)
        completions: Tokens = []
        with (
            unwrap_model_for_generation(
                model, self.accelerator, gradient_checkpointing_kwargs=self.checkpointing
            ) as unwrapped,
            torch.no_grad(),
            self._backend.summon_full_params(model, recurse=False),
            _drawing(unwrapped, self._generation, self.accelerator.device, seed),
        ):
            for start in range(0, len(prompts), size):
                completions += self._complete(unwrapped, prompts[start : start + size])
        return completions

    def _complete(self, model: Any, prompts: Tokens) -> Tokens:
        longest = max(len(prompt) for prompt in prompts)
        ids = [[self.pad] * (longest - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = self.accelerator.device
        # A mixture's balancing loss fits the tokens of training, not one step with a cache.
        routed = hasattr(model.config.get_text_config(), "output_router_logits")
        with self.accelerator.autocast():
            drawn = model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=self._generation,
                **({"output_router_logits": False} if routed else {}),
            )
        return [until_end(row, self.ends) for row in drawn[:, longest:].tolist()]


@contextmanager
def _drawing(model: Any, generation: Any, device: torch.device, seed: int) -> Iterator[None]:
    """Evaluation mode, `generation` for every setting, and random numbers of one's own."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = [
        (module, module.generation_config) for module in {id(m): m for m in (model, base)}.values()
    ]
    training = model.training
    devices = [device.index or 0] if device.type == "cuda" else []
    try:
        model.eval()
        for module, _ in before:
            module.generation_config = generation
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        for module, configuration in before:
            module.generation_config = configuration
        model.train(training)


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
