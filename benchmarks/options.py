"""What the measurements have in common: options, interpreters, cores."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.process import ROOT, Worker, WorkerError
from benchmarks.workers.protocol import Job


def parser(description: str, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """Return a parser with the common options."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--threads", type=int, default=1, help="threads of each contestant")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument("--rounds", type=int, default=rounds, help="turns of each contestant")
    made.add_argument("--seconds", type=float, default=seconds, help="length of a turn, about")
    made.add_argument("--transitions", type=int, default=1_000_000, help="size of the replay")
    made.add_argument("--first-core", type=int, help="pin from this core on; default: the last")
    made.add_argument("--peers-python", type=Path, default=ROOT / ".bench/peers/bin/python")
    made.add_argument("--jax-python", type=Path, default=ROOT / ".bench/jax/bin/python")
    made.add_argument("--without-peers", action="store_true", help="only what is rlalign's own")
    made.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    return made


def pinned_cores(options: argparse.Namespace) -> list[int] | None:
    """Return as many of the allowed cores as there are threads, the last ones unless told.

    On CUDA nothing is pinned, and None is returned.

    Raises:
        WorkerError: if there are too few cores.
    """
    if options.device != "cpu":
        return None
    allowed = sorted(os.sched_getaffinity(0))
    first = allowed[-1] - options.threads + 1 if options.first_core is None else options.first_core
    usable = [core for core in allowed if core >= first][: options.threads]
    if len(usable) < options.threads:
        raise WorkerError(
            f"{options.threads} threads from core {first} on need as many cores, "
            f"only {usable} of {allowed} can be used"
        )
    return usable


def start(contestant: Contestant, options: argparse.Namespace, cores: list[int] | None) -> Worker:
    """Start a contestant's process and wait until it is set up."""
    python = {
        "own": Path(sys.executable),
        "peers": options.peers_python,
        "jax": options.jax_python,
    }[contestant.environment]
    job = Job(
        algorithm=contestant.algorithm,
        transitions=options.transitions,
        threads=options.threads,
        device=options.device,
        seed=0,
    )
    print(f"setting up {contestant.name}", file=sys.stderr)
    return Worker(python.absolute(), contestant.worker, job, cores)


def length_of_turn(worker: Worker, seconds: float) -> int:
    """Warm the worker up and return how many updates take about so many seconds."""
    worker.turn(20)
    trial = worker.turn(50)
    return max(1, round(trial.updates / trial.wall * seconds))
