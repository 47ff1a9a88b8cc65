"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

RecipeName = Annotated[
    str,
    typer.Argument(
        help="A shipped recipe (see `rlalign recipes`), or a YAML file.", metavar="RECIPE"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Changes to the recipe, such as seed=3.", metavar="KEY=VALUE"),
]
Progress = Annotated[
    bool | None,
    typer.Option("--progress/--no-progress", help="Show a progress bar. [default: on a terminal]"),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Where an agent acts: cpu or cuda[:N]. [default: cpu]"),
]
DatasetName = Annotated[
    str,
    typer.Argument(
        help="local/..., d4rl/..., minari/..., or an HDF5 file in D4RL's layout.",
        metavar="DATASET",
    ),
]
AnyDatasetName = Annotated[
    str,
    typer.Argument(
        help="local/..., d4rl/..., minari/... or an HDF5 file; or preference data: textworld, a "
        "file or folder of .jsonl, .json or .parquet, OWNER/NAME on the Hugging Face hub.",
        metavar="DATASET",
    ),
]


def progress_wanted(progress: bool | None) -> bool:
    """The flag, or whether someone watches."""
    import sys

    return sys.stderr.isatty() if progress is None else progress
