"""`rlalign report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: rlalign report runs/iql-* runs/awac-* --out report"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories, or folders that hold some.", metavar="RUNS..."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("report"),
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Report runs that did not end, too.")
    ] = False,
    title: Annotated[str, typer.Option("--title", help="Heading.")] = "rlalign report",
) -> None:
    """Compare runs: learning curves, and tables of scores over seeds.

    Writes report.md, report.html (one file, nothing loaded from elsewhere), curves as PNG and
    results.json. Runs that differ only in their seed are put together.
    """
    from rlalign.report import write_report

    written = write_report(runs, out, title=title, unfinished=unfinished)
    typer.echo(written.summary)
    typer.echo(f"report in {written.html}")
