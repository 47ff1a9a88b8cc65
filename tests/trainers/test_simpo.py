"""SimPO: TRL's own numbers on the same tensors, and no reference model anywhere."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, TrainerCallback
from trl.experimental.cpo import CPOConfig, CPOTrainer

from rlalign.errors import SettingsError
from rlalign.trainers import SimPOConfig, SimPOTrainer
from rlalign.trainers.losses import simpo_loss
from tests.trainers import tiny


def make(folder: Path, model: Any = None, dataset: Any = None, **changes: Any) -> SimPOTrainer:
    return SimPOTrainer(
        model=model or tiny.model(),
        args=SimPOConfig(**tiny.settings(folder, **changes)),
        train_dataset=dataset or tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loss_equals_that_of_trl_cpo_on_the_same_batch(tmp_path: Path, family: str) -> None:
    model = tiny.model(family)
    cpo = CPOTrainer(
        model=copy.deepcopy(model),
        args=CPOConfig(
            **tiny.settings(tmp_path / "cpo", bf16=False),
            loss_type="simpo",
            cpo_alpha=0.0,
            beta=2.5,
            simpo_gamma=1.375,
        ),
        train_dataset=tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )
    ours = make(tmp_path / "ours", model, beta=2.5, gamma_beta_ratio=0.55)
    batch = next(
        iter(
            torch.utils.data.DataLoader(
                ours.train_dataset, batch_size=4, collate_fn=ours.data_collator
            )
        )
    )
    rows = [ours.train_dataset[i] for i in range(4)]
    theirs = as_cpo(cpo, rows)
    expected, _ = cpo.get_batch_loss_metrics(cpo.model, theirs)
    found = ours.compute_loss(ours.model, batch)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    found.backward()
    gradients = {name: p.grad for name, p in cpo.model.named_parameters()}
    for name, parameter in ours.model.named_parameters():
        assert (parameter.grad - gradients[name]).abs().max() < 1e-5
    assert max(float(g.abs().max()) for g in gradients.values()) > 1e-3


def as_cpo(cpo: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The same token ids in the layout of TRL's CPO."""
    features = []
    for row in rows:
        feature: dict[str, Any] = {}
        for side in ("chosen", "rejected"):
            ids = row["prompt_ids"] + row[f"{side}_ids"]
            feature[f"{side}_input_ids"] = ids
            feature[f"{side}_attention_mask"] = [1] * len(ids)
            feature[f"{side}_labels"] = [-100] * len(row["prompt_ids"]) + row[f"{side}_ids"]
        feature["prompt_input_ids"] = row["prompt_ids"]
        feature["prompt_attention_mask"] = [1] * len(row["prompt_ids"])
        features.append(feature)
    return cpo.data_collator(features)


