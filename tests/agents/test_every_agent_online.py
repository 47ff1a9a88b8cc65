"""What every agent has to do on its way from a dataset into interaction."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.agent import Agent
from rlalign.agents import AGENTS
from rlalign.envs import Environments
from rlalign.phases import OfflinePhase, OnlinePhase
from tests.agents.tiny import SMALL, weights
from tests.envs.toy import Counter
from tests.test_phases import tagged_dataset

LENGTH = 3  # steps of an episode of Counter


def make(name: str, seed: int = 0) -> Agent:
    settings: dict[str, Any] = SMALL
    return AGENTS[name](partial(Counter, LENGTH), seed=seed, **settings)


def online(agent: Agent) -> OnlinePhase:
    """A phase with the agent's own way of going online, in small numbers."""
    defaults = agent.online_defaults
    settings = replace(
        defaults,
        random_steps=min(defaults.random_steps, 4),
        warmup_steps=min(defaults.warmup_steps, 4),
        updates_per_step=min(defaults.updates_per_step, 2),
        buffer_size=20,
    )
    environments = Environments(partial(Counter, LENGTH), 1, seed=0)
    return OnlinePhase(agent, environments, 1000, settings, dataset=tagged_dataset())


@pytest.mark.parametrize("name", AGENTS)
def test_a_run_cut_online_goes_on_bit_for_bit(name: str) -> None:
    """Within an episode, after an offline phase: whatever the losses count or anneal goes on."""
    whole = make(name)
    OfflinePhase(whole, tagged_dataset(), 10).advance(10)
    phase = online(whole)
    phase.advance(16)
    assert whole.online
    copies = [
        ({key: tensor.clone() for key, tensor in tensors.items()}, json.loads(json.dumps(state)))
        for tensors, state in (whole.state_dict(), phase.state_dict())
    ]
    middle = weights(whole)
    rest = make(name, seed=4)
    rest.prepare(tagged_dataset())
    rest.load_state_dict(*copies[0])
    resumed = online(rest)  # a phase begins from the agent as it is then
    rest.load_state_dict(*copies[0])
    resumed.load_state_dict(*copies[1])
    phase.advance(15)
    resumed.advance(15)
    tensors, state = whole.state_dict()
    others, other_state = rest.state_dict()
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)
    assert {**other_state, "seed": 0} == state
    assert np.array_equal(resumed.environments.current, phase.environments.current)
    trained = {network for update in whole.updates for network in update.networks}
    assert any(not torch.equal(middle[n], weights(whole)[n]) for n in trained)
