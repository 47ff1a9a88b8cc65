from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rlalign.optim import AdamSettings, FlatAdam, FlatParameters, clip_gradient_norm


class Curve(nn.Module):
    """Parameters of several shapes, an empty-sized neighbour of the vectorised kernels included."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in {"a": (3, 5), "b": (7,), "c": (), "d": (2, 1, 11)}.items():
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))

    def loss(self, step: int) -> Tensor:
        """A different curved function every step, with gradients from tiny to large."""
        parts = enumerate(self.parameters())
        return sum(  # type: ignore[return-value]
            10.0 ** (2 * i - 4) * ((p - 0.3 * i + 0.05 * step).square() + p.sin()).sum()
            for i, p in parts
        )


def flatten(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        AdamSettings(),
        AdamSettings(learning_rate=1e-2, betas=(0.8, 0.95), eps=1e-4),
        AdamSettings(learning_rate=1e-2, weight_decay=1e-4),
        AdamSettings(learning_rate=3e-3, weight_decay=0.5),
    ],
)
def test_flat_adam_is_torch_s_adam_over_200_steps(settings: AdamSettings) -> None:
    ours, theirs = Curve(), Curve()
    start = flatten(ours)
    flat = FlatParameters(ours)
    optimizer = FlatAdam(flat, settings)
    kind = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
    reference = kind(
        theirs.parameters(),
        settings.learning_rate,
        settings.betas,
        settings.eps,
        settings.weight_decay,
        foreach=False,
    )
    for step in range(200):
        if step == 100:
            optimizer.set_learning_rate(0.3 * settings.learning_rate)
            reference.param_groups[0]["lr"] = 0.3 * settings.learning_rate
        flat.grad.zero_()
        ours.loss(step).backward()
        optimizer.step()
        reference.zero_grad()
        theirs.loss(step).backward()
        reference.step()
        assert (flatten(ours) - flatten(theirs)).abs().max() < 2e-6, step
    assert (flatten(ours) - start).abs().min() > 1e-3


def test_weight_decay_is_decoupled_from_the_gradient() -> None:
    """AdamW with no gradient at all shrinks weights by rate * decay; Adam leaves them."""
    decayed, plain = FlatParameters(Curve()), FlatParameters(Curve())
    before = plain.data.clone()
    FlatAdam(decayed, AdamSettings(0.1, weight_decay=0.5)).step()
    FlatAdam(plain, AdamSettings(0.1)).step()
    torch.testing.assert_close(decayed.data, before * (1 - 0.1 * 0.5))
    assert torch.equal(plain.data, before)


def test_parameters_are_views_of_one_buffer_in_order() -> None:
    module = Curve()
    values = [p.detach().clone() for p in module.parameters()]
    flat = FlatParameters(module)
    assert torch.equal(flat.data, torch.cat([v.flatten() for v in values]))
    assert [tuple(p.shape) for p in module.parameters()] == [tuple(v.shape) for v in values]
    assert all(p.is_leaf for p in module.parameters())
    flat.data.zero_()
    assert all((p == 0).all() for p in module.parameters())
    module.loss(0).backward()
    gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
    assert torch.equal(flat.grad, torch.cat(gradients))
    assert flat.grad.abs().min() > 0


def test_gradients_add_up_in_the_buffer_until_it_is_zeroed() -> None:
    module = Curve()
    flat = FlatParameters(module)
    module.loss(0).backward()
    once = flat.grad.clone()
    module.loss(0).backward()
    torch.testing.assert_close(flat.grad, 2 * once)


def test_freezing_stops_gradients_at_the_network() -> None:
    module = Curve()
    flat = FlatParameters(module)
    flat.requires_grad_(False)
    assert not module.loss(0).requires_grad
    flat.requires_grad_(True)
    module.loss(0).backward()
    assert flat.grad.abs().min() > 0


def test_a_module_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="Identity has no parameters"):
        FlatParameters(nn.Identity())


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    def run(module: Curve, flat: FlatParameters, adam: FlatAdam, steps: range) -> None:
        for step in steps:
            flat.grad.zero_()
            module.loss(step).backward()
            adam.step()

    settings = AdamSettings(1e-2, weight_decay=1e-3)
    whole = Curve()
    flat = FlatParameters(whole)
    adam = FlatAdam(flat, settings)
    run(whole, flat, adam, range(20))
    adam.set_learning_rate(5e-3)
    middle = flat.data.clone()
    saved = copy.deepcopy(adam.state_dict())
    run(whole, flat, adam, range(20, 40))

    rest = Curve()
    flat_rest = FlatParameters(rest)
    flat_rest.data.copy_(middle)
    adam_rest = FlatAdam(flat_rest, settings)
    adam_rest.load_state_dict(saved)
    assert float(adam_rest.steps) == 20
    run(rest, flat_rest, adam_rest, range(20, 40))
    assert torch.equal(flat_rest.data, flat.data)
    assert (flat.data - middle).abs().min() > 1e-3

    # Moments that were not restored would have shown.
    fresh = Curve()
    flat_fresh = FlatParameters(fresh)
    flat_fresh.data.copy_(middle)
    run(fresh, flat_fresh, FlatAdam(flat_fresh, settings), range(20, 40))
    assert not torch.equal(flat_fresh.data, flat.data)


def test_clipping_scales_long_gradients_and_leaves_short_ones() -> None:
    flat = FlatParameters(Curve())
    gradient = torch.randn(flat.grad.shape, generator=torch.Generator().manual_seed(1))
    for length in (0.1, 5.0):
        flat.grad.copy_(gradient * length / gradient.norm())
        before = flat.grad.clone()
        clip_gradient_norm(flat, 1.0)
        expected = before if length < 1 else before / length
        torch.testing.assert_close(flat.grad, expected)
