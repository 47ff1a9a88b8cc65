"""Small agents, fixed batches, and their losses with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlalign.agent import Agent
from rlalign.agents import AGENTS
from rlalign.extras import offline_replay
from rlalign.layout import Batch
from rlalign.replay import FixedReplay
from tests.toy_data import box_spaces, random_dataset, random_rows

SMALL: dict[str, Any] = {"hidden": [16, 16], "batch_size": 32}


def make(name: str, *, spaces: Any = None, seed: int = 0, **settings: Any) -> Any:
    """An agent with small networks, made from spaces; typed loosely for its own methods."""
    return AGENTS[name](spaces or box_spaces(), seed=seed, **{**SMALL, **settings})


def batch_of(agent: Agent, count: int = 24, *, seed: int = 0, **columns: Tensor) -> Batch:
    """A batch of random rows with the noise that the agent's losses ask for.

    Columns given by name replace the random ones.
    """
    rows = random_rows(agent.layout, count, seed=seed)
    batch = Batch(rows, agent.layout)
    for name, value in columns.items():
        batch[name].copy_(value)
    generator = torch.Generator().manual_seed(seed)
    noise = {}
    for key, wanted in agent.noise.items():
        shape = wanted.shape if wanted.shared else (count, *wanted.shape)
        if wanted.kind == "normal":
            noise[key] = torch.randn(shape, generator=generator)
        else:
            noise[key] = 2 * torch.rand(shape, generator=generator) - 1
    return Batch(rows, agent.layout, noise)


def again(batch: Batch, agent: Agent) -> Batch:
    """The same batch without what losses have kept in it."""
    return Batch(batch.rows, agent.layout, batch.noise)


def gradients(agent: Agent, loss: str, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss and its gradients by trained network, as the learner would compute them."""
    update = next(update for update in agent.updates if update.loss == loss)
    flats = [agent.learner.flat[name] for name in update.networks]
    for flat in flats:
        flat.grad.zero_()
        flat.requires_grad_(True)
    value, _ = getattr(agent, loss)(agent.learner.nets, again(batch, agent))
    value.backward()
    for flat in flats:
        flat.requires_grad_(False)
    return value.detach(), {
        name: flat.grad.clone() for name, flat in zip(update.networks, flats, strict=True)
    }


def gradients_by_hand(
    agent: Agent, losses: Sequence[str], batch: Batch, *, unstepped: str = ""
) -> dict[str, Tensor]:
    """Gradients by network of losses that step one after the other; `unstepped` does not step.

    Parameters after one step of Adam say little: it hides the gradients' magnitudes.
    """
    wanted: dict[str, Tensor] = {}
    for loss in losses:
        _, found = gradients(agent, loss, batch)
        wanted |= found
        if loss != unstepped:
            for network in found:
                agent.learner.optimizers[network].step()
    return wanted


def value_of(agent: Agent, loss: str, batch: Batch) -> float:
    """A loss at a batch."""
    with torch.no_grad():
        value, _ = getattr(agent, loss)(agent.learner.nets, again(batch, agent))
    return float(value)


def metrics_of(agent: Agent, loss: str, batch: Batch) -> dict[str, Tensor]:
    """What a loss reports besides its value."""
    with torch.no_grad():
        _, metrics = getattr(agent, loss)(agent.learner.nets, again(batch, agent))
    return dict(metrics)


def leaks(agent: Agent, loss: str, batch: Batch) -> set[str]:
    """Names of networks that a loss sends gradients into if every network may train."""
    nets = agent.learner.nets
    for flat in agent.learner.flat.values():
        flat.grad.zero_()
        flat.requires_grad_(True)
    value, _ = getattr(agent, loss)(nets, again(batch, agent))
    value.backward()
    for flat in agent.learner.flat.values():
        flat.requires_grad_(False)
    return {name for name, flat in agent.learner.flat.items() if bool(flat.grad.abs().max() > 0)}


def weights(agent: Agent) -> dict[str, Tensor]:
    """A copy of every network's parameters, targets included."""
    return {name: flat.data.clone() for name, flat in agent.learner.flat.items()}


def disturb(agent: Agent, network: str, seed: int = 9) -> None:
    """Replace a network's parameters by random numbers."""
    data = agent.learner.flat[network].data
    data.copy_(0.3 * torch.randn(data.shape, generator=torch.Generator().manual_seed(seed)))


def replay_of(agent: Agent, count: int = 400) -> FixedReplay:
    """A fixed replay of random transitions in the bounds of the agent's environment."""
    low, high = float(agent.action_scale.low[0]), float(agent.action_scale.high[0])
    sizes = agent.spec.observation_size, agent.spec.action_size
    dataset = random_dataset(*sizes, count, low=low, high=high)
    return offline_replay(agent, dataset)


def learn_alike(agents: list[Any], start: dict[str, Tensor]) -> None:
    """Both agents learn for 30 updates, to the same bits, and away from `start`."""
    for agent in agents:
        agent.update(replay_of(agent), 30)
    ours, theirs = (weights(agent) for agent in agents)
    for network, found in ours.items():
        assert torch.equal(found, theirs[network]), network
        assert not torch.equal(found, start[network]), network
