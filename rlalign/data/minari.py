"""Minari's datasets, read episode by episode into the packed table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from rlalign.data.d4rl import GOAL_ORDER, reference_of_environment
from rlalign.data.dataset import Array, Dataset
from rlalign.errors import DatasetError, MissingPackageError
from rlalign.layout import Layout


def load_minari(name: str) -> Dataset:
    """Load Minari's dataset `name`, which minari downloads to its own folder where it is missing.

    Observations of goal environments are joined in the order achieved goal, observation, desired
    goal. Reference scores are the dataset's own, or else D4RL's for the same task. The environment
    is the one that the dataset names for evaluation, or else the one it was recorded in; what it is
    made with lies in the metadata, as ``environment_options``.

    Args:
        name: Minari's id, such as ``mujoco/hopper/medium-v0``.

    Raises:
        MissingPackageError: if minari is not installed.
        DatasetError: if the name lacks its version, or the dataset cannot be had, is damaged, or
            has no flat box of actions.
    """
    title = f"minari/{name}"
    if not re.fullmatch(r".+-v\d+", name):
        raise DatasetError(
            f"{title}: a Minari dataset's name needs its version, as in mujoco/hopper/medium-v0"
        )
    try:
        import minari
    except ImportError as error:
        raise MissingPackageError(
            f"{title} needs the package minari; install it with: pip install 'rlalign[minari]'"
        ) from error
    try:
        source = minari.load_dataset(name, download=True)
    except Exception as error:  # whatever minari's hosts raise: network, name, version, disk
        raise DatasetError(_unavailable(title, name, error)) from error
    layout = Layout(_size(title, source.observation_space), _actions(title, source.action_space))
    environment, options = _environment(source, title)
    table, ends = _read(source, layout, title)
    return Dataset(
        table=table,
        layout=layout,
        ends=ends,
        name=title,
        environment=environment,
        action_low=source.action_space.low.astype(np.float32),
        action_high=source.action_space.high.astype(np.float32),
        reference=_reference(source, environment),
        metadata={"environment_options": options},
    )


def _environment(source: Any, title: str) -> tuple[str | None, dict[str, Any]]:
    """Return the id of the environment to play and what `gymnasium.make` is given with it."""
    metadata = source.storage.metadata
    # Datasets of mazes are recorded in one endless episode and evaluated in short ones.
    text = metadata.get("eval_env_spec") or metadata.get("env_spec")
    if text is None:
        return None, {}
    try:
        spec = json.loads(text)
        options = {key: value for key, value in spec["kwargs"].items() if key != "render_mode"}
        if spec.get("max_episode_steps") is not None:
            options["max_episode_steps"] = int(spec["max_episode_steps"])
        return str(spec["id"]), options
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"{title}: its environment's description is damaged") from error


def _unavailable(title: str, name: str, error: Exception) -> str:
    from minari.storage.datasets_root_dir import get_dataset_path

    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return (
        f"{title} could not be loaded ({reason}); if this machine is offline, download it "
        f"elsewhere and put it at {os.fspath(get_dataset_path(name))}"
    )


def _size(title: str, space: Any) -> int:
    """Return the length of the flat observation."""
    from gymnasium.spaces import Box, Dict

    boxes = [space]
    if isinstance(space, Dict) and set(space.spaces) == set(GOAL_ORDER):
        boxes = list(space.spaces.values())
    if not all(isinstance(box, Box) and len(box.shape) == 1 for box in boxes):
        raise DatasetError(
            f"{title}: observations must be a flat Box or those of a goal environment, got {space}"
        )
    return sum(int(box.shape[0]) for box in boxes)


def _actions(title: str, space: Any) -> int:
    from gymnasium.spaces import Box

    if not isinstance(space, Box) or len(space.shape) != 1:
        raise DatasetError(f"{title}: actions must be a flat Box, got {space}")
    return int(space.shape[0])


def _reference(source: Any, environment: str | None) -> tuple[float, float] | None:
    own = source.storage.metadata.get("ref_min_score"), source.storage.metadata.get("ref_max_score")
    if own[0] is not None and own[1] is not None:
        return float(own[0]), float(own[1])
    return reference_of_environment(environment) if environment else None


def _read(source: Any, layout: Layout, title: str) -> tuple[torch.Tensor, Array]:
    """Fill the table episode by episode; return it and where trajectories end."""
    count = int(source.total_steps)
    if count == 0:
        raise DatasetError(f"{title}: the dataset is empty")
    table = torch.empty(count, layout.width)
    rows = table.numpy()
    ends: list[int] = []
    filled = 0
    for number, episode in enumerate(_episodes(source, title)):
        length = len(episode.rewards)
        observations = _flat(episode.observations)
        sizes = len(observations), len(episode.actions), filled + length <= count
        if sizes != (length + 1, length, True):
            raise DatasetError(
                f"{title}: episode {number} has {length} rewards, but {sizes[0]} "
                f"observations and {sizes[1]} actions"
            )
        block = rows[filled : filled + length]
        columns = layout.columns
        block[:, columns["observations"]] = observations[:-1]
        block[:, columns["actions"]] = episode.actions
        block[:, columns["rewards"]] = np.asarray(episode.rewards)[:, None]
        block[:, columns["terminations"]] = np.asarray(episode.terminations)[:, None]
        block[:, columns["next_observations"]] = observations[1:]
        if not np.isfinite(block).all():
            bad = int(np.flatnonzero(~np.isfinite(block).all(axis=1))[0])
            raise DatasetError(f"{title}: episode {number} holds NaN or infinity in step {bad}")
        ended = np.flatnonzero(np.asarray(episode.terminations, dtype=bool)) + 1
        ends += sorted({*(filled + ended).tolist(), filled + length} - {filled})
        filled += length
    if filled != count:
        raise DatasetError(f"{title}: {filled} steps found, its metadata says {count}")
    return table, np.asarray(ends, dtype=np.int64)


def _episodes(source: Any, title: str) -> Iterator[Any]:
    try:
        yield from source.iterate_episodes()
    except (OSError, KeyError, ValueError) as error:
        raise DatasetError(f"{title}: the dataset's files are damaged ({error})") from error


def _flat(observations: Any) -> Array:
    if isinstance(observations, dict):
        return np.concatenate([observations[key] for key in GOAL_ORDER], axis=1)
    return np.asarray(observations)
