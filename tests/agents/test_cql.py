"""CQL's losses against the paper written out sample by sample, and their limits."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.agents import AGENTS
from rlalign.agents.sac import summed_squared_error
from rlalign.errors import SettingsError
from rlalign.layout import Batch
from tests.agents.naive import Naive, agree, double, gaussian_log_prob
from tests.agents.tiny import (
    batch_of,
    disturb,
    gradients,
    leaks,
    make,
    metrics_of,
    replay_of,
    value_of,
)
from tests.toy_data import box_spaces

SAMPLES = 3


def disturbed(name: str = "cql", **settings: Any) -> Any:
    """An agent whose targets differ from its critics, with few samples."""
    agent = make(name, **{"action_samples": SAMPLES, **settings})
    disturb(agent, "critic_target")
    return agent


def policy(naive: Naive, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [batch, act]: log std = m l + c."""
    mean, log_std = naive.run("actor", 0, inputs).chunk(2, 1)
    leaves = naive.leaves["actor"]
    log_std = leaves["log_std_multiplier"] * log_std + leaves["log_std_offset"]
    return mean, log_std.clamp(-20, 2).exp()


def squashed(naive: Naive, inputs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh(mean + std noise) and its log-density by the change of variables."""
    mean, std = policy(naive, inputs)
    raw = mean + std * noise.double()
    action = torch.tanh(raw)
    log_prob = gaussian_log_prob(raw, mean, std) - torch.log(1 - action**2).sum(1)
    return action, log_prob


def backup(naive: Naive, agent: Any, batch: Batch) -> Tensor:
    """y = r + discount (1 - d) T with T sample by sample, critic by critic."""
    _, _, reward, done, after = double(batch)
    noise = batch.noise["next_action"]
    draws = noise.unbind(1) if noise.dim() == 3 else [noise]
    drawn = [squashed(naive, after, draw) for draw in draws]
    values = torch.stack(
        [
            torch.stack([naive.q("critic_target", i, after, a) for a, _ in drawn], 1)
            for i in range(2)
        ]
    )  # [member, batch, samples]
    if agent.settings.backup == "min_max":
        value = values.max(2).values.min(0).values
    else:
        value, best = values.min(0).values.max(1)
        if agent.settings.entropy_backup:
            densities = torch.stack([density for _, density in drawn], 1)
            alpha = naive.leaves["temperature"]["log"].exp()
            value = value - alpha * densities[torch.arange(len(value)), best]
    return (reward + 0.99 * (1 - done) * value).detach()


def gap(naive: Naive, agent: Any, batch: Batch, member: int, bound: Tensor | None = None) -> Tensor:
    """D_i, one proposal after another."""
    s, a, _, _, after = double(batch)
    settings = agent.settings
    data = naive.q("critic", member, s, a)
    levels = []
    for j in range(settings.action_samples):
        uniform = batch.noise["uniform"][:, j].double()
        density = math.log(0.5) * uniform.shape[1] * torch.ones_like(data)
        levels.append((naive.q("critic", member, s, uniform), density))
    for states, which in ((after, 1), (s, 0)):
        for j in range(settings.action_samples):
            action, log_prob = squashed(naive, states, batch.noise["proposals"][:, which, j])
            value = naive.q("critic", member, s, action.detach())
            if bound is not None:
                value = torch.where(value > bound, value, bound)
            levels.append((value, log_prob.detach()))
    if settings.importance_sampling:
        terms = [value - density for value, density in levels]
    else:
        terms = [value for value, _ in levels] + [data]
    temperature = settings.penalty_temperature
    total = sum(torch.exp(term / temperature) for term in terms)
    assert isinstance(total, Tensor)
    difference = temperature * torch.log(total) - data
    low = -math.inf if settings.clip_min is None else settings.clip_min
    high = math.inf if settings.clip_max is None else settings.clip_max
    return difference.clamp(low, high).mean()


def critic_loss(naive: Naive, agent: Any, batch: Batch, bound: Tensor | None = None) -> Tensor:
    s, a, *_ = double(batch)
    y, settings = backup(naive, agent, batch), agent.settings
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(2):
        loss = loss + ((naive.q("critic", i, s, a) - y) ** 2).mean()
        level = gap(naive, agent, batch, i, bound)
        if settings.lagrange:
            multiplier = naive.leaves["multiplier"]["log"].exp().squeeze()
            excess = settings.cql_weight * (level - settings.gap)
            loss = loss + multiplier.detach() * excess - 0.5 * multiplier * excess.detach()
        else:
            loss = loss + settings.cql_weight * level
    return loss


VARIANTS: list[dict[str, Any]] = [
    {},
    {"importance_sampling": False},
    {"penalty_temperature": 0.4},
    {"backup": "max_min", "entropy_backup": True},
    {"backup": "min_max", "cql_weight": 1.0},
    {"lagrange": True, "gap": 4.0, "initial_multiplier": 0.7},
    {"clip_min": 4.5, "clip_max": 5.5},
    {"critic_hidden": [12], "log_std_multiplier": 0.5, "log_std_offset": -2.0},
]


@pytest.mark.parametrize("settings", VARIANTS, ids=["-".join(v) or "default" for v in VARIANTS])
def test_critics_descend_the_paper_s_loss(settings: dict[str, Any]) -> None:
    agent = disturbed(**settings)
    batch = batch_of(agent)
    naive = Naive(agent)
    loss = critic_loss(naive, agent, batch)
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    for network, gradient in by_network.items():
        agree(gradient, naive.gradient(network, loss), 1e-4)


@pytest.mark.parametrize("cloning", [0, 5])
def test_actor_and_temperature_descend_sac_s_losses_or_clone_at_first(cloning: int) -> None:
    agent = disturbed(cloning_steps=cloning, initial_temperature=0.3)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    action, log_prob = squashed(naive, s, batch.noise["action"])
    value = torch.stack([naive.q("critic", i, s, action) for i in range(2)]).min(0).values
    if cloning:
        mean, std = policy(naive, s)
        raw = torch.atanh(a)
        value = gaussian_log_prob(raw, mean, std) - torch.log(1 - a**2).sum(1)
    actor = (0.3 * log_prob - value).mean()
    dual = -(naive.leaves["temperature"]["log"] * (log_prob.detach() - 2.0).mean()).sum()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, actor + dual)
    agree(by_network["actor"], naive.gradient("actor", actor))
    agree(by_network["temperature"], naive.gradient("temperature", dual))


def test_cloning_ends_after_its_updates() -> None:
    agents = [disturbed(cloning_steps=steps, actor_learning_rate=1e-3) for steps in (4, 0)]
    replay = replay_of(agents[0])
    agents[0].update(replay, 4)
    agents[1].load_state_dict(*agents[0].state_dict())
    batch = batch_of(agents[0])
    first, second = (gradients(agent, "actor_loss", batch) for agent in agents)
    assert torch.equal(first[1]["actor"], second[1]["actor"])
    agents[0].learner.optimizers["actor"].steps.fill_(3)
    assert not torch.equal(gradients(agents[0], "actor_loss", batch)[1]["actor"], first[1]["actor"])


# Closed forms and invariants; numbers as in the checks of the methods' specification.


@pytest.mark.parametrize(
    ("action_size", "expected"), [(1, 4.0943), (3, 5.4806), (6, 7.5601), (8, 8.9464)]
)
def test_constant_values_under_uniform_densities_have_a_known_gap(
    action_size: int, expected: float
) -> None:
    """12: D = log(3 N) + act log 2."""
    agent = make("cql", spaces=box_spaces(4, action_size))
    batch = batch_of(agent, 5)
    density = torch.full((5, 30), action_size * math.log(0.5))
    found, _ = agent.conservative_gap(batch, torch.ones(2, 5), torch.ones(2, 5, 30), density)
    assert found.tolist() == pytest.approx([expected] * 2, abs=1e-4)


def test_without_weight_it_is_sac_with_a_backup_without_entropy() -> None:
    """13; the actor's scale and offset come before its other parameters."""
    agent = disturbed(cql_weight=0.0, log_std_offset=0.0, initialization="torch")
    sac = make("sac", entropy_backup=False)
    for name, flat in sac.learner.flat.items():
        flat.data.copy_(agent.learner.flat[name].data[-len(flat.data) :])
    batch = batch_of(agent)
    for loss in ("critic_loss", "actor_loss"):
        (found, ours), (wanted, theirs) = (gradients(a, loss, batch) for a in (agent, sac))
        torch.testing.assert_close(found, wanted)
        for network, gradient in theirs.items():
            assert gradient.abs().max() > 1e-3
            torch.testing.assert_close(ours[network][-len(gradient) :], gradient)


def random_values(samples: int = SAMPLES) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(3)
    return (
        torch.randn(2, 5, generator=source),
        torch.randn(2, 5, 3 * samples, generator=source),
        torch.randn(5, 3 * samples, generator=source),
    )


def test_a_constant_added_to_all_values_changes_no_gap() -> None:
    """13."""
    agent = disturbed()
    batch = batch_of(agent, 5)
    data, sampled, density = random_values()
    found, _ = agent.conservative_gap(batch, data, sampled, density)
    moved, _ = agent.conservative_gap(batch, data + 7.0, sampled + 7.0, density)
    torch.testing.assert_close(found, moved)


def test_the_gap_s_gradient_is_a_soft_maximum_less_the_data_s_action() -> None:
    """15: it sums to nothing; a low temperature takes the maximum alone."""
    agent = disturbed()
    batch = batch_of(agent, 5)
    data, sampled, density = random_values()
    data.requires_grad_()
    sampled.requires_grad_()
    agent.conservative_gap(batch, data, sampled, density)[0].sum().backward()
    assert data.grad is not None
    assert sampled.grad is not None
    torch.testing.assert_close(data.grad, torch.full((2, 5), -0.2))
    torch.testing.assert_close(sampled.grad, torch.softmax(sampled - density, -1).detach() / 5)
    cold = disturbed(penalty_temperature=1e-3)
    found, _ = cold.conservative_gap(batch, data, sampled, density)
    highest = (sampled - density).amax(-1) - data
    torch.testing.assert_close(found, highest.mean(1), atol=1e-3, rtol=0)


def test_values_settle_below_the_target_by_how_much_too_often_an_action_is_proposed() -> None:
    """14: in one state, Q = y - w / 2 (mu / pi_data - 1) where proposals come from a fixed mu.

    A high temperature turns the logarithm of the sum into the mean over the proposals.
    """
    agent = make("cql", spaces=box_spaces(1, 1), penalty_temperature=1e9, action_samples=8)
    data = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])  # the data's action of each row
    proposed = torch.tensor([0] * 6 + [1] * 6 + [2] * 12)
    taken, mu = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    target = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight = 3.0
    correction = weight / 2 * (mu / taken - 1)
    table = (target - correction).requires_grad_()

    def slope(values: Tensor) -> Tensor:
        sampled = values[proposed].expand(1, 8, -1)
        density = torch.zeros(8, 24, dtype=torch.float64)
        chosen = values[data].unsqueeze(0)
        gap, _ = agent.conservative_gap(batch_of(agent, 8), chosen, sampled, density)
        loss = summed_squared_error(chosen, target[data]) + weight * gap.sum()
        return torch.autograd.grad(loss, values)[0]

    torch.testing.assert_close(slope(table), torch.zeros_like(target), atol=1e-6, rtol=0)
    assert slope(target.clone().requires_grad_()).abs().max() > 0.1
    assert (taken * correction).sum() == 0
    assert (mu * correction).sum() > 0  # pressed down on average over the proposals


