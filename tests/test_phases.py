from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlalign.agents import AGENTS
from rlalign.envs import Environments
from rlalign.errors import DatasetError
from rlalign.layout import Batch
from rlalign.phases import Events, Intervals, OfflinePhase, OnlinePhase, Phase, run_phase
from rlalign.settings import OnlineSettings
from tests.agents.tiny import SMALL, weights
from tests.agents.tiny import make as from_spaces
from tests.envs.toy import Counter
from tests.toy_data import random_dataset

TAG = 1000.0  # an observation that no episode of Counter has


def make(name: str = "sac", *, seed: int = 0, **settings: Any) -> Any:
    return AGENTS[name](partial(Counter, 3), seed=seed, **{**SMALL, **settings})


def online(agent: Any, count: int = 1, *, env: Any = None, dataset: Any = None, **settings: Any):
    environments = Environments(env or partial(Counter, 3), count, seed=0)
    options = OnlineSettings(environments=count, **settings)
    return OnlinePhase(agent, environments, 100, options, dataset=dataset)


def tagged_dataset(count: int = 200) -> Any:
    dataset = random_dataset(2, 1, count, low=-2.0, high=4.0)
    dataset.table[:, 0] = TAG
    return dataset


def watched(agent: Any) -> list[Batch]:
    """The batches that the learner is given from now on."""
    seen: list[Batch] = []
    step = agent.learner.step

    def watch(rows: Tensor) -> None:
        seen.append(Batch(rows.clone(), agent.layout))
        step(rows)

    agent.learner.step = watch
    return seen


# Interaction and updates.


@pytest.mark.parametrize("rate", [1.0, 2.0, 0.5, 0.3])
def test_updates_keep_their_ratio_to_environment_steps(rate: float) -> None:
    agent = make()
    phase = online(agent, updates_per_step=rate)
    for done in range(1, 21):
        phase.advance(1)
        assert -1 - 1e-9 < agent.learner.step_count - done * rate < 1e-9
    assert agent.num_timesteps == phase.done == 20


def test_several_environments_count_each_of_their_steps() -> None:
    agent = make()
    phase = online(agent, count=4)
    phase.advance(12)
    assert phase.done == agent.num_timesteps == len(phase.buffer) == 12
    assert agent.learner.step_count == 12


def test_no_update_during_warm_up_and_no_policy_during_random_steps() -> None:
    runs = []
    for seed in (0, 1):
        agent = make()
        agent.learner.flat["actor"].data.add_(float(seed))  # another policy
        phase = online(agent, warmup_steps=7, random_steps=10)
        start = weights(agent)
        phase.advance(7)
        assert agent.learner.step_count == 0
        assert all(torch.equal(start[name], now) for name, now in weights(agent).items())
        phase.advance(3)
        assert agent.learner.step_count == 3
        phase.advance(5)
        runs.append(Batch(phase.buffer.table[:15], agent.layout).actions)
    assert torch.equal(runs[0][:10], runs[1][:10])
    assert not torch.equal(runs[0][10:], runs[1][10:])


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_what_was_learned_from_a_dataset_acts_from_the_first_step_on(name: str) -> None:
    """Its own online settings begin with random steps, for an agent that knows nothing yet."""
    actions = []
    for seed in (0, 1):
        agent = AGENTS[name](partial(Counter, 5), **SMALL)
        assert agent.online_defaults.random_steps > 20
        agent.fit(tagged_dataset(), 2)
        agent.learner.flat["actor"].data.add_(float(seed))  # another policy
        agent.learn(6)
        agent.learn(6)
        assert agent.replay_buffer is not None
        actions.append(Batch(agent.replay_buffer.table[:12], agent.layout).actions)
    assert (actions[0] != actions[1]).any(1).all()


def test_random_actions_fill_the_bounds() -> None:
    """In the environment's units, [-2, 4] here; false-alarm rate below 1e-6."""
    agent = make()
    phase = online(agent, random_steps=600, warmup_steps=600)
    phase.advance(600)
    actions = Batch(phase.buffer.table[:600], agent.layout).actions
    assert -2 <= actions.min() < -1.8
    assert 3.8 < actions.max() <= 4
    assert actions.mean().item() == pytest.approx(1.0, abs=5 * 3**0.5 / 600**0.5)


