"""A policy next to the initial model: held-out pairs, samples, win rates, KL both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from rlalign.data.preferences.tokens import tokenize_pair
from rlalign.trainers.context import Chosen, choose_prompts, context_of, shown
from rlalign.trainers.drawing import Voice, draw, log_probabilities, texts_of
from rlalign.trainers.measures import (
    Figures,
    kl_figures,
    pair_figures,
    text_figures,
    win_rate,
)
from rlalign.trainers.rewards import Judge, Reward
from rlalign.trainers.rows import Tokens, end_tokens

if TYPE_CHECKING:
    from rlalign.trainers.revision import RevisionTemplate


@dataclass(frozen=True)
class Plan:
    """How a policy is evaluated.

    Args:
        prompts: how many prompts to sample for, those without room for an answer passed over; 0
            measures pairs alone.
        temperature: of the samples. KL estimates say what they are called only at 1.
        max_new_tokens: length at most of a sample.
        batch_size: sequences at once.
        max_length: tokens at which pairs are cut, as in training.
        seed: of the samples.
        reward: gives each sample a number, or None.
        judge: compares two samples, or None.
        revisions: how often each sample is revised.
        template: how a draft is shown to be revised.
        templated: the policy was trained on the template's plain view of prompts (SRPO), so both
            models are shown that.
        shown: how many samples are kept to be read.
    """

    prompts: int = 64
    temperature: float = 1.0
    max_new_tokens: int = 128
    batch_size: int = 32
    max_length: int | None = None
    seed: int = 0
    reward: Reward | None = None
    judge: Judge | None = None
    revisions: int = 0
    template: RevisionTemplate | None = None
    templated: bool = False
    shown: int = 8


@dataclass(frozen=True)
class Evaluated:
    """What was measured, and samples of both models side by side."""

    figures: Figures
    samples: list[dict[str, Any]] = field(default_factory=list)


def evaluate(policy: Voice, initial: Voice, rows: Any, plan: Plan) -> Evaluated:
    """Evaluate a policy on held-out pairs and on samples for their prompts.

    Args:
        policy: the trained model.
        initial: the model that training began with.
        rows: a dataset with the columns prompt, chosen and rejected.
        plan: what to do.
    """
    figures = _on_pairs(policy, initial, [shown(row, plan) for row in rows], plan)
    if plan.prompts == 0:
        return Evaluated(figures)
    chosen = choose_prompts(rows, policy.tokenizer, plan, context_of(policy.model))
    asked, ids = chosen.prompts, chosen.ids
    figures |= {"prompts": float(len(asked)), "prompts_left_out": float(chosen.left_out)}
    if not asked:
        return Evaluated(figures)
    ours = _sample(policy, ids, plan, plan.seed)
    theirs = _sample(initial, ids, plan, plan.seed + 1)
    figures |= _kl(policy, initial, ids, ours, theirs, plan)
    texts, others = (texts_of(one, policy.tokenizer) for one in (ours, theirs))
    for name, voice, completions, said in (
        ("policy", policy, ours, texts),
        ("initial", initial, theirs, others),
    ):
        figures |= text_figures(said, _lengths(completions), _unfinished(voice, completions), name)
    samples = [
        {"prompt": prompt, "policy": a, "initial": b}
        for prompt, a, b in zip(asked, texts, others, strict=True)
    ]
    figures |= _compare(asked, texts, others, samples, plan)
    if plan.revisions:
        figures |= _revise(policy, chosen, others, samples, plan)
    return Evaluated(figures, samples[: plan.shown])


def _on_pairs(policy: Voice, initial: Voice, rows: Any, plan: Plan) -> Figures:
    prompts: Tokens = []
    sides: tuple[Tokens, Tokens] = ([], [])
    left_out = 0
    for row in rows:
        pair = tokenize_pair(row, policy.tokenizer)
        room = None if plan.max_length is None else plan.max_length - len(pair.prompt)
        if room is not None and room <= 0:
            left_out += 1  # as in training: no completion is left
            continue
        prompts.append(pair.prompt)
        for side, completion in zip(sides, (pair.chosen, pair.rejected), strict=True):
            side.append(completion[:room])
    counts: Figures = {"pairs": float(len(prompts)), "pairs_left_out": float(left_out)}
    if not prompts:
        return counts

    def scored(voice: Voice) -> tuple[Any, Any]:
        first, second = (
            log_probabilities(voice, prompts, side, batch_size=plan.batch_size) for side in sides
        )
        return first, second

    lengths = (_lengths(sides[0]), _lengths(sides[1]))
    found = pair_figures(policy=scored(policy), initial=scored(initial), lengths=lengths)
    return {**counts, **found}


def _sample(voice: Voice, prompts: Tokens, plan: Plan, seed: int) -> Tokens:
    return draw(
        voice,
        prompts,
        max_new_tokens=plan.max_new_tokens,
        temperature=plan.temperature,
        batch_size=plan.batch_size,
        seed=seed,
    )


def _kl(
    policy: Voice, initial: Voice, prompts: Tokens, ours: Tokens, theirs: Tokens, plan: Plan
) -> Figures:
    def scored(voice: Voice, completions: Tokens) -> torch.Tensor:
        return log_probabilities(voice, prompts, completions, batch_size=plan.batch_size)

    reverse = kl_figures(
        own=scored(policy, ours),
        other=scored(initial, ours),
        lengths=_lengths(ours),
        name="kl_reverse",
    )
    forward = kl_figures(
        own=scored(initial, theirs),
        other=scored(policy, theirs),
        lengths=_lengths(theirs),
        name="kl_forward",
    )
    return {**reverse, **forward}


def _compare(
    asked: Sequence[Any],
    texts: Sequence[str],
    others: Sequence[str],
    samples: list[dict[str, Any]],
    plan: Plan,
) -> Figures:
    """Win rates of the policy's samples against the initial model's, by reward and by judge."""
    figures: Figures = {}
    if plan.reward is not None:
        ours, theirs = plan.reward(asked, texts), plan.reward(asked, others)
        figures |= {
            "reward": sum(ours) / len(ours),
            "initial_reward": sum(theirs) / len(theirs),
            "win_rate": win_rate(ours, theirs),
        }
        for sample, a, b in zip(samples, ours, theirs, strict=True):
            sample |= {"policy_reward": a, "initial_reward": b}
    if plan.judge is not None:
        wins = plan.judge(asked, texts, others)
        figures["judge_win_rate"] = sum(wins) / len(wins)
        for sample, won in zip(samples, wins, strict=True):
            sample["judged"] = won
    return figures


def _revise(
    policy: Voice,
    chosen: Chosen,
    others: Sequence[str],
    samples: list[dict[str, Any]],
    plan: Plan,
) -> Figures:
    """Reward and win rate after each self-revision (SRPO, arXiv 2406.01660)."""
    from rlalign.trainers.self_revision import self_revise

    assert plan.template is not None
    asked = chosen.prompts
    with policy.resting() as model:
        history = self_revise(
            model,
            policy.tokenizer,
            asked,
            template=plan.template,
            revisions=plan.revisions,
            max_new_tokens=plan.max_new_tokens,
            temperature=plan.temperature,
            batch_size=plan.batch_size,
            seed=plan.seed,
            chat=chosen.chat,
        )
    for sample, drafts in zip(samples, history, strict=True):
        sample["revisions"] = drafts
    figures: Figures = {}
    for number in range(plan.revisions + 1):
        texts = [drafts[number] for drafts in history]
        if plan.reward is not None:
            ours, theirs = plan.reward(asked, texts), plan.reward(asked, others)
            figures[f"revision_{number}_reward"] = sum(ours) / len(ours)
            figures[f"revision_{number}_win_rate"] = win_rate(ours, theirs)
        if plan.judge is not None:
            wins = plan.judge(asked, texts, others)
            figures[f"revision_{number}_judge_win_rate"] = sum(wins) / len(wins)
    return figures


def _lengths(completions: Tokens) -> torch.Tensor:
    return torch.tensor([max(1, len(completion)) for completion in completions])


def _unfinished(voice: Voice, completions: Tokens) -> float:
    ends = end_tokens(voice.model, voice.tokenizer)
    open_ended = [not completion or completion[-1] not in ends for completion in completions]
    return sum(open_ended) / len(open_ended)
