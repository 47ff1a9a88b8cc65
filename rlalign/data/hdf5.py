"""Reading files in D4RL's HDF5 layout, and what they say beside their arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlalign.data.checks import Source
from rlalign.data.d4rl import Task, task_of_file
from rlalign.data.dataset import Dataset
from rlalign.data.facts import ATTRIBUTE, decode, of_task
from rlalign.data.packing import pack
from rlalign.errors import DatasetError
from rlalign.settings import whole_number

if TYPE_CHECKING:
    import h5py

MARKING = (
    "say after how many steps they were cut, as in: rlalign data convert FILE NEW --horizon 1000"
)


def read_hdf5(
    path: str | Path,
    *,
    name: str | None = None,
    task: Task | None = None,
    horizon: int | None = None,
) -> Dataset:
    """Read an HDF5 file in D4RL's layout.

    Files with ``next_observations`` give all their rows. In others the next row's observation is
    the next observation, and the last row of an episode cut off by time is left out because its
    successor is unknown, as D4RL's ``qlearning_dataset`` does; the unknown successor of a
    terminated row (never used in a Bellman target) is the row's own observation.

    Args:
        path: the file.
        name: name of the dataset, default the path.
        task: D4RL task it belongs to; known from the file's name where it is one of D4RL's.
        horizon: steps after which episodes were cut, for files without ``timeouts``; default the
            task's.

    Raises:
        DatasetError: if the file is missing, damaged, or not a dataset; one sentence says what is
            wrong and where.
        SettingsError: if `horizon` is not a whole number of at least 1.
    """
    if horizon is not None:
        horizon = whole_number("horizon", horizon, least=1)
    path = Path(path).expanduser()
    name = name or str(path)
    task = task or task_of_file(path.name)
    with _open(path) as file:
        if horizon is not None and "timeouts" in file:
            raise DatasetError(f"{path}: a horizon is for a file without timeouts; leave it out")
        if horizon is None and task is not None:
            horizon = task.horizon
        try:
            return _read(file, path, name, task, horizon)
        except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
            # h5py answers damage with any of these.
            raise DatasetError(
                f"{path}: the file is damaged or truncated and cannot be read to its end"
            ) from error


def _open(path: Path) -> h5py.File:
    import h5py

    if path.is_dir():
        raise DatasetError(f"{path}: this is a folder, not an HDF5 file")
    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file")
    try:
        return h5py.File(path, "r")
    except PermissionError as error:
        raise DatasetError(f"{path}: no permission to read the file") from error
    except OSError as error:
        with path.open("rb") as raw:
            hdf5 = raw.read(8) == b"\x89HDF\r\n\x1a\n"
        what = "the HDF5 file is truncated or damaged" if hdf5 else "this is not an HDF5 file"
        raise DatasetError(f"{path}: {what}") from error


def _read(
    file: h5py.File, path: Path, name: str, task: Task | None, horizon: int | None
) -> Dataset:
    packed = pack(Source(str(path), file, MARKING), task, horizon)
    if ATTRIBUTE in file.attrs:
        known = decode(file.attrs[ATTRIBUTE], path, packed.layout.action_size)
    else:
        known = of_task(task, packed.layout.action_size)
    metadata = {**known.metadata, "source": str(path)}
    if packed.left_out is not None:
        metadata["rows_without_successor"] = packed.left_out
    if known.fingerprint is not None:
        metadata["stored_fingerprint"] = known.fingerprint
    return Dataset(
        table=packed.table,
        layout=packed.layout,
        ends=packed.ends,
        name=name,
        environment=known.environment,
        action_low=known.action_low,
        action_high=known.action_high,
        reference=known.reference,
        metadata=metadata,
    )
