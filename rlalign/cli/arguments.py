"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from rlalign.errors import RlalignError

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
Checkpoint = Annotated[
    str | None,
    typer.Option("--checkpoint", "-c", help="Which one of the run. [default: latest]"),
]
LARGEST_SEED = 2**64 - 1  # that torch takes
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


def refuse_options(subject: object, why: str, **options: object) -> None:
    """Refuse an option that was given and means nothing for what it was given with.

    Args:
        subject: what the command was told to work on, for the message.
        why: what the options are for.
        options: their values by name; None and False are those that were not given.

    Raises `RlalignError`.
    """
    for name, value in options.items():
        if value is not None and value is not False:
            raise RlalignError(f"{subject}: --{name.replace('_', '-')} {why}; leave it out")
