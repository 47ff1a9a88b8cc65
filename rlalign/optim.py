"""Parameters in one flat buffer per network, and optimisers that step it in one call."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class FlatParameters:
    """All parameters of a module as views of one flat tensor, their gradients likewise.

    One optimiser call, one averaging call and one norm then serve the whole network. The module
    stays an ordinary module: its parameters are leaves and plain autograd fills their `.grad`.

    Args:
        module: its parameters are moved, in order, into `data` [n]; `grad` [n] starts at zero.
        device: where the buffers lie.
    """

    def __init__(self, module: nn.Module, device: torch.device | str = "cpu") -> None:
        parameters = list(module.parameters())
        if not parameters:
            raise ValueError(f"{type(module).__name__} has no parameters")
        self.parameters = parameters
        size = sum(parameter.numel() for parameter in parameters)
        self.data = torch.empty(size, device=device)
        self.grad = torch.zeros(size, device=device)
        start = 0
        for parameter in parameters:
            where = slice(start, start + parameter.numel())
            start = where.stop
            self.data[where] = parameter.detach().flatten().to(device)
            parameter.data = self.data[where].view(parameter.shape)
            parameter.grad = self.grad[where].view(parameter.shape)

    def requires_grad_(self, wanted: bool) -> None:
        """Train or freeze every parameter."""
        for parameter in self.parameters:
            parameter.requires_grad_(wanted)


@dataclass(frozen=True)
class AdamSettings:
    """Adam (arXiv 1412.6980); with `weight_decay` above 0 the decoupled form, AdamW."""

    learning_rate: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0


class FlatAdam:
    """Adam over one flat buffer, a single fused kernel a step.

    Equal to `torch.optim.Adam(W)` with `fused=True`, without the per-call bookkeeping that costs
    more than the arithmetic of a small network.

    Args:
        parameters: the buffers to train.
        settings: constants; the learning rate may be changed later by `set_learning_rate`.
    """

    def __init__(self, parameters: FlatParameters, settings: AdamSettings) -> None:
        self.parameters = parameters
        self.settings = settings
        device = parameters.data.device
        self.first_moment = torch.zeros_like(parameters.data)
        self.second_moment = torch.zeros_like(parameters.data)
        self.steps = torch.zeros((), device=device)
        # A tensor, so that a captured CUDA graph sees a changed rate.
        self.learning_rate = torch.tensor(settings.learning_rate, device=device)
        self._kernel = torch._fused_adamw_ if settings.weight_decay > 0 else torch._fused_adam_

    def set_learning_rate(self, value: float) -> None:
        """Use another rate from the next step on."""
        self.learning_rate.fill_(value)

    def step(self) -> None:
        """Apply one step from the gradients in the buffer."""
        settings = self.settings
        self.steps.add_(1)
        self._kernel(
            [self.parameters.data],
            [self.parameters.grad],
            [self.first_moment],
            [self.second_moment],
            [],
            [self.steps],
            lr=self.learning_rate,
            beta1=settings.betas[0],
            beta2=settings.betas[1],
            weight_decay=settings.weight_decay,
            eps=settings.eps,
            amsgrad=False,
            maximize=False,
        )

    def reset(self) -> None:
        """Forget the moments and the step count, as if no step had been made."""
        for tensor in (self.first_moment, self.second_moment, self.steps):
            tensor.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        """Return moments, step count and learning rate."""
        return {
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "steps": self.steps,
            "learning_rate": self.learning_rate,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, tensor in self.state_dict().items():
            tensor.copy_(state[name])


def clip_gradient_norm(parameters: FlatParameters, limit: float) -> None:
    """Scale the gradient buffer so that its Euclidean norm is at most `limit`."""
    norm = torch.linalg.vector_norm(parameters.grad)
    parameters.grad.mul_((limit / (norm + 1e-6)).clamp(max=1.0))
