"""The policy and the initial model, side by side and at the precision of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import is_torch_bf16_gpu_available

from rlalign.trainers.drawing import Voice
from rlalign.trainers.head import add_head
from rlalign.trainers.models import load_model, model_path

if TYPE_CHECKING:
    from rlalign.recipe import TrainerRecipe


def voices_of_trainer(recipe: TrainerRecipe, trainer: Any) -> tuple[Voice, Voice]:
    """Policy and initial model of a trainer that has just trained."""
    model, tokenizer = trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class
    autocast = _half(bf16=trainer.args.bf16, fp16=trainer.args.fp16)
    if trainer.ref_model is not None and not trainer.args.sync_ref_model:
        initial = trainer.accelerator.unwrap_model(trainer.ref_model)
        return Voice(model, tokenizer, autocast=autocast), Voice(
            initial, tokenizer, autocast=autocast
        )
    return _beside_initial(recipe, model, tokenizer, autocast)


def voices_of_model(recipe: TrainerRecipe, model: Any, tokenizer: Any) -> tuple[Voice, Voice]:
    """A run's trained model, brought to the device the recipe names, and the initial model."""
    if recipe.device != "cpu" and torch.cuda.is_available():
        model = model.cuda()
    adapter = hasattr(model, "disable_adapter")
    add_head(model.get_base_model() if adapter else model, single_process=True)
    autocast = training_precision(recipe, model.device)
    return _beside_initial(recipe, model, tokenizer, autocast)


def training_precision(recipe: TrainerRecipe, device: torch.device) -> torch.dtype | None:
    """The type that a recipe's training computes in on a device; None is the weights' own.

    Without it float32 weights would be read in float32: slower, not what was trained, and nothing
    that FlashAttention can do.
    """
    fp16, bf16 = recipe.training.get("fp16"), recipe.training.get("bf16")
    if bf16 is None and not fp16:  # as `PreferenceConfig` decides
        bf16 = device.type != "cpu" and is_torch_bf16_gpu_available()
    return _half(bf16=bf16, fp16=fp16)


def _half(*, bf16: bool | None, fp16: bool | None) -> torch.dtype | None:
    return torch.bfloat16 if bf16 else torch.float16 if fp16 else None


def _beside_initial(
    recipe: TrainerRecipe, model: Any, tokenizer: Any, autocast: torch.dtype | None
) -> tuple[Voice, Voice]:
    """A model and what it was before: its adapter switched off, or its files loaded anew."""
    policy = Voice(model, tokenizer, autocast=autocast)
    if hasattr(model, "disable_adapter"):
        return policy, Voice(model, tokenizer, adapter_off=True, autocast=autocast)
    initial = load_model(recipe.model, model_path(recipe.model.name), tokenizer, adapter=False)
    initial = initial.to(model.device)
    add_head(initial, single_process=True)
    return policy, Voice(initial, tokenizer, autocast=autocast)
