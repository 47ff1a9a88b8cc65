"""What a worker process is told and what it answers: one JSON object a line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True)
class Job:
    """What one contestant has to do.

    Args:
        algorithm: such as ``"sac"``; each worker knows some.
        transitions: how many transitions the replay holds.
        threads: threads of the numeric libraries.
        device: ``"cpu"`` or ``"cuda"``.
        seed: of the data and of the networks.
    """

    algorithm: str
    transitions: int
    threads: int
    device: str
    seed: int


@dataclass(frozen=True)
class Contest:
    """What a worker can do once it is set up.

    Args:
        run: performs so many updates and returns when their results are there.
        chunk: `run` is only ever asked for multiples of it.
        parts: seconds by the clock spent in parts of the work since the last call, by name.
    """

    run: Callable[[int], None]
    chunk: int = 1
    parts: Callable[[], dict[str, float]] = dict


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of `packages` that are there, without a build's suffix."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def serve(setup: Callable[[Job], Contest], packages: Iterable[str]) -> None:
    """Set up a contest from the command line, then run updates as asked until input ends.

    Each line read is ``{"updates": n}``; each answer ``{"updates", "cpu", "wall", "parts"}``, in
    seconds. Online, a step of the environment with its update counts as an update.
    Standard output is kept for answers: what libraries print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    parser = argparse.ArgumentParser()
    parser.add_argument("job", help="a Job as JSON")
    job = Job(**json.loads(parser.parse_args().job))
    contest = setup(job)
    print(json.dumps({"chunk": contest.chunk, "versions": versions(packages)}), file=answers)
    for line in sys.stdin:
        updates = int(json.loads(line)["updates"])
        contest.parts()
        wall, cpu = time.perf_counter(), time.process_time()
        contest.run(updates)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        answer = {"updates": updates, "cpu": cpu, "wall": wall, "parts": contest.parts()}
        print(json.dumps(answer), file=answers)
