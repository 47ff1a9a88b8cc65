"""The accelerated forms against naive autograd, in double precision."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rlalign.nn.critics import EnsembleCritic
from rlalign.nn.distributions import TanhGaussian, normal_log_prob
from rlalign.nn.fast import DEEP_MEMBERS, DEEP_ROWS, FastStack, stacked_relu_mlp
from rlalign.nn.fused import gaussian_log_prob, tanh_gaussian
from rlalign.nn.mlp import StackedMLP, set_accelerated
from rlalign.optim import AdamSettings, FlatAdam, FlatParameters

SHAPES = [
    (1, 1),
    (3, 5),
    (4, 1, 1),
    (1, 8, 1),
    (5, 7, 3),
    (11, 48, 49, 2),
    (6, 49, 48, 47, 1),
    (17, 300, 1),
    (300, 33, 12),
    (2, 64, 64, 64, 6),
]
MEMBERS = [1, 2, 10]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def parameters(
    sizes: Sequence[int], members: int, trains: bool = True
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Weights and biases in double precision, with gradients to add to."""
    draw = generator(len(sizes) * 100 + members)
    pairs = list(itertools.pairwise(sizes))
    weights = [torch.randn(members, a, b, generator=draw).double() / a**0.5 for a, b in pairs]
    biases = [torch.randn(members, 1, b, generator=draw).double() for _, b in pairs]
    for tensor in (*weights, *biases):
        tensor.requires_grad_(trains)
        tensor.grad = torch.zeros_like(tensor)
    return tuple(weights), tuple(biases)


