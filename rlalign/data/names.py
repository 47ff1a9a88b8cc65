"""Names that stand for a dataset of transitions rather than for a file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

KINDS = ("local", "d4rl", "minari")


class DatasetName(NamedTuple):
    """``d4rl/hopper-medium-v2`` in its two parts."""

    kind: str
    rest: str


def dataset_name(name: str | Path) -> DatasetName | None:
    """Return the parts of a name of one of the `KINDS`, or None for a file or anything else.

    A file of that name is meant before the dataset; a folder is no dataset and hides none.
    """
    kind, _, rest = str(name).partition("/")
    if kind not in KINDS or not rest or Path(name).expanduser().is_file():
        return None
    return DatasetName(kind, rest)
