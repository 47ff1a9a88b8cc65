"""DPO has TRL's numbers; what is added around it."""

from __future__ import annotations

import inspect
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import trl
from transformers import AutoModelForCausalLM

from rlalign.errors import CheckpointError, SettingsError, TrainingError
from rlalign.trainers import TRAINERS, DPOConfig, DPOTrainer
from rlalign.trainers.dpo import LOSSES
from rlalign.trainers.reference import copied_reference, loaded_again
from tests.trainers import tiny


def make(folder: Path, model: Any = None, dataset: Any = None, **changes: Any) -> DPOTrainer:
    return DPOTrainer(
        model=model or tiny.model(),
        args=DPOConfig(**tiny.settings(folder, **changes)),
        train_dataset=dataset or tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )


@pytest.mark.parametrize("token_metrics", [False, True])
def test_fifty_losses_equal_those_of_trl(tmp_path: Path, token_metrics: bool) -> None:
    shared = tiny.settings(tmp_path, max_steps=50, beta=0.3)
    ours = make(
        tmp_path,
        tiny.model(),
        tiny.pairs(64),
        max_steps=50,
        beta=0.3,
        token_metrics=token_metrics,
    )
    theirs = trl.DPOTrainer(
        model=tiny.model(),
        ref_model=tiny.model(),
        args=trl.DPOConfig(**shared, bf16=False),
        train_dataset=tiny.pairs(64),
        processing_class=tiny.tokenizer(),
    )
    ours.train()
    theirs.train()
    found, expected = tiny.losses(ours), tiny.losses(theirs)
    assert len(found) == len(expected) == 50
    assert found[0] == pytest.approx(math.log(2), abs=1e-5)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) < 1e-5
    assert expected[-1] < 0.6
    shared_metrics = set(theirs.state.log_history[0])
    if not token_metrics:
        shared_metrics -= {"entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy"}
    for mine, other in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        for name in shared_metrics - {"grad_norm"}:
            if name in other:
                assert mine[name] == pytest.approx(other[name], abs=1e-3), name


def test_reference_is_a_copy_that_training_leaves_alone(tmp_path: Path) -> None:
    model = tiny.model()
    model.config._name_or_path = "somewhere/else"  # its files, if any, hold other weights
    trainer = make(tmp_path, model)
    before = {name: value.clone() for name, value in trainer.ref_model.state_dict().items()}
    trainer.train()
    after = trainer.ref_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = trainer.model.state_dict()
    assert any((trained[name] - before[name]).abs().max() > 1e-4 for name in before)
    assert not any(parameter.requires_grad for parameter in trainer.ref_model.parameters())


def test_reference_that_cannot_be_copied_is_read_from_the_policys_files(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path / "model")
    policy = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    reference = loaded_again(policy)
    pairs = zip(policy.parameters(), reference.parameters(), strict=True)
    assert all(torch.equal(p, q) and p is not q and p.dtype == q.dtype for p, q in pairs)
    with pytest.raises(SettingsError, match=r"not loaded from files.*give ref_model"):
        loaded_again(tiny.model())


def test_copied_reference_has_no_dropout(tmp_path: Path) -> None:
    """Whatever mode the policy is in: the first loss is ln 2 by the policy's dropout alone."""
    policy = tiny.model("gpt2")
    policy.train()
    trainer = make(tmp_path, policy, disable_dropout=False)
    assert not any(module.training for module in trainer.ref_model.modules())
    assert policy.training


def test_resumed_run_goes_on_with_the_reference_that_had_moved(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 0.5,
        "save_strategy": "steps",
        "save_steps": 3,
        "max_steps": 6,
    }
    whole = make(tmp_path, **changes)
    whole.train()
    rest = make(tmp_path, **changes)
    rest.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert tiny.losses(rest) == tiny.losses(whole)
    pairs = zip(rest.ref_model.parameters(), whole.ref_model.parameters(), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)
    (tmp_path / "checkpoint-3" / "reference.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no reference\.safetensors"):
        make(tmp_path, **changes).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_sharded_reference_is_that_of_the_policys_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny.model()
    asked: dict[str, Any] = {}
    policy.config._name_or_path, policy.config._commit_hash = "owner/name", "0123abc"
    monkeypatch.setattr(
        type(policy), "from_pretrained", lambda name, **options: asked.update(options, name=name)
    )
    args = SimpleNamespace(
        deepspeed_plugin=SimpleNamespace(zero_stage=3), precompute_ref_log_probs=False
    )
    copied_reference(policy, args, None)
    assert (asked["name"], asked["revision"]) == ("owner/name", "0123abc")


