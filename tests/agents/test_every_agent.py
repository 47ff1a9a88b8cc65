"""What every agent has to do, whatever its method."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from rlalign.agent import Agent
from rlalign.agents import AGENTS
from rlalign.errors import CheckpointError
from rlalign.layout import Batch
from rlalign.phases import OfflinePhase
from tests.agents.tiny import SMALL, again, batch_of, disturb, gradients, make, replay_of, weights
from tests.toy_data import box_spaces, random_dataset

# Every registered agent, and settings that take other paths through its losses.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in AGENTS),
    ("iql", {"deterministic_actor": True, "observation_normalization": "standard"}),
    ("awac", {"weight": "softmax", "value_samples": 3, "actor_weight_decay": 1e-2}),
    ("sac", {"critics": 5, "initial_temperature": 0.1}),
    ("td3", {"policy_delay": 3}),
    ("sac_n", {"initialization": "corl", "update_order": "critic_first"}),
    ("rorl", {"ood_weight": 0.0, "critic_radius": 0.3, "policy_radius": 0.3}),
    ("rorl", {"critic_smoothing": 0.0, "ood_radius": 0.3, "uncertainty_decay": 0.01}),
    ("ro2o", {"targets": "independent", "policy_bound": "lcb", "cloning": 5.0}),
    ("rlpd", {"layer_norm": False, "target_critics": 10, "updates_per_actor_update": 2}),
    ("rebrac", {"layer_norm": False, "normalize_critic": False}),
    ("cql", {"lagrange": True, "backup": "max_min", "entropy_backup": True, "clip_max": 5.0}),
    ("cql", {"importance_sampling": False, "backup": "min_max", "action_samples": 3}),
    ("famo2o_iql", {"balance_every": 1, "clip_balance_actions": True}),
    ("famo2o_awac", {"balance_entropy": False, "encoding_size": 2, "balance_every": 2}),
    ("famo2o_cql", {"balance_entropy": True, "layer_norm": False, "next_coefficient": "state"}),
    ("cal_ql", {"lagrange": False, "backup": "sample", "failure_reward": 0.0}),
]
# By so much that rounding does not decide which of a state's perturbations is the worst.
PERTURBED: dict[str, Any] = {"critic_radius": 0.3, "policy_radius": 0.3}
every_agent = pytest.mark.parametrize(
    ("name", "settings"),
    VARIANTS,
    ids=[f"{name}-{'-'.join(settings) or 'default'}" for name, settings in VARIANTS],
)
LOSSES = [
    pytest.param(name, settings, update.loss, id=f"{name}-{'-'.join(settings)}-{update.loss}")
    for name, settings in VARIANTS
    for update in make(name, **settings).updates
]
every_loss = pytest.mark.parametrize(("name", "settings", "loss"), LOSSES)


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Make new tensors of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def train(agent: Agent, steps: int) -> Agent:
    agent.update(replay_of(agent), steps)
    return agent


def all_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert set(first) == set(second)
    return all(torch.equal(first[name], second[name]) for name in first)


@every_agent
def test_updates_move_every_trained_network_and_every_target(name: str, settings: dict) -> None:
    agent = make(name, **settings)
    trained = {network for update in agent.updates for network in update.networks}
    assert trained | set(agent.targets) == set(agent.learner.flat)
    before = weights(agent)
    train(agent, max(3, *(update.offset + 1 for update in agent.updates)))
    rates = {
        network: update.adam(network).learning_rate
        for update in agent.updates
        for network in update.networks
    }
    for network, start in before.items():
        moved = agent.learner.flat[network].data - start
        assert moved.isfinite().all()
        assert moved.abs().max() > (rates[network] / 3 if network in trained else 1e-7), network


@every_agent
def test_targets_start_as_copies_and_move_by_their_rate(name: str, settings: dict) -> None:
    agent = make(name, target_rate=0.1, **settings)
    start = weights(agent)
    for target, rule in agent.targets.items():
        assert rule.rate == 0.1
        assert torch.equal(start[target], start[rule.network])
    replay = replay_of(agent)
    for step in range(4):
        before = weights(agent)
        agent.update(replay, 1)
        after = weights(agent)
        for target, rule in agent.targets.items():
            if step % rule.every:
                assert torch.equal(after[target], before[target])
            else:
                wanted = 0.9 * before[target] + 0.1 * after[rule.network]
                torch.testing.assert_close(after[target], wanted, rtol=1e-5, atol=1e-6)
                assert not torch.equal(after[target], before[target])


@every_agent
def test_accelerated_and_plain_execution_agree_after_200_updates(name: str, settings: dict) -> None:
    """Widths on both sides of where the products change their form (`fast.NARROW`).

    In double precision: in single one unit in ten million lies so near zero that rounding decides
    whether it is on, differently on each processor, and Adam makes much of it.
    """
    wide = {"hidden": [64, 40], "batch_size": 32, **settings}
    if name in ("rorl", "ro2o"):
        wide = {**PERTURBED, **wide}
    with precision(torch.float64):
        agents: list[Any] = [
            AGENTS[name](box_spaces(), seed=3, accelerated=fast, **wide) for fast in (True, False)
        ]
    start = weights(agents[0])
    assert all_equal(start, weights(agents[1]))
    for agent in agents:
        replay, step = replay_of(agent), agent.learner.step
        agent.learner.step = lambda rows, step=step: step(rows.double())
        with precision(torch.float64):
            agent.update(replay, 200)
    fast, plain = (weights(agent) for agent in agents)
    for network, begin in start.items():
        assert begin.dtype == torch.float64
        assert (fast[network] - plain[network]).abs().max() < 1e-10, network
        assert (fast[network] - begin).abs().mean() > 1e-3, network
        assert (plain[network] - begin).abs().mean() > 1e-3, network


@every_loss
def test_accelerated_and_plain_gradients_agree(name: str, settings: dict, loss: str) -> None:
    results = []
    for fast in (True, False):
        agent = AGENTS[name](box_spaces(), seed=3, accelerated=fast, **{**SMALL, **settings})
        for target in agent.targets:
            disturb(agent, target)
        results.append(gradients(agent, loss, batch_of(agent)))
    torch.testing.assert_close(results[0][0], results[1][0])
    for network, wanted in results[1][1].items():
        assert wanted.abs().max() > 1e-6
        error = (results[0][1][network] - wanted).abs().max()
        assert error < 1e-5 * max(1.0, float(wanted.abs().max()))


@every_agent
def test_an_interrupted_run_equals_an_uninterrupted_one(
    name: str, settings: dict, tmp_path: Path
) -> None:
    """Spec, common 28: everything is restored, generators and schedules included."""
    dataset = random_dataset()
    whole = make(name, **settings)
    phase = OfflinePhase(whole, dataset, 60)
    phase.advance(25)
    middle = weights(whole)
    whole.save(tmp_path / "agent")
    rest = AGENTS[name].load(tmp_path / "agent")
    assert rest.learner.step_count == 25
    assert all_equal(weights(rest), middle)
    phase.advance(25)
    rest.update(phase.replay, 25)
    tensors, state = whole.state_dict()
    restored, restored_state = rest.state_dict()
    assert all_equal(restored, tensors)
    assert restored_state == state
    assert not all_equal(weights(whole), middle)
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert np.array_equal(whole.predict(observations)[0], rest.predict(observations)[0])


@every_agent
def test_the_seed_decides_everything(name: str, settings: dict) -> None:
    first, second, other = (
        weights(train(make(name, seed=seed, **settings), 40)) for seed in (0, 0, 1)
    )
    assert all_equal(first, second)
    assert not any(torch.equal(first[network], other[network]) for network in first)


@every_agent
def test_the_seed_alone_decides_whatever_others_draw(name: str, settings: dict) -> None:
    """Neither reads the global generators nor moves them."""
    first = train(make(name, **settings), 5)
    torch.manual_seed(12345)
    np.random.seed(12345)
    state = torch.get_rng_state()
    second = train(make(name, **settings), 5)
    second.predict(np.zeros(4, np.float32))
    assert torch.equal(torch.get_rng_state(), state)
    assert all_equal(weights(first), weights(second))


@every_agent
@pytest.mark.parametrize("deterministic", [True, False])
def test_actions_have_the_space_s_shape_and_bounds(
    name: str, settings: dict, deterministic: bool
) -> None:
    spaces = box_spaces(5, 3, -1.0, 3.0)
    agent = make(name, spaces=spaces, **settings)
    for network in agent.learner.flat:
        disturb(agent, network)
    agent.learner.flat["actor"].data.mul_(10)  # so that some actions lie at the bounds
    generator = np.random.default_rng(0)
    for shape, wanted in (((5,), (3,)), ((1, 5), (1, 3)), ((40, 5), (40, 3))):
        observation = generator.normal(size=shape).astype(np.float32)
        action, state = agent.predict(observation, deterministic=deterministic)
        assert state is None
        assert action.shape == wanted
        assert action.dtype == np.float32
        assert action.min() >= -1.0
        assert action.max() <= 3.0
    assert action.min() < -0.5
    assert action.max() > 2.5


@every_agent
def test_one_observation_and_a_batch_give_the_same_actions(name: str, settings: dict) -> None:
    agent = make(name, **settings)
    observations = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    together, _ = agent.predict(observations, deterministic=True)
    alone = [agent.predict(o, deterministic=True)[0] for o in observations]
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    assert np.ptp(together, axis=0).min() > 1e-4
    again_, _ = agent.predict(observations.astype(np.float64), deterministic=True)
    np.testing.assert_array_equal(together, again_)


@every_agent
def test_bounds_other_than_one_reach_environment_and_losses(
    name: str, settings: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pendulum's torque lies in [-2, 2]; the losses see [-1, 1]."""
    agent = AGENTS[name]("Pendulum-v1", seed=0, **{**SMALL, **settings})
    with torch.no_grad():
        agent.learner.flat["actor"].data.mul_(10)
    env = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    actions = []
    for _ in range(60):
        action, _ = agent.predict(observation)
        assert env.action_space.contains(action)
        actions.append(action)
        observation, *_ = env.step(action)
    assert np.abs(actions).max() > 1.0

    seen: list[Batch] = []
    step = agent.learner.step

    def watch(rows: Tensor) -> None:
        seen.append(Batch(rows.clone(), agent.layout))
        step(rows)

    monkeypatch.setattr(agent.learner, "step", watch)
    train(agent, 3)
    largest = torch.cat([batch.actions for batch in seen]).abs().max()
    assert 0.9 < largest <= 1.0


