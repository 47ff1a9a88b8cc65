"""What the repository keeps of each finished run: all but weights, data and training metrics.

The study takes days of a processor. Its runs are made piece by piece, their records lie in
docs/results/runs, and the page and the list of runs that are left are read off those.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rlalign.atomic import write_json
from rlalign.rundir import RunDirectory
from scripts.study.plan import Piece

RECORDS = Path(__file__).resolve().parents[2] / "docs" / "results" / "runs"
FILES = ("recipe.yaml", "evaluations.jsonl", "scores.json")


def is_kept(piece: Piece, records: Path = RECORDS) -> bool:
    """Whether the repository has the record of a run."""
    return (piece.directory(records) / "run.json").exists()


def keep(piece: Piece, runs: Path, records: Path = RECORDS) -> bool:
    """Copy the record of a run if it has finished; return whether there is one."""
    directory = piece.directory(runs)
    if not (directory / "run.json").exists():
        return False
    run = RunDirectory.open(directory)
    if run.status != "finished":
        return False
    record = piece.directory(records)
    record.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (directory / name).exists():
            shutil.copyfile(directory / name, record / name)
    # The command names folders of the machine; the recipe says all that it said.
    write_json(record / "run.json", {k: v for k, v in run.info.items() if k != "command"})
    return True
