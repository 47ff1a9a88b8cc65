"""Policies that collect data: the ones shipped with the package, and uniform actions.

They act with numpy alone, so that collecting needs neither torch nor an agent.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlalign.errors import DatasetError

Array = NDArray[Any]
POLICIES = Path(__file__).with_name("policies")
LOG_STD_BOUNDS = (-20.0, 2.0)


class Policy(Protocol):
    """Whatever chooses actions while data is collected."""

    def act(self, observations: Array, generator: np.random.Generator) -> Array:
        """Return actions in [-1, 1] [n, act] for observations [n, obs], float32."""
        ...


@dataclass(frozen=True)
class UniformPolicy:
    """Actions drawn evenly from the whole range, as in D4RL's random datasets."""

    action_size: int

    def act(self, observations: Array, generator: np.random.Generator) -> Array:
        """Return uniform actions [n, act], whatever the observations."""
        shape = (len(observations), self.action_size)
        return generator.uniform(-1.0, 1.0, shape).astype(np.float32)


@dataclass(frozen=True)
class GaussianPolicy:
    """The actor of soft actor-critic: tanh of a Gaussian whose mean and log-deviation an MLP gives.

    Args:
        weights: matrices [in, out] of each layer; the last gives mean and log-deviation side by
            side, 2 x act wide.
        biases: vectors [out] of each layer.
        metadata: where it comes from, JSON-able.
        deterministic: act with tanh(mean) instead of sampling.
    """

    weights: Sequence[Array]
    biases: Sequence[Array]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    deterministic: bool = False

    def act(self, observations: Array, generator: np.random.Generator) -> Array:
        """Return actions [n, act]; sampled ones as D4RL's were, unless `deterministic`."""
        hidden: Array = observations.astype(np.float32, copy=False)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.maximum(hidden @ weight + bias, 0.0)
        mean, log_std = np.split(hidden @ self.weights[-1] + self.biases[-1], 2, axis=1)
        if not self.deterministic:
            low, high = self.metadata.get("log_std_bounds", LOG_STD_BOUNDS)
            noise = generator.standard_normal(mean.shape, dtype=np.float32)
            mean = mean + np.exp(np.clip(log_std, low, high)) * noise
        return np.tanh(mean)


def load_policy(path: str | Path) -> GaussianPolicy:
    """Read a policy from safetensors; weights are computed with in float32.

    Raises:
        DatasetError: if the file is missing, damaged, or its layers do not follow each other.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such behaviour policy")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = json.loads((file.metadata() or {}).get("rlalign", "{}"))
            names = set(file.keys())
            count = sum(name.endswith(".weight") for name in names)
            weights = [_layer(file, f"layers.{index}.weight") for index in range(count)]
            biases = [_layer(file, f"layers.{index}.bias") for index in range(count)]
    except (SafetensorError, ValueError, OSError) as error:
        raise DatasetError(f"{path}: this is not a readable behaviour policy ({error})") from error
    _check_layers(path, weights, biases)
    return GaussianPolicy(weights, biases, metadata)


def _layer(file: Any, name: str) -> Array:
    values: Array = file.get_tensor(name).astype(np.float32)
    return values


def _check_layers(path: Path, weights: Sequence[Array], biases: Sequence[Array]) -> None:
    if not weights:
        raise DatasetError(f"{path}: the behaviour policy has no layers")
    width = weights[0].shape[0]
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
            raise DatasetError(f"{path}: layer {index} does not fit the layers around it")
        width = weight.shape[1]
    if width % 2:
        raise DatasetError(
            f"{path}: the last layer must give means and log-deviations, got {width}"
        )


def save_policy(path: str | Path, policy: GaussianPolicy) -> Path:
    """Write a policy as safetensors, its tensors in float16, whole or not at all.

    Raises:
        DatasetError: if the file cannot be written.
    """
    from safetensors.numpy import save_file

    from rlalign.data.saving import replacing

    tensors = {}
    for index, (weight, bias) in enumerate(zip(policy.weights, policy.biases, strict=True)):
        tensors[f"layers.{index}.weight"] = np.ascontiguousarray(weight, dtype=np.float16)
        tensors[f"layers.{index}.bias"] = np.ascontiguousarray(bias, dtype=np.float16)
    path = Path(path)
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"rlalign": json.dumps(dict(policy.metadata))})
    return path


@dataclass(frozen=True)
class Shipped:
    """The policies shipped for one environment: names of files without their suffix.

    Args:
        environment: gymnasium id.
        folder: where the files lie.
        expert: the best policy.
        medium: one at about a third of the expert's return.
        replay: snapshots from the beginning of training to `medium`, equally far apart.
    """

    environment: str
    folder: Path
    expert: str
    medium: str
    replay: tuple[str, ...]

    def path(self, name: str) -> Path:
        """Return the file of the policy `name`."""
        return self.folder / f"{name}.safetensors"


@functools.cache
def _manifest(folder: Path) -> dict[str, Shipped]:
    path = folder / "manifest.json"
    if not path.is_file():
        raise DatasetError(f"{path}: this installation of rlalign lacks its behaviour policies")
    try:
        return {
            task: Shipped(
                environment=str(entry["environment"]),
                folder=folder / task,
                expert=str(entry["expert"]),
                medium=str(entry["medium"]),
                replay=tuple(map(str, entry["replay"])),
            )
            for task, entry in json.loads(path.read_text()).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: the list of behaviour policies is damaged") from error


def shipped(task: str) -> Shipped:
    """Return the policies shipped for a task such as ``hopper``.

    Raises:
        DatasetError: if there are none.
    """
    found = _manifest(POLICIES)
    if task not in found:
        raise DatasetError(
            f"no behaviour policies are shipped for {task!r}, only for {', '.join(sorted(found))}"
        )
    return found[task]


def digest(paths: Sequence[Path]) -> str:
    """Return the SHA-256 of policy files in order, ``uniform`` for none.

    Raises:
        DatasetError: if a file cannot be read.
    """
    if not paths:
        return "uniform"
    total = hashlib.sha256()
    for path in paths:
        if not path.is_file():
            raise DatasetError(f"{path}: there is no such behaviour policy")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