def test_reference_computed_beforehand_gives_the_same_losses(tmp_path: Path) -> None:
    plain = make(tmp_path / "a")
    beforehand = make(tmp_path / "b", precompute_ref_log_probs=True)
    assert beforehand.ref_model is None
    plain.train()
    beforehand.train()
    assert tiny.losses(plain) == pytest.approx(tiny.losses(beforehand), abs=1e-5)
    assert tiny.losses(plain)[-1] < 0.65


def test_other_losses_of_trl_are_reachable(tmp_path: Path) -> None:
    trainer = make(tmp_path, loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.2], max_steps=1)
    trainer.train()
    assert tiny.losses(trainer)[0] > 0.6932


def test_losses_are_those_that_trl_lists() -> None:
    source = inspect.getsource(trl.DPOTrainer._compute_loss)
    listed = re.findall(r"'([a-z_]+)'", source.partition("Unknown loss type")[2])
    assert sorted(listed) == sorted(LOSSES)


def test_unknown_loss_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no loss_type 'sigmoyd'; did you mean 'sigmoid'"):
        DPOConfig(str(tmp_path), loss_type=["sigmoid", "sigmoyd"])


def test_plain_trl_config_is_accepted(tmp_path: Path) -> None:
    trainer = DPOTrainer(
        model=tiny.model(),
        args=trl.DPOConfig(**tiny.settings(tmp_path, bf16=False)),
        train_dataset=tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    assert tiny.losses(trainer)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_config_without_precision_works_where_there_is_no_gpu(tmp_path: Path) -> None:
    assert DPOConfig(str(tmp_path)).bf16 == torch.cuda.is_available()


def test_online_kl_is_logged_when_asked_for(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=6, online_kl_every=2, max_new_tokens=6)
    trainer.train()
    result = trainer.evaluate(tiny.pairs(4, seed=9))
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [i for i, row in enumerate(rows) if "online_kl" in row] == [0, 2, 4]
    assert rows[0]["online_kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[4]["online_kl"] != pytest.approx(0.0, abs=1e-4)
    assert result["eval_online_kl"] != pytest.approx(0.0, abs=1e-4)
    assert 0 < result["eval_samples/length"] <= 6


def test_sampling_leaves_the_random_numbers_of_training_alone(tmp_path: Path) -> None:
    quiet, sampling = make(tmp_path / "a"), make(tmp_path / "b", online_kl_every=1)
    quiet.train()
    sampling.train()
    assert tiny.losses(quiet) == tiny.losses(sampling)


def test_a_loss_that_is_not_finite_stops_with_its_step_and_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path, max_steps=8, save_strategy="steps", save_steps=2, logging_steps=8)
    original = trainer.method_loss

    def broken(model: Any, inputs: Any) -> torch.Tensor:
        loss = original(model, inputs)
        return loss * float("nan") if trainer.state.global_step == 4 else loss

    monkeypatch.setattr(trainer, "method_loss", broken)
    with pytest.raises(TrainingError, match=r"DPO loss of step 5 is not finite.*checkpoint-4"):
        trainer.train()
    assert not (tmp_path / "checkpoint-6").exists()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"beta": -0.1}, "beta"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"online_kl_every": -1}, "online_kl_every"),
        ({"generation_batch_size": 0}, "generation_batch_size"),
        ({"vllm_gpu_memory_utilization": 2.0}, "vllm_gpu_memory_utilization"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingsError, match=f"setting {named} must be"):
        DPOConfig(**tiny.settings(tmp_path, **changes))


def test_sampling_without_a_reference_at_hand_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="precompute_ref_log_probs"):
        make(tmp_path, online_kl_every=1, precompute_ref_log_probs=True)


def test_methods_are_found_by_name() -> None:
    assert TRAINERS["dpo"] == (DPOConfig, DPOTrainer)
    assert {"dpo", "simpo"} <= set(TRAINERS)
    assert "ppo" not in TRAINERS
