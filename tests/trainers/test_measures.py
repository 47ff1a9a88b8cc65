"""What evaluation measures: closed forms, and KL estimates next to the exact KL."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from trl.trainer import add_fused_lm_head

from rlalign.trainers.drawing import Voice, draw, log_probabilities
from rlalign.trainers.evaluation import Plan, evaluate
from rlalign.trainers.measures import distinct, kl_figures, pair_figures, win_rate
from tests.trainers import tiny


def voice(seed: int, scale: float = 1.0) -> Voice:
    """A tiny random model that speaks."""
    model = tiny.model(seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale if parameter.dim() > 1 else 1.0)
    add_fused_lm_head(model)
    return Voice(model, tiny.tokenizer())


def test_ties_count_half() -> None:
    assert win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 5.0, -1.0]) == 0.625


def test_distinct_counts_word_pairs() -> None:
    assert distinct(["a b a b", "a b"], 2) == 0.5  # ab ba ab, ab: two different of four
    assert distinct(["a"], 2) == 0.0


def test_pairs_are_told_apart_by_the_log_ratio() -> None:
    found = pair_figures(
        policy=(torch.tensor([-4.0, -9.0]), torch.tensor([-6.0, -8.0])),
        initial=(torch.tensor([-5.0, -9.0]), torch.tensor([-5.0, -9.0])),
        lengths=(torch.tensor([2, 3]), torch.tensor([2, 4])),
    )
    assert found["accuracy"] == 0.5
    assert found["margin"] == pytest.approx(0.5)  # (2 - 1) / 2
    assert found["average_margin"] == pytest.approx((1.0 - 1.0) / 2)


def test_kl_is_the_mean_log_ratio() -> None:
    found = kl_figures(
        own=torch.tensor([-1.0, -2.0]),
        other=torch.tensor([-2.0, -5.0]),
        lengths=torch.tensor([1, 3]),
        name="kl",
    )
    assert found["kl"] == 2.0
    assert found["kl_per_token"] == 1.0
    assert found["kl_error"] == pytest.approx(math.sqrt(2.0) / math.sqrt(2.0))


def test_log_probabilities_do_not_depend_on_the_batch() -> None:
    speaker = voice(0)
    prompts = [[8, 9, 10], [11], [12, 13, 14, 15, 16]]
    completions = [[20, 21], [22, 23, 24, 2], [25]]
    together = log_probabilities(speaker, prompts, completions, batch_size=3)
    alone = log_probabilities(speaker, prompts, completions, batch_size=1)
    assert (together - alone).abs().max() < 1e-4
    ids = torch.tensor([prompts[0] + completions[0]])
    with torch.no_grad():
        logps = speaker.model(input_ids=ids).logits.log_softmax(-1)[0]
    plain = logps[2, 20] + logps[3, 21]
    assert float(plain) == pytest.approx(float(together[0]), abs=1e-4)


def test_estimated_kl_of_one_token_agrees_with_the_exact_one() -> None:
    policy, initial = voice(0, 1.3), voice(1)
    prompt = [[8, 9, 10]] * 3000
    with torch.no_grad():
        logits = [
            v.model(input_ids=torch.tensor(prompt[:1])).logits[0, -1] for v in (policy, initial)
        ]
    p, q = (logit.log_softmax(-1) for logit in logits)
    exact = float((p.exp() * (p - q)).sum())
    drawn = draw(policy, prompt, max_new_tokens=1, temperature=1.0, batch_size=3000, seed=0)
    own, other = (log_probabilities(v, prompt, drawn, batch_size=3000) for v in (policy, initial))
    found = kl_figures(own=own, other=other, lengths=torch.ones(3000), name="kl")
    assert exact > 0.1
    # Five standard errors: a false alarm in less than one of a million.
    assert abs(found["kl"] - exact) < 5 * found["kl_error"]


def test_drawing_depends_on_its_seed_and_leaves_other_random_numbers_alone() -> None:
    speaker = voice(0)
    prompts = [[8, 9, 10], [11, 12]]
    options: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0, "batch_size": 2}
    state = torch.random.get_rng_state()
    first = draw(speaker, prompts, seed=0, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert draw(speaker, prompts, seed=0, **options) == first
    assert draw(speaker, prompts, seed=1, **options) != first


def test_model_beside_itself_ties_and_has_no_kl() -> None:
    same = voice(0)
    plan = Plan(
        prompts=4,
        max_new_tokens=4,
        reward=lambda prompts, texts: [0.0] * len(texts),
        judge=lambda prompts, ours, theirs: [0.5] * len(ours),
    )
    found = evaluate(same, same, tiny.pairs(), plan)
    assert found.figures["margin"] == found.figures["kl_reverse"] == 0.0
    assert found.figures["win_rate"] == found.figures["judge_win_rate"] == 0.5
    assert len(found.samples) == 4
    other = evaluate(same, voice(1), tiny.pairs(), plan)
    assert other.figures["kl_reverse"] != 0.0
    assert other.figures["margin"] != 0.0
