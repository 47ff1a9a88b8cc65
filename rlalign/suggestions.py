"""The end of a sentence about a name that is unknown: which one may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """`; did you mean 'steps'?`, or nothing where no known name is near.

    Args:
        name: what was given.
        known: the names there are.
        most: how many of them are named at most, nearest first.
    """
    return one_of(difflib.get_close_matches(name, list(known), n=most))


def one_of(names: Iterable[str], where: str = "") -> str:
    """`; did you mean 'a' or 'b'?`, or nothing without names; `where` they belong comes last."""
    quoted = " or ".join(map(repr, names))
    return f"; did you mean {quoted}{where}?" if quoted else ""
