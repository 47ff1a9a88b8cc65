"""What users of TRL rely on works for every method."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset, IterableDataset
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    EarlyStoppingCallback,
    MixtralConfig,
    MixtralForCausalLM,
    TrainerCallback,
)

from rlalign.errors import SettingsError, TrainingError
from rlalign.trainers import TRAINERS, PreferenceConfig
from tests.trainers import tiny

EXTRA: dict[str, dict[str, Any]] = {
    "dpo": {},
    "simpo": {},
    "hypo": {"kl_weight": 0.05, "max_new_tokens": 4},
    "srpo": {},
}


@pytest.fixture(params=sorted(TRAINERS))
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def make(
    method: str,
    folder: Path,
    *,
    model: Any = None,
    dataset: Any = None,
    trainer: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    config_class, trainer_class = TRAINERS[method]
    folder.mkdir(exist_ok=True)
    settings = {**EXTRA[method], **changes}
    if method == "srpo":
        tiny.SHORT.save(folder)
        settings["template"] = str(folder)
    return trainer_class(
        model=model if model is not None else tiny.model(),
        args=config_class(**tiny.settings(folder / "out", **settings)),
        train_dataset=dataset if dataset is not None else tiny.pairs(),
        processing_class=tiny.tokenizer(),
        **(trainer or {}),
    )


def weights(trainer: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_resumed_run_continues_the_loss_sequence(
    method: str, tmp_path: Path, adapter: bool
) -> None:
    def build() -> Any:
        return make(
            method,
            tmp_path,
            trainer={"peft_config": LoraConfig(**LORA)} if adapter else {},
            max_steps=6,
            save_strategy="steps",
            save_steps=3,
            lr_scheduler_type="linear",
        )

    whole = build()
    whole.train()
    rest = build()
    rest.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    assert len(tiny.losses(whole)) == 6
    assert tiny.losses(rest) == tiny.losses(whole)
    assert torch.equal(weights(rest), weights(whole))
    assert (weights(rest) - weights(build())).abs().max() > 1e-3


@pytest.mark.parametrize("sixteen", [{"max_steps": 4}, {"max_steps": -1, "num_train_epochs": 1}])
def test_run_resumed_after_its_last_step_takes_no_other(
    method: str, tmp_path: Path, sixteen: dict[str, Any]
) -> None:
    changes = {**sixteen, "save_strategy": "steps", "save_steps": 4}
    whole = make(method, tmp_path, **changes)
    whole.train()
    rest = make(method, tmp_path, **changes)
    rest.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert rest.state.global_step == 4
    assert tiny.losses(rest) == tiny.losses(whole)
    assert torch.equal(weights(rest), weights(whole))


def test_sigterm_saves_a_checkpoint_from_which_the_run_goes_on(method: str, tmp_path: Path) -> None:
    class Terminate(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    whole = make(method, tmp_path / "whole", max_steps=5)
    whole.train()
    assert whole.interrupted is None
    cut = make(method, tmp_path / "cut", max_steps=5, trainer={"callbacks": [Terminate()]})
    cut.train()
    assert cut.interrupted == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert [path.name for path in (tmp_path / "cut/out").glob("checkpoint-*")] == ["checkpoint-3"]
    rest = make(method, tmp_path / "cut", max_steps=5)
    rest.train(resume_from_checkpoint=True)
    assert rest.interrupted is None
    assert tiny.losses(rest) == tiny.losses(whole)


def test_accumulated_micro_batches_equal_one_batch(method: str, tmp_path: Path) -> None:
    if method == "hypo":  # samples differ with the number of prompts drawn at once, so the KL does
        method_changes: dict[str, Any] = {"kl_weight": 0.0}
    else:
        method_changes = {}
    found = []
    for size, steps in ((8, 1), (2, 4)):
        trainer = make(
            method,
            tmp_path / str(size),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=3,
            **method_changes,
        )
        trainer.train()
        norms = [row["grad_norm"] for row in trainer.state.log_history if "loss" in row]
        found.append((tiny.losses(trainer), norms))
    (whole, whole_norms), (parts, part_norms) = found
    assert whole == pytest.approx(parts, abs=1e-4)
    assert whole_norms == pytest.approx(part_norms, rel=1e-3)


def test_gradient_checkpointing_changes_nothing(method: str, tmp_path: Path) -> None:
    found = []
    for checkpointing in (False, True):
        trainer = make(method, tmp_path, gradient_checkpointing=checkpointing)
        trainer.train()
        found.append(tiny.losses(trainer))
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_lora_trains_the_adapter_alone_and_is_saved(method: str, tmp_path: Path) -> None:
    base = tiny.model()
    base.save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    trainer = make(
        method,
        tmp_path,
        model=model,
        trainer={"peft_config": LoraConfig(**LORA)},
        learning_rate=1e-2,
    )
    assert trainer.ref_model is None
    trainer.train()
    frozen = {n: p for n, p in trainer.model.named_parameters() if not p.requires_grad}
    original = dict(base.named_parameters())
    assert len(frozen) >= len(original)
    for name, parameter in frozen.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        assert torch.equal(parameter, original[plain])
    first = tiny.losses(trainer)[0]
    assert first == pytest.approx(
        {"dpo": 0.6931, "hypo": 0.6931, "srpo": 0.6}.get(method, first), abs=1e-3
    )
    assert tiny.losses(trainer)[-1] < first - 0.02
    trainer.save_model(str(tmp_path / "adapter"))
    again = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[5, 9, 13]])
    with torch.no_grad():
        expected = trainer.model(input_ids=ids).logits
        assert (again(input_ids=ids).logits - expected).abs().max() < 1e-5
        assert model.eval().base_model(input_ids=ids) is not None


def test_reference_without_adapter_is_the_base_model(method: str, tmp_path: Path) -> None:
    if method == "simpo":
        pytest.skip("SimPO has no reference")
    trainer = make(
        method, tmp_path, trainer={"peft_config": LoraConfig(**LORA)}, learning_rate=1e-2
    )
    trainer.train()
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    found = trainer.reference_scores(batch).sums
    expected = make(method, tmp_path).reference_scores(batch).sums
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    with torch.no_grad():
        assert (trainer.policy_scores(trainer.model, batch).sums - expected).abs().max() > 0.1


def test_first_loss_is_exact_in_half_precision(method: str, tmp_path: Path) -> None:
    """Policy and reference compute alike, so nothing tells them apart before the first step."""
    if method == "simpo":
        pytest.skip("SimPO has no reference")
    trainer = make(method, tmp_path, bf16=True, max_steps=1)
    trainer.train()
    (row,) = (row for row in trainer.state.log_history if "loss" in row)
    if method != "srpo":
        assert row["loss"] == pytest.approx(0.6931472, abs=1e-6)
    assert row["rewards/margins"] == 0.0
    assert row["rewards/accuracies"] == 0.0
    assert row.get("online_kl", 0.0) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("counted", ["dpo", "srpo"])
def test_reference_computed_beforehand_is_found_again(
    counted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_class, calls = TRAINERS[counted][1], []
    name = "compute_ref_log_probs" if counted == "dpo" else "_initial_scores"
    original = getattr(trainer_class, name)

    def counting(*args: Any) -> Any:
        calls.append(name)
        return original(*args)

    monkeypatch.setattr(trainer_class, name, counting)
    first = make(counted, tmp_path, precompute_ref_log_probs=True)
    assert len(calls) == 4
    again = make(counted, tmp_path, precompute_ref_log_probs=True)
    assert len(calls) == 4
    assert again.train_dataset.to_list() == first.train_dataset.to_list()
    make(counted, tmp_path, model=tiny.model(seed=1), precompute_ref_log_probs=True)
    assert len(calls) > 4


def test_streamed_dataset_gives_the_losses_of_the_same_rows(method: str, tmp_path: Path) -> None:
    rows = tiny.pairs().to_list()

    def generate() -> Any:
        yield from itertools.chain.from_iterable([rows] * 2)

    streamed = make(method, tmp_path / "s", dataset=IterableDataset.from_generator(generate))
    streamed.train()
    whole = make(
        method,
        tmp_path / "w",
        dataset=Dataset.from_list(rows),
        train_sampling_strategy="sequential",
    )
    whole.train()
    assert tiny.losses(streamed) == pytest.approx(tiny.losses(whole), abs=1e-6)
    assert len(tiny.losses(streamed)) == 4


def test_streamed_dataset_that_ends_begins_again(method: str, tmp_path: Path) -> None:
    rows = tiny.pairs(8).to_list()
    streamed = IterableDataset.from_generator(lambda: iter(rows))
    trainer = make(method, tmp_path, dataset=streamed, max_steps=5)
    trainer.train()
    assert len(tiny.losses(trainer)) == 5


def test_evaluation_and_early_stopping(method: str, tmp_path: Path) -> None:
    trainer = make(
        method,
        tmp_path,
        max_steps=12,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that no evaluation is better than the first
        trainer={
            "eval_dataset": tiny.pairs(6, seed=4),
            "callbacks": [EarlyStoppingCallback(early_stopping_patience=2)],
        },
    )
    trainer.train()
    evaluations = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert [row["step"] for row in evaluations] == [2, 4, 6]
    for name in ("eval_rewards/accuracies", "eval_rewards/margins", "eval_logps/chosen"):
        assert all(name in row for row in evaluations)
    again = trainer.evaluate()
    assert again["eval_loss"] == pytest.approx(evaluations[0]["eval_loss"], abs=1e-6)


def test_named_evaluation_datasets(method: str, tmp_path: Path) -> None:
    sets = {"near": tiny.pairs(4, seed=4), "far": tiny.pairs(4, seed=8)}
    trainer = make(method, tmp_path, trainer={"eval_dataset": sets})
    result = trainer.evaluate()
    assert {"eval_near_loss", "eval_far_loss"} <= set(result)


def test_a_loss_that_is_not_finite_stops_the_run(method: str, tmp_path: Path) -> None:
    model = tiny.model()
    trainer = make(method, tmp_path, model=model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="loss of step 1 is not finite; there is no checkpoint"):
        trainer.train()


def test_logging_needs_no_folder(method: str, tmp_path: Path) -> None:
    """A second machine has none where the first one alone saves."""
    trainer = make(method, tmp_path, max_steps=2, save_strategy="no", logging_steps=1)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    trainer.train()
    assert trainer.state.global_step == 2


def test_plain_config_of_trl_is_for_dpo_alone(method: str, tmp_path: Path) -> None:
    args = trl.DPOConfig(str(tmp_path / "out"), use_cpu=True, bf16=False, report_to=[])
    kind = TRAINERS[method][1]
    arguments: dict[str, Any] = {
        "model": tiny.model(),
        "train_dataset": tiny.pairs(4),
        "processing_class": tiny.tokenizer(),
    }
    if method == "dpo":
        kind(args=args, **arguments)
        return
    with pytest.raises(SettingsError, match=r"must be a \w+Config, got a DPOConfig"):
        kind(args=args, **arguments)


def test_conversations_are_trained_on(method: str, tmp_path: Path) -> None:
    trainer = make(method, tmp_path, dataset=tiny.chats())
    trainer.train()
    assert tiny.losses(trainer)[-1] < tiny.losses(trainer)[0]
    ids = trainer.train_dataset[0]["chosen_ids"]
    assert trainer.processing_class.decode(ids).endswith("<end>")


@pytest.mark.parametrize(
    "family",
    [
        "gpt2",
        "gpt_neox",
        pytest.param("qwen2", marks=pytest.mark.slow),
        pytest.param("qwen3", marks=pytest.mark.slow),
    ],
)
def test_architectures(method: str, tmp_path: Path, family: str) -> None:
    """Models of several families, saved and read again; padding on the right changes no score."""
    tiny.model(family).save_pretrained(tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    trainer = make(method, tmp_path, model=model, max_steps=3)
    trainer.train()
    assert tiny.losses(trainer)[-1] < tiny.losses(trainer)[0]
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    shifted = {name: torch.nn.functional.pad(value, (0, 3)) for name, value in batch.items()}
    with torch.no_grad():
        plain = trainer.policy_scores(trainer.model, batch).sums
        padded = trainer.policy_scores(trainer.model, shifted).sums
    torch.testing.assert_close(plain, padded, atol=1e-4, rtol=1e-5)


def test_metrics_from_logits_are_refused(method: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="compute_metrics"):
        make(method, tmp_path, trainer={"compute_metrics": lambda _: {}})


def test_config_is_read_from_a_command_line_as_trl_does(method: str, tmp_path: Path) -> None:
    parser = trl.TrlParser((TRAINERS[method][0],))
    assert "--online_kl_every" in parser.format_help()
    arguments = ["--output_dir", str(tmp_path), "--beta", "0.7", "--max_new_tokens", "9"]
    (config,) = parser.parse_args_and_config(arguments)
    assert type(config) is TRAINERS[method][0]
    assert (config.beta, config.max_new_tokens) == (0.7, 9)
    documented = TRAINERS[method][0].__doc__ or ""
    for field in dataclasses.fields(TRAINERS[method][0]):
        own = field.name not in {known.name for known in dataclasses.fields(PreferenceConfig)}
        assert not own or f"{field.name}: " in documented


def test_mixture_of_experts_adds_its_load_balancing_loss(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    config = MixtralConfig(**tiny.SIZES, **tiny.BODY, **sizes, output_router_logits=True)
    losses = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = MixtralForCausalLM(config)
        trainer = make(method, tmp_path, model=model, router_aux_loss_coef=weight, max_steps=1)
        trainer.train()
        losses[weight] = tiny.losses(trainer)[0]
    balance = trainer.state.log_history[0]["aux_loss"]
    assert balance > 0.5
    assert losses[1.0] - losses[0.0] == pytest.approx(balance, abs=1e-3)


def test_reference_that_is_the_policy_itself_is_refused(method: str, tmp_path: Path) -> None:
    model = tiny.model()
    with pytest.raises(SettingsError, match="ref_model"):
        make(method, tmp_path, model=model, trainer={"ref_model": model})


def test_model_by_its_path(method: str, tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path / "model")
    trainer = make(method, tmp_path, model=str(tmp_path / "model"), max_steps=2)
    trainer.train()
    as_object = make(method, tmp_path, max_steps=2)
    as_object.train()
    assert tiny.losses(trainer) == tiny.losses(as_object)


def test_trained_adapter_goes_on_from_itself(method: str, tmp_path: Path) -> None:
    """The reference of a policy that comes with an adapter is that adapter, frozen."""
    adapted = get_peft_model(tiny.model(), LoraConfig(**LORA))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    trainer = make(method, tmp_path, model=adapted, max_steps=3, learning_rate=1e-2)
    trainer.train()
    first = {"dpo": 0.6931, "hypo": 0.6931, "srpo": 0.6}.get(method)
    if first is not None:
        assert tiny.losses(trainer)[0] == pytest.approx(first, abs=1e-3)
    assert tiny.losses(trainer)[-1] != tiny.losses(trainer)[0]


def test_online_kl_of_every_method(method: str, tmp_path: Path) -> None:
    trainer = make(method, tmp_path, online_kl_every=1, max_new_tokens=4, max_steps=2)
    assert trainer.ref_model is not None  # SimPO has one for this alone
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[0]["online_kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[1]["online_kl"] != 0.0
