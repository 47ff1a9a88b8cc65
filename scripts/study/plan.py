"""What the study trains: our agents, and the peers on the very same files and steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

SEEDS = (0, 1, 2)
OFFLINE_UPDATES = 50_000
LONGER_UPDATES = 150_000
ONLINE_STEPS = 50_000
EVALUATE = ("evaluation.every=10000", "evaluation.episodes=20", "logging.tensorboard=false")

OFFLINE_DATASETS = (
    "hopper-medium-replay-v0",
    "halfcheetah-medium-v0",
    "walker2d-medium-replay-v0",
    "hopper-medium-v0",
)
PEER_DATASETS = OFFLINE_DATASETS[:2]
LONGER_DATASETS = OFFLINE_DATASETS[2:]  # where agents are still rising after 50,000 updates
CONSTANT_RATE = "settings.actor_schedule=constant"
ONLINE_TASKS = ("HalfCheetah-v5", "Hopper-v5")
FINE_TUNED = "hopper-medium-replay-v0"
PREFERENCE = ("dpo", "simpo", "hypo", "srpo")


@dataclass(frozen=True)
class Cut:
    """What a run of the comparison has other than its recipe, so that it ends in an hour.

    Args:
        seeds: how many.
        overrides: of the recipe.
        hopper, walker2d: further ones on hopper-medium-replay and on walker2d-medium.
        agent: whose recipe it is, where the name says more.
    """

    seeds: int = 3
    overrides: tuple[str, ...] = ()
    hopper: tuple[str, ...] = ()
    walker2d: tuple[str, ...] = ()
    agent: str = ""


TWO_LAYERS = "settings.hidden=[256,256]"
OFFLINE_AGENTS: dict[str, tuple[str, ...]] = {"iql": (), "awac": (TWO_LAYERS,), "td3_bc": ()}
# The comparison has two layers of 128 for all, and where critics are many, or are asked about many
# actions or perturbed states, fewer of those: a fifth of the time of the recipes' sizes.
NARROW = "settings.hidden=[128,128]"
COMPARED_DATASETS = ("hopper-medium-replay-v0", "walker2d-medium-v0")
# What FamO2O-CQL has and CQL's own recipe has not, so that FamO2O alone is between the two.
AS_FAMO2O = (
    "settings.layer_norm=true",
    "settings.cql_weight=1",
    "settings.head_gain=0.1",
    "settings.observation_normalization=none",
    "online.update_after=1000",
)
# CQL's and Cal-QL's own rates are lower, for a million updates.
CONSERVATIVE = (
    NARROW,
    "settings.action_samples=4",
    "settings.actor_learning_rate=3e-4",
    "settings.temperature_learning_rate=3e-4",
)
# Steps without updates take no larger share of these 20,000 than of the recipes' many.
ENSEMBLE = (NARROW, "settings.critics=10", "online.warmup_steps=500")
PERTURBED = (*ENSEMBLE, "settings.perturbations=2")
# Weights that fall over the phases fall over these shorter ones: to half in 20,000 steps online;
# lambda to its floor by about the same share of the 30,000 updates offline as in the recipes.
# IQL's actor has the rate that FamO2O's has.
COMPARED = {
    "iql": Cut(overrides=(NARROW, CONSTANT_RATE)),
    "awac": Cut(overrides=(NARROW,)),
    "td3_bc": Cut(overrides=(NARROW, "settings.online_cloning_updates=20000")),
    "famo2o_iql": Cut(overrides=(NARROW,)),
    "famo2o_awac": Cut(overrides=(NARROW,)),
    "rebrac": Cut(
        overrides=(NARROW, "settings.batch_size=256", "settings.online_penalty_updates=20000")
    ),
    "cql": Cut(overrides=CONSERVATIVE),
    "cal_ql": Cut(overrides=CONSERVATIVE),
    "famo2o_cql": Cut(overrides=(NARROW, "settings.action_samples=4")),
    "cql_as_famo2o": Cut(overrides=(*CONSERVATIVE, *AS_FAMO2O), agent="cql"),
    "sac_n": Cut(seeds=2, overrides=ENSEMBLE),
    "edac": Cut(seeds=2, overrides=ENSEMBLE),
    "rorl": Cut(
        seeds=2,
        overrides=PERTURBED,
        hopper=("settings.uncertainty_decay=1e-4",),
        walker2d=("settings.uncertainty_decay=5e-5",),
    ),
    "ro2o": Cut(
        seeds=2,
        overrides=PERTURBED,
        hopper=("settings.uncertainty_decay=8.33e-5",),
        walker2d=("settings.uncertainty_decay=4.17e-5",),
    ),
    "rlpd": Cut(
        seeds=2,
        overrides=(
            NARROW,
            "online.updates_per_step=4",
            "online.random_steps=1000",
            "online.warmup_steps=1000",
        ),
    ),
}
BESIDE_D3RLPY = {
    "cql": (TWO_LAYERS, "settings.action_samples=4", "settings.cql_weight=10"),
    "rebrac": (TWO_LAYERS,),
}


@dataclass(frozen=True)
class Piece:
    """One run: which program trains it, with which arguments, and where it goes.

    Args:
        program: ``rlalign``, ``d3rlpy`` or ``sb3``.
        experiment: the part of the study, a folder below the study's.
        name: what is trained, a folder below the experiment's.
        seed: of the run.
        arguments: for `rlalign`, recipe and overrides; for the peers, algorithm and task.
        shorter: an experiment whose run of this name and seed is this one cut short, so that it can
            go on from there.
        longer: the override that is between the two.
    """

    program: str
    experiment: str
    name: str
    seed: int
    arguments: tuple[str, ...]
    shorter: str = ""
    longer: str = ""

    def directory(self, root: Path) -> Path:
        """Return the run directory."""
        return root / self.experiment / self.name / f"seed-{self.seed}"


def pieces() -> Iterator[Piece]:
    """Yield every run: part by part, and in each a whole seed before the next."""
    for dataset in OFFLINE_DATASETS:
        for seed in SEEDS:
            yield from _offline(dataset, seed)
    for part in (
        _longer,
        _beside_d3rlpy,
        _online,
        _comparison,
        _conservative,
        _preference,
        _constant_rate,
        _cloning,
    ):
        for seed in SEEDS:
            yield from part(seed)


def _preference(seed: int) -> Iterator[Piece]:
    """Every trainer from the same pre-trained model of the text world.

    DPO's model is asked for revisions as well, by the template that SRPO trains with.
    """
    for trainer in PREFERENCE:
        changes = ("evaluation.revisions=5",) if trainer == "dpo" else ()
        arguments = (f"{trainer}/tiny", f"seed={seed}", *changes)
        yield Piece("rlalign", "preference", f"{trainer}-textworld", seed, arguments)


def _offline(dataset: str, seed: int) -> Iterator[Piece]:
    for agent, changes in OFFLINE_AGENTS.items():
        yield _offline_piece("offline", agent, dataset, seed, *changes)


def _beside_d3rlpy(seed: int) -> Iterator[Piece]:
    """On the two datasets, and TD3+BC where ours does not come above its data."""
    pairs = [(agent, dataset) for dataset in PEER_DATASETS for agent in ("iql", "td3_bc")]
    for agent, dataset in (*pairs, ("td3_bc", "walker2d-medium-replay-v0")):
        yield Piece("d3rlpy", "offline", f"d3rlpy-{agent}-{dataset}", seed, (agent, dataset))


def _constant_rate(seed: int) -> Iterator[Piece]:
    """d3rlpy's IQL keeps the actor's rate constant, where the paper's (ours) falls to zero."""
    for dataset in PEER_DATASETS:
        constant = _offline_piece("offline", "iql", dataset, seed, CONSTANT_RATE)
        yield replace(constant, name=f"iql-constant-{dataset}")


