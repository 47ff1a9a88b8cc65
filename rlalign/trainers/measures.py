"""What is measured of samples and pairs: pure functions of numbers and texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Figures = dict[str, float]


def pair_figures(
    *, policy: tuple[Tensor, Tensor], initial: tuple[Tensor, Tensor], lengths: tuple[Tensor, Tensor]
) -> Figures:
    """How well a policy tells preferred completions from others.

    Args:
        policy: log-probabilities [pairs] of chosen and rejected completions.
        initial: the same under the initial model.
        lengths: their tokens [pairs].

    Returns:
        `accuracy` and `margin` of the log-ratio to the initial model (DPO's reward over beta, in
        nats); `average_accuracy` and `average_margin` of the log-probability per token (SimPO's).
    """
    ratio = (policy[0] - initial[0]) - (policy[1] - initial[1])
    average = policy[0] / lengths[0] - policy[1] / lengths[1]
    return {
        "accuracy": float((ratio > 0).float().mean()),
        "margin": float(ratio.mean()),
        "average_accuracy": float((average > 0).float().mean()),
        "average_margin": float(average.mean()),
    }


def kl_figures(*, own: Tensor, other: Tensor, lengths: Tensor, name: str) -> Figures:
    """KL from a model to another, estimated on the model's own completions.

    KL = E_own[ log own(y|x) - log other(y|x) ], so completions drawn from the policy give the
    reverse KL to the initial model, and those of the initial model the forward one.

    Args:
        own: log-probabilities [samples] under the model that drew them.
        other: under the other model.
        lengths: tokens [samples].
        name: of the figures.
    """
    ratio = own - other
    error = float(ratio.std()) / len(ratio) ** 0.5 if len(ratio) > 1 else float("nan")
    return {
        name: float(ratio.mean()),
        f"{name}_error": error,
        f"{name}_per_token": float(ratio.sum() / lengths.sum()),
    }


def win_rate(policy: Sequence[float], initial: Sequence[float]) -> float:
    """Share of prompts on which the policy's reward is the higher; ties count half."""
    ours, theirs = torch.tensor(policy), torch.tensor(initial)
    return float(((ours > theirs).float() + 0.5 * (ours == theirs).float()).mean())


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of different word n-grams among all; 0 where there are none."""
    grams = [
        tuple(words[i : i + n])
        for text in texts
        for words in [text.split()]
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def text_figures(texts: Sequence[str], lengths: Tensor, unfinished: float, name: str) -> Figures:
    """Length in tokens, share that did not end, and variety of samples."""
    return {
        f"{name}_length": float(lengths.float().mean()),
        f"{name}_unfinished": unfinished,
        f"{name}_distinct_1": distinct(texts, 1),
        f"{name}_distinct_2": distinct(texts, 2),
    }
