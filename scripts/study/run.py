"""Run the study, a few runs side by side; started again, it goes on where it stopped.

    python -m scripts.study.run --out runs/study [--jobs 2] [--only hopper] [--minutes 60]
    python -m scripts.study.results

Each run is a process with one thread. Records of finished runs go to docs/results/runs, and a run
that has one is not made again. The peers need stable-baselines3 (which rlalign brings) and d3rlpy
in an interpreter of its own (`make bench-setup`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from rlalign.rundir import RunDirectory
from scripts.study.plan import Piece, pieces
from scripts.study.records import is_kept, keep

ROOT = Path(__file__).resolve().parents[2]


def command(piece: Piece, directory: Path, d3rlpy_python: Path) -> list[str]:
    """Return what brings a run to its end."""
    if piece.program == "rlalign" and (directory / "run.json").exists():
        longer = [piece.longer] if piece.longer else []
        return [*_rlalign(), "resume", str(directory), *longer, "--no-progress"]
    if piece.program == "rlalign":
        return [
            *_rlalign(), "train", *piece.arguments, "--out", str(directory), "--no-progress",
        ]  # fmt: skip
    module = f"scripts.study.{piece.program}_peer"
    arguments = [*piece.arguments, "--seed", str(piece.seed), "--out", str(directory)]
    if piece.program == "d3rlpy":
        arguments += ["--d3rlpy-python", str(d3rlpy_python)]
    return [sys.executable, "-m", module, *arguments]


def begin_from(shorter: Path, directory: Path) -> None:
    """Copy the shorter run if it has finished, whole or not at all."""
    if (shorter / "run.json").exists() and RunDirectory.open(shorter).status == "finished":
        part = directory.with_name(f"{directory.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(shorter, part)
        part.rename(directory)


def _rlalign() -> list[str]:
    return [sys.executable, "-c", "from rlalign.cli import main; main()"]


def carry_out(piece: Piece, root: Path, d3rlpy_python: Path, deadline: float) -> None:
    """Run one piece to its end, or stop it with a checkpoint at the deadline."""
    directory = piece.directory(root)
    if is_kept(piece) or keep(piece, root) or time.monotonic() > deadline:
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    if piece.shorter and not directory.exists():
        begin_from(replace(piece, experiment=piece.shorter).directory(root), directory)
    todo = command(piece, directory, d3rlpy_python)
    started = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with open(directory.with_name(f"{directory.name}.log"), "ab") as log:
        process = subprocess.Popen(todo, stdout=log, stderr=log, env=environment, cwd=ROOT)
        try:
            process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait()
    keep(piece, root)
    seconds = time.monotonic() - started
    print(f"{process.returncode:4} {seconds:7.0f} s  {directory}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="runs whose folder contains this")
    parser.add_argument("--minutes", type=float, default=1e6, help="stop, resumably, after this")
    parser.add_argument("--d3rlpy-python", type=Path, default=Path(".bench/peers/bin/python"))
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    out = options.out.resolve()
    chosen = [piece for piece in pieces() if options.only in str(piece.directory(Path()))]
    with ThreadPoolExecutor(options.jobs) as pool:
        for piece in chosen:
            pool.submit(carry_out, piece, out, options.d3rlpy_python, deadline)


if __name__ == "__main__":
    main()
