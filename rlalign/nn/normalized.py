"""A stacked perceptron whose hidden layers are normalised after their ReLU."""

from __future__ import annotations

from collections.abc import Sequence

from rlalign.nn.mlp import StackedMLP


class NormalizedMLP(StackedMLP):
    """Dense, ReLU, LayerNorm: ReBRAC's order (arXiv 2305.09836); `StackedMLP` norms first.

    Layer normalisation comes last, so the features of the output layer have at most the length
    sqrt(width) times the largest gain (plus the shifts), whatever the input.

    Args:
        sizes, members: as of `StackedMLP`.
    """

    norm_after_relu = True
    norm_epsilon = 1e-6  # of flax, in which ReBRAC is written

    def __init__(self, sizes: Sequence[int], members: int = 1) -> None:
        super().__init__(sizes, members, layer_norm=True)
