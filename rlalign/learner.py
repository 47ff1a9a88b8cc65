"""Runs an agent's losses: optimisers, target networks, cadence, noise, accelerated execution."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from rlalign.errors import CheckpointError, TrainingError
from rlalign.generators import restore_generator
from rlalign.layout import Batch, Layout
from rlalign.memory import keep_freed_memory
from rlalign.nn.mlp import set_accelerated
from rlalign.optim import AdamSettings, FlatAdam, FlatParameters, clip_gradient_norm

Metrics = dict[str, Tensor]
Loss = Callable[[Any, Batch], tuple[Tensor, Metrics]]


@dataclass(frozen=True)
class Update:
    """One gradient step: which networks learn, from which loss, how often and how fast.

    Args:
        networks: names of the networks trained; every other network is frozen meanwhile.
        loss: name of the agent's method ``loss(nets, batch) -> (loss, metrics)``.
        optimizer: constants of Adam, one for all networks or one by network name.
        every: run on one step in so many.
        offset: which one: the step's remainder by `every`, 0 for the first.
        schedule: ``"cosine"`` lowers the rate to 0 over the learner's horizon and keeps it there;
            without a horizon (online) the rate is constant.
        max_grad_norm: clip each network's gradient to this norm.
        source: name of the batch the loss is given, for agents with data of several kinds.
    """

    networks: tuple[str, ...]
    loss: str
    optimizer: AdamSettings | Mapping[str, AdamSettings] = field(default_factory=AdamSettings)
    every: int = 1
    offset: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    max_grad_norm: float | None = None
    source: str = "replay"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if not 0 <= self.offset < self.every:
            raise ValueError(f"offset must be from 0 to {self.every - 1}, got {self.offset}")

    def due(self, step: int) -> bool:
        """Whether it runs on the step of this number, counted from 0."""
        return step % self.every == self.offset

    def adam(self, network: str) -> AdamSettings:
        """Return the constants for one network."""
        if isinstance(self.optimizer, AdamSettings):
            return self.optimizer
        return self.optimizer[network]


@dataclass(frozen=True)
class Target:
    """A slowly moving copy of a network.

    Args:
        network: name of the network followed.
        rate: target <- (1 - rate) target + rate network.
        every: average after steps divisible by it.
    """

    network: str
    rate: float = 0.005
    every: int = 1

    def __post_init__(self) -> None:
        if not 0.0 < self.rate <= 1.0 or self.every < 1:
            raise ValueError(f"need 0 < rate <= 1 and every >= 1, got {self.rate}, {self.every}")


@dataclass(frozen=True)
class Noise:
    """Random numbers a loss consumes, drawn by the learner for every row of a batch.

    Args:
        shape: shape per row, such as ``(act,)`` or ``(samples, act)``.
        kind: standard normal, or uniform on [-1, 1].
        shared: draw `shape` once for the whole batch.
    """

    shape: tuple[int, ...]
    kind: Literal["normal", "uniform"] = "normal"
    shared: bool = False


class Networks(nn.Module):
    """An agent's networks by name: ``nets.actor``, ``nets.critic``, ``nets.critic_target``."""

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        for name, network in networks.items():
            self.add_module(name, network)

    if TYPE_CHECKING:  # modules of any kind, by name

        def __getattr__(self, name: str) -> Any: ...


