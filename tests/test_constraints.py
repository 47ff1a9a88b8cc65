from __future__ import annotations

import math

import pytest
import torch

from rlalign.constraints import LogMultiplier


@pytest.mark.parametrize("initial", [0.01, 1.0, 50.0])
def test_a_multiplier_starts_at_its_value_and_weighs_without_gradient(initial: float) -> None:
    multiplier = LogMultiplier(initial)
    assert multiplier().item() == pytest.approx(initial, rel=1e-5)
    assert multiplier.log.item() == pytest.approx(math.log(initial), abs=1e-6)
    assert not multiplier().requires_grad


@pytest.mark.parametrize("violation", [2.0, -0.5, 0.0])
def test_descent_raises_it_while_the_constraint_is_violated(violation: float) -> None:
    """The gradient is minus the mean violation, whatever the multiplier's size."""
    multiplier = LogMultiplier(0.1)
    values = torch.tensor([violation - 1, violation + 1], requires_grad=True)
    multiplier.dual_loss(values).backward()
    assert multiplier.log.grad is not None
    assert multiplier.log.grad.item() == pytest.approx(-violation, abs=1e-6)
    assert values.grad is None


@pytest.mark.parametrize("initial", [0.0, -1.0])
def test_a_multiplier_cannot_start_at_nothing(initial: float) -> None:
    with pytest.raises(ValueError, match="must start above 0"):
        LogMultiplier(initial)
