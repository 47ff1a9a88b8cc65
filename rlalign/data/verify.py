"""Checking, describing and converting datasets: what `rlalign data` prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rlalign.data.dataset import BLOCK, Dataset, load_dataset
from rlalign.errors import DatasetError

Level = Literal["ok", "warning", "error"]
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Finding:
    """One result of checking a dataset.

    Args:
        level: ``error`` where the data would mislead training, ``warning`` where it looks odd.
        check: what was checked.
        message: what was found.
    """

    level: Level
    check: str
    message: str


def verify(dataset: Dataset | str | Path, *, cache: str | Path | None = None) -> list[Finding]:
    """Check a dataset, or load and check it; a dataset that cannot be loaded is a finding too."""
    if not isinstance(dataset, Dataset):
        try:
            dataset = load_dataset(dataset, cache=cache)
        except DatasetError as error:
            return [Finding("error", "loading", str(error))]
    return [
        Finding(level, name, text) for name, run in _CHECKS.items() for level, text in run(dataset)
    ]


_Results = Iterator[tuple[Level, str]]


def _blocks(dataset: Dataset) -> Iterator[slice]:
    for start in range(0, len(dataset), BLOCK):
        yield slice(start, min(start + BLOCK, len(dataset)))


def _sizes(dataset: Dataset) -> _Results:
    lengths = dataset.episode_lengths()
    yield (
        "ok",
        f"{len(dataset):,} transitions in {len(lengths):,} trajectories of {lengths.min()} to "
        f"{lengths.max()} steps, observations {dataset.layout.observation_size}, actions "
        f"{dataset.layout.action_size}",
    )
    if len(lengths) > 1 and lengths.mean() < 2:
        yield "warning", "trajectories have hardly more than one step; were the rows shuffled?"


def _fingerprint(dataset: Dataset) -> _Results:
    stored, found = dataset.metadata.get("stored_fingerprint"), dataset.fingerprint
    if stored is None:
        yield "ok", f"{found} (the file stores none to compare with)"
    elif stored == found:
        yield "ok", f"{stored}, as stored in the file"
    else:
        yield (
            "error",
            f"{found}, but the file was written with {stored}: its data has changed",
        )


def _finite(dataset: Dataset) -> _Results:
    for rows in _blocks(dataset):
        finite = np.isfinite(dataset.table.numpy()[rows]).all(axis=1)
        if not finite.all():
            row = rows.start + int(np.flatnonzero(~finite)[0])
            yield "error", f"NaN or infinity, first in row {row}"
            return
    yield "ok", "no NaN or infinity"


def _actions(dataset: Dataset) -> _Results:
    low, high = dataset.action_low, dataset.action_high
    actions = dataset.actions
    span = f"from {actions.min():.4g} to {actions.max():.4g}"
    if low is None or high is None:
        yield "ok", f"{span}; bounds unknown"
        return
    slack = _TOLERANCE * (high - low)
    outside = atbound = 0
    for rows in _blocks(dataset):
        block = actions[rows]
        outside += int(((block < low - slack) | (block > high + slack)).any(axis=1).sum())
        atbound += int(((block <= low + slack) | (block >= high - slack)).sum())
    if outside:
        yield "error", f"{span}; {outside:,} rows lie outside the environment's bounds"
    else:
        yield "ok", f"{span}; {100 * atbound / actions.size:.1f} % lie at the bounds"


def _terminations(dataset: Dataset) -> _Results:
    values = dataset.terminations
    if not np.isin(values, (0.0, 1.0)).all():
        yield "error", "flags other than 0 and 1"
        return
    inside = values.copy()
    inside[dataset.ends - 1] = 0.0
    if inside.any():
        row = int(np.flatnonzero(inside)[0])
        yield "error", f"row {row} terminates, but its trajectory goes on"
        return
    count = int(values.sum())
    yield "ok", f"{count:,} trajectories terminate, {len(dataset.ends) - count:,} are cut off"


def _continuity(dataset: Dataset) -> _Results:
    going_on = np.ones(len(dataset), dtype=bool)
    going_on[dataset.ends - 1] = False
    broken, first = 0, None
    for rows in _blocks(dataset):
        inside = np.flatnonzero(going_on[rows]) + rows.start
        following, said = dataset.observations[inside + 1], dataset.next_observations[inside]
        apart = (np.abs(following - said) > _TOLERANCE * (1 + np.abs(following))).any(axis=1)
        broken += int(apart.sum())
        if first is None and apart.any():
            first = int(inside[apart][0])
    if broken:
        yield (
            "error",
            f"in {broken:,} rows the next observation is not the one that follows, first in row "
            f"{first}",
        )
    else:
        yield "ok", "within trajectories each next observation is the one that follows"


def _returns(dataset: Dataset) -> _Results:
    found = dataset.episode_returns()
    text = (
        f"mean {found.mean():.2f}, deviation {found.std():.2f}, {found.min():.2f} to "
        f"{found.max():.2f}"
    )
    if dataset.reference is not None:
        text += f"; mean normalised score {dataset.normalized_score(found.mean()):.2f}"
    yield "ok", text
    if dataset.rewards.min() == dataset.rewards.max():
        yield "warning", f"every reward is {dataset.rewards[0]:g}: nothing can be learned from them"


_CHECKS: dict[str, Callable[[Dataset], _Results]] = {
    "sizes": _sizes,
    "fingerprint": _fingerprint,
    "values": _finite,
    "actions": _actions,
    "terminations": _terminations,
    "continuity": _continuity,
    "returns": _returns,
}


def describe(dataset: Dataset) -> dict[str, Any]:
    """Return a dataset's facts, JSON-able, in the order in which to print them."""
    returns, lengths = dataset.episode_returns(), dataset.episode_lengths()
    facts: dict[str, Any] = {
        "name": dataset.name,
        "environment": dataset.environment,
        "transitions": len(dataset),
        "trajectories": len(dataset.ends),
        "terminated": int(dataset.terminations.sum()),
        "cut off": int(dataset.truncated.sum()),
        "observation size": dataset.layout.observation_size,
        "action size": dataset.layout.action_size,
        "episode length": _summary(lengths),
        "episode return": _summary(returns),
        "normalised score": None,
        "reference returns": dataset.reference,
        "megabytes": round(dataset.table.numel() * 4 / 1e6, 1),
        "fingerprint": dataset.fingerprint,
        "metadata": dataset.metadata,
    }
    if dataset.reference is not None:
        facts["normalised score"] = _summary(dataset.normalized_score(returns))
    return facts


def _summary(values: Any) -> dict[str, float]:
    return {
        "mean": round(float(values.mean()), 4),
        "deviation": round(float(values.std()), 4),
        "minimum": round(float(values.min()), 4),
        "maximum": round(float(values.max()), 4),
    }


def convert(
    source: str | Path,
    target: str | Path,
    *,
    overwrite: bool = False,
    cache: str | Path | None = None,
    horizon: int | None = None,
) -> Path:
    """Write any dataset that `load_dataset` knows as an HDF5 file in D4RL's layout.

    Args:
        source: name or path of the dataset.
        target: the file to write.
        overwrite: replace the file if it exists.
        cache, horizon: as `load_dataset` takes them.

    Raises:
        DatasetError: if the source cannot be loaded, or the target exists or cannot be written.
    """
    path = Path(target).expanduser()
    if path.exists() and not overwrite:
        raise DatasetError(f"{path}: the file exists already")
    return load_dataset(source, cache=cache, horizon=horizon).save(path)
