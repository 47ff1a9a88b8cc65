"""Ensembles and ReBRAC on Pendulum, as `test_learning` has it; thresholds leave room below."""

from __future__ import annotations

from typing import Any

import pytest

from rlalign.agents import AGENTS
from tests.agents.tasks import pendulum_return
from tests.agents.test_learning import SAC, on_pendulum, pendulum

PERTURBED: dict[str, Any] = {
    **SAC,
    "perturbations": 4,
    "shared_perturbations": False,
    "critic_radius": 0.05,
    "policy_radius": 0.05,
    "ood_radius": 0.05,
    "uncertainty_decay": 9e-5,
}
REBRAC: dict[str, Any] = {
    "batch_size": 256,
    "observation_normalization": "standard",
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "actor_penalty": 0.05,
    "critic_penalty": 0.01,
}


@pytest.mark.slow
def test_ten_critics_learn_to_swing_up_from_mostly_random_data() -> None:
    """Measured with seed 0: -151, after -334 at 2500 updates; the data's mean return is -876."""
    assert on_pendulum("sac_n", "mix", 5000, seed=0, **SAC) > -180


@pytest.mark.slow
def test_edac_learns_to_swing_up_from_mostly_random_data() -> None:
    """Measured, seeds 0 and 1: -151, -151; on the narrow data it breaks down (-1270, -1169)."""
    assert on_pendulum("edac", "mix", 5000, seed=0, **SAC) > -180


@pytest.mark.slow
def test_ro2o_learns_no_less_than_its_base() -> None:
    """Measured with seed 0: -151, after -313 at 2500 updates; SAC-N -151."""
    assert on_pendulum("ro2o", "mix", 5000, seed=0, **PERTURBED) > -180


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_rebrac_reproduces_a_narrow_controller(seed: int) -> None:
    """Measured, seeds 0 and 1: -154, -153; the data's mean return is -163.

    It comes there later than TD3+BC and not steadily: -356 and -153 at 8000 updates.
    """
    assert on_pendulum("rebrac", "narrow", 10_000, seed=seed, **REBRAC) > -220


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_rlpd_learns_online_beside_a_narrow_controller_s_data(seed: int) -> None:
    """Measured, seeds 0 and 1, after 1000 to 5000 steps: -1495 -662 -169 -153 -152 and -1621 -1056
    -493 -158 -152; the data's mean return is -163.
    """
    agent = AGENTS["rlpd"]("Pendulum-v1", seed=seed, hidden=[64, 64], critics=5, batch_size=128)
    agent.prepare(pendulum("narrow"))
    agent.learn(4000, random_steps=1000, warmup_steps=1000, updates_per_step=4)
    assert pendulum_return(agent) > -250