@every_agent
def test_state_is_plain_and_restores_another_agent(name: str, settings: dict) -> None:
    first, second = make(name, **settings), make(name, seed=7, **settings)
    train(first, 6)
    tensors, state = first.state_dict()
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())
    second.load_state_dict(tensors, json.loads(json.dumps(state)))
    assert all_equal(second.state_dict()[0], tensors)
    train(first, 6)
    assert not all_equal(second.state_dict()[0], first.state_dict()[0])  # nothing is shared
    train(second, 6)
    assert all_equal(second.state_dict()[0], first.state_dict()[0])


@pytest.mark.parametrize("name", AGENTS)
def test_a_checkpoint_of_another_agent_is_refused(name: str, tmp_path: Path) -> None:
    make(name).save(tmp_path / "agent")
    tensors, state = make(name).state_dict()
    for other in AGENTS:
        if other == name:
            continue
        with pytest.raises(CheckpointError, match=f"holds agent '{name}', not '{other}'"):
            AGENTS[other].load(tmp_path / "agent")
        with pytest.raises(CheckpointError, match=f"'{name}', not '{other}'"):
            make(other).load_state_dict(tensors, state)


@pytest.mark.parametrize("name", AGENTS)
def test_a_checkpoint_of_other_sizes_is_refused_and_changes_nothing(name: str) -> None:
    agent = make(name)
    before = weights(agent)
    for other in (make(name, hidden=[8, 8]), make(name, spaces=box_spaces(5, 2))):
        with pytest.raises(CheckpointError, match="shape"):
            agent.load_state_dict(*other.state_dict())
        assert all_equal(weights(agent), before)


