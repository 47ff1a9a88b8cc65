"""Medians and ratios of measured turns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.contestants import CONTESTANTS, Contestant, selected
from benchmarks.options import parser, pinned_cores
from benchmarks.process import Turn, Worker, WorkerError
from benchmarks.tables import rows, spread, write_updates
from benchmarks.turns import Measurement
from benchmarks.workers.protocol import Job

JOB = Job("sac", transitions=300, threads=1, device="cpu", seed=0)


def contestant(library: str) -> Contestant:
    return Contestant("sac", library, "own", "none", "sac")


def turns(*cpu_seconds: float) -> list[Turn]:
    return [Turn(updates=100, cpu=seconds, wall=2 * seconds) for seconds in cpu_seconds]


def measured() -> dict[Contestant, list[Turn]]:
    return {
        contestant("rlalign"): turns(1.0, 2.0, 1.0),
        contestant("sb3"): turns(2.0, 4.0, 3.0),
        contestant("products"): turns(0.5, 1.0, 0.5),
    }


def test_ratios_pair_the_turns_of_one_round() -> None:
    ours, peer, limit = rows(measured(), "cpu")
    assert ours.rate.median == 100.0
    assert ours.advantage is None
    assert peer.advantage == spread([2.0, 2.0, 3.0])
    assert ours.ceiling == spread([0.5, 0.5, 0.5])
    assert limit.ceiling is None


def test_clock_decides_which_seconds_count() -> None:
    assert rows(measured(), "wall")[0].rate.median == 50.0


def test_written_page_names_every_contestant_and_its_ratio(tmp_path: Path) -> None:
    facts = {
        **dict.fromkeys(("device", "threads", "rounds", "seconds", "pinned"), "x"),
        "clock": "cpu",
        "transitions": 1000,
        "versions": {"sb3": {"torch": "2.13.0"}},
        "machine": dict.fromkeys(
            ("processor", "cores", "vector_instructions", "system", "load_before", "load_after"), 1
        )
        | {"time": "now"},
    }
    page = write_updates(tmp_path, "name", Measurement(measured(), facts))
    assert "| SAC | sb3 | 33.3 (25.0-50.0) | 2.00 (2.00-3.00) | 25% (17%-25%) |" in page
    assert (tmp_path / "name.md").read_text() == page
    assert '"sac/sb3"' in (tmp_path / "name.json").read_text()


def test_groups_are_chosen_by_name() -> None:
    assert {each.group for each in selected("iql, sac_10")} == {"iql", "sac_10"}
    assert tuple(selected("")) == CONTESTANTS
    with pytest.raises(ValueError, match="unknown group 'ppo'"):
        selected("ppo")


def test_more_threads_than_cores_are_refused() -> None:
    options = parser("", rounds=1, seconds=1.0)
    with pytest.raises(WorkerError, match="need as many cores"):
        pinned_cores(options.parse_args(["--threads", "4096", "--first-core", "0"]))


def test_worker_performs_turns_and_ends() -> None:
    worker = Worker(Path(sys.executable), "ceiling", JOB)
    try:
        turn = worker.turn(3)
        assert turn.updates == 3
        assert turn.wall > 0.0
        assert worker.versions["torch"][0].isdigit()
    finally:
        worker.close()
    assert worker.process.returncode == 0


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="bench-setup"):
        Worker(tmp_path / "python", "ceiling", JOB)


def test_worker_that_ends_early_is_reported() -> None:
    with pytest.raises(WorkerError, match="ended with code 1"):
        Worker(Path(sys.executable), "ceiling", Job("none", 300, 1, "cpu", 0))