def test_uniform_proposals_fill_the_bounds() -> None:
    """16: a known port drew them from [0, 1]. False-alarm rate below 1e-200."""
    agent = make("cql", spaces=box_spaces(4, 1))
    drawn = agent.learner.draw_noise(1000)["uniform"]
    assert drawn.shape == (1000, 10, 1)
    assert drawn.min() < -0.9
    assert drawn.max() > 0.9
    batch = batch_of(agent)
    actions, density = agent.proposals(batch, agent.policies(agent.learner.nets, batch))
    assert torch.equal(actions[:, :10], batch.noise["uniform"])
    assert density[:, :10].unique().tolist() == pytest.approx([math.log(0.5)])


@pytest.mark.parametrize(("limit", "rises"), [(-5.0, True), (50.0, False)])
def test_the_multiplier_rises_while_the_gap_lies_above_its_limit(limit: float, rises: bool) -> None:
    """17."""
    agent = disturbed(lagrange=True, gap=limit)
    before = agent.learner.nets.multiplier().item()
    assert before == pytest.approx(math.e)
    agent.update(replay_of(agent), 5)
    assert (agent.learner.nets.multiplier().item() > before) == rises


def test_a_clipped_gap_presses_nothing() -> None:
    """17: below clip_min no gradient is left but that of the squared errors."""
    clipped, plain = disturbed(clip_min=1000.0), disturbed(cql_weight=0.0)
    batch = batch_of(clipped)
    found, wanted = (gradients(agent, "critic_loss", batch)[1] for agent in (clipped, plain))
    assert wanted["critic"].abs().max() > 1e-3
    torch.testing.assert_close(found["critic"], wanted["critic"])


