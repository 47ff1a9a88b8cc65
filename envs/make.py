"""One environment from its gymnasium id or from the name of a D4RL task."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

import gymnasium

from rlalign.envs.d4rl import is_task, make_task
from rlalign.envs.goals import FlattenGoal, is_goal_space
from rlalign.errors import EnvError, MissingPackageError, RlalignError
from rlalign.suggestions import did_you_mean

_ROBOTICS = (
    "AdroitHand",
    "AntMaze_",
    "Fetch",
    "FrankaKitchen",
    "HandManipulate",
    "HandReach",
    "PointMaze_",
)

# gymnasium's errors for an id that it does not know.
_UNKNOWN = (
    gymnasium.error.NameNotFound,
    gymnasium.error.NamespaceNotFound,
    gymnasium.error.VersionNotFound,
    gymnasium.error.UnregisteredEnv,
)


def make_environment(
    env_id: str, /, render_mode: str | None = None, **kwargs: Any
) -> gymnasium.Env[Any, Any]:
    """The environment called `env_id`, observed as one vector if it is a goal environment.

    `env_id` is a gymnasium id (`Hopper-v5`, `AntMaze_UMaze-v5`, `module:Name-v0`) or a D4RL task
    (`hopper-medium-v2`, `antmaze-umaze-v2`); `kwargs` go to `gymnasium.make`.

    Raises EnvError for an unknown id, with the nearest known one, for an option that a D4RL task
    decides itself, and for an environment that cannot be made; MissingPackageError where
    gymnasium-robotics is needed and not installed.
    """
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    if is_task(env_id):
        return make_task(env_id, _make_registered, **kwargs)
    return flat(_make_registered(env_id, **kwargs))


def flat(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """`env`, or `env` in FlattenGoal when it is a goal environment."""
    return FlattenGoal(env) if is_goal_space(env.observation_space) else env


def _make_registered(env_id: str, /, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    if env_id.startswith(_ROBOTICS) and env_id not in gymnasium.registry:
        _register_robotics(env_id)
    try:
        return gymnasium.make(env_id, **kwargs)
    except _UNKNOWN as error:
        hint = did_you_mean(env_id, gymnasium.registry)
        raise EnvError(f"no environment is called {env_id!r}{hint}") from error
    except RlalignError:
        raise
    except Exception as error:  # whatever the environment's own code raises
        raise EnvError(f"{env_id} cannot be made: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The first line of an error's text; of one without a text, its kind and where it was raised.

    The kind is told of all but gymnasium's own errors, whose texts are sentences.
    """
    kind = type(error).__name__
    text = str(error).strip().split("\n", 1)[0]
    if not text:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{kind} in line {frame.lineno} of {frame.filename}"
    sentence = isinstance(error, (gymnasium.error.Error, ImportError, TypeError))
    return text if sentence else f"{kind}: {text}"


def _register_robotics(env_id: str) -> None:
    try:
        gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))
    except ImportError as error:
        raise MissingPackageError(
            f"{env_id} needs gymnasium-robotics; install it with: pip install 'rlalign[robotics]'"
        ) from error
