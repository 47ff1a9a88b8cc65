"""Processes that train together, as their launcher tells each of them in its environment."""

from __future__ import annotations

import os
from pathlib import Path

from rlalign.errors import RlalignError


def process_count() -> int:
    """How many there are."""
    return _number("WORLD_SIZE", 1)


def is_first_process() -> bool:
    """Whether this is the one that writes the run directory and talks."""
    return _number("RANK", 0) == 0


def resume_command(directory: Path, processes: int) -> str:
    """What goes on with a run that so many processes train."""
    launch = f" --launch CONFIG --processes {processes}" if processes > 1 else ""
    return f"rlalign resume {directory}{launch}"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise RlalignError(f"the environment variable {name} must be a whole number, got {text!r}")
    return int(text)
