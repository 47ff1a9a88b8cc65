"""What runs the processes of a sweep: threads of this machine, or Ray."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rlalign.errors import MissingPackageError

GRACE = 60.0  # seconds for an interrupted run to write its checkpoint


@dataclass(frozen=True)
class Command:
    """Arguments of `rlalign` and the file that its output goes to."""

    arguments: tuple[str, ...]
    log: Path


@dataclass(frozen=True)
class Outcome:
    """How a process ended, and the line that tells it."""

    code: int
    last_line: str


Outcomes = Generator[tuple[int, Outcome], None, None]
Engine = Callable[[Mapping[int, Command]], Outcomes]
"""Runs commands and yields each one's outcome under its key, in the order in which they end."""


class _Processes:
    """The running children, so that none outlives an interrupted sweep."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, command: Command) -> Outcome:
        with command.log.open("ab") as log:  # of a resumed run, what was written before stays
            before = log.tell()
            with self._lock:
                if self._stopped:
                    return Outcome(130, "interrupted before it began")
                child = _start(command, log)
                self._running.add(child)
            code = _wait(child)
            with self._lock:
                self._running.discard(child)
        return Outcome(code, _last_line(command.log, code, before))

    def stop(self) -> None:
        """Ask every child to write its checkpoint and end; kill those that do not."""
        with self._lock:
            self._stopped = True
            children = list(self._running)
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(GRACE)
            except subprocess.TimeoutExpired:
                child.kill()


def local_engine(processes: int | None = None) -> Engine:
    """Up to `processes` runs at a time on this machine, one core each; default: all cores."""

    def engine(commands: Mapping[int, Command]) -> Outcomes:
        children = _Processes()
        threads = processes or len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(threads) as pool, _termination_as_exit():
            futures = {pool.submit(children.run, command): k for k, command in commands.items()}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                children.stop()
                raise

    return engine


def ray_engine(processes: int | None = None) -> Engine:
    """Runs as Ray tasks of one CPU each, on the cluster of RAY_ADDRESS or a local one.

    All machines of a cluster must see the same folders. Raises `MissingPackageError` without
    the extra `ray`.
    """
    try:
        import ray
    except ImportError:
        raise MissingPackageError("--ray needs Ray; pip install 'rlalign[ray]'") from None

    def engine(commands: Mapping[int, Command]) -> Outcomes:
        own = not ray.is_initialized()
        if own:
            address = os.environ.get("RAY_ADDRESS")
            # Ray's workers give way to everything else by default, for which training is too long.
            os.environ.setdefault("RAY_worker_niceness", "0")
            size: dict[str, Any] = {"num_cpus": processes, "include_dashboard": False}
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if address else size),
            )
        remote = ray.remote(num_cpus=1, max_retries=0)(run_command)
        waiting: dict[Any, int] = {}
        with _termination_as_exit():
            try:
                for key, command in commands.items():
                    log = str(command.log.resolve())
                    waiting[remote.remote(list(command.arguments), log, os.getcwd())] = key
                while waiting:
                    (ready,), _ = ray.wait(list(waiting), num_returns=1)
                    key = waiting.pop(ready)
                    yield key, _ray_outcome(ray, ready)
            finally:
                for task in waiting:
                    ray.cancel(task)
                if waiting:
                    # The runs write their checkpoints before Ray goes.
                    ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE)
                if own:
                    ray.shutdown()

    return engine


def run_command(arguments: list[str], log: str, folder: str) -> tuple[int, str]:
    """What a Ray worker does: run `rlalign` in `folder`; returns exit code and last line."""
    os.chdir(folder)
    # Ray cancels a task with SIGINT, which a sweep started in a shell's background ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    children = _Processes()
    try:
        outcome = children.run(Command(tuple(arguments), Path(log)))
    except BaseException:
        children.stop()  # a cancelled task is interrupted here
        raise
    return outcome.code, outcome.last_line


def _ray_outcome(ray: Any, task: Any) -> Outcome:
    try:
        code, last_line = ray.get(task)
    except ray.exceptions.RayError as error:
        return Outcome(1, str(error).strip().splitlines()[-1])
    return Outcome(code, last_line)


def _wait(child: subprocess.Popen[bytes]) -> int:
    # Ray cancels a task by an exception that only arrives between two Python instructions.
    while True:
        try:
            return child.wait(1.0)
        except subprocess.TimeoutExpired:
            continue


def _start(command: Command, log: Any) -> subprocess.Popen[bytes]:
    # Several runs on one machine are fastest with one thread each.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rlalign", *command.arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
    )


def _last_line(log: Path, code: int, before: int) -> str:
    """The line that says how a process ended; its log begins at byte `before` of the file."""
    if code < 0:
        return f"killed by signal {-code} ({signal.strsignal(-code) or 'unknown'})"
    text = log.read_bytes()[before:].decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    if code == 0:
        # A finished run tells its scores first and its directory last.
        told = lines[-2:-1] or lines
    else:
        told = [line for line in lines if line.startswith("error: ")] or lines
    return told[-1].strip() if told else ""


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Make SIGTERM raise SystemExit, so that what has to be cleaned up is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def leave(number: int, _: FrameType | None) -> None:
        received.append(number)
        sys.exit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        if received:  # Ray turns the code of an exit within its calls into 1
            raise SystemExit(128 + received[0]) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, previous)
