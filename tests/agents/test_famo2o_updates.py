"""One update of FamO2O, how it acts, and what is kept of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.errors import SettingsError
from rlalign.layout import Batch
from tests.agents.families import AWAC, CQL, IQL, both_phases, disturbed, encode, every_base
from tests.agents.tiny import (
    again,
    batch_of,
    gradients,
    gradients_by_hand,
    make,
    replay_of,
    weights,
)
from tests.toy_data import box_spaces


@pytest.mark.parametrize(
    ("name", "order"),
    [
        (IQL, ["value_loss", "balance_loss", "actor_loss", "critic_loss"]),
        (AWAC, ["critic_loss", "balance_loss", "actor_loss"]),
        (CQL, ["balance_loss", "critic_loss", "actor_loss"]),
    ],
)
@both_phases
def test_one_update_by_hand(name: str, order: list[str], online: bool) -> None:
    """Every loss sees at s the balance policy as it was before its step, as in the authors' code.

    CQL's critics see it at s' after its step, which moves their gradients by 1e-5 of themselves.
    """
    agent, twin = disturbed(name, online=online), disturbed(name, online=online)
    batch = batch_of(agent)
    agent.learner.draw_noise = lambda count: dict(batch.noise)
    agent.learner.step(batch.rows)
    wanted = gradients_by_hand(twin, order, batch, unstepped="balance_loss")
    assert set(wanted) == set(agent.learner.optimizers)
    for network, gradient in wanted.items():
        error = (agent.learner.flat[network].grad - gradient).abs().max()
        tolerance = 1e-4 if (name, network) == (CQL, "critic") else 1e-5
        assert error <= tolerance * gradient.abs().max(), network


@pytest.mark.parametrize(
    ("name", "online", "due", "passes"),
    [
        (IQL, False, True, {"balance": 1, "actor": 2}),
        (IQL, False, False, {"balance": 0, "actor": 1}),
        (IQL, True, True, {"balance": 1, "actor": 2}),
        (IQL, True, False, {"balance": 1, "actor": 1}),
        (AWAC, False, True, {"balance": 1, "actor": 3}),
        (AWAC, True, True, {"balance": 2, "actor": 3}),
        (AWAC, True, False, {"balance": 2, "actor": 2}),
        (CQL, False, True, {"balance": 2, "actor": 3}),
        (CQL, True, True, {"balance": 2, "actor": 3}),
    ],
)
def test_no_pass_is_made_twice(name: str, online: bool, due: bool, passes: dict) -> None:
    """At s the balance policy runs once for its own loss and the policy's; AWAC's and CQL's
    also at s'."""
    agent = make(name, balance_every=2)
    agent.online = online
    agent.learner.step_count = 0 if due else 1
    counts = dict.fromkeys(passes, 0)

    def count(network: str) -> Any:
        def hook(*_: Any) -> None:
            counts[network] += 1

        return hook

    nets = agent.learner.nets
    nets.balance.policy.trunk.register_forward_hook(count("balance"))
    nets.actor.trunk.register_forward_hook(count("actor"))
    agent.learner.step(batch_of(agent).rows)
    assert counts == passes


@every_base
def test_accelerated_and_plain_execution_agree_online_too(name: str) -> None:
    """What the tests of every agent hold it to offline."""
    results = []
    for fast in (True, False):
        agent = AGENTS[name](box_spaces(), seed=3, accelerated=fast, hidden=[16], batch_size=32)
        start = weights(agent)
        agent.begin_online()
        agent.update(replay_of(agent), 60)
        results.append(weights(agent))
    for network, begin in start.items():
        assert (results[0][network] - results[1][network]).abs().max() < 1e-5, network
        assert (results[1][network] - begin).abs().max() > 1e-3, network


