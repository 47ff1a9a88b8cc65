"""The matrix products that one update of each algorithm cannot do without.

Counted at the least: nothing is computed twice, the loss's gradient reaches only what is trained,
the first layer of a network gives no input gradient unless an action flows through it, and then
only for the action's columns. The gradient of a minimum over critics goes through one critic a row,
that of a worst perturbation through one perturbation a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.workers.task import ACTION_SIZE, BATCH, HIDDEN, OBSERVATION_SIZE


@dataclass(frozen=True)
class Product:
    """`members` products of [rows, inner] by [inner, columns].

    Args:
        form: ``"forward"`` X W, ``"weight"`` X^T G, or ``"input"`` G W^T: they read memory
            differently.
        every: done on one update in so many.
    """

    form: str
    members: int
    rows: int
    inner: int
    columns: int
    every: int = 1

    @property
    def operations(self) -> float:
        """Floating-point operations an update, a multiplication and an addition counted as two."""
        return 2.0 * self.members * self.rows * self.inner * self.columns / self.every


@dataclass(frozen=True)
class Pass:
    """One pass through a stack of networks.

    Args:
        what: in words.
        network: a key of `SIZES`.
        members: how many networks the stack has.
        weights: also the gradient of all weights.
        actions: also the gradient of the input's action columns.
        forward: false where an earlier pass's activations serve.
        batches: how many batches of 256 rows pass at once.
        every: done on one update in so many.
    """

    what: str
    network: str
    members: int = 1
    weights: bool = False
    actions: bool = False
    forward: bool = True
    batches: int = 1
    every: int = 1

    def products(self) -> Iterator[Product]:
        """Yield the products of this pass, layer by layer."""
        sizes = SIZES[self.network]
        layers = list(pairwise(sizes))
        rows = BATCH * self.batches
        for number, (inner, outer) in enumerate(layers):
            common = {"members": self.members, "every": self.every}
            if self.forward:
                yield Product("forward", rows=rows, inner=inner, columns=outer, **common)
            if self.weights:
                yield Product("weight", rows=inner, inner=rows, columns=outer, **common)
            if number > 0 and (self.weights or self.actions):
                yield Product("input", rows=rows, inner=outer, columns=inner, **common)
            if number == 0 and self.actions:
                yield Product("input", rows=rows, inner=outer, columns=ACTION_SIZE, **common)


SIZES = {
    "critic": (OBSERVATION_SIZE + ACTION_SIZE, *HIDDEN, 1),
    "value": (OBSERVATION_SIZE, *HIDDEN, 1),
    # mean and log standard deviation, or the action alone
    "gaussian": (OBSERVATION_SIZE, *HIDDEN, 2 * ACTION_SIZE),
    "actor": (OBSERVATION_SIZE, *HIDDEN, ACTION_SIZE),
    # the chain from a critic's action to its value
    "action": (ACTION_SIZE, *HIDDEN, 1),
}


def sac(critics: int) -> tuple[Pass, ...]:
    """Return SAC's passes with so many critics."""
    return (
        Pass("actor at s'", "gaussian"),
        Pass("target critics at s', a'", "critic", critics),
        Pass("critics at s, a, trained", "critic", critics, weights=True),
        Pass("actor at s, trained", "gaussian", weights=True),
        Pass("critics at s, pi(s)", "critic", critics),
        Pass("the least critic's gradient of the action", "critic", actions=True, forward=False),
    )


def td3() -> tuple[Pass, ...]:
    """Return TD3's passes; TD3+BC's are the same."""
    return (
        Pass("target actor at s'", "actor"),
        Pass("target critics at s', a'", "critic", 2),
        Pass("critics at s, a, trained", "critic", 2, weights=True),
        Pass("actor at s, trained", "actor", weights=True, every=2),
        Pass("first critic at s, pi(s), gradient of the action", "critic", actions=True, every=2),
    )


def rebrac() -> tuple[Pass, ...]:
    """Return ReBRAC's passes: TD3's, but for both critics in the actor's loss."""
    *trained, _ = td3()
    return (
        *trained,
        Pass("critics at s, pi(s)", "critic", 2, every=2),
        Pass(
            "the least critic's gradient of the action",
            "critic",
            actions=True,
            forward=False,
            every=2,
        ),
    )


def iql() -> tuple[Pass, ...]:
    """Return IQL's passes; the advantage takes the value from the value's own step."""
    return (
        Pass("target critics at s, a", "critic", 2),
        Pass("value at s, trained", "value", weights=True),
        Pass("value at s'", "value"),
        Pass("critics at s, a, trained", "critic", 2, weights=True),
        Pass("actor at s, trained", "actor", weights=True),
    )


def awac() -> tuple[Pass, ...]:
    """Return AWAC's passes; the advantage takes the critics after their step."""
    return (
        Pass("actor at s'", "actor"),
        Pass("target critics at s', a'", "critic", 2),
        Pass("critics at s, a, trained", "critic", 2, weights=True),
        Pass("critics at s, a, for the advantage", "critic", 2),
        Pass("critics at s, pi(s), for the advantage", "critic", 2),
        Pass("actor at s, trained", "actor", weights=True),
    )


def edac(critics: int) -> tuple[Pass, ...]:
    """Return EDAC's passes: SAC-N's, and the action's gradient trained.

    dQ/da is a chain of products, each of which has two gradients in its turn.
    """
    return (
        *sac(critics),
        Pass("dQ/da at s, a", "critic", critics, actions=True, forward=False),
        Pass("dQ/da at s, a, trained", "action", critics, weights=True, forward=False),
    )


def rorl(critics: int, perturbations: int) -> tuple[Pass, ...]:
    """Return RORL's passes, which are RO2O's offline: SAC-N's, and three terms near the data."""
    n = perturbations
    return (
        *sac(critics),
        Pass("critics at s^, a, for the worst s^", "critic", critics, batches=n),
        Pass("critics at the worst s^, a, trained", "critic", critics, weights=True),
        Pass("actor at s^, for the worst s^", "gaussian", batches=n),
        Pass("actor at the worst s^, trained", "gaussian", weights=True),
        Pass("actor at s^, outside the data", "gaussian", batches=n),
        Pass("critics there, trained", "critic", critics, batches=n, weights=True),
    )


PASSES = {
    "sac": sac(2),
    "sac_10": sac(10),
    "edac": edac(10),
    "rorl": rorl(10, 10),
    "ro2o": rorl(10, 20),
    "td3": td3(),
    "td3_bc": td3(),
    "iql": iql(),
    "awac": awac(),
    "rebrac": rebrac(),
}


def operations(algorithm: str) -> float:
    """Return the floating-point operations of one update's products."""
    return sum(product.operations for each in PASSES[algorithm] for product in each.products())
