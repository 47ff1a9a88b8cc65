"""One environment from its gymnasium id or from the name of a D4RL task."""

from __future__ import annotations

import difflib
from typing import Any

import gymnasium

from rlalign.envs.goals import FlattenGoal, is_goal_space
from rlalign.errors import EnvError


def make_environment(
    env_id: str, render_mode: str | None = None, **kwargs: Any
) -> gymnasium.Env[Any, Any]:
    """The environment called `env_id`, its observations flat.

    Raises EnvError for an unknown id, with the nearest known one.
    """
    try:
        env = gymnasium.make(env_id, render_mode=render_mode, **kwargs)
    except gymnasium.error.Error as error:
        close = difflib.get_close_matches(env_id, list(gymnasium.registry), 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise EnvError(f"no environment is called {env_id!r}{hint}") from error
    return flat(env)


def flat(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """`env`, or `env` in FlattenGoal when it is a goal environment."""
    return FlattenGoal(env) if is_goal_space(env.observation_space) else env
