"""Agents on small tasks. Thresholds leave room below what was measured, which the tests state.

Measured on one CPU thread, mean returns of the deterministic policy at the last update.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from rlalign.agents import AGENTS
from rlalign.data.dataset import Dataset
from rlalign.phases import OfflinePhase
from tests.agents.tasks import (
    POINT_MASS_SPACES,
    pendulum_data,
    pendulum_return,
    point_mass_data,
    point_mass_return,
)


@cache
def point_mass() -> Dataset:
    return point_mass_data()


@cache
def pendulum(kind: str) -> Dataset:
    return pendulum_data(kind)


def on_point_mass(name: str, updates: int, *, seed: int = 0, **settings: Any) -> float:
    settings = {"hidden": [128, 128], **settings}
    agent = AGENTS[name](POINT_MASS_SPACES, seed=seed, **settings)
    OfflinePhase(agent, point_mass(), updates).advance(updates)
    return point_mass_return(agent)


def on_pendulum(name: str, kind: str, updates: int, *, seed: int, **settings: Any) -> float:
    agent = AGENTS[name]("Pendulum-v1", seed=seed, hidden=[64, 64, 64], **settings)
    OfflinePhase(agent, pendulum(kind), updates).advance(updates)
    return pendulum_return(agent)


def test_the_point_mass_data_is_the_one_that_thresholds_were_measured_on() -> None:
    assert float(point_mass().episode_returns().mean()) == pytest.approx(-21.6, abs=0.2)


def test_iql_soon_leaves_cloning_behind_on_the_point_mass() -> None:
    """Measured with seeds 0, 1, 2: IQL -6.8, -7.1, -7.4; cloning -16.4, -18.7, -17.0."""
    small: dict[str, Any] = {"hidden": [64, 64], "batch_size": 128}
    learned = on_point_mass("iql", 1000, **small)
    cloned = on_point_mass("bc", 1000, **small)
    assert learned > -10
    assert -24 < cloned < learned - 5


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_iql_solves_the_point_mass_and_needs_its_temperature(seed: int) -> None:
    """Measured, seeds 0 and 1: -3.73, -3.68; with beta 0: -17.3, -17.2."""
    assert on_point_mass("iql", 3000, seed=seed) > -5
    assert on_point_mass("iql", 3000, seed=seed, beta=0.0) < -12


@pytest.mark.slow
@pytest.mark.parametrize("weight", ["exp", "softmax"])
@pytest.mark.parametrize("seed", [0, 1])
def test_awac_solves_the_point_mass(seed: int, weight: str) -> None:
    """Measured, seeds 0 and 1: exp -3.91, -4.29; softmax -3.93, -4.32."""
    assert on_point_mass("awac", 3000, seed=seed, weight=weight) > -8


# Pendulum: cloning reproduces a narrow good controller and cannot leave mostly random data;
# pessimism by critics alone does the reverse. Good scores in all four corners mean that data of
# the environment leaks, bad ones that something is broken.


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_td3_bc_reproduces_a_narrow_controller(seed: int) -> None:
    """Measured, seeds 0 and 1: -157, -158; the data's mean return is -163."""
    assert on_pendulum("td3_bc", "narrow", 7500, seed=seed) > -220


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_td3_bc_stays_with_mostly_random_data(seed: int) -> None:
    """Measured, seeds 0 and 1: -816, -825; the data's mean return is -876."""
    assert on_pendulum("td3_bc", "mix", 7500, seed=seed) < -600


SAC: dict[str, Any] = {"batch_size": 128, "observation_normalization": "standard"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_sac_learns_to_swing_up_from_mostly_random_data(seed: int) -> None:
    """Measured, seeds 0 and 1: -157, -151; the data's mean return is -876."""
    assert on_pendulum("sac", "mix", 5000, seed=seed, **SAC) > -180


@pytest.mark.slow
def test_sac_breaks_down_on_narrow_data() -> None:
    """Measured, seeds 0 and 1: -1153, -1253; the data's mean return is -163."""
    assert on_pendulum("sac", "narrow", 5000, seed=0, **SAC) < -600
