"""D4RL's tasks: where their files lie, their reference scores, and what plays them today.

The facts are those of D4RL 1.1 (arXiv 2004.07219); `scripts/check_d4rl_table.py` compares them with
the d4rl wheel. The package d4rl is never imported.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.errors import DatasetError
from rlalign.suggestions import did_you_mean

BASE_URL = "https://rail.eecs.berkeley.edu/datasets/offline_rl/"
# The order in which a goal environment's observations are joined: D4RL's AntMaze observes position,
# joints and velocities, of which gymnasium-robotics keeps the position apart as the achieved goal.
GOAL_ORDER = ("achieved_goal", "observation", "desired_goal")
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
        adapted: whether `rlalign.envs` changes that environment's observations, goals or length
            to D4RL's.
        difference: how what is played differs from the environment the data came from.
    """

    name: str
    url: str
    reference: tuple[float, float] | None
    horizon: int | None
    environment: str | None
    adapted: bool
    difference: str

    @property
    def played_as(self) -> str | None:
        """What `rlalign.envs.make_environment` takes to play it: the id, or its own name."""
        return self.name if self.environment and self.adapted else self.environment

    @property
    def world(self) -> tuple[str | None, bool]:
        """What tasks of the same environment share: its id, and whether its rewards are dense."""
        return self.environment, "-dense-" in self.name

    @property
    def filename(self) -> str:
        """Name of the task's HDF5 file."""
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class _Family:
    """What all tasks whose names begin with `prefix` have in common."""

    prefix: str
    horizon: int | None
    environment: str | None
    difference: str
    adapted: bool = False


_MUJOCO = "recorded in MuJoCo 1.5/2.0 through mujoco-py, played in today's MuJoCo: "
_HAND = "today's MuJoCo and gymnasium-robotics' model of the hand"
_ANT_MAZE = (
    "today's MuJoCo; walls, coordinates, start, goal, end at the goal and the ant's strength as in "
    "D4RL's v2 evaluation"
)
_POINT = "today's MuJoCo; walls, coordinates, start and goal as in D4RL"

_FAMILIES = (
    _Family("halfcheetah-", 1000, "HalfCheetah-v5", _MUJOCO + "same observations and rewards"),
    _Family(
        "hopper-",
        1000,
        "Hopper-v5",
        _MUJOCO + "v5 pays no healthy reward on the step that ends the episode",
    ),
    _Family(
        "walker2d-",
        1000,
        "Walker2d-v5",
        _MUJOCO
        + "v5 gives both feet the same friction and pays no healthy reward on the last step",
    ),
    _Family(
        "ant-",
        1000,
        "Ant-v5",
        _MUJOCO + "111 observations as in D4RL, whose contact forces were always zero",
        adapted=True,
    ),
    _Family("antmaze-umaze-", 700, "AntMaze_UMaze-v5", _ANT_MAZE, adapted=True),
    _Family("antmaze-medium-", 1000, "AntMaze_Medium-v5", _ANT_MAZE, adapted=True),
    _Family("antmaze-large-", 1000, "AntMaze_Large-v5", _ANT_MAZE, adapted=True),
    _Family("maze2d-open-", 150, "PointMaze_Open-v3", _POINT, adapted=True),
    _Family("maze2d-umaze-", 300, "PointMaze_UMaze-v3", _POINT, adapted=True),
    _Family("maze2d-medium-", 600, "PointMaze_Medium-v3", _POINT, adapted=True),
    _Family("maze2d-large-", 800, "PointMaze_Large-v3", _POINT, adapted=True),
    _Family("maze2d-eval-umaze-", 300, None, "no environment has this maze"),
    _Family("maze2d-eval-medium-", 600, None, "no environment has this maze"),
    _Family("maze2d-eval-large-", 800, None, "no environment has this maze"),
    _Family("pen-", 100, "AdroitHandPen-v1", _HAND, adapted=True),
    _Family("door-", 200, "AdroitHandDoor-v1", _HAND),
    _Family("hammer-", 200, "AdroitHandHammer-v1", _HAND),
    _Family("relocate-", 200, "AdroitHandRelocate-v1", _HAND),
    _Family(
        "kitchen-",
        280,
        None,
        "D4RL's 60 observations (30 positions and their 30 goals) differ from FrankaKitchen-v1's "
        "59, so policies can be trained but not played",
    ),
    _Family("bullet-maze2d-open-", 150, None, "needs PyBullet"),
    _Family("bullet-maze2d-umaze-", 300, None, "needs PyBullet"),
    _Family("bullet-maze2d-medium-", 600, None, "needs PyBullet"),
    _Family("bullet-maze2d-large-", 800, None, "needs PyBullet"),
    _Family("bullet-", 1000, None, "needs PyBullet"),
    _Family("minigrid-", 50, None, "discrete actions"),
    _Family("flow-ring-", 500, None, "needs Flow and SUMO"),
    _Family("flow-merge-", 750, None, "needs Flow and SUMO"),
    _Family("carla-lane-", 750, None, "needs CARLA"),
    _Family("carla-town-", None, None, "needs CARLA"),
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
        fitting = [family for family in _FAMILIES if name.startswith(family.prefix)]
        family = max(fitting, key=lambda family: len(family.prefix))
        found[name] = Task(
            name=name,
            url=BASE_URL + path,
            reference=scores.get(name),
            horizon=family.horizon,
            environment=family.environment,
            adapted=family.adapted,
            difference=family.difference,
        )
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
        hint = did_you_mean(name, _table(), most=3)
        raise DatasetError(f"D4RL has no dataset named {name!r}{hint}")
    return _table()[name]


def task_of_file(filename: str) -> Task | None:
    """Return the task whose HDF5 file has this name, or None."""
    return next((task for task in tasks() if task.filename == filename), None)


def task_of_environment(environment: str) -> Task | None:
    """Return the task of that name, or the first that a gymnasium id of any version plays, or None.

    Of an id's tasks only those with reference returns are looked at.
    """
    if environment in _table():
        return _table()[environment]
    # gymnasium-robotics registers dense rewards under ids of their own, D4RL under names.
    family = environment.rsplit("-v", 1)[0]
    dense = family.endswith("Dense")
    family = family.removesuffix("Dense")
    for known in tasks():
        played, rewarded_densely = known.world
        same = played is not None and played.rsplit("-v", 1)[0] == family
        if same and rewarded_densely == dense and known.reference is not None:
            return known
    return None


def reference_of_environment(environment: str) -> tuple[float, float] | None:
    """Return D4RL's random and expert returns for a gymnasium id or one of D4RL's tasks, or None.

    The numbers belong to D4RL's own environments; on other versions the score is another measure.
    """
    found = task_of_environment(environment)
    return None if found is None else found.reference


def normalized_score(returns: Any, reference: tuple[float, float]) -> Any:
    """Return D4RL's score: 0 for the random and 100 for the expert reference return.

    Args:
        returns: a return or an array of returns, undiscounted.
        reference: returns of the random and of the expert policy.
    """
    random, expert = reference
    return 100.0 * (returns - random) / (expert - random)
