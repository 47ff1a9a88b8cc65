"""D4RL's AntMaze and Maze2d on gymnasium-robotics' mazes: D4RL's coordinates, goals and physics.

Walls are those of gymnasium-robotics (the same cells). Coordinates differ there (the origin in the
middle, y downward), so the maze is turned until both axes run as in D4RL and an offset does the
rest; a policy learned from D4RL's data then sees the numbers it was trained on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from rlalign.errors import EnvError

Env = gymnasium.Env[Any, Any]
Cells = list[list[Any]]


class Maze(NamedTuple):
    """Rows of `#` (wall) and space, and the goal's cell; AntMaze starts in cell (1, 1)."""

    rows: tuple[str, ...]
    goal: tuple[int, int]


_UMAZE = ("#####", "#   #", "### #", "#   #", "#####")
_MEDIUM = (
    "########",
    "#  ##  #",
    "#  #   #",
    "##   ###",
    "#  #   #",
    "# #  # #",
    "#   #  #",
    "########",
)
_LARGE = (
    "############",
    "#    #     #",
    "# ## # # # #",
    "#      #   #",
    "# #### ### #",
    "#  # #     #",
    "## # # # ###",
    "#  #   #   #",
    "############",
)
_OPEN = ("#######", "#     #", "#     #", "#     #", "#######")

_MAZES = {
    "antmaze-umaze": Maze(_UMAZE, (3, 1)),
    "antmaze-medium": Maze(_MEDIUM, (6, 6)),
    "antmaze-large": Maze(_LARGE, (7, 9)),
    "maze2d-open": Maze(_OPEN, (2, 3)),
    "maze2d-umaze": Maze(_UMAZE, (1, 1)),
    "maze2d-medium": Maze(_MEDIUM, (6, 6)),
    "maze2d-large": Maze(_LARGE, (7, 9)),
}


def maze_of(task: str) -> Maze:
    """The maze of a D4RL task's name. Raises EnvError for one without a known maze."""
    for prefix, maze in _MAZES.items():
        if task.startswith(prefix + "-"):
            return maze
    raise EnvError(f"no maze is known for D4RL's task {task!r}")


def _cells(maze: Maze) -> np.ndarray:
    return np.array([[int(cell == "#") for cell in row] for row in maze.rows])


class AntMaze(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """An ant of D4RL's strength walks from cell (1, 1) to a goal in the goal's cell.

    Observes D4RL's 29 numbers, position and velocity of the body and its joints, without the goal.
    The reward is 1 on reaching the goal (within 0.5), which ends the episode, and 0 before.
    """

    _SCALE = 4.0

    def __init__(self, env: Env, maze: Maze) -> None:
        super().__init__(env)
        self._ant = env.unwrapped.ant_env  # type: ignore[attr-defined]
        self._goal_corner = (np.array(maze.goal[::-1]) - 1.0) * self._SCALE
        rows, columns = _cells(maze).shape
        # From gymnasium-robotics' origin, the maze's middle, to D4RL's, the middle of cell (1, 1).
        self._offset = self._SCALE * (np.array([columns, rows]) / 2 - 1.5)
        self._goal = np.zeros(2)
        self.observation_space = Box(-np.inf, np.inf, (29,), np.float64)
        _weaken(self._ant.model)

    @staticmethod
    def layout(maze: Maze) -> Cells:
        """The maze as gymnasium-robotics takes it, upside down so that y grows with the row."""
        cells: Cells = _cells(maze)[::-1].tolist()
        return cells

    @property
    def goal(self) -> np.ndarray:
        """Where the goal of this episode lies, [2], in D4RL's coordinates."""
        return self._goal.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put the ant near the origin and draw the goal, both with D4RL's noise."""
        super().reset(seed=seed, options=options)
        base: Any = self.env.unwrapped
        random = base.np_random
        # D4RL adds two noises: a quarter of a cell, then an eighth.
        noise = random.uniform(0, self._SCALE / 4, 2) + random.uniform(0, self._SCALE / 8, 2)
        self._goal = self._goal_corner + noise
        base.goal = self._goal - self._offset
        base.update_target_site_pos()
        ant = self._ant
        qpos = ant.init_qpos + random.uniform(-0.1, 0.1, ant.model.nq)
        qpos[:2] -= ant.init_qpos[:2] + self._offset
        qvel = 0.1 * random.standard_normal(ant.model.nv)
        ant.set_state(qpos, qvel)
        return self._observe(), {"goal": self.goal}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move, and end the episode within 0.5 of the goal."""
        *_, truncated, info = self.env.step(action)
        observation = self._observe()
        success = bool(np.linalg.norm(observation[:2] - self._goal) <= 0.5)
        info = {**info, "success": success, "is_success": success}
        return observation, float(success), success, truncated, info

    def _observe(self) -> np.ndarray:
        data = self._ant.data
        observation = np.concatenate([data.qpos, data.qvel])
        observation[:2] += self._offset
        return observation


def _weaken(model: Any) -> None:
    # What D4RL's ant has otherwise than gymnasium's: steps twice as long, a fifth of the torque,
    # and softer contacts.
    model.opt.timestep = 0.02
    model.actuator_gear[:, 0] = 30.0
    model.geom_solimp[:, :3] = (0.8, 0.8, 0.01)


class PointMaze(gymnasium.Wrapper[np.ndarray, Any, Any, Any]):
    """A ball is pushed from a random cell to the goal's, where it may stay until time is up.

    Observes D4RL's 4 numbers, position and velocity, without the goal. The reward of a step is 1
    within 0.5 of the goal and 0 elsewhere, or exp(-distance) if `dense`.
    """

    def __init__(self, env: Env, maze: Maze, *, dense: bool) -> None:
        super().__init__(env)
        self._point = env.unwrapped.point_env  # type: ignore[attr-defined]
        self._dense = dense
        self._goal = np.array(maze.goal, np.float64)
        self._free = np.argwhere(_cells(maze) == 0)
        # D4RL measures from a point 0.2 beyond the middle of cell (0, 0).
        self._offset = np.array(_cells(maze).shape) / 2 - 0.7
        self.observation_space = Box(-np.inf, np.inf, (4,), np.float64)

    @staticmethod
    def layout(maze: Maze) -> Cells:
        """The maze as gymnasium-robotics takes it, turned so that x grows with the row."""
        cells: Cells = np.rot90(_cells(maze)).tolist()
        return cells

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put the ball into a free cell drawn at random, with D4RL's noise."""
        super().reset(seed=seed, options=options)
        base: Any = self.env.unwrapped
        random = base.np_random
        base.goal = self._goal - self._offset
        base.update_target_site_pos()
        cell = self._free[random.integers(len(self._free))]
        position = cell + random.uniform(-0.1, 0.1, 2)
        self._point.set_state(position - self._offset, 0.1 * random.standard_normal(2))
        return self._observe(), {"goal": self._goal.copy()}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Push; reaching the goal does not end the episode."""
        *_, truncated, info = self.env.step(action)
        observation = self._observe()
        distance = float(np.linalg.norm(observation[:2] - self._goal))
        success = distance <= 0.5
        reward = float(np.exp(-distance)) if self._dense else float(success)
        info = {**info, "success": success, "is_success": success}
        return observation, reward, False, truncated, info

    def _observe(self) -> np.ndarray:
        data = self._point.data
        observation = np.concatenate([data.qpos, data.qvel])
        observation[:2] += self._offset
        return observation