@every_base
def test_the_order_of_a_batch_does_not_matter_online_either(name: str) -> None:
    agent = disturbed(name, online=True)
    batch = batch_of(agent)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    noise = {key: value[order] for key, value in batch.noise.items()}
    shuffled = Batch(batch.rows[order], agent.layout, noise)
    for update in agent.updates:
        first, second = (gradients(agent, update.loss, b)[1] for b in (batch, shuffled))
        for network, gradient in first.items():
            error = (second[network] - gradient).abs().max()
            assert error <= 1e-5 * gradient.abs().max(), (update.loss, network)


# Acting, and what is kept.


@every_base
def test_exploring_draws_actions_but_not_coefficients(name: str) -> None:
    """Invariant 15."""
    agent = disturbed(name)
    observation = np.ones(4, np.float32)
    calm = [agent.predict(observation, deterministic=True)[0] for _ in range(2)]
    assert np.array_equal(*calm)
    lively = [agent.predict(observation, deterministic=False)[0] for _ in range(2)]
    assert not np.array_equal(*lively)
    nets, inputs = agent.learner.nets, torch.ones(1, 4)
    seen = agent.acting_inputs(nets, inputs)
    assert torch.equal(seen, nets.balance.condition(inputs, nets.balance.mode(inputs)))
    wanted = nets.actor.act(seen, torch.tensor([[0.3, -0.2]]))
    assert torch.equal(agent.explore(nets, inputs, torch.tensor([[0.3, -0.2]])), wanted)


@every_base
def test_a_member_of_the_family_can_be_chosen(name: str, tmp_path: Path) -> None:
    agent = disturbed(name)
    observations = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    by_balance = agent.predict(observations, deterministic=True)[0]
    actions = {}
    for beta in (1.0, 4.0):
        agent.choose(beta)
        actions[beta] = agent.predict(observations, deterministic=True)[0]
        inputs = torch.cat([torch.from_numpy(observations), encode(torch.full((8,), beta))], 1)
        wanted = agent.learner.nets.actor.mode(inputs.float()).detach().numpy()
        np.testing.assert_allclose(actions[beta], wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(actions[1.0] - actions[4.0]).max() > 1e-2
    agent.save(tmp_path / "agent")
    loaded = AGENTS[name].load(tmp_path / "agent")
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], actions[4.0])
    agent.choose(None)
    np.testing.assert_array_equal(agent.predict(observations, deterministic=True)[0], by_balance)
    for outside in (0.9, 4.1):
        with pytest.raises(SettingsError, match=r"coefficient must be in \[1, 4\]"):
            agent.choose(outside)


@every_base
def test_a_run_cut_at_the_switch_goes_on_as_if_it_were_not(name: str, tmp_path: Path) -> None:
    """Invariant 16, and the phase itself is kept where the cut is later."""
    whole = make(name, balance_every=2)
    replay = replay_of(whole)
    whole.update(replay, 7)
    whole.save(tmp_path / "switch")
    whole.begin_online()
    whole.update(replay, 3)
    whole.save(tmp_path / "later")
    start = weights(whole)
    whole.update(replay, 5)
    rest = AGENTS[name].load(tmp_path / "switch")
    assert not rest.online
    rest.begin_online()
    rest.update(replay, 8)
    later = AGENTS[name].load(tmp_path / "later")
    assert later.online
    later.update(replay, 5)
    tensors, state = whole.state_dict()
    for other in (rest, later):
        found, found_state = other.state_dict()
        assert found_state == state
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert not torch.equal(start["balance"], weights(whole)["balance"])


@every_base
def test_the_switch_changes_where_coefficients_come_from(name: str) -> None:
    agent = disturbed(name)
    batch = batch_of(agent)
    offline = agent.coefficient(agent.learner.nets, again(batch, agent))
    agent.begin_online()
    online = agent.coefficient(agent.learner.nets, again(batch, agent))
    assert not torch.equal(offline, online)
    for beta in (offline, online):
        assert beta.min() >= 1
        assert beta.max() <= 4
        assert not beta.requires_grad
