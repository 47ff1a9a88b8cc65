"""docs/results.md from the records of the study's runs, with the tables of `rlalign report`.

    python -m scripts.study.results [--runs docs/results/runs]

Runs that have not ended are named, never left out in silence. Curves go to docs/results/.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import sem, ttest_1samp, ttest_ind

from rlalign.report.groups import Group, make_groups
from rlalign.report.runs import Run, collect_runs
from rlalign.report.statistics import estimate
from rlalign.report.tables import mean_and_error, number
from rlalign.report.writing import write_report
from scripts.study.plan import LONGER_UPDATES, OFFLINE_UPDATES, ONLINE_STEPS, SEEDS, pieces
from scripts.study.records import RECORDS, is_kept

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results.md"
PICTURES = ROOT / "docs" / "results" / "curves"
PEERS = {
    "d3rlpy-iql": "iql",
    "d3rlpy-td3_bc": "td3_bc",
    "d3rlpy-cql": "cql",
    "d3rlpy-rebrac": "rebrac",
    "sb3-sac": "sac",
}
EXPERIMENTS = ("offline", "offline-longer", "online", "comparison", "conservative")
PREFERENCE = "preference"


def _planned(experiment: str, key: str) -> int:
    """Return a number that the plan gives the runs of an experiment, such as `online.steps`."""
    first = next(piece for piece in pieces() if piece.experiment == experiment)
    values = [one.partition("=")[2] for one in first.arguments if one.startswith(f"{key}=")]
    return int(values[0])


INTRODUCTION = f"""# Results

What the agents reach on this machine's own datasets, and the peers on the very same files, updates
and evaluation. Made from run directories by `python -m scripts.study.results`; the runs by
`python -m scripts.study.run` (resumable; seeds {", ".join(map(str, SEEDS))}, one thread each).
AWAC has two hidden layers here, where its recipes have three.

| part | updates offline | environment steps online | episodes of an evaluation |
| --- | ---: | ---: | ---: |
| offline | {OFFLINE_UPDATES:,} | | 20 |
| offline-longer | {LONGER_UPDATES:,} | | 20 |
| online | | {ONLINE_STEPS:,} | 20 |
| comparison | {_planned("comparison", "offline.steps"):,} (RLPD: none) \
| {_planned("comparison", "online.steps"):,} \
| {_planned("comparison", "evaluation.episodes")} |
| conservative | {_planned("conservative", "offline.steps"):,} | | 20 |

The comparison does with less what costs most (two layers of 128 for all, fewer critics, actions and
perturbed states, RLPD's updates a step) and fits rates and warm-up to its length; the conservative
part has the settings that d3rlpy can be given too. `scripts/study/plan.py` lists both. What
d3rlpy's CQL cannot be given: it takes the policy's mean at s' where ours samples, has no trained
offset of the log standard deviation, and another initialisation. The dip is the lowest of nine
evaluations of the comparison, which by their scatter alone is expected 1.5 standard deviations of
one evaluation below their mean: it is to be compared between agents, not with the offline score.

IQL's recipes let the actor's rate fall along a cosine over the offline updates, as the paper's
code does; d3rlpy's is constant unless asked otherwise. Runs of ours with a constant rate have
`actor_schedule=constant` beside their name. Whether 50,000 updates are too few on
walker2d-medium-replay and hopper-medium is what offline-longer asks, with three times as many.
They are: on hopper-medium all three agents stay below their data with 50,000 and come up to them
or above with 150,000, and so does TD3+BC on walker2d-medium-replay.

Differences stand beside their standard errors: "within" is a difference of at most two of them,
which with two or three seeds says little more than that none was shown. Between two evaluations of
one run the score moves by several points, so the mean of the last three stands beside the final
one, with the p-value of Welch's t-test (next to the data: of Student's) on it.

