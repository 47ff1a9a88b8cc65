"""A stable-baselines3 policy as the starting point of an agent's actor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rlalign.envs.spaces import ActionScale
from rlalign.errors import CheckpointError
from rlalign.interop.sb3_actor import Actor, Array, Layer
from rlalign.nn.policies import DeterministicActor, GaussianActor, TanhGaussianActor


def copy_actor(actor: Actor, scale: ActionScale, agent: Any) -> None:
    """Write `actor`'s layers into `agent`'s actor and into the target that follows it.

    Raises CheckpointError where kind, activation or shapes differ, or where the agent's
    observation statistics are still to come.
    """
    network = agent.learner.nets.actor
    last, log_std = _output(actor, scale, network)
    _check(actor, network, agent, last)
    layers = [*actor.hidden, last]
    layers[0] = _normalised(layers[0], agent.preprocessing)
    with torch.no_grad():
        for index, layer in enumerate(layers):
            network.trunk.weights[index][0].copy_(torch.from_numpy(layer.weight.T.copy()))
            network.trunk.biases[index][0, 0].copy_(torch.from_numpy(layer.bias))
        if log_std is not None:
            network.log_std.copy_(torch.from_numpy(log_std))
        flat = agent.learner.flat
        for name, target in agent.learner.targets.items():
            if target.network == "actor":
                flat[name].data.copy_(flat["actor"].data)


def _output(actor: Actor, scale: ActionScale, network: Any) -> tuple[Layer, Array | None]:
    """The agent's last layer, and its spread where that is a parameter of its own."""
    squashed = not actor.in_environment_units
    if isinstance(network, TanhGaussianActor) and isinstance(actor.log_std, Layer):
        both = (actor.mean, actor.log_std)
        weight = np.concatenate([layer.weight for layer in both])
        return Layer(weight, np.concatenate([layer.bias for layer in both])), None
    if isinstance(network, DeterministicActor) and squashed:
        return actor.mean, None
    if isinstance(network, GaussianActor) and network.tanh_mean and squashed:
        return actor.mean, None
    if isinstance(network, GaussianActor) and not network.tanh_mean and not squashed:
        half, middle = (scale.high - scale.low) / 2, (scale.high + scale.low) / 2
        assert isinstance(actor.log_std, np.ndarray)
        mean = Layer(actor.mean.weight / half[:, None], (actor.mean.bias - middle) / half)
        return mean, actor.log_std - np.log(half)
    raise CheckpointError(
        f"a policy of {actor.algorithm} cannot start this agent: its {type(network).__name__} "
        "has another kind of output"
    )


def _check(actor: Actor, network: Any, agent: Any, last: Layer) -> None:
    if actor.activation != "ReLU" or len(network.trunk.norms):
        raise CheckpointError(
            f"the policy's {actor.activation} layers do not fit the agent's actor, which has ReLU"
            + (" and layer normalisation" if len(network.trunk.norms) else "")
        )
    sizes = (actor.observation_size, *[len(layer.bias) for layer in (*actor.hidden, last)])
    if tuple(network.trunk.sizes) != sizes:
        raise CheckpointError(
            f"the policy has layers of {_dashed(sizes)}, the agent's actor "
            f"{_dashed(network.trunk.sizes)}; make the agent with hidden={list(sizes[1:-1])}"
        )
    standard = agent.settings.observation_normalization == "standard"
    if standard and not agent.preprocessing.normalizes:
        raise CheckpointError(
            "the agent normalises observations by a dataset that it has not seen; call "
            "agent.prepare(dataset) first or set observation_normalization='none'"
        )


def _normalised(layer: Layer, preprocessing: Any) -> Layer:
    """`layer` for inputs (x - mean) / std, giving what it gave for x."""
    mean, std = preprocessing.mean.cpu().numpy(), preprocessing.std.cpu().numpy()
    return Layer(layer.weight * std, layer.bias + layer.weight @ mean)


def _dashed(sizes: tuple[int, ...]) -> str:
    return "-".join(map(str, sizes))
