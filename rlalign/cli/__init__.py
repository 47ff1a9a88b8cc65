"""The command line `rlalign`. Commands import what they need only when they run."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rlalign.cli import data, evaluation, recipes, reporting, training
from rlalign.errors import RlalignError

INTERRUPTED = 130
WRONG_USE = 2
# Older versions of typer stand on click, newer ones bring their own copy of it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="rlalign",
    help="Reinforcement learning from data, and preference alignment of language models: from a "
    "recipe to a report.",
    epilog="Example: rlalign train demo && rlalign report runs --out report",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("train", epilog=training.TRAIN_EXAMPLE)(training.train)
app.command("resume", epilog=training.RESUME_EXAMPLE)(training.resume)
app.command("evaluate", epilog=evaluation.EXAMPLE)(evaluation.evaluate)
app.command("collect", epilog=data.COLLECT_EXAMPLE)(data.collect)
app.add_typer(data.app, name="data")
app.add_typer(recipes.app, name="recipes")
app.command("report", epilog=reporting.EXAMPLE)(reporting.report)
app.command("sweep", epilog=training.SWEEP_EXAMPLE)(training.sweep)


def _print_version(wanted: bool) -> None:
    if wanted:
        from rlalign import __version__

        typer.echo(f"rlalign {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options of rlalign itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for a mistake that the user can put right, 130, 143."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without the dashes of tables and the signs of file names shows `?`.
            stream.reconfigure(errors="replace")
    warnings.formatwarning = _one_line_if_ours(warnings.formatwarning)
    sys.exit(run(arguments))


def _one_line_if_ours(others: Callable[..., str]) -> Callable[..., str]:
    """Format rlalign's own warnings as a sentence, without the line of code that gave it."""
    ours = str(Path(__file__).resolve().parents[1])

    def format_(message: Any, category: Any, filename: str, *where: Any) -> str:
        if category is UserWarning and filename.startswith(ours):
            return f"warning: {message}\n"
        return others(message, category, filename, *where)

    return format_


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; a mistake becomes one line on stderr.

    With RLALIGN_TRACEBACK set, errors show where they come from instead.
    """
    command = typer.main.get_command(app)
    given = None if arguments is None else list(arguments)
    try:
        code = command.main(given, prog_name="rlalign", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Abort:
        return _tell("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has seen enough; Python must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (RlalignError, OSError, _UsageError) as error:
        if os.environ.get("RLALIGN_TRACEBACK"):
            raise
        return _tell(_sentence(error), WRONG_USE)
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("RLALIGN_TRACEBACK") or not _out_of_memory(error):
            raise
        first = next(iter(str(error).splitlines()), "")
        return _tell(
            "this needs more memory than there is; smaller networks, batches, buffers or fewer "
            f"environments need less ({first})",
            WRONG_USE,
        )


def _out_of_memory(error: BaseException) -> bool:
    """Whether it comes of numpy, or of torch, which has a type of its own for GPUs alone."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    format_message = getattr(error, "format_message", None)
    text = format_message() if format_message is not None else str(error)
    return text or f"{type(error).__name__} without a message"


def _tell(sentence: str, code: int) -> int:
    typer.echo(f"error: {' '.join(sentence.split())}", err=True)
    return code
