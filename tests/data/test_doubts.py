"""Data of another task than the agent's: warned of where the sizes alone would let it pass."""

from __future__ import annotations

import warnings

import pytest

from rlalign.data.doubts import warn_of_another_task
from tests.data.test_dataset import make_dataset


@pytest.mark.parametrize(
    ("recorded", "played"),
    [
        ("HalfCheetah-v5", "Walker2d-v5"),
        ("antmaze-umaze-v2", "antmaze-large-play-v2"),
        ("AntMaze_UMaze-v5", "AntMaze_Large-v5"),
        ("maze2d-umaze-v1", "maze2d-umaze-dense-v1"),
        ("maze2d-umaze-v1", "PointMaze_UMazeDense-v3"),
    ],
)
def test_another_task_is_warned_of(recorded: str, played: str) -> None:
    dataset = make_dataset()
    dataset.environment = recorded
    with pytest.warns(UserWarning, match=f"was recorded in {recorded}, but .* acts in {played}"):
        warn_of_another_task(dataset, played)


@pytest.mark.parametrize(
    ("recorded", "played"),
    [
        ("Hopper-v5", "Hopper-v4"),
        ("ant-random-expert-v0", "ant-medium-v2"),  # the one has no reference returns
        ("antmaze-umaze-v2", "antmaze-umaze-diverse-v2"),
        ("maze2d-umaze-v1", "PointMaze_UMaze-v3"),
        ("Hopper-v5", "Pendulum-v1"),  # not one of D4RL's
        (None, "Hopper-v5"),
    ],
)
def test_the_same_task_is_not(recorded: str | None, played: str) -> None:
    dataset = make_dataset()
    dataset.environment = recorded
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_another_task(dataset, played)
