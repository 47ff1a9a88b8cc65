"""Tabular softmax policies, whose optima are known in closed form, trained with the losses.

Every pair of answers counts with its true probability, so that nothing is drawn and the minimum of
the loss is the optimum itself.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlalign.trainers.losses import dpo_loss, reverse_kl_surrogate
from tests.trainers import tiny

FIRST, SECOND = (index.flatten() for index in torch.meshgrid(*[torch.arange(3)] * 2, indexing="ij"))


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# DPO.


def test_dpo_finds_the_tilted_reference_of_a_bradley_terry_model() -> None:
    beta, rewards = 0.5, numbers(0.3, -1.0, 0.8)
    reference = numbers(0.5, 0.2, 0.3).log()
    chance = torch.sigmoid(rewards[FIRST] - rewards[SECOND])
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        ratio = logits.log_softmax(0) - reference
        pairs = dpo_loss(chosen_ratio=ratio[FIRST], rejected_ratio=ratio[SECOND], beta=beta)
        return (chance * pairs).mean()

    tiny.minimise(loss, [logits])
    tilted = (reference + rewards / beta).softmax(0)
    assert (logits.softmax(0) - tilted).abs().max() < 1e-6
    assert (tilted - reference.exp()).abs().max() > 0.2


# HyPO (arXiv 2406.01462): preference data that cover two of three answers.


def after_preferring_the_first_answer(weight: float) -> tuple[Tensor, float]:
    """Train on "first over second" alone; the features move the third, unseen answer as well.

    Returns:
        the policy's probabilities [3] and its KL to the reference.
    """
    base = numbers(0.49, 0.49, 0.02).log()
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    uniform = torch.full((3, 1), 1 / 3, dtype=torch.float64).log()
    for _ in range(4000):
        policy = (base + features @ theta).log_softmax(0)
        ratio = policy - base
        loss = dpo_loss(chosen_ratio=ratio[:1], rejected_ratio=ratio[1:2], beta=0.1).sum()
        if weight:
            # Each answer once, weighed by its probability over a uniform draw's: the exact KL.
            loss = loss + weight * reverse_kl_surrogate(
                policy=policy[:, None], reference=base[:, None], sampled=uniform
            )
        (gradient,) = torch.autograd.grad(loss, theta)
        with torch.no_grad():
            theta -= 0.5 * gradient
    policy = (base + features @ theta).log_softmax(0).detach()
    return policy.exp(), float((policy.exp() * (policy - base)).sum())


def test_dpo_flees_to_an_answer_that_no_pair_shows() -> None:
    policy, divergence = after_preferring_the_first_answer(0.0)
    assert policy[2] > 0.999
    assert divergence == pytest.approx(3.912, abs=1e-2)  # log 50


@pytest.mark.parametrize(
    ("weight", "policy", "divergence"),
    [
        (0.03, (0.541, 0.143, 0.317), 0.751),
        (0.1, (0.602, 0.298, 0.100), 0.136),
        (1.0, (0.517, 0.457, 0.027), 0.003),
    ],
)
def test_hypo_stays_where_the_reference_is(
    weight: float, policy: tuple[float, ...], divergence: float
) -> None:
    found, kl = after_preferring_the_first_answer(weight)
    assert found.tolist() == pytest.approx(policy, abs=1e-3)
    assert kl == pytest.approx(divergence, abs=1e-3)
