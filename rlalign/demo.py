"""`make demo`: offline, then online learning on MuJoCo physics, reported with a table and a plot.

python -m rlalign.demo [--out runs/demo] [--seeds 2]
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rlalign.errors import RlalignError

RECIPE = "demo"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return the exit code: 0, 1 if a run failed, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m rlalign.demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=2, help="runs, side by side")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    options = parser.parse_args(arguments)
    try:
        return _demo(options.out, options.seeds, options.overrides)
    except (RlalignError, OSError) as error:
        sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
        return 2


def _demo(out: Path, seeds: int, overrides: Sequence[str]) -> int:
    from rlalign.data.dataset import load_dataset
    from rlalign.recipe import load_recipe
    from rlalign.report.writing import write_report
    from rlalign.sweep import plan, run_sweep
    from rlalign.sweep_engines import local_engine

    recipe = load_recipe(RECIPE, list(overrides))
    assert recipe.dataset is not None
    _say(f"dataset {recipe.dataset}: collected in MuJoCo on first use, then cached")
    dataset = load_dataset(recipe.dataset)
    returns = dataset.episode_returns()
    _say(
        f"{len(dataset):,} transitions, {len(returns)} episodes, behaviour's normalised score "
        f"{float(dataset.normalized_score(returns.mean())):.1f}"
    )
    _say(
        f"{recipe.agent}: {recipe.offline.steps:,} updates offline, then {recipe.online.steps:,} "
        f"steps online, {seeds} seeds side by side"
    )
    jobs = plan(RECIPE, overrides, seeds=seeds, folder=out)
    with _Watch([job.directory for job in jobs]):
        failures = run_sweep(jobs, local_engine(None), tell=lambda _: None)
    for failure in failures:
        sys.stderr.write(f"error: {failure.directory}: {failure.reason}\n")
    if failures:
        return 1
    report = write_report([out], out / "report", title="rlalign demo")
    _say("")
    _say(report.summary)
    _say("")
    _say(f"plot: {report.pictures[0]}")
    _say(f"report: {report.html}")
    return 0


class _Watch:
    """Prints each evaluation of some runs as it is written."""

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = directories
        self._told = dict.fromkeys(directories, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Watch:
        for directory in self._directories:
            self._told[directory] = len(self._rows(directory))  # of an earlier demo
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._tell()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._tell()

    def _tell(self) -> None:
        for directory in self._directories:
            rows = self._rows(directory)
            for row in rows[self._told[directory] :]:
                unit = "updates" if row["phase"] == "offline" else "steps"
                _say(
                    f"{directory.name}  {row['phase']:7} {row['step']:6,} {unit:7}  "
                    f"normalised score {row['normalized_score']:6.1f}"
                )
            self._told[directory] = len(rows)

    @staticmethod
    def _rows(directory: Path) -> list[dict[str, object]]:
        from rlalign.rundir import EVALUATIONS, read_rows

        return read_rows(directory / EVALUATIONS)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
