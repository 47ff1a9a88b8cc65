"""Value networks: stacks of critics Q(s, a) and state values V(s)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rlalign.nn.mlp import ALL, Initialization, StackedMLP


class EnsembleCritic(nn.Module):
    """A stack of critics Q_i(s, a).

    Args:
        observation_size, action_size: lengths of one observation and action.
        hidden: widths of the hidden layers.
        members: number of critics.
        layer_norm: normalise hidden layers before their ReLU.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (256, 256),
        members: int = 2,
        *,
        layer_norm: bool = False,
        initialization: Initialization = "torch",
    ) -> None:
        super().__init__()
        self.trunk = StackedMLP(
            (observation_size + action_size, *hidden, 1),
            members,
            layer_norm=layer_norm,
            initialization=initialization,
        )

    def forward(self, observations: Tensor, actions: Tensor, only: slice | Tensor = ALL) -> Tensor:
        """Return critics' values [member, batch] at observations and actions [batch, ...].

        Args:
            only: the members asked; see `StackedMLP.forward`.
        """
        values: Tensor = self.trunk(observations, actions, only=only)
        return values.squeeze(-1)

    def first(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return the first critic's values [batch]; only while the critics are not training."""
        values: Tensor = self.trunk(observations, actions, only=slice(0, 1))
        return values.flatten()

    def minimum(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return the least of the critics' values [batch], for an actor's loss.

        While the critics do not train, backward runs each row through its least critic alone.
        """
        return self.trunk.minimum(observations, actions)

    def joint(self, observation_actions: Tensor) -> Tensor:
        """Return values [member, batch] at observations and actions side by side."""
        values: Tensor = self.trunk(observation_actions)
        return values.squeeze(-1)


class ValueCritic(nn.Module):
    """State values V(s)."""

    def __init__(
        self,
        observation_size: int,
        hidden: Sequence[int] = (256, 256),
        *,
        initialization: Initialization = "torch",
    ) -> None:
        super().__init__()
        self.trunk = StackedMLP((observation_size, *hidden, 1), initialization=initialization)

    def forward(self, observations: Tensor) -> Tensor:
        """Return values [batch] at observations [batch, obs]."""
        values: Tensor = self.trunk(observations)
        return values.flatten()
