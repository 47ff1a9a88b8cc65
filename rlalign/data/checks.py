"""What is required of the arrays in an HDF5 file; every fault is told by key and first row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlalign.errors import DatasetError

if TYPE_CHECKING:
    import h5py

Array = NDArray[Any]
REQUIRED = ("observations", "actions", "rewards", "terminals")


def check_shapes(file: h5py.File, path: Path) -> tuple[int, dict[str, int]]:
    """Check keys, dtypes and shapes; return the number of rows and each column's size."""
    import h5py

    missing = [key for key in REQUIRED if not isinstance(file.get(key), h5py.Dataset)]
    if missing:
        raise DatasetError(
            f"{path}: missing {', '.join(map(repr, missing))}, found {sorted(map(str, file))}"
        )
    count = file["observations"].shape[0] if file["observations"].shape else 0
    if count == 0:
        raise DatasetError(f"{path}: the dataset is empty")
    sizes: dict[str, int] = {}
    group = file.get("extras")
    extras = [f"extras/{key}" for key in group] if isinstance(group, h5py.Group) else []
    optional = [key for key in ("timeouts", "next_observations") if key in file]
    for key in (*REQUIRED, *optional, *extras):
        data = file[key]
        if not isinstance(data, h5py.Dataset) or key.removeprefix("extras/") in sizes:
            raise DatasetError(f"{path}: {key!r} is not an array of its own name")
        flags = key in ("terminals", "timeouts")
        if data.dtype.kind not in ("biuf" if flags else "fiu" if key == "rewards" else "f"):
            wanted = "true/false values" if flags else "floating-point numbers"
            raise DatasetError(f"{path}: {key!r} has dtype {data.dtype}, expected {wanted}")
        shape = data.shape
        column = key in ("rewards", "terminals", "timeouts")
        if shape[:1] != (count,):
            raise DatasetError(
                f"{path}: {key!r} has {shape[0] if shape else 0} rows, 'observations' {count}"
            )
        if column and shape not in ((count,), (count, 1)):
            raise DatasetError(f"{path}: {key!r} has shape {shape}, expected ({count},)")
        if not column and (len(shape) != 2 or shape[1] < 1):
            raise DatasetError(f"{path}: {key!r} has shape {shape}, expected ({count}, size)")
        if key == "next_observations" and shape != file["observations"].shape:
            raise DatasetError(
                f"{path}: 'next_observations' has shape {shape}, 'observations' "
                f"{file['observations'].shape}"
            )
        if key in ("observations", "actions") or key in extras:
            sizes[key.removeprefix("extras/")] = shape[1]
    return count, sizes


def read_flags(file: h5py.File, path: Path, key: str) -> Array:
    """Return an array of flags [rows] as bool."""
    values = file[key][:].reshape(-1)
    wrong = np.flatnonzero((values != 0) & (values != 1))
    if len(wrong):
        raise DatasetError(f"{path}: {key!r} is {values[wrong[0]]} in row {wrong[0]}, not 0 or 1")
    return np.asarray(values, dtype=bool)


def read_finite(file: h5py.File, path: Path, key: str, rows: slice) -> Array:
    """Return rows of an array as float32, all of them finite."""
    values: Array = file[key][rows]
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0]
        raise DatasetError(
            f"{path}: {key!r} holds NaN or infinity, first in row {rows.start + int(bad)}"
        )
    return values
