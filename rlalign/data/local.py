"""D4RL-style datasets collected on this machine from the behaviour policies that are shipped.

``local/TASK-KIND-v0`` with TASK one of halfcheetah, hopper, walker2d, ant and KIND

    random         uniform actions
    medium         a policy at about a third of the expert's return
    expert         the best policy
    medium-expert  half medium, half expert
    medium-replay  equal shares of the snapshots from the beginning of training to medium, in order

Each has 100,000 transitions of gymnasium's v5 MuJoCo task, with sampled actions as in D4RL.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlalign.data.behaviour import Policy, UniformPolicy, digest, load_policy, shipped
from rlalign.data.collecting import Share, collect
from rlalign.data.d4rl import reference_of_environment
from rlalign.data.dataset import Dataset
from rlalign.data.download import cache_folder
from rlalign.data.hdf5 import read_hdf5
from rlalign.data.saving import locked
from rlalign.errors import DatasetError
from rlalign.suggestions import did_you_mean

ENVIRONMENTS = {
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "walker2d": "Walker2d-v5",
    "ant": "Ant-v5",
}
ACTION_SIZES = {"halfcheetah": 6, "hopper": 3, "walker2d": 6, "ant": 8}
KINDS = ("random", "medium", "medium-replay", "medium-expert", "expert")
TRANSITIONS = 100_000
SIDE_BY_SIDE = 10
FORMAT = 1  # raised when the same arguments come to mean other data
_log = logging.getLogger(__name__)


def local_names() -> list[str]:
    """Return the names of all local datasets, without ``local/``."""
    return [f"{task}-{kind}-v0" for task, kind in itertools.product(ENVIRONMENTS, KINDS)]


@dataclass(frozen=True)
class _Plan:
    """What a dataset is collected from: policies in order, their files and their names."""

    environment: str
    policies: list[Policy]
    files: list[Path]
    labels: list[str]

    def shares(self, transitions: int) -> list[Share]:
        """Divide the transitions equally; what cannot be divided goes to the first ones."""
        each, more = divmod(transitions, len(self.policies))
        if each == 0:
            raise DatasetError(
                f"{transitions} transitions cannot be shared by {len(self.policies)} policies"
            )
        return [Share(policy, each + (index < more)) for index, policy in enumerate(self.policies)]


def _plan(name: str) -> _Plan:
    if name not in local_names():
        hint = did_you_mean(name, local_names(), most=3) or f": {', '.join(local_names())}"
        raise DatasetError(f"there is no local dataset named {name!r}{hint}")
    task, _, kind = name.removesuffix("-v0").partition("-")
    if kind == "random":
        return _Plan(ENVIRONMENTS[task], [UniformPolicy(ACTION_SIZES[task])], [], ["uniform"])
    found = shipped(task)
    labels = {
        "medium": [found.medium],
        "expert": [found.expert],
        "medium-expert": [found.medium, found.expert],
        "medium-replay": list(found.replay),
    }[kind]
    files = [found.path(label) for label in labels]
    return _Plan(found.environment, [load_policy(file) for file in files], files, labels)


def default_seed(name: str) -> int:
    """Return the seed that the dataset of this name is collected with unless told otherwise."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _generator(name: str, plan: _Plan, transitions: int, seed: int) -> dict[str, Any]:
    """Return everything that decides a dataset's contents, to tell whether a file is up to date."""
    return {
        "format": FORMAT,
        "environment": plan.environment,
        "policies": dict(zip(plan.labels, _counts(plan, transitions), strict=True)),
        "policies_sha256": digest(plan.files),
        "transitions": transitions,
        "seed": seed,
        "environments": SIDE_BY_SIDE,
        "gymnasium": version("gymnasium"),
        "mujoco": version("mujoco"),
    }


def _counts(plan: _Plan, transitions: int) -> list[int]:
    return [share.transitions for share in plan.shares(transitions)]


def collect_local(
    name: str,
    *,
    transitions: int | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Collect a local dataset, without looking for it in the cache or keeping it there.

    Args:
        name: such as ``hopper-medium-v0``.
        transitions: how many; by default `TRANSITIONS`.
        seed: of environments and actions; by default fixed for each name.
        progress: whether to draw a progress bar.

    Raises:
        DatasetError: if there is no such dataset or its policies are missing or damaged.
    """
    plan = _plan(name)
    seed = default_seed(name) if seed is None else seed
    transitions = TRANSITIONS if transitions is None else transitions
    dataset = collect(
        plan.shares(transitions),
        plan.environment,
        seed=seed,
        environments=SIDE_BY_SIDE,
        name=f"local/{name}",
        progress=progress,
    )
    dataset.reference = reference_of_environment(plan.environment)
    dataset.metadata["generator"] = _generator(name, plan, transitions, seed)
    return dataset


def load_local(
    name: str,
    *,
    cache: Path | None = None,
    transitions: int | None = None,
    seed: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Load a local dataset, collecting it where the cache lacks it or holds an outdated one.

    A kept file is outdated when it was collected from other policies or by other versions of
    gymnasium or MuJoCo.

    Raises:
        DatasetError: if there is no such dataset, or it cannot be collected or kept.
    """
    plan = _plan(name)
    seed = default_seed(name) if seed is None else seed
    transitions = TRANSITIONS if transitions is None else transitions
    wanted = _generator(name, plan, transitions, seed)
    usual = transitions == TRANSITIONS and seed == default_seed(name)
    file = f"{name}.hdf5" if usual else f"{name}-{transitions}-seed{seed}.hdf5"
    path = cache_folder(cache) / "local" / file
    dataset = _kept(path, name, wanted)
    if dataset is None:
        with locked(path):
            dataset = _kept(path, name, wanted)  # another process may have been faster
            if dataset is None:
                made = collect_local(name, transitions=transitions, seed=seed, progress=progress)
                made.save(path)
                dataset = read_hdf5(path, name=f"local/{name}")
    return dataset


def _kept(path: Path, name: str, wanted: dict[str, Any]) -> Dataset | None:
    """Return the dataset in the cache if it is whole and up to date."""
    if not path.exists():
        return None
    try:
        dataset = read_hdf5(path, name=f"local/{name}")
    except DatasetError as error:
        _log.warning("%s; collecting it again", error)
        return None
    found = dataset.metadata.get("generator")
    if found != wanted:
        changed = [key for key in wanted if (found or {}).get(key) != wanted[key]]
        _log.warning("%s: collected with another %s; collecting again", path, ", ".join(changed))
        return None
    return dataset
