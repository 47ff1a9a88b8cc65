"""Checked rows as tables of the package datasets, whether or not the rows are alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rlalign.data.preferences.messages import TEMPLATE_COLUMNS
from rlalign.errors import DatasetError

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

Row = dict[str, Any]
PARTS = ("prompt", "chosen", "rejected")
# TRL unpacks the keyword arguments of each row once the column is there.
_ABSENT: Row = {"tools": None, "chat_template_kwargs": {}}


def as_table(rows: Sequence[Row], source: str) -> Dataset:
    """A table of all rows, with the columns for the chat template where any row has them.

    Raises `DatasetError` when the rows do not fit one table.
    """
    import datasets
    import pyarrow

    columns = [name for name in TEMPLATE_COLUMNS if any(name in row for row in rows)]
    filled = [{**row, **{name: row.get(name, _ABSENT[name]) for name in columns}} for row in rows]
    try:
        return datasets.Dataset.from_list(filled, features=_features(rows, columns))
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{source}: rows are not alike: {str(error).splitlines()[0]}") from None


def as_stream(rows: Callable[[], Iterator[Row]]) -> IterableDataset:
    """Rows read as they are needed; each has the columns for the chat template that it needs."""
    import datasets

    return datasets.IterableDataset.from_generator(rows)


def _features(rows: Sequence[Row], columns: Sequence[str]) -> Features:
    """Types of the columns.

    A struct gives each row the keys of all others, with None in them, and a chat template writes
    that out: what may differ between rows is stored as JSON.
    """
    from datasets import Features, Json, List, Value

    text: Any = Value("string")
    if isinstance(rows[0]["prompt"], list):
        more = any(
            message.keys() - {"role", "content"}
            for row in rows
            for part in PARTS
            for message in row[part]
        )
        text = List(Json() if more else {"role": Value("string"), "content": Value("string")})
    return Features({**dict.fromkeys(PARTS, text), **{name: Json() for name in columns}})