def test_no_second_model_is_in_memory_at_any_time(tmp_path: Path) -> None:
    def models() -> int:
        gc.collect()
        return sum(type(found) is LlamaForCausalLM for found in gc.get_objects())

    class Count(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            counts.append(models())

    counts = [models()]
    trainer = make(tmp_path)
    trainer.add_callback(Count())
    counts.append(models())
    trainer.train()
    trainer.evaluate(tiny.pairs(4))
    assert counts == [counts[0]] + [counts[0] + 1] * 5
    assert trainer.ref_model is None
    assert not trainer.args.precompute_ref_log_probs


def test_evaluation_of_a_new_dataset_after_training(tmp_path: Path) -> None:
    trainer = make(tmp_path, max_steps=8)
    trainer.train()
    result = trainer.evaluate(tiny.pairs(8, seed=5))
    assert result["eval_loss"] < tiny.losses(trainer)[0]
    assert {"eval_rewards/accuracies", "eval_rewards/margins", "eval_lengths/chosen"} <= set(result)


def test_initial_loss_is_that_of_the_averages(tmp_path: Path) -> None:
    """softplus(-(beta (a_w - a_l) - gamma)), scored one by one; not a reference's log 2."""
    data, tokenizer, model = tiny.pairs(4), tiny.tokenizer(), tiny.model()
    margins = []
    for row in data.to_list():
        chosen, rejected = (
            tiny.token_logps(model, tokenizer, row["prompt"], row[side]).mean()
            for side in ("chosen", "rejected")
        )
        margins.append(chosen - rejected)
    difference = torch.stack(margins)
    expected = torch.nn.functional.softplus(-(2.0 * difference - 1.0)).mean().item()

    trainer = make(tmp_path, model, data, beta=2.0, gamma_beta_ratio=0.5, max_steps=1)
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["loss"] == pytest.approx(expected, abs=1e-4)
    assert row["rewards/margins"] == pytest.approx(2.0 * difference.mean().item(), abs=1e-4)
    assert abs(expected - 0.6931) > 1e-2


def test_margin_by_either_name_is_the_same(tmp_path: Path) -> None:
    by_ratio = SimPOConfig(**tiny.settings(tmp_path, beta=2.5, gamma_beta_ratio=0.55))
    by_gamma = SimPOConfig(**tiny.settings(tmp_path, beta=2.5, gamma=1.375))
    assert by_ratio.gamma == pytest.approx(by_gamma.gamma)
    assert by_ratio.gamma_beta_ratio == pytest.approx(by_gamma.gamma_beta_ratio)
    again = SimPOConfig(**tiny.settings(tmp_path, beta=2.5, gamma=1.375, gamma_beta_ratio=0.55))
    assert again.gamma == 1.375


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"gamma": 1.0, "gamma_beta_ratio": 0.9}, "gamma"),
        ({"beta": 0.0}, "beta"),
        ({"gamma_beta_ratio": -0.1}, "gamma_beta_ratio"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"simpo_loss": "logistic"}, "simpo_loss"),
        ({"precompute_ref_log_probs": True}, "precompute_ref_log_probs"),
        ({"loss_type": ["ipo"]}, "loss_type"),
        ({"ld_alpha": 0.5}, "ld_alpha"),
        ({"sync_ref_model": True}, "sync_ref_model"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"vllm_mode": "remote"}, "vllm_mode"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingsError, match=f"setting {named} must be"):
        SimPOConfig(**tiny.settings(tmp_path, **changes))


def test_a_reference_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no reference"):
        SimPOTrainer(
            model=tiny.model(),
            ref_model=tiny.model(),
            args=SimPOConfig(**tiny.settings(tmp_path)),
            train_dataset=tiny.pairs(),
            processing_class=tiny.tokenizer(),
        )


def test_cross_entropy_of_the_chosen_is_added_per_token(tmp_path: Path) -> None:
    batches = {}
    for weight in (0.0, 0.5):
        trainer = make(tmp_path, sft_weight=weight)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        batches[weight] = trainer.compute_loss(trainer.model, batch).item()
        mask = batch["completion_mask"][:4, 1:]
        logits = trainer.model(
            input_ids=batch["input_ids"][:4], attention_mask=batch["attention_mask"][:4]
        ).logits[:, :-1]
        logps = logits.log_softmax(-1).gather(-1, batch["input_ids"][:4, 1:, None]).squeeze(-1)
        cross_entropy = -(logps * mask).sum() / mask.sum()
    assert batches[0.5] - batches[0.0] == pytest.approx(0.5 * cross_entropy.item(), abs=1e-5)


def test_function_and_trainer_agree(tmp_path: Path) -> None:
    trainer = make(tmp_path, simpo_loss="hinge", gamma_beta_ratio=0.2)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    scored = trainer.policy_scores(trainer.model, batch)
    chosen, rejected = scored.averages.chunk(2)
    expected = simpo_loss(
        chosen_average=chosen,
        rejected_average=rejected,
        beta=2.0,
        gamma_beta_ratio=0.2,
        kind="hinge",
    ).mean()
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)