@every_loss
def test_losses_are_pure(name: str, settings: dict, loss: str) -> None:
    """The same twice, and neither rows nor noise nor parameters are touched."""
    agent = make(name, **settings)
    batch = batch_of(agent)
    rows, noise = batch.rows.clone(), {k: v.clone() for k, v in batch.noise.items()}
    before = weights(agent)
    first, second = (gradients(agent, loss, batch) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert all_equal(first[1], second[1])
    assert torch.equal(batch.rows, rows)
    assert all_equal(dict(batch.noise), noise)
    assert all_equal(weights(agent), before)


@every_loss
def test_the_order_of_a_batch_does_not_matter(name: str, settings: dict, loss: str) -> None:
    agent = make(name, **settings)
    batch = batch_of(agent)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    noise = {k: v if agent.noise[k].shared else v[order] for k, v in batch.noise.items()}
    shuffled = Batch(batch.rows[order], agent.layout, noise)
    first, second = (gradients(agent, loss, b) for b in (batch, shuffled))
    torch.testing.assert_close(first[0], second[0])
    for network, gradient in first[1].items():
        scale = float(gradient.abs().max())
        assert (second[1][network] - gradient).abs().max() <= 1e-5 * scale


@pytest.mark.parametrize(
    ("name", "settings"), [v for v in VARIANTS if "critic" in make(v[0]).learner.flat]
)
def test_what_follows_a_termination_has_no_value(name: str, settings: dict) -> None:
    """At a time limit it has: the two stay apart to the last line.

    CQL's penalty is left out: it takes proposals from the policy at s', be there an s' or not.
    """
    if hasattr(make(name).settings, "cql_weight"):
        settings = {**settings, "cql_weight": 0.0}
    agent = make(name, **settings)
    for ends, differs in ((1.0, False), (0.0, True)):
        values = []
        for seed in (1, 2):
            batch = batch_of(agent, terminations=torch.full((24,), ends))
            other = torch.randn(24, 4, generator=torch.Generator().manual_seed(seed))
            batch.next_observations.copy_(other)
            values.append(gradients(agent, "critic_loss", batch)[0])
        assert bool(values[0] != values[1]) == differs


class _Loss(nn.Module):
    """A loss as a module of the networks' parameters, for `torch.func`."""

    def __init__(self, agent: Agent, loss: str) -> None:
        super().__init__()
        self.nets = agent.learner.nets
        self.agent, self.loss = (agent,), loss

    def forward(self, rows: Tensor, noise: dict[str, Tensor]) -> Tensor:
        agent = self.agent[0]
        value: Tensor = getattr(agent, self.loss)(self.nets, Batch(rows, agent.layout, noise))[0]
        return value


@every_loss
def test_losses_lift_over_seeds(name: str, settings: dict, loss: str) -> None:
    """Three seeds' parameters and batches stacked give each seed's own loss and gradients."""
    agents = [
        AGENTS[name](box_spaces(), seed=seed, accelerated=False, **{**SMALL, **settings})
        for seed in range(3)
    ]
    for seed, agent in enumerate(agents):
        for target in agent.targets:
            disturb(agent, target, seed=seed)
    batches = [batch_of(agent, seed=seed) for seed, agent in enumerate(agents)]
    module = _Loss(agents[0], loss)
    names = [n for n, _ in module.named_parameters()]
    update = next(u for u in agents[0].updates if u.loss == loss)
    trained = {n for n in names if n.split(".")[1] in update.networks}
    stacked = {
        n: torch.stack([dict(_Loss(a, loss).named_parameters())[n].detach() for a in agents])
        for n in names
    }

    def one(train: dict, rest: dict, rows: Tensor, noise: dict[str, Tensor]) -> Tensor:
        value: Tensor = functional_call(module, {**train, **rest}, (rows, noise))
        return value

    lifted, values = vmap(grad_and_value(one))(
        {n: stacked[n] for n in names if n in trained},
        {n: stacked[n] for n in names if n not in trained},
        torch.stack([batch.rows for batch in batches]),
        {k: torch.stack([b.noise[k] for b in batches]) for k in batches[0].noise},
    )
    for seed, agent in enumerate(agents):
        value, alone = gradients(agent, loss, again(batches[seed], agent))
        torch.testing.assert_close(values[seed], value)
        for network, wanted in alone.items():
            prefix = f"nets.{network}."
            found = torch.cat([lifted[n][seed].flatten() for n in names if n.startswith(prefix)])
            assert wanted.abs().max() > 1e-6
            error = (found - wanted).abs().max()
            assert error < 1e-5 * max(1.0, float(wanted.abs().max()))
    assert len(set(values.tolist())) == 3


@every_agent
def test_a_deep_copy_learns_by_itself(name: str, settings: dict) -> None:
    agent = train(make(name, **settings), 3)
    twin = copy.deepcopy(agent)
    before = weights(agent)
    assert all_equal(before, weights(twin))
    train(twin, 3)
    assert all_equal(before, weights(agent))
    assert all_equal(weights(train(agent, 3)), weights(twin))
    assert not all_equal(before, weights(agent))


def test_agents_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="save and load"):
        pickle.dumps(make("sac"))