def naive(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Member by member, layer by layer, as in any textbook."""
    outputs = []
    for member in range(len(weights[0])):
        hidden = inputs if inputs.dim() == 2 else inputs[member]
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            hidden = hidden @ weight[member] + bias[member]
            if layer < len(weights) - 1:
                hidden = hidden.clamp(min=0)
        outputs.append(hidden)
    return torch.stack(outputs)


def draw_inputs(size: int, members: int, batch: int, shared: bool) -> Tensor:
    """Inputs as losses give them: a view into wider rows, not contiguous."""
    shape = (batch, size + 3) if shared else (members, batch, size + 3)
    return torch.randn(shape, generator=generator(7)).double()[..., 1 : size + 1]


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_values_and_gradients_are_those_of_autograd(
    sizes: tuple[int, ...], members: int, shared: bool
) -> None:
    for batch in (1, 9):
        inputs = draw_inputs(sizes[0], members, batch, shared)
        cotangent = torch.randn(members, batch, sizes[-1], generator=generator(3)).double()
        ours, theirs = parameters(sizes, members), parameters(sizes, members)
        mine = inputs.detach().requires_grad_()
        reference = inputs.detach().requires_grad_()
        output, wanted = stacked_relu_mlp(mine, *ours), naive(reference, *theirs)
        close(output, wanted)
        (output * cotangent).sum().backward()
        (wanted * cotangent).sum().backward()
        assert mine.grad is not None
        assert reference.grad is not None
        close(mine.grad, reference.grad)
        assert reference.grad.abs().max() > 0
        for a, b in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
            close(a.grad, b.grad)  # type: ignore[arg-type]
        assert all(w.grad.abs().max() > 0 for w in theirs[1])  # type: ignore[union-attr]
        with torch.no_grad():
            close(stacked_relu_mlp(mine, *ours), wanted)


@pytest.mark.parametrize("sizes", [(3, 5), (4, 6, 1), (5, 60, 7, 2)])
def test_the_input_s_gradient_passes_a_numerical_check(sizes: tuple[int, ...]) -> None:
    weights, biases = parameters(sizes, 2, trains=False)
    for shared in (True, False):
        inputs = draw_inputs(sizes[0], 2, 4, shared).clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: stacked_relu_mlp(x, weights, biases), inputs)


@pytest.mark.parametrize("sizes", [(4, 6, 1), (5, 60, 7, 2)])
def test_weight_gradients_pass_a_numerical_check(sizes: tuple[int, ...]) -> None:
    """Central differences of a scalar loss; ReLU's kinks lie further off than the step."""
    weights, biases = parameters(sizes, 2)
    inputs = draw_inputs(sizes[0], 2, 3, shared=True)

    def loss() -> Tensor:
        return stacked_relu_mlp(inputs, weights, biases).sin().sum()

    loss().backward()
    draw = generator(5)
    for tensor in (*weights, *biases):
        direction = torch.randn(tensor.shape, generator=draw).double()
        with torch.no_grad():
            tensor.add_(direction, alpha=1e-6)
            high = loss()
            tensor.add_(direction, alpha=-2e-6)
            low = loss()
            tensor.add_(direction, alpha=1e-6)
        assert tensor.grad is not None
        found = float((tensor.grad * direction).sum())
        assert found == pytest.approx(float(high - low) / 2e-6, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("follows", [True, False])
def test_only_what_is_wanted_gets_a_gradient(trains: bool, follows: bool) -> None:
    weights, biases = parameters((4, 6, 2), 3, trains)
    inputs = draw_inputs(4, 3, 5, shared=True).requires_grad_(follows)
    output = stacked_relu_mlp(inputs, weights, biases)
    assert output.requires_grad == (trains or follows)
    if trains or follows:
        output.square().sum().backward()
    assert (inputs.grad is not None) == follows
    for tensor in (*weights, *biases):
        assert tensor.grad is not None
        assert bool(tensor.grad.abs().max() > 0) == trains


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("sizes", [(4, 6, 1), (4, 50, 50, 1), (4, 1)])
def test_gradients_add_when_a_network_is_used_twice_in_a_loss(
    sizes: tuple[int, ...], members: int
) -> None:
    """Also through gradients that are expanded, gathered or zero for some members."""
    results = []
    for form in (stacked_relu_mlp, naive):
        weights, biases = parameters(sizes, members)
        shared = draw_inputs(4, members, 6, shared=True).requires_grad_()
        own = draw_inputs(4, members, 6, shared=False).requires_grad_()
        first = form(shared, weights, biases)
        second = form(own, weights, biases)
        loss = first.sum() + 0.3 * (first.amin(0) * second.squeeze(-1)[0, 0]).mean()
        loss = loss + second[-1].square().mean() + second.std()
        loss.backward()
        results.append([t.grad for t in (*weights, *biases, shared, own)])
    for mine, reference in zip(*results, strict=True):
        close(mine, reference)
        assert reference.abs().max() > 0


def test_gradients_are_added_to_what_the_buffer_holds() -> None:
    weights, biases = parameters((4, 6, 1), 2)
    inputs = draw_inputs(4, 2, 5, shared=True)
    stacked_relu_mlp(inputs, weights, biases).sum().backward()
    once = [t.grad.clone() for t in (*weights, *biases)]  # type: ignore[union-attr]
    stacked_relu_mlp(inputs, weights, biases).sum().backward()
    for tensor, before in zip((*weights, *biases), once, strict=True):
        close(tensor.grad, 2 * before)  # type: ignore[arg-type]


def test_the_gradient_coming_in_is_left_as_it_was() -> None:
    """It may serve other branches of the graph."""
    for sizes in ((3, 2), (3, 4, 2), (3, 50, 2)):
        weights, biases = parameters(sizes, 2)
        inputs = draw_inputs(3, 2, 5, shared=True).requires_grad_()
        gradient = torch.randn(2, 5, 2, generator=generator()).double()
        before = gradient.clone()
        stacked_relu_mlp(inputs, weights, biases).backward(gradient)
        assert torch.equal(gradient, before)


@pytest.mark.parametrize("sizes", [(3, 8, 1), (3, 60, 60, 2), (3, 1)])
def test_a_second_derivative_is_refused_at_once(sizes: tuple[int, ...]) -> None:
    """Linear use too, where torch itself would return a gradient without a graph in silence."""
    network = StackedMLP(sizes, 2)
    FlatParameters(network)
    set_accelerated(network, True)
    inputs = torch.randn(4, 3, generator=generator(), requires_grad=True)
    for loss in (network(inputs).sum(), network(inputs).square().sum()):
        with pytest.raises(RuntimeError, match=r"no second derivative.*accelerated=False"):
            torch.autograd.grad(loss, inputs, create_graph=True)
    set_accelerated(network, False)
    slope = torch.autograd.grad(network(inputs).square().sum(), inputs, create_graph=True)[0]
    slope.square().sum().backward()
    assert network.weights[0].grad is not None
    assert network.weights[0].grad.abs().max() > 0

    mean, log_std = (torch.zeros(4, 2, requires_grad=True) for _ in range(2))
    action, _ = tanh_gaussian(mean, log_std, torch.ones(4, 2), -20.0, 2.0)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(action.sum(), mean, create_graph=True)


def test_weights_without_a_gradient_to_add_to_are_refused() -> None:
    weights, biases = parameters((3, 4, 1), 2)
    for tensor in (*weights, *biases):
        tensor.grad = None
    output = stacked_relu_mlp(draw_inputs(3, 2, 5, shared=True), weights, biases)
    with pytest.raises(RuntimeError, match="flatten the network's parameters"):
        output.sum().backward()


# The module.


@pytest.mark.parametrize("sizes", [(3, 1), (3, 8, 1), (7, 300, 300, 4)])
@pytest.mark.parametrize("members", MEMBERS)
def test_plain_and_accelerated_modules_are_the_naive_network(
    sizes: tuple[int, ...], members: int
) -> None:
    network = StackedMLP(sizes, members).double()
    weights, biases = tuple(network.weights), tuple(network.biases)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for shared in (True, False):
        inputs = draw_inputs(sizes[0], members, 5, shared)
        wanted = naive(inputs, weights, biases)
        for accelerated in (False, True):
            set_accelerated(network, accelerated)
            close(network(inputs), wanted)
            network.requires_grad_(False)
            some = torch.tensor([members - 1, 0])
            for only in (slice(0, 1), slice(members - 1, members), slice(0, members), some):
                chosen = inputs if shared else inputs[only]
                close(network(chosen, only=only), wanted[only])
            network.requires_grad_(True)


@pytest.mark.parametrize("accelerated", [False, True])
def test_one_critic_of_two_passes_the_action_s_gradient(accelerated: bool) -> None:
    critic = EnsembleCritic(3, 2, (8, 8))
    FlatParameters(critic)
    set_accelerated(critic, accelerated)
    critic.requires_grad_(False)
    observations = torch.randn(5, 3, generator=generator())
    actions = torch.randn(5, 2, generator=generator(), requires_grad=True)
    first = torch.autograd.grad(critic.first(observations, actions).sum(), actions)[0]
    both = torch.autograd.grad(critic(observations, actions)[0].sum(), actions)[0]
    torch.testing.assert_close(first, both)
    assert first.abs().max() > 0


def test_one_critic_of_two_can_train_alone() -> None:
    gradients = []
    for accelerated in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            critic = EnsembleCritic(3, 2, (8, 60))
        flat = FlatParameters(critic)
        set_accelerated(critic, accelerated)
        observations, actions = draw_inputs(5, 1, 6, shared=True).float().split([3, 2], dim=1)
        critic.first(observations, actions).square().sum().backward()
        gradients.append(flat.grad.clone())
    torch.testing.assert_close(*gradients)
    weights = critic.trunk.weights[1].grad
    assert weights is not None
    assert weights[0].abs().max() > 0
    assert weights[1].abs().max() == 0


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("hidden", [(), (8,), (60, 50), (300, 8)])
def test_the_least_critic_alone_passes_a_row_s_gradient(
    hidden: tuple[int, ...], members: int
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        critic = EnsembleCritic(3, 2, hidden, members).double()
    critic.requires_grad_(False)
    probe = draw_inputs(5, 1, 40, shared=True)
    critic.trunk.biases[-1].sub_(
        critic.joint(probe).mean(1).view(-1, 1, 1)
    )  # all are least somewhere
    for batch in (1, 40):
        observations, actions = draw_inputs(5, 1, batch, shared=True).split([3, 2], dim=1)
        cotangent = torch.randn(batch, generator=generator(4)).double()
        results = []
        for accelerated in (False, True):
            set_accelerated(critic, accelerated)
            followed = actions.clone().requires_grad_()
            least = critic.minimum(observations, followed)
            gradient = torch.autograd.grad(least, followed, cotangent)[0]
            results.append((least, gradient))
        for plain, fast in zip(*results, strict=True):
            close(fast, plain)
        close(results[1][0], critic(observations, actions).amin(0))
        assert results[1][1].abs().max() > 0
    if members > 1:
        assert len(critic.joint(probe).argmin(0).unique()) > members / 2


def test_the_least_critic_trains_where_critics_are_not_frozen() -> None:
    gradients = []
    for accelerated in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            critic = EnsembleCritic(3, 2, (8, 60), 3)
        flat = FlatParameters(critic)
        set_accelerated(critic, accelerated)
        observations, actions = draw_inputs(5, 1, 9, shared=True).float().split([3, 2], dim=1)
        critic.minimum(observations, actions.clone().requires_grad_()).sum().backward()
        gradients.append(flat.grad.clone())
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize("of_head", [True, False])
@pytest.mark.parametrize("sizes", [(5, 1), (5, 9, 1), (60, 70, 2)])
def test_an_input_in_two_parts_is_one_input(sizes: tuple[int, ...], of_head: bool) -> None:
    weights, biases = parameters(sizes, 3)
    stack = FastStack(weights, biases)
    joint = draw_inputs(sizes[0], 3, 6, shared=True)
    cut = sizes[0] - 2
    head = joint[:, :cut].clone().requires_grad_(of_head)
    tail = joint[:, cut:].clone().requires_grad_()
    output = stack(head, tail)
    close(output, naive(joint, weights, biases))
    output.square().sum().backward()
    found = [t.grad.clone() for t in (*weights, *biases)]  # type: ignore[union-attr]
    for tensor in (*weights, *biases):
        tensor.grad.zero_()  # type: ignore[union-attr]
    whole = joint.clone().requires_grad_()
    naive(whole, weights, biases).square().sum().backward()
    assert whole.grad is not None
    assert tail.grad is not None
    close(tail.grad, whole.grad[:, cut:])
    if of_head:
        assert head.grad is not None
        close(head.grad, whole.grad[:, :cut])
    for mine, tensor in zip(found, (*weights, *biases), strict=True):
        close(mine, tensor.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("cut", [None, 3])
def test_large_stacks_run_member_by_member_to_the_same_end(shared: bool, cut: int | None) -> None:
    sizes, members, batch = (5, 60, 9, 1), DEEP_MEMBERS, DEEP_ROWS
    cotangent = torch.randn(members, batch, 1, generator=generator(3)).double()
    results = []
    for form in ("one by one", "naive"):
        weights, biases = parameters(sizes, members)
        joint = draw_inputs(5, members, batch, shared).clone().requires_grad_()
        if form == "naive":
            output = naive(joint, weights, biases)
        else:
            stack = FastStack(weights, biases)
            parts = (joint,) if cut is None else (joint[..., :cut], joint[..., cut:])
            output = stack(*parts)
            with torch.no_grad():
                close(stack(*parts), output)
        (output * cotangent).sum().backward()
        results.append([output, joint.grad, *(t.grad for t in (*weights, *biases))])
    for mine, reference in zip(*results, strict=True):
        assert mine is not None
        assert reference is not None
        close(mine, reference)
        assert reference.abs().max() > 0


def test_some_members_of_a_large_stack_run_alone() -> None:
    members = DEEP_MEMBERS + 2
    weights, biases = parameters((5, 9, 1), members)
    inputs = draw_inputs(5, members, DEEP_ROWS, shared=True)
    some = FastStack(weights, biases, slice(1, 1 + DEEP_MEMBERS))(inputs)
    close(some, naive(inputs, weights, biases)[1 : 1 + DEEP_MEMBERS])


def test_a_network_that_moved_is_followed() -> None:
    """As to another device, or into a flat buffer made after the first use."""
    network = StackedMLP((3, 8, 2), 2)
    set_accelerated(network, True)
    inputs = torch.randn(4, 3, generator=generator())
    before = network(inputs)
    flat = FlatParameters(network)
    torch.testing.assert_close(network(inputs), before)
    with torch.no_grad():
        flat.data.zero_()
    assert network(inputs).abs().max() == 0
    network(inputs).sum().backward()
    assert flat.grad.abs().max() > 0
    flat.grad = torch.zeros_like(flat.grad)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    network(inputs).sum().backward()
    assert network.biases[-1].grad is not None
    assert network.biases[-1].grad.abs().max() > 0


@pytest.mark.parametrize("members", [1, 2])
def test_weights_agree_after_200_steps_of_each_form(members: int) -> None:
    """Float32, narrow and wide layers, a regression whose two outputs interact."""
    networks, buffers = [], []
    for accelerated in (False, True):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = StackedMLP((5, 64, 48, 2), members)
        set_accelerated(network, accelerated)
        flat = FlatParameters(network)
        start = flat.data.clone()
        adam = FlatAdam(flat, AdamSettings(1e-3))
        draw = generator(1)
        for _ in range(200):
            inputs = torch.randn(32, 5, generator=draw)
            flat.grad.zero_()
            value = network(inputs)
            (value[..., 0] * value[..., 1] - inputs.prod(1)).square().mean(1).sum().backward()
            adam.step()
        networks.append(network)
        buffers.append(flat.data)
    assert (buffers[0] - buffers[1]).abs().max() < 1e-4
    assert (buffers[0] - start).abs().mean() > 1e-3


# The squashed Gaussian.


def draws(shape: tuple[int, ...] = (6, 3)) -> tuple[Tensor, Tensor, Tensor]:
    """Means, log deviations on both sides of (-2, 1), noise."""
    draw = generator(11)
    mean, log_std, noise = (torch.randn(shape, generator=draw).double() for _ in range(3))
    return (2 * mean).requires_grad_(), (2 * log_std - 0.5).requires_grad_(), noise


@pytest.mark.parametrize("shape", [(6, 3), (1, 1), (2, 5, 17)])
def test_squashed_samples_pass_a_numerical_check(shape: tuple[int, ...]) -> None:
    mean, log_std, noise = draws(shape)
    assert torch.autograd.gradcheck(
        lambda m, s: tanh_gaussian(m, s, noise, -2.0, 1.0), (mean, log_std)
    )


def test_squashed_samples_are_those_of_the_textbook() -> None:
    mean, log_std, noise = draws()
    action, log_prob = tanh_gaussian(mean, log_std, noise, -2.0, 1.0)
    spread = log_std.clamp(-2.0, 1.0).exp()
    raw = mean + spread * noise
    density = torch.distributions.Normal(mean, spread).log_prob(raw) - torch.log1p(
        -(raw.tanh() ** 2)
    )
    close(action, raw.tanh())
    close(log_prob, density.sum(-1))
    weights = torch.randn(6, 3, generator=generator(2)).double()
    results = [
        torch.autograd.grad((a * weights).sum() + (p * weights[:, 0]).sum(), (mean, log_std))
        for a, p in ((action, log_prob), (raw.tanh(), density.sum(-1)))
    ]
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-8)
    outside = (log_std < -2.0) | (log_std > 1.0)
    assert 3 < int(outside.sum()) < 15
    assert (results[0][1][outside] == 0).all()
    assert (results[0][1][~outside] != 0).all()


@pytest.mark.parametrize("used", ["action", "density"])
def test_squashed_samples_may_be_used_in_part(used: str) -> None:
    results = []
    for accelerated in (True, False):
        mean, log_std, noise = draws()
        if accelerated:
            action, density = tanh_gaussian(mean, log_std, noise, -2.0, 1.0)
        else:
            raw = mean + log_std.clamp(-2.0, 1.0).exp() * noise
            action = raw.tanh()
            normal = torch.distributions.Normal(mean, log_std.clamp(-2.0, 1.0).exp())
            density = (normal.log_prob(raw) - torch.log1p(-(action**2))).sum(-1)
        (action if used == "action" else density).sum().backward()
        results.append((mean.grad, log_std.grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-8)


def test_many_samples_of_one_distribution_add_their_gradients() -> None:
    """[samples, batch, act] noise on [batch, act] heads, as penalties over many actions draw."""
    noise = torch.randn(5, 6, 3, generator=generator(4)).double()
    results = []
    for form in (False, True):
        mean, log_std, _ = draws()
        action, density = TanhGaussian(mean, log_std, -2.0, 1.0, form).sample(noise)
        assert action.shape == (5, 6, 3)
        assert density.shape == (5, 6)
        (action.sin().sum() + density.square().sum()).backward()
        results.append((mean.grad, log_std.grad))
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-8, atol=1e-8)


def test_squashed_samples_far_out_have_finite_densities_and_gradients() -> None:
    mean = torch.tensor([[-60.0], [60.0]], requires_grad=True)
    log_std = torch.zeros(2, 1, requires_grad=True)
    action, log_prob = tanh_gaussian(mean, log_std, torch.zeros(2, 1), -20.0, 2.0)
    assert action.tolist() == [[-1.0], [1.0]]
    # log(1 - tanh(u)^2) -> 2 log 2 - 2 |u|.
    expected = -0.9189385 - (2 * 0.6931472 - 120.0)
    torch.testing.assert_close(log_prob, torch.full((2,), expected))
    (action.sum() + log_prob.sum()).backward()
    assert mean.grad is not None
    assert mean.grad.tolist() == [[-2.0], [2.0]]
    assert log_std.grad is not None
    assert log_std.grad.isfinite().all()


# The Gaussian.


def test_the_fused_density_and_its_gradients_are_the_plain_ones() -> None:
    value = torch.randn(7, 3, generator=generator(1)).double()
    results = []
    for density in (normal_log_prob, gaussian_log_prob):
        mean = torch.randn(7, 3, generator=generator(2)).double().requires_grad_()
        log_std = torch.tensor([-1.3, 0.0, 0.4]).double().requires_grad_()
        log_prob = density(value, mean, log_std)
        weight = torch.randn(7, generator=generator(3)).double()
        results.append((log_prob, *torch.autograd.grad(log_prob @ weight, (mean, log_std))))
    for plain, fused in zip(*results, strict=True):
        close(fused, plain)
    assert torch.autograd.gradcheck(lambda m, s: gaussian_log_prob(value, m, s), (mean, log_std))