@pytest.mark.parametrize("lagrange", [False, True])
def test_the_penalty_reaches_neither_actor_nor_targets(lagrange: bool) -> None:
    """18."""
    agent = disturbed(lagrange=lagrange)
    expected = {"critic", "multiplier"} if lagrange else {"critic"}
    assert leaks(agent, "critic_loss", batch_of(agent)) == expected


def test_a_backup_of_one_sample_is_the_ordinary_one() -> None:
    """19."""
    targets = []
    for backup_kind in ("sample", "max_min", "min_max"):
        agent = disturbed(action_samples=1, backup=backup_kind)
        batch = batch_of(agent)
        noise = {**batch.noise, "next_action": torch.ones(24, 1, 2)}
        if backup_kind == "sample":
            noise["next_action"] = torch.ones(24, 2)
        fixed = Batch(batch.rows, agent.layout, noise)
        targets.append(metrics_of(agent, "critic_loss", fixed)["q_target"])
    assert all(torch.equal(targets[0], other) for other in targets[1:])


def test_the_best_of_several_samples_is_no_less_than_one_of_them() -> None:
    """19; and the least of the critics' own bests is no less than the best of the least."""
    found = {}
    for kind in ("sample", "max_min", "min_max"):
        agent = disturbed(action_samples=8, backup=kind)
        batch = batch_of(agent, terminations=torch.zeros(24))
        noise = dict(batch.noise)
        draws = torch.randn(24, 8, 2, generator=torch.Generator().manual_seed(0))
        noise["next_action"] = draws[:, 0] if kind == "sample" else draws
        rows = Batch(batch.rows, agent.layout, noise)
        found[kind] = metrics_of(agent, "critic_loss", rows)["q_target"]
    assert (found["max_min"] >= found["sample"] - 1e-6).all()
    assert (found["max_min"] > found["sample"] + 1e-4).any()
    assert (found["min_max"] >= found["max_min"] - 1e-6).all()


