"""Completions by transformers' `generate` under the settings asked for, and no others.

Models come with generation settings of their own (top-k, a repetition penalty), and `generate`
takes from them whatever the caller leaves unset. What is drawn here estimates expectations under
the model itself, so they are put aside meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rlalign.errors import ModelError
from rlalign.trainers.models import UNLOADABLE
from rlalign.trainers.rows import Tokens, until_end


def sampling_settings(*, max_new_tokens: int, temperature: float, ends: set[int], pad: int) -> Any:
    """A `GenerationConfig` that samples from the whole distribution, or takes the likeliest token.

    Args:
        max_new_tokens: length at most of a completion.
        temperature: 1 draws from the model's own distribution, 0 decodes greedily.
        ends: ids of end tokens.
        pad: id of the padding token.
    """
    from transformers import GenerationConfig

    sampling = {"temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {}
    return GenerationConfig(
        do_sample=temperature > 0,
        **sampling,
        max_new_tokens=max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad,
        use_cache=True,
        # Spoilt weights then show in the loss, which names the step, not in `multinomial`.
        remove_invalid_values=True,
    )


def configured_ends(path: str) -> list[int]:
    """Ids of the end tokens that a model's files name, in its generation settings or its config.

    Args:
        path: a model's folder, or its name on the hub.

    Raises:
        ModelError: if there is no config, or it is damaged.
    """
    from transformers import AutoConfig, GenerationConfig

    try:
        settings = GenerationConfig.from_pretrained(path)
    except OSError:  # there are none; transformers goes by the config then, too
        try:
            settings = GenerationConfig.from_model_config(AutoConfig.from_pretrained(path))
        except UNLOADABLE as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"{path}: the config cannot be loaded ({reason})") from None
    ends = settings.eos_token_id
    return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)


@contextmanager
def generating(model: Any, settings: Any, device: torch.device, seed: int) -> Iterator[None]:
    """Evaluation mode, `settings` in place of the model's own, and random numbers of one's own."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    before = [
        (module, module.generation_config) for module in {id(m): m for m in (model, base)}.values()
    ]
    training = model.training
    devices = [device.index or 0] if device.type == "cuda" else []
    try:
        model.eval()
        for module, _ in before:
            module.generation_config = settings
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            yield
    finally:
        for module, configuration in before:
            module.generation_config = configuration
        model.train(training)


def complete(model: Any, prompts: Tokens, settings: Any, device: torch.device) -> Tokens:
    """Complete prompts, padded on the left, inside of `generating`.

    Returns:
        For each prompt a completion to its end token or the limit.
    """
    pad, ends = settings.pad_token_id, set(settings.eos_token_id or ())
    longest = max(map(len, prompts))
    ids = [[pad] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    # A mixture's balancing loss fits the tokens of training, not one step with a cache.
    routed = hasattr(model.config.get_text_config(), "output_router_logits")
    drawn = model.generate(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=torch.tensor(mask, device=device),
        generation_config=settings,
        **({"output_router_logits": False} if routed else {}),
    )
    return [until_end(row, ends) for row in drawn[:, longest:].tolist()]
