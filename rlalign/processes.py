"""Processes that train together, as their launcher tells each of them in its environment."""

from __future__ import annotations

import os
from pathlib import Path


def process_count() -> int:
    """How many there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the one that writes the run directory and talks."""
    return int(os.environ.get("RANK", "0")) == 0


def resume_command(directory: Path, processes: int) -> str:
    """What goes on with a run that so many processes train."""
    launch = f" --launch CONFIG --processes {processes}" if processes > 1 else ""
    return f"rlalign resume {directory}{launch}"