def _longer(seed: int) -> Iterator[Piece]:
    """The rate of IQL's actor falls to 0 in the shorter run; the others go on from there."""
    steps = f"offline.steps={LONGER_UPDATES}"
    for dataset in LONGER_DATASETS:
        for agent, changes in OFFLINE_AGENTS.items():
            piece = _offline_piece("offline-longer", agent, dataset, seed, steps, *changes)
            yield piece if agent == "iql" else replace(piece, shorter="offline", longer=steps)


def _cloning(seed: int) -> Iterator[Piece]:
    for dataset in OFFLINE_DATASETS:
        yield _offline_piece("offline", "bc", dataset, seed)


def _offline_piece(experiment: str, agent: str, dataset: str, seed: int, *changes: str) -> Piece:
    arguments = (
        f"{agent}/local/{dataset}",
        f"seed={seed}",
        f"offline.steps={OFFLINE_UPDATES}",
        *EVALUATE,
        *changes,
    )
    return Piece("rlalign", experiment, f"{agent}-{dataset}", seed, arguments)


def _onward_piece(experiment: str, agent: str, dataset: str, seed: int, *changes: str) -> Piece:
    """Offline, then online, seen every 2,500 steps; RLPD has no offline phase."""
    offline = () if agent == "rlpd" else ("offline.steps=30000",)
    arguments = (
        f"{agent}/local/{dataset}",
        f"seed={seed}",
        *offline,
        "online.steps=20000",
        "evaluation.every=2500",
        "evaluation.episodes=10",
        "logging.tensorboard=false",
        *changes,
    )
    return Piece("rlalign", experiment, f"{agent}-{dataset}", seed, arguments)


def _online(seed: int) -> Iterator[Piece]:
    for task in ONLINE_TASKS:
        recipe = f"sac/{task.lower()}"
        arguments = (recipe, f"seed={seed}", f"online.steps={ONLINE_STEPS}", *EVALUATE)
        yield Piece("rlalign", "online", f"sac-{task}", seed, arguments)
        yield Piece("sb3", "online", f"sb3-sac-{task}", seed, ("sac", task))


def _comparison(seed: int) -> Iterator[Piece]:
    """All agents from the same data into the same environment."""
    for dataset in COMPARED_DATASETS:
        for name, cut in COMPARED.items():
            if seed < cut.seeds:
                more = cut.walker2d if dataset.startswith("walker2d") else cut.hopper
                agent = cut.agent or name
                piece = _onward_piece("comparison", agent, dataset, seed, *cut.overrides, *more)
                yield replace(piece, name=f"{name}-{dataset}")


def _conservative(seed: int) -> Iterator[Piece]:
    """CQL and ReBRAC beside d3rlpy's, with the settings that both can be given."""
    dataset = FINE_TUNED
    for agent, overrides in BESIDE_D3RLPY.items():
        yield _offline_piece("conservative", agent, dataset, seed, *overrides)
        yield Piece("d3rlpy", "conservative", f"d3rlpy-{agent}-{dataset}", seed, (agent, dataset))
