"""RORL's uncertainty weight: how it falls, where it ends, and that a resumed run knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.agents.rorl import RORL
from tests.agents.naive import agree
from tests.agents.soft import disturbed
from tests.agents.test_rorl import STRONG
from tests.agents.tiny import batch_of, gradients, make, metrics_of, replay_of


@pytest.mark.parametrize(
    ("start", "floor", "decay", "updates", "wanted"),
    [
        (1.0, 0.1, 5e-7, 900_000, 0.55),
        (1.0, 0.1, 5e-7, 1_799_999, 0.1000005),
        (1.0, 0.1, 5e-7, 1_800_001, 0.1),
        (2.0, 0.1, 1e-6, 1_900_001, 0.1),
        (5.0, 0.5, 1e-5, 450_001, 0.5),
        (0.1, 0.1, 0.0, 10**6, 0.1),
    ],
)
def test_the_weight_falls_by_its_decay_and_stops_at_its_floor(
    start: float, floor: float, decay: float, updates: int, wanted: float
) -> None:
    """RO2O, invariant 9; subtracting 5e-7 step by step in single precision would be 5 % off."""
    agent = make("rorl", uncertainty=start, uncertainty_floor=floor, uncertainty_decay=decay)
    agent.learner.optimizers["critic"].steps.fill_(updates)
    assert agent.uncertainty_weight.item() == pytest.approx(wanted, rel=1e-6)


def test_the_weight_is_used_before_it_falls() -> None:
    agent = make("rorl", uncertainty=1.0, uncertainty_floor=0.2, uncertainty_decay=0.25)
    used = []
    for _ in range(5):
        agent.learner.step(batch_of(agent).rows)
        used.append(agent.learner.metrics()["uncertainty_weight"])
    assert used == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.2])
    agent.begin_online()
    assert agent.uncertainty_weight.item() == pytest.approx(0.2)


def test_once_the_weight_is_zero_the_penalty_is_not_computed() -> None:
    """Which changes nothing but the time: a penalty of weight 0 is 0."""
    settings = {"uncertainty": 0.75, "uncertainty_floor": 0.0, "uncertainty_decay": 0.25}
    agent = disturbed("rorl", **{**STRONG, **settings})
    batch = batch_of(agent)
    used = []
    for _ in range(5):
        used.append("ood_penalty" in metrics_of(agent, "critic_loss", batch))
        agent.learner.step(batch.rows)
    assert used == [True, True, True, False, False]
    assert agent.uncertainty_weight.item() == pytest.approx(0.0, abs=1e-6)
    found = gradients(agent, "critic_loss", batch)
    agent.learner.step_count = 0  # the passes are made again, with the weight of 0
    assert "ood_penalty" in metrics_of(agent, "critic_loss", batch)
    wanted = gradients(agent, "critic_loss", batch)
    torch.testing.assert_close(found[0], wanted[0])
    agree(found[1]["critic"], wanted[1]["critic"], tolerance=1e-4)


def test_a_run_resumed_while_the_weight_falls_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """RO2O, invariant 19."""
    settings = {**STRONG, "uncertainty_decay": 0.01}
    whole = make("rorl", **settings)
    replay = replay_of(whole)
    whole.update(replay, 30)
    whole.save(tmp_path / "agent")
    rest: Any = AGENTS["rorl"].load(tmp_path / "agent")
    assert rest.uncertainty_weight.item() == pytest.approx(0.6)
    whole.update(replay, 30)
    rest.update(replay, 30)
    first, second = (agent.state_dict()[0] for agent in (whole, rest))
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(whole.uncertainty_weight, rest.uncertainty_weight)
    assert rest.uncertainty_weight.item() == pytest.approx(0.3)
    # The weight is what the rest of the run depends on.
    other = make("rorl", **{**settings, "uncertainty_decay": 0.0})
    other.load_state_dict(*RORL.load(tmp_path / "agent").state_dict())
    other.update(replay, 30)
    assert not torch.equal(other.learner.flat["critic"].data, rest.learner.flat["critic"].data)