class Learner:
    """Owns parameters, optimisers and targets, and applies an agent's updates to batches.

    Args:
        networks: the trained networks by name.
        targets: target networks by name; each starts as a copy of what it follows.
        updates: the steps, in the order in which they run.
        losses: the agent, or any object with the loss methods that `updates` name.
        noise: what the losses consume besides rows.
        layout: columns of the packed rows.
        device: where everything lies.
        generator: draws the noise; on `device`.
        accelerated: use the stacked MLP's own backward and, on CUDA, captured graphs.
    """

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        *,
        targets: Mapping[str, Target],
        updates: Sequence[Update],
        losses: object,
        noise: Mapping[str, Noise],
        layout: Layout,
        device: torch.device | str = "cpu",
        generator: torch.Generator,
        accelerated: bool = True,
    ) -> None:
        self.device = torch.device(device)
        self.layout = layout
        self.noise = dict(noise)
        self.targets = dict(targets)
        self.generator = generator
        modules = dict(networks)
        for name, target in targets.items():
            modules[name] = copy.deepcopy(networks[target.network])
        self.nets = Networks(modules)
        set_accelerated(self.nets, accelerated)
        self.flat = {name: FlatParameters(net, self.device) for name, net in modules.items()}
        self.nets.to(self.device)  # buffers; the parameters already lie in the flat tensors
        for flat in self.flat.values():
            flat.requires_grad_(False)
        self.updates = tuple(updates)
        self.optimizers: dict[str, FlatAdam] = {}
        for update in self.updates:
            for name in update.networks:
                if name not in networks:
                    raise ValueError(f"update {update.loss!r} trains {name!r}, which is no network")
                if name not in self.optimizers:
                    self.optimizers[name] = FlatAdam(self.flat[name], update.adam(name))
        self._losses: list[Loss] = [getattr(losses, update.loss) for update in self.updates]
        self.step_count = 0
        self._horizon: tuple[int, int] | None = None  # first and one past the last scheduled step
        # By update: its loss and unreduced metrics when it last ran, still on the device.
        self.latest: dict[str, Metrics] = {}
        self._check_every = 1 if self.device.type == "cpu" else 100
        if accelerated and self.device.type == "cpu":
            keep_freed_memory()
        self._graphs = None
        if accelerated and self.device.type == "cuda":
            from rlalign.graphs import CapturedSteps

            self._graphs = CapturedSteps(self)

    def step(self, rows: Tensor | Mapping[str, Tensor]) -> None:
        """Run every update that is due on one batch.

        Args:
            rows: packed rows [batch, width], already transformed; or one such batch per source.

        Raises:
            TrainingError: if a loss is not finite. On a CPU that is seen before its step, so the
                parameters are those before it; on a GPU every 100 steps, to keep it busy.
        """
        batches = {"replay": rows} if isinstance(rows, Tensor) else dict(rows)
        self._set_learning_rates()
        noise = {name: self.draw_noise(len(batch)) for name, batch in batches.items()}
        if self._graphs is not None:
            self._graphs.replay(batches, noise)
        else:
            self.apply(batches, noise)
        self.step_count += 1
        if self.device.type != "cpu" and self.step_count % self._check_every == 0:
            self.check_finite()

    def apply(
        self, batches: Mapping[str, Tensor], noise: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Run the updates due at `step_count`; pure device work that a graph can capture."""
        views = {name: Batch(rows, self.layout, noise[name]) for name, rows in batches.items()}
        for update, loss_function in zip(self.updates, self._losses, strict=True):
            if not update.due(self.step_count):
                continue
            batch = views[update.source]
            trained = [self.flat[name] for name in update.networks]
            for flat in trained:
                flat.requires_grad_(True)
                flat.grad.zero_()
            loss, metrics = loss_function(self.nets, batch)
            self.latest[update.loss] = {update.loss: loss, **metrics}
            if self.device.type == "cpu" and not math.isfinite(loss.item()):
                self._raise_not_finite(update.loss, loss.item())
            torch.autograd.backward((loss,))
            for name, flat in zip(update.networks, trained, strict=True):
                flat.requires_grad_(False)
                if update.max_grad_norm is not None:
                    clip_gradient_norm(flat, update.max_grad_norm)
                self.optimizers[name].step()
        for name, target in self.targets.items():
            if self.step_count % target.every == 0:
                self.flat[name].data.lerp_(self.flat[target.network].data, target.rate)

    def recapture(self) -> None:
        """Forget metrics and captured graphs: what losses read besides tensors has changed."""
        self.latest = {}
        if self._graphs is not None:
            self._graphs.clear()

    def draw_noise(self, batch_size: int) -> dict[str, Tensor]:
        """Draw all noise of one batch: one call per kind, split into views by name."""
        drawn: dict[str, Tensor] = {}
        for kind in ("normal", "uniform"):
            noises = {name: noise for name, noise in self.noise.items() if noise.kind == kind}
            sizes = {name: math.prod(n.shape) for name, n in noises.items() if not n.shared}
            if sizes:
                block = self._draw((batch_size, sum(sizes.values())), kind)
                parts = block.split(list(sizes.values()), dim=1)
                for name, part in zip(sizes, parts, strict=True):
                    drawn[name] = part.unflatten(1, noises[name].shape)
            for name, noise in noises.items():
                if noise.shared:
                    drawn[name] = self._draw(noise.shape, kind)
        return drawn

    def _draw(self, shape: tuple[int, ...], kind: str) -> Tensor:
        if kind == "normal":
            return torch.randn(shape, generator=self.generator, device=self.device)
        drawn = torch.rand(shape, generator=self.generator, device=self.device)
        return drawn.mul_(2.0).sub_(1.0)

    def metrics(self) -> dict[str, float]:
        """Return means of each update's latest loss and metrics; this waits for the device."""
        return {
            name: float(value.detach().float().mean())
            for metrics in self.latest.values()
            for name, value in metrics.items()
        }

    def check_finite(self) -> None:
        """Raise TrainingError if an update's latest loss was not finite."""
        for update in self.updates:
            if update.loss in self.latest:
                value = float(self.latest[update.loss][update.loss].detach())
                if not math.isfinite(value):
                    self._raise_not_finite(update.loss, value)

    def _raise_not_finite(self, loss: str, value: float) -> None:
        for flat in self.flat.values():
            flat.requires_grad_(False)
        raise TrainingError(f"{loss} became {value} at update {self.step_count + 1}")

    def set_horizon(self, steps: int | None) -> None:
        """Let schedules run over the next `steps` steps; None makes every rate constant.

        Rates begin as the updates state them, whatever a checkpoint held.
        """
        self._horizon = None if steps is None else (self.step_count, self.step_count + int(steps))
        for update in self.updates:
            for name in update.networks:
                self.optimizers[name].set_learning_rate(update.adam(name).learning_rate)

    def _set_learning_rates(self) -> None:
        if self._horizon is None:
            return
        first, end = self._horizon
        progress = min(1.0, (self.step_count - first) / (end - first)) if end > first else 1.0
        for update in self.updates:
            if update.schedule == "cosine":
                factor = 0.5 * (1.0 + math.cos(math.pi * progress))
                for name in update.networks:
                    rate = update.adam(name).learning_rate
                    self.optimizers[name].set_learning_rate(rate * factor)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return every network and target (flat), optimiser, generator and count."""
        tensors = {f"networks/{name}": flat.data for name, flat in self.flat.items()}
        for name, optimizer in self.optimizers.items():
            for key, value in optimizer.state_dict().items():
                tensors[f"optimizers/{name}/{key}"] = value
        tensors["generators/noise"] = self.generator.get_state()
        return tensors, {
            "step_count": self.step_count,
            "horizon": self._horizon,
            "device": self.device.type,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            CheckpointError: if a tensor is missing, left over, or of another shape.
        """
        mine, _ = self.state_dict()
        if set(mine) != set(tensors):
            different = sorted(set(mine) ^ set(tensors))
            raise CheckpointError(f"the checkpoint does not fit this agent: {different[0]} differs")
        for name, tensor in tensors.items():
            if tensor.shape != mine[name].shape and not name.startswith("generators/"):
                raise CheckpointError(
                    f"the checkpoint's {name} has shape {list(tensor.shape)}, "
                    f"this agent's has {list(mine[name].shape)}"
                )
        for name, flat in self.flat.items():
            flat.data.copy_(tensors[f"networks/{name}"])
        for name, optimizer in self.optimizers.items():
            keys = optimizer.state_dict()
            optimizer.load_state_dict({key: tensors[f"optimizers/{name}/{key}"] for key in keys})
        saved_on = str(state.get("device", self.device.type))  # older checkpoints lack it
        restore_generator(self.generator, tensors["generators/noise"], saved_on)
        self.step_count = int(state["step_count"])
        self._horizon = None if state["horizon"] is None else tuple(state["horizon"])
