"""Preference datasets by name: the text world, files on this machine, the Hugging Face hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlalign.data.names import dataset_name
from rlalign.data.preferences.files import SUFFIXES, data_file, read_rows
from rlalign.data.preferences.formats import Format, recognise, standard_row
from rlalign.data.preferences.tables import as_stream, as_table
from rlalign.errors import DatasetError, DownloadError, MissingPackageError

TEXTWORLD = "textworld"
Rows = Callable[[], Iterator[Mapping[str, Any]]]


def is_preference_name(name: str) -> bool:
    """Whether a name or path stands for preference data rather than for transitions."""
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in (*SUFFIXES, ".hdf5"):
        return path.suffix in SUFFIXES
    if dataset_name(name) is not None:
        return False  # also where a folder is called so
    if path.is_dir():
        return any(file.suffix in SUFFIXES for file in path.rglob("*"))
    kind, _, rest = name.partition("/")
    return kind == TEXTWORLD or bool(rest)


@dataclass(frozen=True)
class Reading:
    """How a dataset is read.

    Args:
        split: of a folder or a hub dataset.
        configuration: of a hub dataset that has several.
        revision: commit, branch or tag of a hub dataset.
        streaming: read rows as they are needed instead of all at once.
        limit: rows at most, from the beginning.
        invalid: what to do with a row that is damaged: stop, or leave it out.
        drop_identical: leave out pairs whose completions are the same; they teach nothing.
        as_messages: bring transcripts of Human: and Assistant: turns to messages.
    """

    split: str = "train"
    configuration: str | None = None
    revision: str | None = None
    streaming: bool = False
    limit: int | None = None
    invalid: Literal["error", "drop"] = "error"
    drop_identical: bool = True
    as_messages: bool = False


@dataclass
class Preferences:
    """Pairs with explicit prompts, and what is known of where they come from.

    Args:
        name: as it was asked for, with its split.
        rows: a `datasets.Dataset`, or `IterableDataset` when streaming, with the columns prompt,
            chosen, rejected, and tools and chat_template_kwargs where there are any.
        form: of the source.
        fingerprint: SHA-256 over the rows; None when streaming.
        left_out: how many rows were left out, by reason; counted only when not streaming.
    """

    name: str
    rows: Any
    form: Format
    fingerprint: str | None = None
    left_out: dict[str, int] = field(default_factory=dict)


def load_preferences(name: str, reading: Reading = Reading()) -> Preferences:
    """Load preference pairs by name.

    Args:
        name: ``textworld``, ``textworld/validation``, ``textworld/out-of-distribution``; a file
            ending in .jsonl, .json or .parquet, or a folder of such files, one for each split; or
            a dataset of the Hugging Face hub, ``owner/name``.
        reading: which part of it, and how.

    Raises:
        DatasetError: if there is no such dataset or split, or rows are not preference pairs.
        DownloadError: if a hub dataset cannot be fetched.
        MissingPackageError: without the extra `llm`.
    """
    if importlib.util.find_spec("datasets") is None:
        raise MissingPackageError("preference data needs datasets; pip install 'rlalign[llm]'")
    source, rows = _open(name, reading)
    first = next(iter(rows()), None)
    if first is None:
        raise DatasetError(f"{source}: there are no rows")
    form = recognise(first, source)
    left_out: dict[str, int] = {}

    def pairs() -> Iterator[dict[str, Any]]:
        return _standard(rows(), form, source, reading, left_out)

    if reading.streaming:
        return Preferences(source, as_stream(pairs), form)
    table = list(pairs())
    if not table:
        raise DatasetError(f"{source}: no pair is left ({_counts(left_out)})")
    return Preferences(source, as_table(table, source), form, _fingerprint(table), left_out)


def _standard(
    rows: Iterable[Mapping[str, Any]],
    form: Format,
    source: str,
    reading: Reading,
    left_out: dict[str, int],
) -> Iterator[dict[str, Any]]:
    count = 0
    for number, row in enumerate(rows, start=1):
        if count == reading.limit:
            return
        try:
            pair = standard_row(
                row,
                form,
                f"{source}, row {number}",
                as_messages=reading.as_messages,
                drop_identical=reading.drop_identical,
            )
        except DatasetError as error:
            if reading.invalid == "error":
                raise DatasetError(
                    f"{error} (`invalid: drop` in the recipe's data section leaves such rows out)"
                ) from None
            left_out["invalid"] = left_out.get("invalid", 0) + 1
            continue
        if pair is None:
            left_out["identical"] = left_out.get("identical", 0) + 1
            continue
        count += 1
        yield pair


def check_source(name: str) -> None:
    """Raise `DatasetError` where a name is of no file, no text world and no hub dataset."""
    path = Path(name).expanduser()
    if path.exists() or name.partition("/")[0] == TEXTWORLD:
        return
    if path.suffix in SUFFIXES or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise DatasetError(
            f"{name}: no such file or folder; preference data is a file ending in "
            f"{', '.join(SUFFIXES)}, a folder of them, {TEXTWORLD}, or OWNER/NAME on the hub"
        )


def _open(name: str, reading: Reading) -> tuple[str, Rows]:
    """A name for messages, and a function that begins to read the rows."""
    check_source(name)
    kind, _, part = name.partition("/")
    path = Path(name).expanduser()
    if path.exists():
        file = data_file(path, reading.split)
        return str(file), lambda: read_rows(file)
    if kind == TEXTWORLD:
        from rlalign.textworld.pairs import preference_pairs

        split = part or reading.split
        pairs = preference_pairs(split)
        return f"{TEXTWORLD}/{split}", lambda: iter(pairs)
    found = _from_hub(name, reading)
    return f"{name}, split {reading.split}", lambda: iter(found)


def _from_hub(name: str, reading: Reading) -> Iterable[Mapping[str, Any]]:
    import datasets

    try:
        return datasets.load_dataset(
            name,
            reading.configuration,
            split=reading.split,
            revision=reading.revision,
            streaming=reading.streaming,
        )
    except (ConnectionError, OSError) as error:
        raise DownloadError(
            f"{name}: cannot be fetched from the Hugging Face hub ({_reason(error)}); without a "
            "network, name a local file or folder"
        ) from None
    except (ValueError, datasets.exceptions.DatasetsError) as error:
        raise DatasetError(f"{name}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].removesuffix(".")


def _fingerprint(rows: list[dict[str, Any]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _counts(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in left_out.items())
