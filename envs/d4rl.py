"""D4RL's tasks played with today's gymnasium: as near to the original as its parts allow.

`docs/environments.md` says for each family what is as in D4RL and what is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from rlalign.data.d4rl import Task, task, tasks
from rlalign.errors import EnvError

Env = gymnasium.Env[Any, Any]
Make = Callable[..., Env]

# D4RL's contact forces [14 bodies x 6] follow the 27 positions and velocities.
_ANT_CONTACTS = 84
# The adapted mazes have walls, goals, rewards and ends of their own, whatever these say.
_MAZE_OPTIONS = ("maze_map", "reward_type", "continuing_task", "reset_target")


def is_task(name: str) -> bool:
    """Whether `name` is one of D4RL's tasks, such as `hopper-medium-v2`."""
    return any(known.name == name for known in tasks())


def environment_for(name: str) -> str | None:
    """What `make_environment` takes to play D4RL's task `name`; None if nothing plays it today.

    A gymnasium id where the environment is that one as it is, otherwise the task's own name,
    because its observations, goals or physics have to be adapted.
    """
    return task(name).played_as


def make_task(name: str, make: Make, /, **kwargs: Any) -> Env:
    """The environment of D4RL's task `name`, made from gymnasium's by `make(id, **kwargs)`.

    Episodes have D4RL's length. Raises EnvError for a task that nothing plays today, and for an
    option that an adapted task decides itself.
    """
    found = task(name)
    if found.environment is None:
        raise EnvError(f"no environment plays D4RL's {name} today: {found.difference}")
    kwargs.setdefault("max_episode_steps", found.horizon)
    build = _ADAPTED.get(name.split("-", 1)[0], _as_it_is)
    return build(found, make, kwargs)


def _leave_to_task(found: Task, options: Iterable[str], kwargs: dict[str, Any]) -> None:
    for option in options:
        if option in kwargs:
            raise EnvError(
                f"D4RL's {found.name} decides {option} itself, it cannot be given "
                f"(got {kwargs[option]!r})"
            )


def _as_it_is(found: Task, make: Make, kwargs: dict[str, Any]) -> Env:
    return make(found.environment, **kwargs)


class SilentContacts(gymnasium.ObservationWrapper[np.ndarray, Any, Any]):
    """Ant's 27 positions and velocities followed by 84 zeros for the contact forces.

    MuJoCo 2.0 behind mujoco-py, which recorded D4RL's Ant, left all contact forces at zero.
    """

    def __init__(self, env: Env) -> None:
        super().__init__(env)
        size = int(np.prod(env.observation_space.shape or ())) + _ANT_CONTACTS
        self.observation_space = Box(-np.inf, np.inf, (size,), np.float64)
        self._zeros = np.zeros(_ANT_CONTACTS)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """`observation` [27] and the zeros behind it."""
        return np.concatenate([observation, self._zeros])


def _ant(found: Task, make: Make, kwargs: dict[str, Any]) -> Env:
    options = {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}
    _leave_to_task(found, options, kwargs)
    return SilentContacts(make(found.environment, **options, **kwargs))


def _ant_maze(found: Task, make: Make, kwargs: dict[str, Any]) -> Env:
    from rlalign.envs.mazes import AntMaze, maze_of

    _leave_to_task(found, (*_MAZE_OPTIONS, "include_cfrc_ext_in_observation"), kwargs)
    maze = maze_of(found.name)
    base = make(
        found.environment,
        maze_map=AntMaze.layout(maze),
        include_cfrc_ext_in_observation=False,
        **kwargs,
    )
    return AntMaze(base, maze)


def _point_maze(found: Task, make: Make, kwargs: dict[str, Any]) -> Env:
    from rlalign.envs.mazes import PointMaze, maze_of

    _leave_to_task(found, _MAZE_OPTIONS, kwargs)
    maze = maze_of(found.name)
    base = make(found.environment, maze_map=PointMaze.layout(maze), **kwargs)
    return PointMaze(base, maze, dense="-dense-" in found.name)


_ADAPTED: dict[str, Callable[[Task, Make, dict[str, Any]], Env]] = {
    "ant": _ant,
    "antmaze": _ant_maze,
    "maze2d": _point_maze,
}
