"""Lets contestants take turns, so that whatever slows the machine slows them all."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.machine import describe
from benchmarks.options import length_of_turn, pinned_cores, start
from benchmarks.process import Turn, Worker


@dataclass(frozen=True)
class Measurement:
    """All turns of all contestants, and what a reader of the table must know."""

    turns: dict[Contestant, list[Turn]]
    facts: dict[str, Any]


def rounds_of(
    workers: dict[Contestant, Worker], rounds: int, seconds: float
) -> dict[Contestant, list[Turn]]:
    """Return the turns of `rounds` rounds, each contestant once a round."""
    lengths = {each: length_of_turn(worker, seconds) for each, worker in workers.items()}
    turns: dict[Contestant, list[Turn]] = {each: [] for each in workers}
    for number in range(rounds):
        # Every other round runs backwards: nobody always follows the same neighbour.
        order = list(workers) if number % 2 == 0 else list(reversed(workers))
        for each in order:
            turns[each].append(workers[each].turn(lengths[each]))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return turns


def measure(contestants: Sequence[Contestant], options: argparse.Namespace) -> Measurement:
    """Start all contestants, measure them, end them.

    Raises:
        WorkerError: if one cannot be started or ends early.
    """
    machine = describe()
    cores = pinned_cores(options)
    if options.without_peers:
        contestants = [each for each in contestants if each.environment == "own"]
    with ExitStack() as stack:
        workers: dict[Contestant, Worker] = {}
        for each in contestants:
            workers[each] = start(each, options, cores)
            stack.callback(workers[each].close)
        turns = rounds_of(workers, options.rounds, options.seconds)
        versions = {each.library: worker.versions for each, worker in workers.items()}
    machine["load_after"] = round(os.getloadavg()[0], 2)
    one_core = options.threads == 1 and options.device == "cpu"
    facts = {
        "clock": "cpu" if one_core else "wall",
        "device": options.device,
        "threads": options.threads,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "transitions": options.transitions,
        "pinned": f"all pinned to core(s) {cores}" if cores else "not pinned",
        "versions": versions,
        "machine": machine,
    }
    return Measurement(turns, facts)
