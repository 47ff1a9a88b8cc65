"""The actor inside a stable-baselines3 policy's tensors, rebuilt from their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlalign.errors import CheckpointError

Array = np.ndarray
Tensors = Mapping[str, torch.Tensor]

# stable-baselines3 clamps SAC's log standard deviation to these.
_LOG_STD_BOUNDS = (-20.0, 2.0)


def _elu(x: Array) -> Array:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _silu(x: Array) -> Array:
    return x * (0.5 * (1 + np.tanh(x / 2)))


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "ReLU": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "ELU": _elu,
    "SiLU": _silu,
    "LeakyReLU": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
}


@dataclass(frozen=True)
class Layer:
    """An affine map: `weight` [out, in], `bias` [out]."""

    weight: Array
    bias: Array

    def __call__(self, inputs: Array) -> Array:
        """Map [batch, in] to [batch, out]."""
        return inputs @ self.weight.T + self.bias


@dataclass(frozen=True)
class Actor:
    """Hidden layers, the mean's layer, and the spread: a layer (SAC), a vector (PPO) or none."""

    algorithm: str
    activation: str
    hidden: tuple[Layer, ...]
    mean: Layer
    log_std: Layer | Array | None

    @property
    def observation_size(self) -> int:
        """Length of an observation."""
        return int((self.hidden or (self.mean,))[0].weight.shape[1])

    @property
    def action_size(self) -> int:
        """Length of an action."""
        return int(self.mean.weight.shape[0])

    @property
    def in_environment_units(self) -> bool:
        """Whether it acts in the environment's units (PPO) rather than in [-1, 1]."""
        return self.algorithm == "PPO"

    def act(self, observations: Array, rng: np.random.Generator | None) -> Array:
        """Actions [batch, act] at `observations` [batch, obs]; the mode without `rng`."""
        features = observations
        for layer in self.hidden:
            features = _ACTIVATIONS[self.activation](layer(features))
        raw = self.mean(features)
        if rng is not None and self.log_std is not None:
            raw = raw + self._spread(features) * rng.standard_normal(raw.shape, np.float32)
        return raw if self.in_environment_units else np.tanh(raw)

    def _spread(self, features: Array) -> Array:
        assert self.log_std is not None
        if isinstance(self.log_std, Layer):
            return np.exp(np.clip(self.log_std(features), *_LOG_STD_BOUNDS))
        return np.exp(self.log_std)


def read_actor(tensors: Tensors, data: Mapping[str, Any], path: str) -> Actor:
    """The actor of a policy's `tensors`. Raises CheckpointError for one that is not supported."""
    if data.get("use_sde") is True:
        raise CheckpointError(f"{path}: state-dependent exploration is not supported")
    if any("features_extractor" in name for name in tensors):
        raise CheckpointError(f"{path}: the policy does not observe a flat vector")
    kind = next((kind for kind in _KINDS if f"{kind.marker}.weight" in tensors), None)
    if kind is None:
        raise CheckpointError(f"{path}: holds no policy of SAC, TD3, DDPG, PPO or A2C")
    activation = _activation(data, kind.activation, path)
    layers = _layers(tensors, kind.layers, path)
    if kind.mean is None:
        *hidden, mean = layers
        spread = None
    else:
        hidden, mean = layers, _layer(tensors, kind.mean)
        spread = _spread(tensors, kind.log_std, path)
    actor = Actor(kind.algorithm, activation, tuple(hidden), mean, spread)
    _check_chain(actor, path)
    return actor


@dataclass(frozen=True)
class _Kind:
    """Where an algorithm's policy keeps its parts; without `mean` the last layer is the mean."""

    algorithm: str
    marker: str
    layers: str
    mean: str | None
    log_std: str
    activation: str  # unless the file names one


_KINDS = (
    _Kind("SAC", "actor.mu", "actor.latent_pi", "actor.mu", "actor.log_std", "ReLU"),
    _Kind("TD3", "actor.mu.0", "actor.mu", None, "", "ReLU"),
    _Kind("PPO", "action_net", "mlp_extractor.policy_net", "action_net", "log_std", "Tanh"),
)


def _activation(data: Mapping[str, Any], default: str, path: str) -> str:
    """The activation's name: `policy_kwargs` is plain JSON, or text where it names a class."""
    settings = data.get("policy_kwargs")
    named = settings.get("activation_fn") if isinstance(settings, dict) else None
    if named is None:
        return default
    found = re.fullmatch(r"<class '([\w.]+)'>", str(named))
    name = found.group(1).rsplit(".", 1)[-1] if found else str(named)
    if name not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise CheckpointError(f"{path}: activation {name} is not supported, only {known}")
    return name


def _layers(tensors: Tensors, prefix: str, path: str) -> list[Layer]:
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.(weight|bias)")
    matches = [pattern.fullmatch(name) for name in tensors if name.startswith(prefix + ".")]
    if any(match is None for match in matches):
        raise CheckpointError(f"{path}: {prefix} holds more than affine layers")
    indices = sorted({int(match.group(1)) for match in matches if match is not None})
    names = [f"{prefix}.{index}" for index in indices]
    if any(f"{name}.{part}" not in tensors for name in names for part in ("weight", "bias")):
        raise CheckpointError(f"{path}: {prefix} lacks a weight or a bias")
    layers = [_layer(tensors, name) for name in names]
    if any(layer.weight.ndim != 2 for layer in layers):
        raise CheckpointError(f"{path}: {prefix} holds more than affine layers")
    return layers


def _layer(tensors: Tensors, name: str) -> Layer:
    arrays = [tensors[f"{name}.{part}"].to(torch.float32).numpy() for part in ("weight", "bias")]
    return Layer(*arrays)


def _spread(tensors: Tensors, name: str, path: str) -> Layer | Array:
    if f"{name}.weight" in tensors:
        return _layer(tensors, name)
    if name in tensors:
        return tensors[name].to(torch.float32).numpy()
    raise CheckpointError(f"{path}: the policy has no {name}; are its actions discrete?")


def _check_chain(actor: Actor, path: str) -> None:
    layers = [*actor.hidden, actor.mean]
    widths = [actor.observation_size]
    for layer in layers:
        if layer.weight.ndim != 2 or layer.weight.shape[1] != widths[-1]:
            raise CheckpointError(f"{path}: the shapes of the policy's layers do not fit together")
        if layer.bias.shape != (layer.weight.shape[0],):
            raise CheckpointError(f"{path}: the shapes of the policy's layers do not fit together")
        widths.append(layer.weight.shape[0])
    if isinstance(actor.log_std, Layer):
        fits = actor.log_std.weight.shape == actor.mean.weight.shape
    else:
        fits = actor.log_std is None or actor.log_std.shape == (actor.action_size,)
    if not fits:
        raise CheckpointError(f"{path}: the policy's spread does not fit its mean")
