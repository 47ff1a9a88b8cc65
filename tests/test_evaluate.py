"""Evaluation: whole episodes, fixed shares, videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from rlalign.envs.vector import Environments
from rlalign.errors import EnvError, MissingPackageError
from rlalign.evaluate import Episodes, evaluate, recording_environments


class Countdown(gymnasium.Env[Any, Any]):
    """Episodes of a fixed length, a reward of 1 a step; renders grey."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, length: int) -> None:
        self.length = length
        self.observation_space = Box(-10, 10, (2,), np.float32)
        self.action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.left = self.length
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return np.zeros(2, np.float32), 1.0, self.left == 0, False, {}


class Still:
    """Acts with zeros and remembers how it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], bool]] = []

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> Any:
        self.calls.append((observation.shape, deterministic))
        return np.zeros((len(observation), 1), np.float32), state


def vector(lengths: list[int]) -> Environments:
    makers = [lambda length=length: Countdown(length) for length in lengths]
    return Environments(
        gymnasium.vector.SyncVectorEnv(
            makers, autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED
        ),
        seed=0,
    )


def test_every_environment_plays_its_share_however_long_its_episodes_are() -> None:
    result = evaluate(Still(), vector([2, 10]), 4)
    assert sorted(result.lengths) == [2, 2, 10, 10]
    assert sorted(result.returns) == [2.0, 2.0, 10.0, 10.0]
    assert result.mean_return == 6.0


def test_policy_is_asked_for_all_environments_at_once_and_without_noise() -> None:
    policy = Still()
    evaluate(policy, vector([3, 3]), 2)
    assert policy.calls == [((2, 2), True)] * 3


def test_an_evaluation_can_be_left_within_an_episode() -> None:
    seen = []

    def look() -> None:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Still(), vector([10]), 1, on_step=look)
    assert len(seen) == 4


def test_an_episode_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlalign.evaluate.LONGEST", 10)
    assert evaluate(Still(), vector([10, 3]), 4).lengths == (3, 3, 10, 10)
    with pytest.raises(EnvError, match=r"not ended after 10 steps.*time limit"):
        evaluate(Still(), vector([3, 11]), 4)


def test_score_is_null_without_reference_and_d4rls_with_it() -> None:
    episodes = Episodes((10.0, 20.0), (1, 1), 0.0)
    assert episodes.to_dict()["normalized_score"] is None
    assert episodes.to_dict((5.0, 25.0))["normalized_score"] == pytest.approx(50.0)


def test_environment_that_cannot_draw_is_refused(tmp_path: Path) -> None:
    gymnasium.register("Blind-v0", entry_point=lambda **_: Blind())
    with pytest.raises(EnvError, match="cannot draw"):
        recording_environments("Blind-v0", tmp_path / "videos", episodes=2, seed=0)
    assert not (tmp_path / "videos").exists()


class Blind(Countdown):
    def __init__(self) -> None:
        super().__init__(3)

    def render(self) -> Any:
        raise RuntimeError("no display")


def test_missing_moviepy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"rlalign\[video\]"):
        recording_environments("Hopper-v5", tmp_path, episodes=1, seed=0)


def test_videos_are_written_for_each_episode(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    gymnasium.register("Seeing-v0", entry_point=lambda **_: Seeing())
    environments = recording_environments("Seeing-v0", tmp_path / "videos", episodes=2, seed=0)
    evaluate(Still(), environments, 2)
    environments.close()
    videos = sorted(path.name for path in (tmp_path / "videos").glob("*.mp4"))
    assert videos == ["Seeing-v0-episode-0.mp4", "Seeing-v0-episode-1.mp4"]
    with pytest.raises(EnvError, match="holds videos already"):
        recording_environments("Seeing-v0", tmp_path / "videos", episodes=2, seed=0)


class Seeing(Countdown):
    def __init__(self) -> None:
        super().__init__(4)

    def render(self) -> Any:
        return np.full((64, 64, 3), 128, np.uint8)
