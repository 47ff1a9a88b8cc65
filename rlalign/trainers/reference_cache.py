"""Rows on disk, so that every process finds what was computed for them, and a resumed run too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from datasets.fingerprint import Hasher


def on_disk(dataset: Dataset, accelerator: Accelerator) -> Dataset:
    """Return the same rows from a file below datasets' cache; called by all processes.

    TRL lays the reference's log-probabilities beside a dataset's own files. Rows that are in memory
    have none: each process would look for the log-probabilities in a temporary folder of its own,
    and only the main one would find them.
    """
    if dataset.cache_files:
        return dataset
    folder = _folder(dataset._fingerprint)
    if accelerator.is_main_process:
        _write(dataset, folder)
    accelerator.wait_for_everyone()
    return Dataset.load_from_disk(str(folder))


def with_column(
    dataset: Dataset,
    name: str,
    computed_with: Any,
    compute: Callable[[], list[Any]],
    accelerator: Accelerator,
) -> Dataset:
    """Return the dataset with a column that is computed once; called by all processes.

    Args:
        dataset: rows.
        name: of the column.
        computed_with: what the values depend on besides the rows, such as a model's hash.
        compute: returns a value for each row.
        accelerator: of the trainer.
    """
    folder = _folder(Hasher.hash((dataset._fingerprint, name, computed_with)))
    if not _known_to_main(folder):
        values = compute()
        if accelerator.is_main_process:
            _write(Dataset.from_dict({name: values}), folder)
        accelerator.wait_for_everyone()
    column = Dataset.load_from_disk(str(folder))
    return datasets.concatenate_datasets([dataset, column], axis=1)


def _folder(fingerprint: str) -> Path:
    shared = [fingerprint]  # may differ between processes where a transform has no hash
    broadcast_object_list(shared, from_process=0)
    return Path(datasets.config.HF_DATASETS_CACHE) / "rlalign" / shared[0]


def _known_to_main(folder: Path) -> bool:
    shared = [folder.exists()]
    broadcast_object_list(shared, from_process=0)
    return bool(shared[0])


def _write(dataset: Dataset, folder: Path) -> None:
    """Write all or nothing; another run may be writing the same."""
    if folder.exists():
        return
    aside = folder.with_name(f"{folder.name}.{os.getpid()}")
    dataset.save_to_disk(str(aside))
    try:
        aside.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(aside)
