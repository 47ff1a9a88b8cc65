"""What is required of arrays in D4RL's layout; every fault is told by key and first row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlalign.errors import DatasetError

Array = NDArray[Any]
REQUIRED = ("observations", "actions", "rewards", "terminals")


@dataclass(frozen=True)
class Source:
    """Arrays under D4RL's keys, in a file or in memory.

    Args:
        where: the file or the dataset's name, as messages begin.
        arrays: numpy's or h5py's by key; an open file is such a mapping.
        marking: how to say where episodes end if nothing does, as the end of a sentence.
        names: what the user calls a key, where that is another name.
    """

    where: str
    arrays: Mapping[str, Any]
    marking: str
    names: Mapping[str, str] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def __getitem__(self, key: str) -> Any:
        return self.arrays[key]

    def called(self, key: str) -> str:
        """Return a key in quotes, as the user knows it."""
        return repr(self.names.get(key, key))


def check_shapes(source: Source) -> tuple[int, dict[str, int]]:
    """Check keys, dtypes and shapes; return the number of rows and each column's size."""
    where = source.where
    missing = [key for key in REQUIRED if not _is_array(source.arrays.get(key))]
    if missing:
        told, found = map(source.called, missing), sorted(map(str, source.arrays))
        raise DatasetError(f"{where}: missing {', '.join(told)}, found {found}")
    count = source["observations"].shape[0] if source["observations"].shape else 0
    if count == 0:
        raise DatasetError(f"{where}: the dataset is empty")
    sizes: dict[str, int] = {}
    group = source.arrays.get("extras")
    extras = [f"extras/{key}" for key in group] if isinstance(group, Mapping) else []
    optional = [key for key in ("timeouts", "next_observations") if key in source]
    for key in (*REQUIRED, *optional, *extras):
        data, name = source[key], source.called(key)
        if not _is_array(data) or key.removeprefix("extras/") in sizes:
            raise DatasetError(f"{where}: {name} is not an array of its own name")
        flags = key in ("terminals", "timeouts")
        if data.dtype.kind not in ("biuf" if flags else "fiu" if key == "rewards" else "f"):
            wanted = "true/false values" if flags else "floating-point numbers"
            raise DatasetError(f"{where}: {name} has dtype {data.dtype}, expected {wanted}")
        shape = data.shape
        column = key in ("rewards", "terminals", "timeouts")
        if shape[:1] != (count,):
            raise DatasetError(
                f"{where}: {name} has {shape[0] if shape else 0} rows, 'observations' {count}"
            )
        if column and shape not in ((count,), (count, 1)):
            raise DatasetError(f"{where}: {name} has shape {shape}, expected ({count},)")
        if not column and (len(shape) != 2 or shape[1] < 1):
            raise DatasetError(f"{where}: {name} has shape {shape}, expected ({count}, size)")
        if key == "next_observations" and shape != source["observations"].shape:
            raise DatasetError(
                f"{where}: 'next_observations' has shape {shape}, 'observations' "
                f"{source['observations'].shape}"
            )
        if key in ("observations", "actions") or key in extras:
            sizes[key.removeprefix("extras/")] = shape[1]
    return count, sizes


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def read_flags(source: Source, key: str) -> Array:
    """Return an array of flags [rows] as bool."""
    values = source[key][:].reshape(-1)
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        raise DatasetError(
            f"{source.where}: {source.called(key)} is {values[wrong[0]]} in row {wrong[0]}, "
            "not 0 or 1"
        )
    return np.asarray(values, dtype=bool)


def read_finite(source: Source, key: str, rows: slice) -> Array:
    """Return rows of an array as float32, all of them finite."""
    values: Array = source[key][rows]
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0]
        raise DatasetError(
            f"{source.where}: {source.called(key)} holds NaN or infinity, first in row "
            f"{rows.start + int(bad)}"
        )
    return values
