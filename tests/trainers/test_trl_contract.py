"""Every name of TRL and transformers that the trainers lean on, with its signature.

An upgrade that changes one of them fails here first, and says which.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from typing import Any

import pytest
import torch
import transformers
import trl
from trl.trainer import add_fused_lm_head

from tests.trainers import tiny

SIGNATURES = {
    "trl.DPOTrainer.__init__": (
        "self model ref_model args data_collator train_dataset eval_dataset processing_class "
        "compute_metrics callbacks optimizers quantization_config peft_config"
    ),
    "trl.DPOTrainer._compute_loss": "self model inputs return_outputs",
    "trl.DPOTrainer._precompute_ref_logps": "self dataset name batch_size",
    "trl.DPOTrainer._prepare_dataset": "self dataset processing_class args dataset_name",
    "trl.DPOTrainer._set_signature_columns_if_needed": "self",
    "trl.DPOTrainer._save_checkpoint": "self model trial",
    "trl.DPOTrainer.log": "self logs start_time",
    "trl.DPOTrainer.evaluate": "self eval_dataset ignore_keys metric_key_prefix",
    "trl.trainer.add_fused_lm_head": "model temperature cast_lm_head_to_fp32 outputs",
    "trl.trainer.utils.use_adapter": "model adapter_name",
    "trl.models.utils.disable_gradient_checkpointing": "model gradient_checkpointing_kwargs",
    "trl.models.utils.unwrap_model_for_generation": (
        "model accelerator gather_deepspeed3_params generation_kwargs gradient_checkpointing_kwargs"
    ),
    "trl.distributed.DistributedBackend.summon_full_params": "self module kwargs",
    "trl.data_utils.extract_prompt": "example",
    "trl.data_utils.common_prefix_length": "ids other_ids",
    "trl.generation.vllm_generation.VLLMGeneration.generate": (
        "self prompts images num_generations profiler"
    ),
    "trl.generation.vllm_generation.VLLMGeneration.sync_weights": "self",
    "transformers.Trainer.get_batch_samples": "self epoch_iterator num_batches device",
    "transformers.Trainer._load_optimizer_and_scheduler": "self checkpoint",
    "transformers.Trainer._get_output_dir": "self trial",
    "transformers.Trainer.save_model": "self output_dir _internal_call",
    "transformers.Trainer.compute_loss_context_manager": "self",
}


def find(path: str) -> Any:
    """Import the longest module of a dotted path and follow the rest as attributes."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for name in parts[cut:]:
            assert hasattr(found, name), f"{path} is gone: {'.'.join(parts[:cut])} has no {name}"
            found = getattr(found, name)
        return found
    raise AssertionError(f"{path} is gone")


@pytest.mark.parametrize(("path", "expected"), SIGNATURES.items(), ids=list(SIGNATURES))
def test_signature(path: str, expected: str) -> None:
    found = " ".join(inspect.signature(find(path)).parameters)
    assert found == expected, f"{path} now takes ({found}); rlalign.trainers expects ({expected})"


def test_arguments_of_the_vllm_helper() -> None:
    taken = inspect.signature(find("trl.generation.vllm_generation.VLLMGeneration")).parameters
    used = (
        "model accelerator processing_class mode server_base_url gpu_memory_utilization "
        "max_completion_length generation_kwargs"
    )
    assert set(used.split()) <= set(taken)


def test_version_of_trl_is_one_we_know() -> None:
    assert trl.__version__.startswith("1.16."), "read TRL's changes, then widen the range"


def test_fields_of_the_config_that_methods_refuse_or_read() -> None:
    from rlalign.trainers.settings import DPO_ONLY, REFERENCE_ONLY

    known = {field.name for field in dataclasses.fields(trl.DPOConfig)}
    read = {"beta", "label_smoothing", "max_length", "pad_to_multiple_of", "loss_type", "bf16"}
    assert {*DPO_ONLY, *REFERENCE_ONLY, *read} <= known


def test_attributes_that_the_constructor_sets(tmp_path: Any) -> None:
    trainer = trl.DPOTrainer(
        model=tiny.model(),
        ref_model=tiny.model(),
        args=trl.DPOConfig(**tiny.settings(tmp_path, bf16=False)),
        train_dataset=tiny.pairs(4),
        processing_class=tiny.tokenizer(),
    )
    for name in (
        "_metrics",
        "_tokenizer",
        "_signature_columns",
        "aux_loss_enabled",
        "router_aux_loss_coef",
        "precompute_ref_logps",
        "ref_model",
        "accelerator",
        "is_deepspeed_enabled",
        "model_wrapped",
    ):
        assert hasattr(trainer, name), f"trl.DPOTrainer no longer sets {name}"
    assert set(trainer._metrics) == {"train", "eval"}
    assert trainer.loss_is_scaled_for_ga is False
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    assert set(batch) == {"input_ids", "attention_mask", "completion_mask"}
    rows = [
        row[mask.bool()].tolist()
        for row, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    data = trainer.train_dataset
    assert rows == [
        data[0]["chosen_ids"],
        data[1]["chosen_ids"],
        data[0]["rejected_ids"],
        data[1]["rejected_ids"],
    ]


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_fused_head_gives_log_softmax_of_the_logits(family: str) -> None:
    model = tiny.model(family).eval()
    ids = torch.randint(7, 70, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logps = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    expected = logps.gather(-1, ids[:, 1:, None]).squeeze(-1)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    add_fused_lm_head(model)  # the trainers do it a second time, for fewer outputs
    with torch.no_grad():
        outputs = model(input_ids=ids, labels=ids, fused_lm_head=True)
    torch.testing.assert_close(outputs.log_probs, expected, atol=2e-6, rtol=1e-5)
    assert outputs.entropy is None
    assert isinstance(model, transformers.PreTrainedModel)


def test_our_trainers_take_trls_first_arguments_in_their_order() -> None:
    from rlalign.trainers import TRAINERS

    theirs = list(inspect.signature(trl.DPOTrainer).parameters)[:7]
    for _, trainer in TRAINERS.values():
        assert list(inspect.signature(trainer).parameters)[:7] == theirs
