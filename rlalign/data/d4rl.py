"""D4RL's tasks: where their files lie, their reference scores, and what plays them today.

The facts are those of D4RL 1.1 (arXiv 2004.07219); `scripts/check_d4rl_table.py` compares them with
the d4rl wheel. The package d4rl is never imported.
"""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlalign.errors import DatasetError

BASE_URL = "https://rail.eecs.berkeley.edu/datasets/offline_rl/"
TABLE_PATH = Path(__file__).with_name("d4rl_table.json")


@dataclass(frozen=True)
class Task:
    """One D4RL task.

    Args:
        name: D4RL's name, such as ``hopper-medium-v2``.
        url: HTTPS address of its HDF5 file.
        reference: returns of D4RL's random and expert policies, None where D4RL gives none.
        horizon: steps after which D4RL's environment cuts an episode, None where unknown.
        environment: gymnasium id that comes closest, None where nothing plays it today.
        options: keyword arguments of that environment.
        difference: how that environment differs from the one the data came from.
    """

    name: str
    url: str
    reference: tuple[float, float] | None
    horizon: int | None
    environment: str | None
    options: Mapping[str, Any] = field(default_factory=dict)
    difference: str = ""

    @property
    def filename(self) -> str:
        """Name of the task's HDF5 file."""
        return self.url.rsplit("/", 1)[-1]


_MUJOCO = "recorded in MuJoCo 1.5/2.0 through mujoco-py, played in today's MuJoCo: "
_MAZE = (
    "observations are [xy, velocities, joints] without the goal, so achieved_goal and observation "
    "are joined and desired_goal left out; start and goal cells are drawn per episode, where "
)

# prefix of D4RL's name -> (horizon, gymnasium id, its options, what differs)
_FAMILIES: tuple[tuple[str, int | None, str | None, dict[str, Any], str], ...] = (
    (
        "halfcheetah-",
        1000,
        "HalfCheetah-v5",
        {},
        _MUJOCO + "same observations, actions and rewards",
    ),
    (
        "hopper-",
        1000,
        "Hopper-v5",
        {},
        _MUJOCO + "v5 pays no healthy reward on the step that ends the episode",
    ),
    (
        "walker2d-",
        1000,
        "Walker2d-v5",
        {},
        _MUJOCO + "v5 corrects the right foot's friction and pays no healthy reward on the last step",
    ),
    (
        "ant-",
        1000,
        "Ant-v4",
        {"use_contact_forces": True},
        _MUJOCO + "111 observations as in D4RL, where contact forces were zero in MuJoCo 2.0",
    ),
    (
        "antmaze-umaze-",
        700,
        "AntMaze_UMaze-v4",
        {},
        _MAZE + "D4RL fixes them up to noise (umaze) or draws the start (diverse)",
    ),
    (
        "antmaze-medium-",
        1000,
        "AntMaze_Medium-v4",
        {},
        _MAZE + "D4RL's evaluation fixes both, and its maze has the same walls",
    ),
    (
        "antmaze-large-",
        1000,
        "AntMaze_Large-v4",
        {},
        _MAZE + "D4RL's evaluation fixes both, and its maze has the same walls",
    ),
    ("maze2d-open-", 150, "PointMaze_Open-v3", {}, _MAZE + "D4RL's goal is fixed"),
    ("maze2d-umaze-", 300, "PointMaze_UMaze-v3", {}, _MAZE + "D4RL's goal is fixed"),
    ("maze2d-medium-", 600, "PointMaze_Medium-v3", {}, _MAZE + "D4RL's goal is fixed"),
    ("maze2d-large-", 800, "PointMaze_Large-v3", {}, _MAZE + "D4RL's goal is fixed"),
    ("maze2d-eval-umaze-", 300, None, {}, "no environment has this maze"),
    ("maze2d-eval-medium-", 600, None, {}, "no environment has this maze"),
    ("maze2d-eval-large-", 800, None, {}, "no environment has this maze"),
    ("pen-", 100, "AdroitHandPen-v1", {}, "200 steps instead of 100, today's MuJoCo"),
    ("door-", 200, "AdroitHandDoor-v1", {}, "today's MuJoCo, rewards as in the original"),
    ("hammer-", 200, "AdroitHandHammer-v1", {}, "today's MuJoCo, rewards as in the original"),
    ("relocate-", 200, "AdroitHandRelocate-v1", {}, "today's MuJoCo, rewards as in the original"),
    (
        "kitchen-",
        280,
        None,
        {},
        "D4RL's 60 observations (30 positions, 30 of the goal) differ from FrankaKitchen-v1's 59, so "
        "its policies can be trained but not played",
    ),
    ("bullet-maze2d-open-", 150, None, {}, "needs PyBullet"),
    ("bullet-maze2d-umaze-", 300, None, {}, "needs PyBullet"),
    ("bullet-maze2d-medium-", 600, None, {}, "needs PyBullet"),
    ("bullet-maze2d-large-", 800, None, {}, "needs PyBullet"),
    ("bullet-", 1000, None, {}, "needs PyBullet"),
    ("minigrid-", 50, None, {}, "discrete actions"),
    ("flow-ring-", 500, None, {}, "needs Flow and SUMO"),
    ("flow-merge-", 750, None, {}, "needs Flow and SUMO"),
    ("carla-lane-", 750, None, {}, "needs CARLA"),
    ("carla-town-", None, None, {}, "needs CARLA"),
)


@functools.cache
def _table() -> dict[str, Task]:
    raw = json.loads(TABLE_PATH.read_text()) if TABLE_PATH.exists() else {"scores": [], "paths": {}}
    scores = {
        name: (float(group["random"]), float(group["expert"]))
        for group in raw["scores"]
        for name in group["tasks"]
    }
    found = {}
    for name, path in raw["paths"].items():
        family = max((f for f in _FAMILIES if name.startswith(f[0])), key=lambda f: len(f[0]))
        found[name] = Task(name, BASE_URL + path, scores.get(name), *family[1:])
    return found


def tasks() -> Iterator[Task]:
    """Iterate over D4RL's tasks in alphabetical order."""
    yield from _table().values()


def task(name: str) -> Task:
    """Return D4RL's task of that name.

    Raises:
        DatasetError: if D4RL has no such task; the message names the nearest ones.
    """
    if name not in _table():
        near = difflib.get_close_matches(name, _table(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise DatasetError(f"D4RL has no dataset named {name!r}{hint}")
    return _table()[name]


def task_of_file(filename: str) -> Task | None:
    """Return the task whose HDF5 file has this name, or None."""
    return next((task for task in tasks() if task.filename == filename), None)


def reference_of_environment(environment: str) -> tuple[float, float] | None:
    """Return D4RL's random and expert returns of the task family a gymnasium id plays, or None.

    The numbers belong to D4RL's own environments; scores on other versions are not the same measure.
    """
    family = environment.rsplit("-v", 1)[0]
    for candidate in tasks():
        if candidate.environment and candidate.environment.rsplit("-v", 1)[0] == family:
            if candidate.reference is not None:
                return candidate.reference
    return None


def normalized_score(returns: Any, reference: tuple[float, float]) -> Any:
    """Return D4RL's score: 0 for the random and 100 for the expert reference return.

    Args:
        returns: a return or an array of returns, undiscounted.
        reference: returns of the random and of the expert policy.
    """
    random, expert = reference
    return 100.0 * (returns - random) / (expert - random)