def test_one_pass_serves_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = disturbed(lagrange=True, backup="max_min")
    nets = agent.learner.nets
    rows: dict[str, list[int]] = {}
    for name in ("actor", "critic", "critic_target"):
        trunk = getattr(nets, name).trunk
        forward = trunk.forward

        def counted(
            inputs: Tensor, *rest: Any, name: str = name, forward: Any = forward, **how: Any
        ) -> Tensor:
            rows.setdefault(name, []).append(len(inputs))
            return forward(inputs, *rest, **how)

        monkeypatch.setattr(trunk, "forward", counted)
    value_of(agent, "critic_loss", batch_of(agent))
    assert rows == {"actor": [48], "critic": [24 * (1 + 3 * SAMPLES)], "critic_target": [24 * 3]}


# The phases and the settings.


def test_the_weight_may_change_online() -> None:
    agent = disturbed(online_cql_weight=0.0)
    batch = batch_of(agent)
    agent.begin_offline(10)
    offline = value_of(agent, "critic_loss", batch)
    agent.begin_online()
    online = value_of(agent, "critic_loss", batch)
    assert online == value_of(disturbed(cql_weight=0.0), "critic_loss", batch)
    agent.begin_offline(10)
    assert value_of(agent, "critic_loss", batch) == offline != online


def test_output_layers_may_begin_small() -> None:
    for gain, norm in ((None, 2**0.5), (0.01, 0.01)):
        nets = make("cql", head_gain=gain).learner.nets
        for network in (nets.actor, nets.critic):
            heads = network.trunk.weights[-1].norm(dim=1).flatten()
            torch.testing.assert_close(heads, torch.full_like(heads, norm))
            assert network.trunk.weights[-2].norm(dim=1).min() > 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"cql_weight": -1.0}, "cql_weight"),
        ({"online_cql_weight": -1.0}, "online_cql_weight"),
        ({"action_samples": 0}, "action_samples"),
        ({"penalty_temperature": 0.0}, "penalty_temperature"),
        ({"clip_min": 3.0, "clip_max": 2.0}, "clip_min"),
        ({"initial_multiplier": 0.0}, "initial_multiplier"),
        ({"cloning_steps": -1}, "cloning_steps"),
        ({"backup": "max"}, "backup"),
        ({"backup": "min_max", "entropy_backup": True}, "entropy_backup"),
        ({"head_gain": 0.01, "initialization": "torch"}, "head_gain"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"setting {named} must be"):
        AGENTS["cql"](box_spaces(), **settings)
