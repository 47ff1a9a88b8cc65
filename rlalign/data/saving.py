"""Writing datasets and small files whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlalign.atomic import follow_umask, sync_directory
from rlalign.errors import DatasetError

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset

_ROWS = 65_536


def require_writable(path: Path) -> None:
    """Raise `DatasetError` where neither `path` nor its folder could be made; makes neither."""
    try:
        existing = next(folder for folder in path.absolute().parents if folder.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise DatasetError(f"{path}: the file could not be written ({_reason(error)})") from error


@contextmanager
def replacing(path: Path, *, size: int = 0) -> Iterator[Path]:
    """Give a temporary path beside `path` that becomes `path` when the block succeeds.

    Args:
        path: the file to be written or replaced; its folder is made.
        size: bytes to be written, checked against the free space beforehand.

    Raises:
        DatasetError: if the file cannot be written; neither `path` nor its folder has changed then.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise DatasetError(
                f"{path}: not enough disk space: {size / 1e6:.1f} MB are needed, "
                f"{free / 1e6:.1f} MB free"
            )
        handle, where = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(where)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        follow_umask(temporary)
        temporary.replace(path)
        temporary = None
        sync_directory(path.parent)
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path}: the file could not be written ({_reason(error)})") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make the file `path`, whose folder is made.

    Raises:
        DatasetError: if nothing can be written in that folder.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire()
    except OSError as error:
        raise DatasetError(f"{path}: the file could not be written ({_reason(error)})") from error
    try:
        yield
    finally:
        lock.release()


def _reason(error: Exception) -> str:
    """Return the system's own words; HDF5 wraps them in a sentence about its internals."""
    wrapped = re.search(r"error message = '([^']+)'", str(error))
    if wrapped:
        return wrapped.group(1)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def save(dataset: Dataset, path: Path) -> Path:
    """Write a dataset as HDF5 in D4RL's layout; see `Dataset.save`."""
    import h5py

    from rlalign.data.facts import ATTRIBUTE, encode

    timeouts = np.zeros(len(dataset), dtype=bool)
    timeouts[dataset.ends - 1] = dataset.truncated
    size = dataset.table.numel() * 4 + 2 * len(dataset)
    with replacing(path, size=size) as temporary, h5py.File(temporary, "w") as file:
        file.attrs[ATTRIBUTE] = encode(dataset)
        if dataset.layout.extras:
            # Read in their own order, not the alphabet's: the fingerprint includes it.
            file.create_group("extras", track_order=True)
        for column in dataset.layout.columns:
            key = f"extras/{column}" if column in dataset.layout.extras else column
            if column == "terminations":
                _copy(file, "terminals", dataset.terminations, bool)
            else:
                values = dataset.rewards if column == "rewards" else dataset.column(column)
                _copy(file, key, values, np.float32)
        _copy(file, "timeouts", timeouts, bool)
    return path


def _copy(file: Any, key: str, values: Any, dtype: Any) -> None:
    """Write an array block by block, so that no column of the table is copied as a whole."""
    data = file.create_dataset(key, shape=values.shape, dtype=dtype)
    for start in range(0, len(values), _ROWS):
        data[start : start + _ROWS] = values[start : start + _ROWS].astype(dtype)
