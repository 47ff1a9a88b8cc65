"""HyPO: what its online term does and does not do, and how it samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from rlalign.errors import SettingsError
from rlalign.trainers import DPOConfig, DPOTrainer, HyPOConfig, HyPOTrainer
from rlalign.trainers.losses import dpo_loss, reverse_kl_surrogate
from tests.trainers import tiny


def make(folder: Path, model: Any = None, dataset: Any = None, **changes: Any) -> HyPOTrainer:
    defaults = {"max_new_tokens": 6, "kl_weight": 0.1}
    return HyPOTrainer(
        model=model or tiny.model(),
        args=HyPOConfig(**tiny.settings(folder, **{**defaults, **changes})),
        train_dataset=dataset or tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )


def make_dpo(folder: Path, **changes: Any) -> DPOTrainer:
    return DPOTrainer(
        model=tiny.model(),
        args=DPOConfig(**tiny.settings(folder, **changes)),
        train_dataset=tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )


def parameters(trainer: Any) -> Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def test_without_weight_it_is_dpo_bit_for_bit(tmp_path: Path) -> None:
    hypo, dpo = make(tmp_path / "h", kl_weight=0.0), make_dpo(tmp_path / "d")
    hypo.train()
    dpo.train()
    assert tiny.losses(hypo) == tiny.losses(dpo)
    assert torch.equal(parameters(hypo), parameters(dpo))
    assert tiny.losses(dpo)[-1] < 0.65


def test_first_step_is_that_of_dpo_and_the_next_is_not(tmp_path: Path) -> None:
    """Policy and reference agree at first, so the online term has no gradient there."""
    hypo, dpo = make(tmp_path / "h", max_steps=2), make_dpo(tmp_path / "d", max_steps=2)
    seen: dict[str, list[Tensor]] = {"hypo": [], "dpo": []}
    for name, trainer in (("hypo", hypo), ("dpo", dpo)):
        keep_each_step(trainer, seen[name])
        trainer.train()
    assert (seen["hypo"][0] - seen["dpo"][0]).abs().max() < 1e-6
    assert (seen["hypo"][1] - seen["dpo"][1]).abs().max() > 1e-5


def keep_each_step(trainer: Any, into: list[Tensor]) -> None:
    from transformers import TrainerCallback

    class Keep(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            into.append(parameters(trainer))

    trainer.add_callback(Keep())


def test_drift_from_the_reference_is_held_back(tmp_path: Path) -> None:
    """One pair over and over: DPO runs off, HyPO does not."""
    row = {"prompt": "ab:", "chosen": "aeiou", "rejected": "bcdfg"}
    data = Dataset.from_list([row] * 32)
    kl: dict[tuple[float, str], float] = {}
    for weight, estimator in ((0.0, "trajectory"), (0.1, "trajectory"), (0.1, "reward_to_go")):
        trainer = make(
            tmp_path,
            dataset=data,
            kl_weight=weight,
            kl_estimator=estimator,
            max_steps=30,
            per_device_train_batch_size=8,
            learning_rate=3e-3,
            num_samples=4,
            logging_steps=30,
        )
        trainer.train()
        rows = trainer.draw([trainer.train_dataset[0]["prompt_ids"]] * 128)
        with torch.no_grad():
            policy = trainer.policy_scores(trainer.model, rows)
            ratio = policy.sums - trainer.reference_scores(rows).sums
        kl[weight, estimator] = ratio.mean().item()
    free = kl[0.0, "trajectory"]
    assert free > 1.0
    assert kl[0.1, "trajectory"] < 0.5 * free
    assert kl[0.1, "reward_to_go"] < 0.5 * free


COVERAGE = {0.0: (3.912, 0.01), 0.03: (0.751, 0.01), 0.1: (0.136, 0.01)}


def test_dpo_leaves_the_data_where_hypo_stays() -> None:
    """Three answers, data on two of them, and features that carry DPO to the third."""
    base = torch.tensor([0.49, 0.49, 0.02], dtype=torch.float64).log()
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    found = {}
    for weight in COVERAGE:
        theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        for _ in range(2000):
            policy = (base + features @ theta).log_softmax(0)
            ratio = policy - base
            pairs = dpo_loss(chosen_ratio=ratio[:1], rejected_ratio=ratio[1:2], beta=0.1).sum()
            kl = (policy.exp() * ratio).sum()
            (gradient,) = torch.autograd.grad(pairs + weight * kl, theta)
            with torch.no_grad():
                theta -= 0.5 * gradient
        policy = (base + features @ theta.detach()).log_softmax(0)
        found[weight] = float((policy.exp() * (policy - base)).sum())
        if weight == 0.0:
            assert policy[2].exp() > 0.999  # an answer that no pair contains
    for weight, (expected, tolerance) in COVERAGE.items():
        assert found[weight] == pytest.approx(expected, abs=tolerance)


def test_surrogate_over_all_answers_has_the_gradient_of_the_exact_kl() -> None:
    logits = torch.tensor([0.3, -1.0, 0.8], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    policy = logits.log_softmax(0)
    expected = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)[0]
    total = torch.zeros(3, dtype=torch.float64)
    for answer in range(3):
        policy = logits.log_softmax(0)
        one = reverse_kl_surrogate(
            policy=policy[answer].view(1, 1), reference=reference[answer].view(1, 1)
        )
        total += policy[answer].exp().detach() * torch.autograd.grad(one, logits)[0]
    torch.testing.assert_close(total, expected)


# Sampling.


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_prompts_of_mixed_length_are_completed_as_each_alone(tmp_path: Path, family: str) -> None:
    """Padding on the left must not move positions: greedy completions show it."""
    trainer = make(tmp_path, tiny.model(family))
    # Without the colon, so that they end differently.
    prompts = [trainer.train_dataset[i]["prompt_ids"][:-1] for i in range(8)]
    assert len({len(prompt) for prompt in prompts}) > 3
    trainer.draw(prompts[:1])  # makes the sampler
    sampler: Any = trainer._sampler
    sampler._settings.do_sample = False
    together = sampler.draw(trainer.model, prompts, seed=0, step=0)
    alone = [sampler.draw(trainer.model, [prompt], seed=0, step=0)[0] for prompt in prompts]
    assert together == alone
    assert len({tuple(completion) for completion in together}) > 1


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_samples_are_scored_with_the_probabilities_they_were_drawn_with(
    tmp_path: Path, family: str
) -> None:
    trainer = make(tmp_path, tiny.model(family))
    prompts = [trainer.train_dataset[i]["prompt_ids"] for i in range(6)]
    rows = trainer.draw(prompts)
    with torch.no_grad():
        scored = trainer.policy_scores(trainer.model, rows)
    for i, prompt in enumerate(prompts):
        ids = rows["input_ids"][i, : int(rows["attention_mask"][i].sum())]
        with torch.no_grad():
            logps = trainer.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        places = range(len(prompt), len(ids))
        expected = sum(float(logps[place - 1, ids[place]]) for place in places)
        assert scored.sums[i].item() == pytest.approx(expected, abs=1e-3)
        assert scored.lengths[i] == len(places)


def test_nothing_after_the_first_end_token_counts(tmp_path: Path) -> None:
    model = tiny.model()
    model.generation_config.eos_token_id = list(range(10, 30))  # a quarter of the tokens
    trainer = make(tmp_path, model, max_new_tokens=20)
    prompt = trainer.train_dataset[0]["prompt_ids"]
    rows = trainer.draw([prompt] * 64)
    known = torch.tensor([2, *range(10, 30)])  # the tokenizer's end token, and the model's
    ends = torch.isin(rows["input_ids"], known) & (rows["completion_mask"] == 1)
    finished = ends.any(1)
    assert finished.float().mean() > 0.8
    assert (ends.sum(1) <= 1).all()
    last = rows["attention_mask"].sum(1) - 1
    assert torch.isin(rows["input_ids"].gather(1, last[:, None])[finished], known).all()
    assert (rows["completion_mask"].sum(1) == rows["attention_mask"].sum(1) - len(prompt)).all()


def test_samples_come_from_the_whole_distribution_whatever_the_model_prefers(
    tmp_path: Path,
) -> None:
    model = tiny.model()
    model.generation_config.do_sample = True
    model.generation_config.top_k = 1
    model.generation_config.temperature = 0.1
    trainer = make(tmp_path, model, max_new_tokens=1)
    prompt = trainer.train_dataset[0]["prompt_ids"]
    rows = trainer.draw([prompt] * 4000)
    drawn = torch.bincount(rows["input_ids"][:, len(prompt)], minlength=80) / 4000
    with torch.no_grad():
        expected = trainer.model(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    # Each frequency has a standard deviation of at most 0.008; 5 of them make 0.04.
    assert (drawn - expected).abs().max() < 0.04
    assert model.generation_config.top_k == 1


def test_samples_depend_on_the_step_and_not_on_training_random_numbers(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    prompts = [trainer.train_dataset[0]["prompt_ids"]] * 4
    first = trainer.draw(prompts)["input_ids"]
    torch.rand(17)
    state = torch.get_rng_state()
    assert torch.equal(first, trainer.draw(prompts)["input_ids"])
    assert torch.equal(state, torch.get_rng_state())
    trainer.state.global_step = 1
    assert not torch.equal(first, trainer.draw(prompts)["input_ids"])


def test_sampling_leaves_mode_and_checkpointing_as_they_were(tmp_path: Path) -> None:
    trainer = make(tmp_path, gradient_checkpointing=True)
    trainer.train()
    assert trainer.model.is_gradient_checkpointing
    trainer.model.train()
    trainer.draw([[5, 6]])
    assert trainer.model.training
    assert trainer.model.is_gradient_checkpointing


def test_small_generation_batches_change_nothing_but_the_draws(tmp_path: Path) -> None:
    trainer = make(tmp_path, generation_batch_size=3, max_steps=2)
    trainer.train()
    assert trainer.state.log_history[0]["samples/length"] > 0


def counting(trainer: HyPOTrainer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    calls: list[tuple[int, int]] = []
    draw = trainer.draw

    def counted(prompts: Any, **kwargs: Any) -> Any:
        calls.append((trainer.state.global_step, len(prompts)))
        return draw(prompts, **kwargs)

    monkeypatch.setattr(trainer, "draw", counted)
    return calls


def test_samples_of_a_step_are_drawn_in_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path, max_steps=2, gradient_accumulation_steps=2)
    calls = counting(trainer, monkeypatch)
    trainer.train()
    assert calls == [(0, 8), (1, 8)]


@pytest.mark.parametrize("reuse", [False, True])
def test_sampling_every_third_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reuse: bool
) -> None:
    trainer = make(tmp_path, max_steps=6, sample_every=3, reuse_samples=reuse)
    calls = counting(trainer, monkeypatch)
    trainer.train()
    assert [step for step, _ in calls] == [0, 3]
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert ["online_kl" in row for row in rows] == (
        [True] * 6 if reuse else [True, False, False] * 2
    )
    if reuse:
        weights = [row["samples/importance"] for row in rows]
        assert weights[0] == weights[3] == 1.0
        assert weights[1] != 1.0


def test_resumed_run_uses_the_same_samples_again(tmp_path: Path) -> None:
    changes = {"sample_every": 4, "reuse_samples": True, "max_steps": 8}
    whole = make(tmp_path / "whole", **changes)
    whole.train()
    cut = make(tmp_path / "cut", **changes, save_strategy="steps", save_steps=2)
    cut.train()
    rest = make(tmp_path / "cut", **changes, save_strategy="steps", save_steps=2)
    rest.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-2"))
    assert tiny.losses(rest)[-6:] == tiny.losses(whole)[-6:]
    assert torch.equal(parameters(rest), parameters(whole))


def test_prompt_and_sample_beyond_the_models_positions_are_refused(tmp_path: Path) -> None:
    """Before training, not when the first such prompt is drawn."""
    with pytest.raises(SettingsError, match="128 positions; lower max_new_tokens or leave out"):
        make(tmp_path, max_new_tokens=127)
    trainer = make(tmp_path, max_new_tokens=4)
    with pytest.raises(SettingsError, match=r"data\.max_prompt_length=124"):
        trainer.draw([[5] * 125])


def test_reference_that_is_needed_later_is_asked_for_before_it_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def computes(*_: Any) -> None:
        raise AssertionError("computed")

    monkeypatch.setattr(HyPOTrainer, "_precompute_ref_logps", computes)
    with pytest.raises(SettingsError, match="sampling in training needs the reference at hand"):
        make(tmp_path, precompute_ref_log_probs=True)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kl_weight": -1.0}, "kl_weight"),
        ({"num_samples": 0}, "num_samples"),
        ({"sample_every": 0}, "sample_every"),
        ({"kl_estimator": "k3"}, "kl_estimator"),
        ({"truncation_mode": "keep_end"}, "truncation_mode"),
        ({"loss_type": ["ipo"]}, "loss_type"),
        ({"use_weighting": True}, "use_weighting"),
    ],
)
def test_wrong_settings_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(SettingsError, match=f"setting {named} must be"):
        HyPOConfig(**tiny.settings(tmp_path, **changes))
