"""Write a report's files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlalign.atomic import write_atomic, write_json
from rlalign.errors import RlalignError
from rlalign.report.groups import Group, make_groups
from rlalign.report.preference_runs import is_preference_run
from rlalign.report.runs import Run, collect_runs, find_runs, read_run
from rlalign.report.tables import Table, mean_and_error, number, number_tables, plain


@dataclass(frozen=True)
class Written:
    """Where a report lies, and what to print."""

    html: Path
    markdown: Path
    results: Path
    pictures: tuple[Path, ...]
    summary: str


def write_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    title: str = "rlalign report",
    unfinished: bool = False,
) -> Written:
    """Report `runs` (run directories, or folders that hold some) into the folder `out`.

    Writes report.html, report.md, results.json and one PNG a task. Runs that are left out are
    named in the report. Raises `CheckpointError` when none is left.
    """
    from rlalign.report.document import make_document
    from rlalign.report.render import markdown, page

    out = Path(out)
    paths = [Path(run) for run in runs]
    aligned = [path for path in find_runs(paths) if is_preference_run(path)]
    if aligned:
        if len(aligned) < len(list(find_runs(paths))):
            raise RlalignError(
                "runs of agents and runs of trainers have nothing in common to compare; report "
                f"them one by one ({aligned[0]} is a trainer's)"
            )
        return _write_preferences(aligned, out, title=title, unfinished=unfinished)
    collection = collect_runs(paths, unfinished=unfinished)
    groups = make_groups(collection.runs)
    if out.exists() and not out.is_dir():
        raise RlalignError(f"{out}: a file is in the place of the report's folder")
    document = make_document(title, collection, groups)
    out.mkdir(parents=True, exist_ok=True)
    pictures = []
    for section in document.sections:
        picture = out / f"{section.file_stem}.png"
        write_atomic(picture, section.light)
        pictures.append(picture)
    results = {"notes": list(collection.notes), "groups": [group.to_dict() for group in groups]}
    write_json(out / "results.json", results)
    write_atomic(out / "report.md", markdown(document).encode())
    write_atomic(out / "report.html", page(document).encode())
    return Written(
        html=out / "report.html",
        markdown=out / "report.md",
        results=out / "results.json",
        pictures=tuple(pictures),
        summary=_summary(groups, collection.notes),
    )


def _write_preferences(
    directories: Sequence[Path], out: Path, *, title: str, unfinished: bool
) -> Written:
    from rlalign.report.preferences import make_preference_report

    report = make_preference_report(directories, title=title, unfinished=unfinished)
    if out.exists() and not out.is_dir():
        raise RlalignError(f"{out}: a file is in the place of the report's folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in report.pictures.items():
        write_atomic(out / name, picture)
    write_json(out / "results.json", report.results)
    write_atomic(out / "report.md", report.markdown.encode())
    write_atomic(out / "report.html", report.html.encode())
    return Written(
        html=out / "report.html",
        markdown=out / "report.md",
        results=out / "results.json",
        pictures=tuple(out / name for name in report.pictures),
        summary=report.summary,
    )


def describe_run(directory: str | Path) -> str:
    """One run in a line or two: behaviour, offline and online score, and where it lies."""
    if is_preference_run(Path(directory)):
        from rlalign.report.preferences import describe_preference_run

        return describe_preference_run(Path(directory))
    run = read_run(Path(directory))
    what = "normalised score" if run.normalized else "return"
    parts = [
        f"{name} {number(value)}" for name, value in _stages(run).items() if not math.isnan(value)
    ]
    if not len(run.offline) and not len(run.online):
        parts.append("not evaluated")
    scores = f"{what}: {', '.join(parts)}"
    return f"{run.agent} on {run.task}, seed {run.seed}: {scores}\n{run.status}: {run.path}"


def _stages(run: Run) -> dict[str, float]:
    return {
        "behaviour": math.nan if run.behaviour is None else run.behaviour,
        "offline": run.offline.final if len(run.offline) else math.nan,
        "online": run.online.final if len(run.online) else math.nan,
    }


def _summary(groups: Sequence[Group], notes: Sequence[str]) -> str:
    """What the terminal shows: a line a group, with the online phase's columns if there is one."""
    online = any(group.has_online for group in groups)
    columns = ("task", "agent", "seeds", "behaviour", "offline")
    rows: list[tuple[str, ...]] = []
    for group in groups:
        offline = mean_and_error(group.offline_final()) if group.has_offline else "–"
        row = (group.task, group.label, str(len(group.runs)), number(group.behaviour), offline)
        rows.append((*row, *(_online_cells(group) if online else ())))
    scores = Table("", (*columns, *(("dip", "online", "area") if online else ())), tuple(rows))
    tables = (plain(table) for table in (scores, *number_tables(groups)))
    return "\n".join([*tables, *(f"note: {note}" for note in notes)])


def _online_cells(group: Group) -> tuple[str, str, str]:
    if not group.has_online:
        return "–", "–", "–"
    found = (group.lowest_early_online(), group.final(), group.online_area())
    dip, final, area = map(mean_and_error, found)
    return dip, final, area
