"""Preference files on this machine: JSON lines, JSON, Parquet, and folders of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlalign.errors import DatasetError

SUFFIXES = (".jsonl", ".json", ".parquet")
Row = Mapping[str, Any]


def data_file(path: Path, split: str) -> Path:
    """The file that holds a split: `path` itself, or SPLIT.jsonl, SPLIT-*.parquet ... in a folder.

    Raises `DatasetError` when a folder has none, or several, or when a file is asked for another
    split than its only one, `train`.
    """
    if path.is_file():
        if split != "train":
            raise DatasetError(
                f"{path}: a file has no split {split!r}; put {split}.jsonl beside train.jsonl into "
                "a folder and name the folder"
            )
        if path.suffix not in SUFFIXES:
            raise DatasetError(f"{path}: expected a file ending in {', '.join(SUFFIXES)}")
        return path
    files = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
    found = [p for p in files if p.stem == split or p.stem.startswith((f"{split}-", f"{split}_"))]
    if not found and split == "train" and len(files) == 1:
        found = files
    if len(found) != 1:
        known = ", ".join(str(p.relative_to(path)) for p in files[:5]) or "no data file"
        what = "several files" if found else "no file"
        raise DatasetError(
            f"{path}: {what} of the split {split!r}; expected {split}.jsonl or {split}.parquet, "
            f"found {known}"
        )
    return found[0]


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a file, one after the other.

    Raises `DatasetError` naming the line that is damaged.
    """
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    return _line_rows(path) if path.suffix == ".jsonl" else _json_rows(path)


def _line_rows(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield _row(_parse(line, f"{path}, line {number}"), f"{path}, line {number}")


def _json_rows(path: Path) -> Iterator[Row]:
    """A list of objects; a file of lines under the name .json is read as lines."""
    text = path.read_bytes()
    if not text.lstrip().startswith(b"["):
        yield from _line_rows(path)
        return
    document = _parse(text, str(path))
    for number, row in enumerate(document, start=1):
        yield _row(row, f"{path}, item {number}")


def _parse(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{where}: not UTF-8 text ({error.reason})") from None
    except ValueError as error:
        raise DatasetError(f"{where}: not valid JSON ({error})") from None


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: expected an object, found {type(value).__name__}")
    return value


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(f"{path}: not a readable Parquet file ({reason})") from None
