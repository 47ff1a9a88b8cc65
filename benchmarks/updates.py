"""Gradient updates per second: rlalign, its peers and the matrix products, taking turns.

python -m benchmarks.updates                    # one core, CPU seconds
python -m benchmarks.updates --threads 2        # two threads, seconds by the clock
python -m benchmarks.updates --only sac,iql --rounds 3 --seconds 0.5
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant, selected
from benchmarks.machine import describe
from benchmarks.process import ROOT, Turn, Worker, WorkerError
from benchmarks.tables import write
from benchmarks.workers.protocol import Job


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of each contestant")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contestant")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a turn, about")
    parser.add_argument("--transitions", type=int, default=1_000_000, help="size of the replay")
    parser.add_argument("--only", default="", help="groups, such as sac,sac_10,td3,td3_bc,iql,awac")
    parser.add_argument("--first-core", type=int, help="pin from this core on; default: the last")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".bench/peers/bin/python")
    parser.add_argument("--jax-python", type=Path, default=ROOT / ".bench/jax/bin/python")
    parser.add_argument("--without-peers", action="store_true", help="rlalign and products only")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    return parser.parse_args()


def pinned_cores(threads: int, first: int | None) -> list[int]:
    """Return as many of the allowed cores as there are threads: from `first` on, or the last."""
    allowed = sorted(os.sched_getaffinity(0))
    usable = allowed if first is None else [core for core in allowed if core >= first]
    if len(usable) < threads:
        raise WorkerError(f"{threads} threads need as many cores, only {usable} can be used")
    return usable[-threads:] if first is None else usable[:threads]


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
    return Worker(python.absolute(), contestant.worker, job, cores)


def length_of_turn(worker: Worker, seconds: float) -> int:
    """Warm the worker up and return how many updates take about so many seconds."""
    worker.turn(20)
    trial = worker.turn(50)
    return max(1, round(trial.updates / trial.wall * seconds))


def measure(
    workers: dict[Contestant, Worker], rounds: int, seconds: float
) -> dict[Contestant, list[Turn]]:
    """Let the workers take turns, so that whatever slows the machine slows them all."""
    lengths = {each: length_of_turn(worker, seconds) for each, worker in workers.items()}
    turns: dict[Contestant, list[Turn]] = {each: [] for each in workers}
    for number in range(rounds):
        # Every other round runs backwards: nobody always follows the same neighbour.
        order = list(workers) if number % 2 == 0 else list(reversed(workers))
        for each in order:
            turns[each].append(workers[each].turn(lengths[each]))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return turns


def facts(
    options: argparse.Namespace, workers: dict[Contestant, Worker], pinned: str
) -> dict[str, Any]:
    """Return what the reader of a table must know; the load afterwards is added at the end."""
    one_core = options.threads == 1 and options.device == "cpu"
    return {
        "clock": "cpu" if one_core else "wall",
        "device": options.device,
        "threads": options.threads,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "transitions": options.transitions,
        "pinned": pinned,
        "versions": {each.library: worker.versions for each, worker in workers.items()},
    }


def run(options: argparse.Namespace) -> str:
    """Measure and write the results; return the table."""
    machine = describe()
    cores = pinned_cores(options.threads, options.first_core) if options.device == "cpu" else None
    pinned = f"all pinned to core(s) {cores}" if cores else "not pinned"
    contestants = selected(options.only)
    if options.without_peers:
        contestants = [each for each in contestants if each.environment == "own"]
    with ExitStack() as stack:
        workers: dict[Contestant, Worker] = {}
        for each in contestants:
            print(f"setting up {each.name}", file=sys.stderr)
            workers[each] = start(each, options, cores)
            stack.callback(workers[each].close)
        turns = measure(workers, options.rounds, options.seconds)
        known = facts(options, workers, pinned)
    machine["load_after"] = round(os.getloadavg()[0], 2)
    name = f"updates-{options.device}-threads-{options.threads}"
    return write(options.results / name, turns, {**known, "machine": machine})


def main() -> int:
    """Run from the command line."""
    try:
        print(run(arguments()))
    except (WorkerError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