The records of all runs lie in [results/runs](results/runs): recipe, versions, every evaluation.
Evaluation is with the deterministic policy. Scores are D4RL's normalised ones, with its reference
returns, in gymnasium's v5 tasks, whose physics differ from D4RL's. Numbers are means over seeds and
one standard error; a single seed has none, and no verdict is possible on it. What the datasets'
own policies score stands under `behaviour` ([behaviours.md](behaviours.md)). Checks on smaller
tasks: [small-checks.md](small-checks.md).
"""


def peer_table(groups: Sequence[Group]) -> list[str]:
    """Return rows that set each peer beside our agent on the same task."""
    rows = [
        f"| {peer.task} | {mine.label} | {peer.label} | {_compared(mine, peer)} |"
        for mine, peer in _pairs(groups)
    ]
    return _table("**Next to the peers.**", "task | ours | peer", rows)


def behaviour_table(groups: Sequence[Group]) -> list[str]:
    """Return rows that set each agent beside the mean of the data it learned from."""
    rows = [
        f"| {group.task} | {group.label} | {number(group.behaviour)} | {_compared(group)} |"
        for group in groups
        if group.behaviour is not None and group.runs[0].agent not in PEERS
    ]
    return _table("**Next to the data.**", "task | agent | behaviour", rows)


def _table(title: str, columns: str, rows: list[str]) -> list[str]:
    if not rows:
        return []
    measures = "final | difference | | last three | difference | | p"
    return [
        title,
        "",
        f"| {columns} | {measures} |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | ---: | --- | ---: |",
        *rows,
        "",
    ]


def _compared(mine: Group, peer: Group | None = None) -> str:
    """Return the cells of a comparison with a peer, or with the mean of the data."""
    cells, chance = [], "–"
    for measure in (_final, _late):
        ours = [measure(run) for run in mine.runs]
        theirs = [measure(run) for run in peer.runs] if peer else [mine.behaviour or 0.0]
        difference = float(np.mean(ours) - np.mean(theirs))
        shown = mean_and_error(estimate(ours))
        if peer:
            shown += f" against {mean_and_error(estimate(theirs))}"
        if len(ours) < 2 or (peer and len(theirs) < 2):
            cells += [shown, number(difference), "one seed"]
            continue
        error = float(np.hypot(sem(ours), sem(theirs) if peer else 0.0))
        apart = abs(difference) > 2 * error
        verdict = ("better" if difference > 0 else "worse") if apart else "within"
        cells += [shown, f"{number(difference)} ± {number(error)}", verdict]
        test = ttest_ind(ours, theirs, equal_var=False) if peer else ttest_1samp(ours, theirs[0])
        chance = f"{test.pvalue:.2f}"
    return " | ".join([*cells, chance])


def _final(run: Run) -> float:
    return run.final


def _late(run: Run) -> float:
    """Return the mean of the last three evaluations: one policy's score is mostly its own luck."""
    curve = run.online if len(run.online) else run.offline
    return float(curve.scores[-3:].mean())


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Yield each group of ours with each peer's of the same task."""
    for peer in groups:
        for mine in groups:
            if mine.runs[0].agent == PEERS.get(peer.runs[0].agent) and mine.task == peer.task:
                yield mine, peer


def missing(runs: Path) -> list[str]:
    """Return a line for each part of the plan with runs that have not been made."""
    seeds: dict[str, list[int]] = {}
    for piece in pieces():
        if not is_kept(piece, runs):
            seeds.setdefault(f"{piece.experiment}/{piece.name}", []).append(piece.seed)
    return [f"- {name}: seeds {', '.join(map(str, left))}" for name, left in seeds.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=RECORDS)
    runs = parser.parse_args().runs
    parts = [INTRODUCTION]
    shutil.rmtree(PICTURES, ignore_errors=True)
    for experiment in (*EXPERIMENTS, PREFERENCE):
        folder = runs / experiment
        if not folder.is_dir():
            continue
        parts += [f"## {experiment.capitalize()}", ""]
        if experiment != PREFERENCE:
            groups = make_groups(collect_runs([folder]).runs)
            parts += peer_table(groups) + behaviour_table(groups)
        parts.append(section(folder, PICTURES / experiment).replace(f"{runs}/", ""))
    left = missing(runs)
    if left:
        parts += ["## Not run yet", "", *left, ""]
    PAGE.write_text("\n".join(parts))
    print(PAGE)


def section(folder: Path, out: Path) -> str:
    """Report an experiment's runs; leave the pictures in `out` and return the text."""
    write_report([folder], out, title=folder.name)
    text = (out / "report.md").read_text()
    # One level deeper, without the report's own title; run paths are this machine's affair.
    body = text.split("\n", 2)[2].replace("\n## ", "\n### ")
    body = body.replace("](curves-", f"](results/curves/{out.name}/curves-")
    for name in ("report.md", "report.html", "results.json"):
        (out / name).unlink()
    return "\n\n".join(_folded(part) for part in body.split("\n\n"))


def _folded(part: str) -> str:
    """Fold a list of runs, seed by seed, which is long."""
    if part == "Runs:":
        return "<details><summary>Runs, seed by seed</summary>"
    return f"{part}\n\n</details>" if part.startswith("- ") and ", seed " in part else part


if __name__ == "__main__":
    main()