@pytest.mark.parametrize("truncates", [False, True])
def test_time_limits_are_no_terminations_and_successors_are_true_ones(truncates: bool) -> None:
    """Spec, common 25."""
    agent = make()
    phase = online(agent, env=partial(Counter, 3, truncates), warmup_steps=50)
    phase.advance(7)
    batch = Batch(phase.buffer.table[:7], agent.layout)
    ends = [0.0, 0.0, 0.0 if truncates else 1.0]
    assert batch.terminations.tolist() == [*ends, *ends, 0.0]
    assert batch.observations[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert batch.next_observations[:, 0].tolist() == [1, 2, 3, 1, 2, 3, 1]
    drift = batch.next_observations[:, 1] - batch.observations[:, 1]
    torch.testing.assert_close(drift, batch.actions[:, 0])
    torch.testing.assert_close(batch.rewards, batch.actions[:, 0])  # Counter pays the action


def test_offline_and_online_rewards_are_mapped_once_and_alike() -> None:
    """Spec, common 26."""
    agent = make("iql", reward_scale=10.0, reward_shift=-5.0)
    dataset = tagged_dataset()
    OfflinePhase(agent, dataset, 5).advance(5)
    phase = online(agent, dataset=dataset, replay="mixture", offline_fraction=0.5)
    seen = watched(agent)
    phase.advance(20)
    assert len(seen) == 20
    raw = {
        True: torch.from_numpy(dataset.rewards).flatten(),
        False: Batch(phase.buffer.table[:20], agent.layout).rewards,
    }
    for batch in seen:
        offline = batch.observations[:, 0] == TAG
        for part, known in raw.items():
            rewards = batch.rewards[offline == part]
            distance = (rewards[:, None] - (10.0 * known - 5.0)[None]).abs().min(1).values
            assert distance.max() < 1e-3


def test_a_mixture_is_exactly_half_and_half_in_every_update() -> None:
    """Spec, Cal-QL 24."""
    agent = make("iql", batch_size=256)
    phase = online(agent, dataset=tagged_dataset(), replay="mixture", offline_fraction=0.5)
    seen = watched(agent)
    phase.advance(6)
    assert [int((batch.observations[:, 0] == TAG).sum()) for batch in seen] == [128] * 6


def test_a_union_draws_all_transitions_alike() -> None:
    """100 of 300 rows are new; five standard deviations, a false-alarm rate of 6e-7."""
    agent = make("bc", batch_size=256, observation_normalization="none")
    phase = online(agent, dataset=tagged_dataset(200), replay="union", warmup_steps=100)
    phase.advance(100)
    seen = watched(agent)
    agent.update(phase.source, 40)
    draws = 40 * 256
    new = sum(int((batch.observations[:, 0] != TAG).sum()) for batch in seen)
    assert abs(new - draws / 3) < 5 * (draws * 2 / 9) ** 0.5


def test_a_replay_of_the_dataset_needs_one() -> None:
    for replay in ("union", "mixture"):
        with pytest.raises(DatasetError, match=f"'{replay}' needs the offline dataset"):
            online(make(), replay=replay)


def test_an_interrupted_online_phase_goes_on_bit_for_bit() -> None:
    dataset = tagged_dataset()
    settings: dict[str, Any] = {
        "replay": "mixture",
        "updates_per_step": 0.7,
        "random_steps": 8,
        "buffer_size": 15,
    }
    whole = make()
    phase = online(whole, 2, dataset=dataset, **settings)
    phase.advance(18)
    agent_state, phase_state = whole.state_dict(), phase.state_dict()
    copies = [
        ({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(state)))
        for tensors, state in (agent_state, phase_state)
    ]
    middle = weights(whole)
    rest = make(seed=4)
    resumed = online(rest, 2, dataset=dataset, **settings)
    rest.load_state_dict(*copies[0])
    resumed.load_state_dict(*copies[1])
    phase.advance(18)
    resumed.advance(18)
    assert resumed.done == phase.done == 36
    for name, value in weights(whole).items():
        assert torch.equal(weights(rest)[name], value)
        assert not torch.equal(middle[name], value)
    assert torch.equal(resumed.buffer.table[:15], phase.buffer.table[:15])
    assert np.array_equal(resumed.environments.current, phase.environments.current)


# Offline.


def test_pieces_of_an_offline_phase_are_the_phase() -> None:
    dataset = random_dataset()
    agents = []
    for pieces in ([30], [1, 9, 20]):
        agent = from_spaces("iql")
        phase = OfflinePhase(agent, dataset, 30)
        for piece in pieces:
            phase.advance(piece)
        assert phase.done == agent.learner.step_count == 30
        agents.append(weights(agent))
    assert all(torch.equal(agents[0][name], agents[1][name]) for name in agents[0])


class Recorder(Events):
    def __init__(self) -> None:
        self.seen: dict[str, list[int]] = {"log": [], "evaluate": [], "checkpoint": []}

    def on_log(self, phase: Phase, metrics: Mapping[str, float]) -> None:
        assert {"value_loss", "actor_loss", "critic_loss", "updates_per_second"} <= set(metrics)
        assert all(np.isfinite(value) for value in metrics.values())
        self.seen["log"].append(phase.done)

    def on_evaluate(self, phase: Phase) -> None:
        self.seen["evaluate"].append(phase.done)

    def on_checkpoint(self, phase: Phase) -> None:
        self.seen["checkpoint"].append(phase.done)


def test_events_fall_on_multiples_of_their_intervals_and_on_the_ends() -> None:
    agent = from_spaces("iql")
    events = Recorder()
    phase = OfflinePhase(agent, random_dataset(), 25)
    run_phase(phase, Intervals(log=4, evaluate=10, checkpoint=6), events)
    assert phase.done == 25
    assert events.seen == {
        "log": [4, 8, 12, 16, 20, 24],
        "evaluate": [0, 10, 20, 25],
        "checkpoint": [6, 12, 18, 24, 25],
    }
    with_rest = Recorder()
    run_phase(OfflinePhase(agent, random_dataset(), 9), Intervals(log=4, log_rest=True), with_rest)
    run_phase(OfflinePhase(agent, random_dataset(), 8), Intervals(log=4, log_rest=True), with_rest)
    assert with_rest.seen["log"] == [4, 8, 9, 4, 8]
    silent = Recorder()
    run_phase(OfflinePhase(agent, random_dataset(), 5), Intervals(), silent)
    assert silent.seen == {"log": [], "evaluate": [], "checkpoint": []}


def test_speed_is_that_of_updates_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    agent = from_spaces("iql")
    phase = OfflinePhase(agent, random_dataset(), 8)
    update = agent.update

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    def slow(source: Any, steps: int) -> None:
        passes(0.5 * steps)
        update(source, steps)

    speeds: list[float] = []
    events = Events()
    monkeypatch.setattr(agent, "update", slow)
    monkeypatch.setattr(events, "on_evaluate", lambda phase: passes(1000.0))
    monkeypatch.setattr(events, "on_log", lambda _, row: speeds.append(row["updates_per_second"]))
    monkeypatch.setattr("rlalign.phases.time.perf_counter", lambda: now)
    run_phase(phase, Intervals(log=2, evaluate=3), events)
    assert speeds == pytest.approx([2.0] * 4)


@pytest.mark.parametrize(("seconds", "looks"), [(2.0, 5), (0.2, 2), (0.0, 2)])
def test_signals_are_looked_at_every_second_or_after_every_unit(
    monkeypatch: pytest.MonkeyPatch, seconds: float, looks: int
) -> None:
    """A scheduler kills what has not ended some seconds after its signal."""
    now = 0.0
    agent = from_spaces("iql")
    phase = OfflinePhase(agent, random_dataset(), 5)
    update = agent.update

    def slow(source: Any, steps: int) -> None:
        nonlocal now
        now += seconds * steps
        update(source, steps)

    seen: list[int] = []
    events = Events()
    monkeypatch.setattr(agent, "update", slow)
    monkeypatch.setattr(events, "on_advance", lambda phase: seen.append(phase.done))
    monkeypatch.setattr("rlalign.phases.time.perf_counter", lambda: now)
    run_phase(phase, Intervals(), events)
    assert len(seen) == looks
    assert seen[0] == 1
    assert seen[-1] == 5
