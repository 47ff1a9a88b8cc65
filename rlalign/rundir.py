"""The directory of one run: recipe, versions, metrics, evaluations, checkpoints, scores.

recipe.yaml  run.json  metrics.jsonl  evaluations.jsonl  tensorboard/  checkpoints/  scores.json
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, get_args

from rlalign.atomic import finite, write_atomic, write_json
from rlalign.errors import CheckpointError, MissingPackageError
from rlalign.new_run import LOCK, clear_remains, remove_run, require_free
from rlalign.provenance import describe_machine

if TYPE_CHECKING:
    from stable_baselines3.common.logger import Logger

    from rlalign.recipe import AnyRecipe, Recipe

Status = Literal["running", "finished", "failed", "interrupted"]
Mark = dict[str, int]

METRICS = "metrics.jsonl"
EVALUATIONS = "evaluations.jsonl"
LOG_SUFFIX = ".log"  # of what a sweep's process said, beside its run directory
INDEX_KEYS = frozenset({"phase", "step", "updates", "env_steps", "time"})


class RunDirectory:
    """One run's files; made by `create` and `open`.

    Logs only ever grow, and `mark` and `rewind` cut them back to a checkpoint, so that a resumed
    run logs nothing twice. One process at a time may write.
    """

    def __init__(self, path: Path, info: dict[str, Any]) -> None:
        self.path = path
        self.info = info
        self._streams: dict[str, BinaryIO] = {}
        self._logger: Logger | None = None
        self._lock: BinaryIO | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        recipe: AnyRecipe | Mapping[str, Any],
        command: Sequence[str] | None = None,
        *,
        dataset: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """Make the directory, with recipe.yaml and run.json in it, and lock it for writing.

        What a run left that was killed at this point counts as nothing. Raises `CheckpointError`
        when the directory holds more or another process makes a run there, `MissingPackageError`
        when a tracker is not installed; if a file cannot be written, nothing is left behind.
        """
        from rlalign.recipe.yaml_files import write_yaml

        path = Path(path)
        document = dict(recipe) if isinstance(recipe, Mapping) else recipe.to_dict()
        require_trackers(document.get("logging", {}))
        require_free(path)
        existed = path.is_dir()
        info = {
            **describe_machine(),
            "id": uuid.uuid4().hex[:12],
            "dataset": dict(dataset) if dataset is not None else None,
            "command": list(sys.argv if command is None else command),
            "status": "running",
            "error": None,
            "started": _now(),
            "finished": None,
        }
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, info)
        run._acquire()
        try:
            # Again, now that nobody else writes: another process may have made its run meanwhile.
            require_free(path)
        except BaseException:
            run.close()
            raise
        try:
            clear_remains(path)
            run.checkpoints.mkdir(exist_ok=True)
            write_atomic(path / "recipe.yaml", write_yaml(document).encode())
            write_json(path / "run.json", info)
        except BaseException:
            remove_run(path, keep_folder=existed)
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open a run that exists; raises `CheckpointError` when it is none or is damaged."""
        path = Path(path)
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such run directory")
        for name in ("run.json", "recipe.yaml"):
            if not (path / name).is_file():
                raise CheckpointError(f"{path}: not a run directory, it has no {name}")
        info = read_json_object(path / "run.json")
        _check_info(info, path / "run.json")
        return cls(path, info)

    @classmethod
    def open_unfinished(cls, path: str | Path) -> RunDirectory:
        """Open a run to resume it; raises `CheckpointError` also when it is finished."""
        run = cls.open(path)
        if run.status == "finished":
            raise CheckpointError(f"{path}: the run is finished; there is nothing to resume")
        return run

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of an agent; raises `RecipeError` when the file was damaged."""
        from rlalign.recipe import load_recipe

        return load_recipe(self.path / "recipe.yaml")

    @property
    def any_recipe(self) -> AnyRecipe:
        """The resolved recipe of an agent or of a trainer."""
        from rlalign.recipe import load_any_recipe

        return load_any_recipe(self.path / "recipe.yaml")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def status(self) -> Status:
        """What run.json says: "running" is also what a killed run says."""
        status: Status = self.info["status"]
        return status

    @property
    def logger(self) -> Logger:
        """stable-baselines3's logger with the writers the recipe asks for, opened on first use."""
        if self._logger is None:
            from rlalign.trackers import make_logger

            self._logger = make_logger(self.path, self.any_recipe.to_dict(), self._identity)
        return self._logger

    @property
    def _identity(self) -> str:
        """What services know the run by: a copy of its directory is another run to them."""
        place = hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()
        return f"{self.info['id']}-{place[:6]}"

    def describe_dataset(self, dataset: Mapping[str, Any]) -> None:
        """Put the dataset's name, fingerprint and behaviour scores into run.json."""
        self._update(dataset=dict(dataset))

    def replace_recipe(self, recipe: AnyRecipe) -> None:
        """Write another recipe.yaml, atomically; for the run's only writer."""
        from rlalign.recipe.yaml_files import write_yaml

        write_atomic(self.path / "recipe.yaml", write_yaml(recipe.to_dict()).encode())

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Append a row of metrics; `phase` and `step` are required."""
        self._append(METRICS, row)
        self._send(str(row["phase"]), row)

    def log_evaluation(self, row: Mapping[str, Any]) -> None:
        """Append an evaluation; `phase`, `step`, `returns` and `mean_return` are required."""
        self._append(EVALUATIONS, row)
        self._send(f"{row['phase']}/evaluation", row)

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl, in order; a last line cut short by a kill is left out."""
        return read_rows(self.path / METRICS)

    def evaluations(self) -> list[dict[str, Any]]:
        """All rows of evaluations.jsonl, likewise."""
        return read_rows(self.path / EVALUATIONS)

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """Write scores.json, atomically."""
        write_json(self.path / "scores.json", dict(scores))

    def scores(self) -> dict[str, Any] | None:
        """The final scores, or None before the run has any."""
        path = self.path / "scores.json"
        return read_json_object(path) if path.is_file() else None

    def finish(self, status: Status, error: str | None = None) -> None:
        """Record how the run ended and close its files."""
        self._update(status=status, error=error, finished=_now())
        self.close()

    def mark(self) -> Mark:
        """The present sizes of all logs, on disk: what a checkpoint stores for `rewind`."""
        for stream in self._streams.values():
            os.fsync(stream.fileno())
        logs = [self.path / METRICS, self.path / EVALUATIONS, *self._event_files()]
        return {
            path.relative_to(self.path).as_posix(): path.stat().st_size
            for path in logs
            if path.exists()
        }

    def hold(self, mark: Mapping[str, int]) -> None:
        """Become the run's only writer, who may cut the logs back to `mark`; nothing is changed.

        Raises `CheckpointError` when a log is shorter than the mark says, or when another process
        is writing.
        """
        held = self._lock is not None
        self._acquire()
        try:
            self._check_lengths(mark)
        except CheckpointError:
            if not held:
                self.close()
            raise

    def rewind(self, mark: Mapping[str, int]) -> None:
        """Cut the logs back to `mark` and go on as the run's only writer, as `hold` allows.

        An empty mark empties the logs.
        """
        self.hold(mark)
        self._close_writers()
        for name in (METRICS, EVALUATIONS):
            if (self.path / name).exists():
                os.truncate(self.path / name, mark.get(name, 0))
        for path in self._event_files():
            wanted = mark.get(path.relative_to(self.path).as_posix(), 0)
            # TensorBoard's records frame themselves: a cut at a flushed size is a valid file.
            if not wanted:
                path.unlink()
            elif path.stat().st_size > wanted:
                os.truncate(path, wanted)
        self._update(status="running", error=None, finished=None)

    def _check_lengths(self, mark: Mapping[str, int]) -> None:
        for name in (METRICS, EVALUATIONS):
            path, wanted = self.path / name, mark.get(name, 0)
            found = path.stat().st_size if path.exists() else 0
            if found < wanted:
                raise CheckpointError(
                    f"{path}: {found} bytes long, but the checkpoint was made at {wanted}; "
                    "the log was changed by hand"
                )

    def close(self) -> None:
        """Close all files and trackers and let other processes write."""
        self._close_writers()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _close_writers(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        if self._logger is not None:
            self._logger.close()
            self._logger = None

    def _acquire(self) -> None:
        """Take the lock, which the system drops with the process however it dies."""
        if self._lock is not None:
            return
        lock = (self.path / LOCK).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(lock.fileno()), os.stat(self.path / LOCK))
        except (BlockingIOError, FileNotFoundError):
            held = False
        if not held:  # or the file was removed by a process that could not make its run
            lock.close()
            raise CheckpointError(f"{self.path}: another process is training this run")
        self._lock = lock

    def _update(self, **changes: Any) -> None:
        self.info.update(changes)
        write_json(self.path / "run.json", self.info)

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        line = json.dumps(finite(dict(row)), allow_nan=False) + "\n"
        if name not in self._streams:
            # Unbuffered: a line is one write, whole in the file once this returns.
            self._streams[name] = (self.path / name).open("ab", buffering=0)
        self._streams[name].write(line.encode())

    def _send(self, prefix: str, row: Mapping[str, Any]) -> None:
        """The row's numbers to TensorBoard and the other trackers."""
        for key, value in row.items():
            if key not in INDEX_KEYS and isinstance(value, (int, float)):
                self.logger.record(f"{prefix}/{key}", value)
        self.logger.dump(int(row["step"]))

    def _event_files(self) -> list[Path]:
        return sorted((self.path / "tensorboard").glob("events.out.tfevents.*"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file; a last line without its end is dropped, other damage raises.

    Raises `CheckpointError` naming the line that is not a JSON object.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise CheckpointError(f"{path}: line {number} is not a JSON object")
        rows.append(row)
    return rows


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises `CheckpointError` when it holds none."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: damaged, expected a JSON object")
    return document


def _check_info(info: Mapping[str, Any], path: Path) -> None:
    """Refuse a run.json without what is read of it; raises `CheckpointError`."""
    kinds = {"id": str, "status": str, "dataset": dict | None, "packages": dict}
    for key, kind in kinds.items():
        if key not in info:
            raise CheckpointError(f"{path}: damaged, it has no {key}")
        if not isinstance(info[key], kind):
            raise CheckpointError(f"{path}: damaged, its {key} cannot be {info[key]!r}")
    if info["status"] not in get_args(Status):
        known = ", ".join(get_args(Status))
        raise CheckpointError(
            f"{path}: damaged, its status must be one of {known}, got {info['status']!r}"
        )


def require_trackers(logging: Mapping[str, Any]) -> None:
    """Raise `MissingPackageError` where logs are to go to a tracker that is not installed."""
    for name in ("wandb", "trackio"):
        if logging.get(name, False) and not _installed(name):
            raise MissingPackageError(
                f"logging.{name} is true but {name} is not installed; pip install 'rlalign[{name}]'"
            )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ValueError:
        return False


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="seconds")
