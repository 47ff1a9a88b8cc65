"""Who is measured, and next to whom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """One library's implementation of one algorithm.

    Args:
        group: contestants of one group do the same work and are compared.
        library: as shown in the tables; ``"rlalign"`` and ``"products"`` are ours.
        environment: which interpreter runs it: ``"own"``, ``"peers"`` or ``"jax"``.
        worker: module under `benchmarks.workers`.
        algorithm: what the worker is asked for.
    """

    group: str
    library: str
    environment: str
    worker: str
    algorithm: str

    @property
    def name(self) -> str:
        """A short unique name, such as ``"sac/sb3"``."""
        return f"{self.group}/{self.library}"


TITLES = {
    "sac": "SAC",
    "sac_10": "SAC, ten critics (SAC-N)",
    "edac": "EDAC, ten critics",
    "rorl": "RORL, ten critics, 10 perturbations",
    "ro2o": "RO2O, ten critics, 20 perturbations",
    "td3": "TD3",
    "td3_bc": "TD3+BC",
    "iql": "IQL",
    "awac": "AWAC",
    "cql": "CQL, ten actions a proposal",
    "rebrac": "ReBRAC",
    "famo2o_iql": "FamO2O on IQL",
    "famo2o_awac": "FamO2O on AWAC",
    "famo2o_cql": "FamO2O on CQL",
}


def _group(group: str, *peers: tuple[str, str, str], limit: bool = True) -> list[Contestant]:
    ours = Contestant(group, "rlalign", "own", "rlalign_agent", group)
    others = [Contestant(group, *peer, group) for peer in peers]
    products = Contestant(group, "products", "own", "ceiling", group)
    return [ours, *others, *([products] if limit else [])]


def _family(base: str) -> list[Contestant]:
    """FamO2O beside its base alone, which says what the family costs."""
    group = f"famo2o_{base}"
    alone = Contestant(group, f"{TITLES[base]} alone", "own", "rlalign_agent", base)
    return [*_group(group, limit=False), alone]


SB3 = ("stable-baselines3", "peers", "sb3")
SBX = ("sbx", "jax", "sbx")
D3RLPY = ("d3rlpy", "peers", "d3rlpy")
SEPARATE = ("separate networks, autograd", "own", "rlalign_separate")
PLAIN = ("separate networks, torch.optim", "own", "rlalign_plain")
DOUBLE = ("double backward (CORL's form)", "own", "rlalign_double_backward")

CONTESTANTS: tuple[Contestant, ...] = (
    *_group("sac", SB3, SBX, D3RLPY),
    *_group("sac_10", SEPARATE, PLAIN),
    *_group("edac", DOUBLE),
    *_group("rorl", SEPARATE, PLAIN),
    *_group("ro2o", SEPARATE, PLAIN),
    *_group("td3", SB3),
    *_group("td3_bc", D3RLPY),
    *_group("iql", D3RLPY),
    Contestant("iql", "rlalign, V before its step", "own", "rlalign_agent", "iql_before"),
    *_group("awac"),
    *_group("cql", D3RLPY, limit=False),
    *_group("rebrac", D3RLPY),
    *_family("iql"),
    Contestant(
        "famo2o_iql", "rlalign, balance at every update", "own", "rlalign_agent", "famo2o_iql_each"
    ),
    *_family("awac"),
    *_family("cql"),
)


def selected(groups: str) -> list[Contestant]:
    """Return the contestants of the comma-separated `groups`; all for an empty string.

    Raises:
        ValueError: if a group is not known.
    """
    wanted = [group.strip() for group in groups.split(",") if group.strip()] or list(TITLES)
    for group in wanted:
        if group not in TITLES:
            raise ValueError(f"unknown group {group!r}; known are {', '.join(TITLES)}")
    return [each for each in CONTESTANTS if each.group in wanted]


ONLINE: tuple[Contestant, ...] = (
    Contestant("online", "rlalign", "own", "online_rlalign", "sac"),
    Contestant("online", "stable-baselines3", "peers", "online_sb3", "sac"),
    Contestant("online", "sbx", "jax", "online_sb3", "sac"),
)
