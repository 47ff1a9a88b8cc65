"""The losses against closed forms, their limits, and gradients that are known exactly."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlalign.trainers.losses import (
    dpo_loss,
    importance,
    leave_one_out,
    preference_loss,
    reverse_kl_surrogate,
    reverse_kl_surrogate_to_go,
    simpo_loss,
    srpo_generative_loss,
    srpo_improvement_losses,
)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_losses_import_neither_trl_nor_transformers() -> None:
    code = (
        "import sys, rlalign.trainers.losses\n"
        "assert not {'trl', 'transformers', 'datasets', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_dpo_value_and_gradient_of_a_pair_worked_by_hand() -> None:
    policy = numbers(-10.0, -12.0).requires_grad_()
    ratio = policy - numbers(-11.0, -11.5)
    loss = dpo_loss(chosen_ratio=ratio[:1], rejected_ratio=ratio[1:], beta=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), policy)
    assert loss.item() == pytest.approx(0.620957, abs=1e-6)
    assert gradient.tolist() == pytest.approx([-0.0462570, 0.0462570], abs=1e-6)


def test_dpo_is_log_2_where_policy_and_reference_agree() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    loss = dpo_loss(chosen_ratio=zero, rejected_ratio=zero, beta=0.3)
    torch.testing.assert_close(loss, torch.full_like(zero, math.log(2)))


def test_dpo_ignores_what_both_completions_share_and_negates_when_swapped() -> None:
    chosen, rejected = numbers(0.4, -1.0), numbers(-0.3, 2.0)
    plain = dpo_loss(chosen_ratio=chosen, rejected_ratio=rejected, beta=0.5)
    shifted = dpo_loss(chosen_ratio=chosen + 7, rejected_ratio=rejected + 7, beta=0.5)
    swapped = dpo_loss(chosen_ratio=rejected, rejected_ratio=chosen, beta=0.5)
    torch.testing.assert_close(plain, shifted)
    torch.testing.assert_close(swapped - plain, 0.5 * (chosen - rejected))


def test_dpo_with_a_weak_pull_is_log_2_and_raises_the_chosen_by_half_of_beta() -> None:
    chosen = numbers(3.0).requires_grad_()
    loss = dpo_loss(chosen_ratio=chosen, rejected_ratio=numbers(-2.0), beta=1e-8)
    (gradient,) = torch.autograd.grad(loss.sum(), chosen)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert gradient.item() / 1e-8 == pytest.approx(-0.5, abs=1e-6)


def test_smoothing_mixes_the_two_orders_of_a_pair() -> None:
    logits = numbers(-2.0, 0.0, 1.5)
    mixed = 0.8 * preference_loss(logits) + 0.2 * preference_loss(-logits)
    torch.testing.assert_close(preference_loss(logits, label_smoothing=0.2), mixed)


def test_hinge_is_zero_beyond_the_margin() -> None:
    assert preference_loss(numbers(0.0, 0.5, 3.0), kind="hinge").tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(("smoothing", "expected"), [(0.0, 1.0537007), (0.1, 0.9912006)])
def test_simpo_value_worked_by_hand(smoothing: float, expected: float) -> None:
    loss = simpo_loss(
        chosen_average=numbers(-0.5),
        rejected_average=numbers(-0.8),
        beta=2.5,
        gamma_beta_ratio=0.55,
        label_smoothing=smoothing,
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_simpo_without_margin_is_dpo_with_a_uniform_reference() -> None:
    n, chosen, rejected = 7, numbers(-5.0, -9.0), numbers(-6.0, -4.0)
    simpo = simpo_loss(
        chosen_average=chosen / n, rejected_average=rejected / n, beta=2.0, gamma_beta_ratio=0.0
    )
    dpo = dpo_loss(chosen_ratio=chosen - 3.0, rejected_ratio=rejected - 3.0, beta=2.0 / n)
    torch.testing.assert_close(simpo, dpo)


def test_simpo_ignores_length_where_dpo_does_not() -> None:
    tokens_w, tokens_l = numbers(-0.2, -0.9), numbers(-1.4, -0.1, -0.6)

    def simpo(w: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        return simpo_loss(
            chosen_average=w.mean(0, keepdim=True),
            rejected_average=l.mean(0, keepdim=True),
            beta=2.0,
            gamma_beta_ratio=0.5,
        )

    def dpo(w: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        return dpo_loss(
            chosen_ratio=w.sum(0, keepdim=True), rejected_ratio=l.sum(0, keepdim=True), beta=0.1
        )

    torch.testing.assert_close(simpo(tokens_w, tokens_l), simpo(tokens_w.repeat(2), tokens_l))
    assert (dpo(tokens_w, tokens_l) - dpo(tokens_w.repeat(2), tokens_l)).abs() > 1e-2


def test_leave_one_out_of_two_is_their_difference() -> None:
    values = numbers(0.4, -0.2)[None]
    torch.testing.assert_close(leave_one_out(values), numbers(0.6, -0.6)[None])
    torch.testing.assert_close(leave_one_out(values[:, :1]), values[:, :1])
    many = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(leave_one_out(many).sum(1), torch.zeros(5, dtype=torch.float64))


class Bandit:
    """One softmax over five answers, whose KL to a reference has a known gradient."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        self.logits = torch.randn(5, dtype=torch.float64, generator=generator).requires_grad_()
        self.reference = torch.randn(5, dtype=torch.float64, generator=generator).log_softmax(0)
        self.generator = generator

    def kl_gradient(self) -> Tensor:
        policy = self.logits.log_softmax(0)
        kl = (policy.exp() * (policy - self.reference)).sum()
        return torch.autograd.grad(kl, self.logits)[0]

    def draw(self, prompts: int, k: int) -> Tensor:
        chances = self.logits.detach().softmax(0).expand(prompts, -1)
        return torch.multinomial(chances, k, replacement=True, generator=self.generator)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_gradient_of_the_surrogate_is_that_of_the_exact_kl(k: int) -> None:
    # 200,000 samples: over 20 seeds the largest error was 5.2e-3.
    bandit = Bandit()
    answers = bandit.draw(200_000 // k, k)
    policy = bandit.logits.log_softmax(0)[answers]
    surrogate = reverse_kl_surrogate(policy=policy, reference=bandit.reference[answers])
    (gradient,) = torch.autograd.grad(surrogate, bandit.logits)
    exact = bandit.kl_gradient()
    assert (gradient - exact).abs().max() < 1e-2
    assert exact.abs().max() > 0.1


def test_gradient_through_the_sampled_log_ratio_is_noise() -> None:
    bandit = Bandit()
    answers = bandit.draw(200_000, 1)
    naive = (bandit.logits.log_softmax(0)[answers] - bandit.reference[answers]).mean()
    (gradient,) = torch.autograd.grad(naive, bandit.logits)
    assert gradient.abs().max() < 1e-2
    assert (gradient - bandit.kl_gradient()).abs().max() > 0.1


def test_surrogate_has_no_gradient_where_policy_and_reference_agree() -> None:
    policy = torch.randn(3, 2, dtype=torch.float64).requires_grad_()
    surrogate = reverse_kl_surrogate(policy=policy, reference=policy.detach())
    (gradient,) = torch.autograd.grad(surrogate, policy)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_samples_of_an_earlier_policy_are_weighed_to_the_same_gradient() -> None:
    bandit = Bandit()
    answers = bandit.draw(200_000, 2)
    before = bandit.logits.detach().log_softmax(0)
    with torch.no_grad():
        bandit.logits += 0.3 * torch.tensor([1.0, -1.0, 0.5, 0.0, -0.5])
    policy = bandit.logits.log_softmax(0)[answers]
    arguments = {"policy": policy, "reference": bandit.reference[answers]}
    weighed = reverse_kl_surrogate(**arguments, sampled=before[answers])
    (gradient,) = torch.autograd.grad(weighed, bandit.logits, retain_graph=True)
    (stale,) = torch.autograd.grad(reverse_kl_surrogate(**arguments), bandit.logits)
    assert (gradient - bandit.kl_gradient()).abs().max() < 1e-2
    assert (stale - bandit.kl_gradient()).abs().max() > 3e-2
    assert importance(policy, before[answers]).mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("k", [1, 3])
def test_reward_to_go_has_the_same_expectation_and_less_variance(k: int) -> None:
    """Two tokens a sample, the second drawn from a softmax that the first one chooses."""
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(3, dtype=torch.float64, generator=generator).requires_grad_()
    second = torch.randn(3, 3, dtype=torch.float64, generator=generator).requires_grad_()
    ref_first, ref_second = torch.randn(2, 4, 3, dtype=torch.float64, generator=generator)
    ref_first, ref_second = ref_first[0].log_softmax(0), ref_second[:3].log_softmax(1)

    def exact() -> Tensor:
        log_a, log_b = first.log_softmax(0), second.log_softmax(1)
        joint = (log_a[:, None] + log_b).exp()
        return (joint * (log_a[:, None] + log_b - ref_first[:, None] - ref_second)).sum()

    prompts = 120_000 // k
    a = torch.multinomial(
        first.detach().softmax(0).expand(prompts, -1), k, replacement=True, generator=generator
    )
    b = torch.multinomial(second.detach().softmax(1)[a.reshape(-1)], 1, generator=generator)
    b = b.view(prompts, k)
    policy = torch.stack([first.log_softmax(0)[a], second.log_softmax(1)[a, b]], -1)
    reference = torch.stack([ref_first[a], ref_second[a, b]], -1)
    mask = torch.ones_like(policy)
    to_go = reverse_kl_surrogate_to_go(policy=policy, reference=reference, mask=mask)
    known = torch.cat([g.flatten() for g in torch.autograd.grad(exact(), (first, second))])
    found = torch.autograd.grad(to_go, (first, second), retain_graph=True)
    assert (torch.cat([g.flatten() for g in found]) - known).abs().max() < 1.5e-2
    assert known.abs().max() > 0.1

    def spread(gradients: Callable[[slice], Tensor]) -> float:
        """Summed variance of the gradient from 40 prompts at a time."""
        parts = [gradients(slice(start, start + 40)) for start in range(0, 8000, 40)]
        return torch.stack(parts).var(0).sum().item()

    def of(surrogate: Tensor) -> Tensor:
        parts = torch.autograd.grad(surrogate, (first, second), retain_graph=True)
        return torch.cat([part.flatten() for part in parts])

    def by_token(rows: slice) -> Tensor:
        ones = mask[rows]
        return of(
            reverse_kl_surrogate_to_go(policy=policy[rows], reference=reference[rows], mask=ones)
        )

    def whole(rows: slice) -> Tensor:
        return of(
            reverse_kl_surrogate(policy=policy[rows].sum(-1), reference=reference[rows].sum(-1))
        )

    assert spread(by_token) < 0.9 * spread(whole)


def test_tokens_outside_the_mask_do_not_count() -> None:
    policy, reference = torch.randn(2, 1, 2, 4, dtype=torch.float64).unbind(0)
    mask = torch.tensor([[[1, 1, 0, 0], [1, 1, 1, 0]]], dtype=torch.float64)
    value = reverse_kl_surrogate_to_go(policy=policy, reference=reference, mask=mask)
    changed = policy + 9.0 * (1 - mask)
    again = reverse_kl_surrogate_to_go(policy=changed, reference=reference, mask=mask)
    torch.testing.assert_close(value, again)


def srpo_parts(beta: float, **ratios: float) -> tuple[float, float, float]:
    values = {name: numbers(value) for name, value in ratios.items()}
    both = ("chosen_from_rejected", "rejected_from_chosen")
    generative = srpo_generative_loss(
        **{name: values[name] for name in ("chosen", "rejected", *both)}, beta=beta
    )
    drafts = ("rejected_from_rejected", "chosen_from_chosen", *both)
    move, stay = srpo_improvement_losses(**{name: values[name] for name in drafts}, beta=beta)
    return generative.item(), move.item(), stay.item()


RATIOS = {
    "chosen_from_rejected": 2.0,
    "rejected_from_rejected": -1.0,
    "chosen_from_chosen": 0.5,
    "rejected_from_chosen": -1.5,
    "chosen": 1.0,
    "rejected": -2.0,
}


def test_srpo_values_worked_by_hand() -> None:
    assert srpo_parts(0.1, **RATIOS) == pytest.approx((0.1225, 0.04, 0.09))


def test_srpo_shows_swapped_conditionings() -> None:
    swapped = {
        **RATIOS,
        "chosen_from_rejected": RATIOS["rejected_from_chosen"],
        "rejected_from_chosen": RATIOS["chosen_from_rejected"],
    }
    assert srpo_parts(0.1, **swapped) == pytest.approx((1.1025, 0.3025, 0.4225))


def test_srpo_values_at_initialisation() -> None:
    assert srpo_parts(0.7, **dict.fromkeys(RATIOS, 0.0)) == (1.0, 0.25, 0.25)


def test_srpo_gradients_at_initialisation() -> None:
    beta = 0.3
    ratios = {name: torch.zeros(1, dtype=torch.float64, requires_grad=True) for name in RATIOS}
    both = ("chosen_from_rejected", "rejected_from_chosen")
    generative = srpo_generative_loss(
        **{name: ratios[name] for name in ("chosen", "rejected", *both)}, beta=beta
    )
    drafts = ("rejected_from_rejected", "chosen_from_chosen", *both)
    move, stay = srpo_improvement_losses(**{name: ratios[name] for name in drafts}, beta=beta)
    generative.sum().backward()
    signs = {"chosen": -2, "rejected": 2, "chosen_from_rejected": -2, "rejected_from_chosen": 2}
    for name, sign in signs.items():
        gradient = ratios[name].grad
        assert gradient is not None
        assert gradient.item() == pytest.approx(sign * beta)
        ratios[name].grad = None
    (move + stay).sum().backward()
    signs = {
        "chosen_from_rejected": -1,
        "rejected_from_rejected": 1,
        "chosen_from_chosen": -1,
        "rejected_from_chosen": 1,
    }
    for name, sign in signs.items():
        gradient = ratios[name].grad
        assert gradient is not None
        assert gradient.item() == pytest.approx(sign * beta)


def test_srpo_is_the_same_for_a_swapped_pair_with_the_opposite_label() -> None:
    r = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w, l, wl, ll, ww, lw = r  # noqa: E741
    q = torch.tensor([0.1, 0.5, 0.8, 1.0], dtype=torch.float64)
    generative = srpo_generative_loss(
        chosen=w,
        rejected=l,
        chosen_from_rejected=wl,
        rejected_from_chosen=lw,
        beta=0.4,
        label=q,
    )
    swapped = srpo_generative_loss(
        chosen=l,
        rejected=w,
        chosen_from_rejected=lw,
        rejected_from_chosen=wl,
        beta=0.4,
        label=1 - q,
    )
    torch.testing.assert_close(generative, swapped)
    move, stay = srpo_improvement_losses(
        chosen_from_rejected=wl,
        rejected_from_rejected=ll,
        chosen_from_chosen=ww,
        rejected_from_chosen=lw,
        beta=0.4,
        label=q,
    )
    other_move, other_stay = srpo_improvement_losses(
        chosen_from_rejected=lw,
        rejected_from_rejected=ww,
        chosen_from_chosen=ll,
        rejected_from_chosen=wl,
        beta=0.4,
        label=1 - q,
    )
    torch.testing.assert_close(move, other_stay)
    torch.testing.assert_close(stay, other_move)
