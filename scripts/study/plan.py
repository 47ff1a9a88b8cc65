"""What the study trains: our agents, and the peers on the very same files and steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SEEDS = (0, 1, 2)
OFFLINE_UPDATES = 50_000
ONLINE_STEPS = 50_000
EVALUATE = ("evaluation.every=10000", "evaluation.episodes=20", "logging.tensorboard=false")

OFFLINE_DATASETS = (
    "hopper-medium-replay-v0",
    "halfcheetah-medium-v0",
    "walker2d-medium-replay-v0",
    "hopper-medium-v0",
)
PEER_DATASETS = OFFLINE_DATASETS[:2]
ONLINE_TASKS = ("HalfCheetah-v5", "Hopper-v5")
FINE_TUNED = "hopper-medium-replay-v0"


@dataclass(frozen=True)
class Piece:
    """One run: which program trains it, with which arguments, and where it goes.

    Args:
        program: ``rlalign``, ``d3rlpy`` or ``sb3``.
        experiment: the part of the study, a folder below the study's.
        name: what is trained, a folder below the experiment's.
        seed: of the run.
        arguments: for `rlalign`, recipe and overrides; for the peers, algorithm and task.
    """

    program: str
    experiment: str
    name: str
    seed: int
    arguments: tuple[str, ...]

    def directory(self, root: Path) -> Path:
        """Return the run directory."""
        return root / self.experiment / self.name / f"seed-{self.seed}"


def pieces() -> Iterator[Piece]:
    """Yield every run; a whole seed of all parts comes before the next seed."""
    for seed in SEEDS:
        yield from _offline(seed)
        yield from _fine_tuned(seed)
        yield from _online(seed)


def _offline(seed: int) -> Iterator[Piece]:
    for dataset in OFFLINE_DATASETS:
        for agent in ("iql", "awac", "td3_bc", "bc"):
            arguments = (
                f"{agent}/local/{dataset}",
                f"seed={seed}",
                f"offline.steps={OFFLINE_UPDATES}",
                *EVALUATE,
            )
            yield Piece("rlalign", "offline", f"{agent}-{dataset}", seed, arguments)
    for dataset in PEER_DATASETS:
        for agent in ("iql", "td3_bc"):
            yield Piece("d3rlpy", "offline", f"d3rlpy-{agent}-{dataset}", seed, (agent, dataset))


def _fine_tuned(seed: int) -> Iterator[Piece]:
    for agent in ("iql", "awac"):
        arguments = (
            f"{agent}/local/{FINE_TUNED}",
            f"seed={seed}",
            "offline.steps=30000",
            "online.steps=20000",
            "evaluation.every=2500",
            "evaluation.episodes=10",
            "logging.tensorboard=false",
        )
        yield Piece("rlalign", "offline-to-online", f"{agent}-{FINE_TUNED}", seed, arguments)


def _online(seed: int) -> Iterator[Piece]:
    for task in ONLINE_TASKS:
        recipe = f"sac/{task.lower()}"
        arguments = (recipe, f"seed={seed}", f"online.steps={ONLINE_STEPS}", *EVALUATE)
        yield Piece("rlalign", "online", f"sac-{task}", seed, arguments)
        yield Piece("sb3", "online", f"sb3-sac-{task}", seed, ("sac", task))
