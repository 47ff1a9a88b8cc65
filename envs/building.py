"""From what a user hands over to environments: ids, objects, functions, vector environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from rlalign.envs.backends import Backend, SerialBackend, VectorBackend
from rlalign.envs.make import flat, make_environment
from rlalign.errors import EnvError

# Wrappers that only take notes.
RECORDERS = ("Monitor", "RecordEpisodeStatistics")

Make = str | Callable[..., "gymnasium.Env[Any, Any]"] | Any


def build_backend(
    make: Make, count: int, asynchronous: bool, env_kwargs: dict[str, Any]
) -> Backend:
    """The environments that `make` describes, see `Environments`.

    Raises EnvError for something no environment can be made from, and for `env_kwargs` that what
    makes the environments does not take.
    """
    ready = isinstance(make, VectorEnv | gymnasium.Env) or _is_sb3_vector(make)
    if ready and env_kwargs:
        raise EnvError(
            f"env_kwargs {_names(env_kwargs)} were given for {type(make).__name__}, an environment "
            "that is made already; pass its id or a function that makes it"
        )
    if isinstance(make, VectorEnv):
        if type(make) is SyncVectorEnv:
            return SerialBackend([flat(env) for env in make.envs])
        return VectorBackend(make)
    if _is_sb3_vector(make):
        from rlalign.interop.sb3_backend import backend_of

        vector: Any = make
        return backend_of(vector)
    if isinstance(make, gymnasium.Env):
        if count > 1 or asynchronous:
            raise EnvError(
                "one environment object cannot be run several times or in another process; "
                "pass its id or a function that makes it"
            )
        return SerialBackend([flat(make)])
    if not isinstance(make, str) and not callable(make):
        raise EnvError(
            f"cannot make environments from {type(make).__name__}; pass a gymnasium id, a D4RL "
            "task, an environment, a function that makes one, or a vector environment"
        )
    single = partial(_make_one, make, env_kwargs)
    if asynchronous:
        single().close()  # a mistake in the id is told here, not from a worker process
        return VectorBackend(
            AsyncVectorEnv([single] * count, autoreset_mode=AutoresetMode.DISABLED)
        )
    return SerialBackend([single() for _ in range(count)])


def maker_of(make: Make, env_kwargs: dict[str, Any]) -> Make | None:
    """What further environments like `make`'s are made from, or None where nothing can tell.

    An object that gymnasium made is known by its spec, wrappers included where they can be built
    again; an object of a user's own class is not.
    """
    if isinstance(make, str):
        return partial(make_environment, make, **env_kwargs) if env_kwargs else make
    if isinstance(make, gymnasium.Env):
        return _from_spec(make.spec)
    if isinstance(make, VectorEnv):
        # A wrapper of all of them at once changes what a single one of them would show.
        makers = getattr(make, "env_fns", None) if make is make.unwrapped else None
        return makers[0] if makers else None
    if _is_sb3_vector(make):
        vector: Any = make
        singles = getattr(vector, "envs", None)
        return _from_spec(singles[0].spec) if singles else None
    if not callable(make):
        return None
    return partial(make, **env_kwargs) if env_kwargs else make


def _from_spec(spec: EnvSpec | None) -> Make | None:
    if spec is None or spec.entry_point is None:
        return None
    wrappers = [item for item in spec.additional_wrappers if item.name not in RECORDERS]
    if any(item.kwargs is None for item in wrappers):
        return None
    return partial(gymnasium.make, dataclasses.replace(spec, additional_wrappers=tuple(wrappers)))


def _make_one(make: Make, env_kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    if isinstance(make, str):
        return make_environment(make, **env_kwargs)
    env = _call(make, env_kwargs)
    if not isinstance(env, gymnasium.Env):
        raise EnvError(
            f"the environment function returned {type(env).__name__}, not a gymnasium.Env"
        )
    return flat(env)


def _call(make: Callable[..., Any], env_kwargs: dict[str, Any]) -> Any:
    if not env_kwargs:
        return make()
    try:
        return make(**env_kwargs)
    except TypeError as error:
        cause = str(error).strip().split("\n", 1)[0]
        raise EnvError(
            f"the environment function cannot be called with env_kwargs {_names(env_kwargs)}: "
            f"{cause}"
        ) from error


def _names(env_kwargs: dict[str, Any]) -> str:
    return ", ".join(repr(name) for name in env_kwargs)


def _is_sb3_vector(env: Any) -> bool:
    # Without importing stable-baselines3: an instance proves that its module is loaded.
    return any(
        base.__name__ == "VecEnv" and base.__module__.startswith("stable_baselines3.")
        for base in type(env).__mro__
    )
