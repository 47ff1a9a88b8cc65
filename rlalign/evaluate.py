"""How good a policy is: whole episodes, none preferred for being short."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlalign.envs.vector import Environments
from rlalign.errors import EnvError, MissingPackageError

LONGEST = 1_000_000  # steps of an episode that is still waited for


class Policy(Protocol):
    """What stable-baselines3 and rlalign call a policy."""

    def predict(
        self,
        observation: NDArray[Any],
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[Any], Any]:
        """Actions [count, act] in the environment's units for observations [count, obs]."""
        ...


@dataclass(frozen=True)
class Episodes:
    """Undiscounted returns and lengths of evaluation episodes, in the order they ended."""

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    seconds: float

    @property
    def mean_return(self) -> float:
        """Mean undiscounted return."""
        return float(np.mean(self.returns))

    def to_dict(self, reference: tuple[float, float] | None = None) -> dict[str, Any]:
        """The fields of a row of evaluations.jsonl that an evaluation decides.

        `reference` is D4RL's returns of the random and of the expert policy.
        """
        from rlalign.data.d4rl import normalized_score

        score = None if reference is None else float(normalized_score(self.mean_return, reference))
        return {
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "mean_return": self.mean_return,
            "normalized_score": score,
        }


def evaluate(
    policy: Policy,
    environments: Environments,
    episodes: int,
    *,
    deterministic: bool = True,
    on_step: Callable[[], None] | None = None,
) -> Episodes:
    """Play `episodes` whole episodes and return their returns and lengths.

    Each sub-environment plays a share fixed beforehand: taking whichever episodes end first
    would prefer short ones. `on_step` is called after each step and may raise to end it all.

    Raises EnvError for an episode that goes on beyond `LONGEST` steps.
    """
    started = time.perf_counter()
    count = environments.count
    remaining = np.array([(episodes + index) // count for index in range(count)])
    returns: list[float] = []
    lengths: list[int] = []
    observations = environments.reset()
    state: Any = None
    starts = np.ones(count, dtype=bool)
    running = np.zeros(count, np.int64)  # steps of the running episodes
    while remaining.sum() > 0:
        actions, state = policy.predict(observations, state, starts, deterministic=deterministic)
        result = environments.step(actions)
        if on_step is not None:
            on_step()
        starts = result.terminated | result.truncated
        running = np.where(starts, 0, running + 1)
        if running.max() >= LONGEST:
            raise EnvError(
                f"an episode of {environments.env_id or 'the environment'} has not ended after "
                f"{LONGEST:,} steps, so it cannot be evaluated; give it a time limit "
                "(gymnasium's TimeLimit, or max_episode_steps where it is registered)"
            )
        for episode in result.finished:
            if remaining[episode.environment] == 0:
                continue
            remaining[episode.environment] -= 1
            returns.append(episode.episode_return)
            lengths.append(episode.length)
        observations = environments.current
    return Episodes(tuple(returns), tuple(lengths), time.perf_counter() - started)


def recording_environments(
    env_id: str,
    folder: Path,
    *,
    episodes: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
) -> Environments:
    """One environment that writes its first `episodes` episodes to `folder` as MP4.

    `options` go to its maker. Uses gymnasium's RecordVideo. Raises `MissingPackageError` without
    the extra `video` and `EnvError` where the environment cannot draw images or `folder` holds
    videos already.
    """
    if any(folder.glob("*.mp4")):
        raise EnvError(f"{folder}: holds videos already; choose another folder")
    if importlib.util.find_spec("moviepy") is None:
        raise MissingPackageError("videos need moviepy; pip install 'rlalign[video]'")
    if not any(os.environ.get(name) for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")):
        # MuJoCo's default needs a display; EGL draws without one, and is read at first use.
        os.environ["MUJOCO_GL"] = "egl"
    from gymnasium.wrappers import RecordVideo

    from rlalign.envs.make import make_environment

    env = make_environment(env_id, **{**(options or {}), "render_mode": "rgb_array"})
    try:
        env.reset(seed=seed)
        env.render()
    except Exception as error:  # whichever of many kinds the drawing library raises
        env.close()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EnvError(
            f"{env_id} cannot draw images here ({reason}); on a machine without a display set "
            "MUJOCO_GL=egl or MUJOCO_GL=osmesa and install that library"
        ) from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    recorder = RecordVideo(
        env,
        str(folder),
        episode_trigger=lambda index: index < episodes,
        name_prefix=env_id.replace("/", "-"),
        disable_logger=True,
    )
    return Environments(recorder, seed=seed, record=False)
