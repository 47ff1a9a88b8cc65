"""A worker process, seen from the driver."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.workers.protocol import Job

ROOT = Path(__file__).resolve().parent.parent


class WorkerError(Exception):
    """A worker could not be started or ended unexpectedly."""


@dataclass(frozen=True)
class Turn:
    """What one turn took: CPU seconds of all threads, seconds by the clock, and parts of them."""

    updates: int
    cpu: float
    wall: float
    parts: dict[str, float] = field(default_factory=dict)

    def rate(self, clock: str) -> float:
        """Return updates per second of ``"cpu"`` or ``"wall"`` time."""
        return self.updates / (self.cpu if clock == "cpu" else self.wall)


def environment(threads: int, device: str) -> dict[str, str]:
    """Return the variables that hold numeric libraries to `threads` threads."""
    count = str(threads)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), count)
    variables["OPENBLAS_NUM_THREADS"] = count
    if threads == 1:
        variables["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    if device == "cpu":
        variables["JAX_PLATFORMS"] = "cpu"
    return {**os.environ, **variables}


class Worker:
    """One process that performs updates when asked and is silent otherwise.

    Args:
        python: its interpreter.
        module: under `benchmarks.workers`.
        job: what to set up.
        cores: the cores it may run on; None leaves them all.
    """

    def __init__(
        self, python: Path, module: str, job: Job, cores: Sequence[int] | None = None
    ) -> None:
        if not python.exists():
            raise WorkerError(f"{python} does not exist; `make bench-setup` makes it")
        self.module = module
        command = [str(python), "-m", f"benchmarks.workers.{module}", json.dumps(asdict(job))]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            cwd=ROOT,
            env=environment(job.threads, job.device),
        )
        if cores is not None:
            os.sched_setaffinity(self.process.pid, cores)
        ready = self._answer()
        self.chunk = int(ready["chunk"])
        self.versions: dict[str, str] = ready["versions"]

    def turn(self, updates: int) -> Turn:
        """Perform at least so many updates, rounded up to whole chunks."""
        rounded = -(-updates // self.chunk) * self.chunk
        self._tell({"updates": rounded})
        return Turn(**self._answer())

    def peak_bytes(self) -> int:
        """Return the largest resident size the process had so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def close(self) -> None:
        """End the process."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _tell(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise WorkerError(f"worker {self.module} ended with code {code}; its message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer
