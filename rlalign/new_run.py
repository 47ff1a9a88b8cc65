"""Whether a folder can take a new run: nothing lies in it but what a killed creation left."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from rlalign.errors import CheckpointError

LOCK = ".lock"


def require_free(path: Path) -> None:
    """Raise `CheckpointError` unless a run can be made at `path`."""
    if not path.is_dir() or is_free(path):
        return
    if not (path / "run.json").is_file():
        raise CheckpointError(f"{path}: the folder exists already, with other files in it")
    raise CheckpointError(
        f"{path}: the run directory exists already; `rlalign resume {path}` continues it unless it "
        "is finished, another --out keeps it"
    )


def is_free(path: Path) -> bool:
    """Whether a folder is empty, or holds only what a run leaves that was killed as it was made.

    run.json is written last, so a folder with it holds a run.
    """
    children = {child.name: child for child in path.iterdir()}
    # Without the lock, which is made first, a recipe.yaml is somebody's own file.
    locked = LOCK in children
    return all(
        name == LOCK
        or (name == "checkpoints" and child.is_dir() and not any(child.iterdir()))
        or (name == "recipe.yaml" and locked)
        or _is_temporary(name)
        for name, child in children.items()
    )


def clear_remains(path: Path) -> None:
    """Remove what a killed creation left; the caller holds the lock and the folder is free."""
    for child in path.iterdir():
        if child.name == "recipe.yaml" or _is_temporary(child.name):
            child.unlink()


def remove_run(path: Path, *, keep_folder: bool) -> None:
    """Remove a run that could not be made, with or without its folder."""
    with contextlib.suppress(OSError):
        if not keep_folder:
            shutil.rmtree(path)
            return
        for child in path.iterdir():
            shutil.rmtree(child) if child.is_dir() else child.unlink()


def _is_temporary(name: str) -> bool:
    return name.startswith((".recipe.yaml.", ".run.json."))
