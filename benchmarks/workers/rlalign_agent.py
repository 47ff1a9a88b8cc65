"""rlalign's agents, through the `update` method that offline and online phases call."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import rlalign.agents as agents
from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.task import BATCH, EPISODE, HIDDEN, spaces, transitions
from rlalign.agent import Agent
from rlalign.data.dataset import Dataset
from rlalign.extras import offline_replay
from rlalign.layout import Layout
from rlalign.replay import FixedReplay

# Class and what differs from its defaults.
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "sac": ("SAC", {}),
    "sac_10": ("SAC", {"critics": 10}),
    "edac": ("EDAC", {"critics": 10}),
    "rorl": ("RORL", {"critics": 10, "perturbations": 10}),
    "ro2o": ("RO2O", {"critics": 10, "perturbations": 20}),
    "td3": ("TD3", {}),
    "td3_bc": ("TD3BC", {}),
    "iql": ("IQL", {}),
    "iql_before": ("IQL", {"fresh_value": False}),
    "awac": ("AWAC", {}),
    "cql": ("CQL", {"lagrange": True}),
    "rebrac": ("ReBRAC", {}),
    "famo2o_iql": ("FamO2OIQL", {}),
    "famo2o_iql_each": ("FamO2OIQL", {"balance_every": 1}),
    "famo2o_awac": ("FamO2OAWAC", {}),
    "famo2o_cql": ("FamO2OCQL", {"lagrange": True, "layer_norm": False}),  # as CQL above
}


def replay(job: Job, agent: Agent) -> FixedReplay:
    """Return the transitions as the agent's packed table on the device."""
    data = transitions(job.transitions, job.seed)
    layout = Layout(data.observations.shape[1], data.actions.shape[1])
    table = torch.zeros(job.transitions, layout.width)
    for name in ("observations", "actions", "next_observations"):
        table[:, layout.columns[name]] = torch.from_numpy(np.ascontiguousarray(getattr(data, name)))
    table[:, layout.columns["rewards"]] = torch.from_numpy(data.rewards)[:, None]
    ends = np.append(np.arange(EPISODE, job.transitions, EPISODE), job.transitions)
    return offline_replay(agent, Dataset(table, layout, ends, "made up"))


def build(job: Job, *, accelerated: bool = True, **changes: Any) -> Agent:
    """Return the agent with batch and network sizes of the task."""
    name, settings = AGENTS[job.algorithm]
    agent: Agent = getattr(agents, name)(
        spaces(),
        seed=job.seed,
        device=job.device,
        accelerated=accelerated,
        batch_size=BATCH,
        hidden=HIDDEN,
        **settings,
        **changes,
    )
    return agent


def setup(job: Job) -> Contest:
    """Build agent and replay."""
    torch.set_num_threads(job.threads)
    return contest(build(job), job)


def contest(agent: Agent, job: Job) -> Contest:
    """Let an agent learn from the job's replay."""
    source = replay(job, agent)

    def run(updates: int) -> None:
        agent.update(source, updates)
        if job.device == "cuda":
            torch.cuda.synchronize()

    return Contest(run)


if __name__ == "__main__":
    serve(setup, ("rlalign", "torch", "numpy"))
