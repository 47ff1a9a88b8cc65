"""The pre-trained model of the text world, made once and kept in the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rlalign.atomic import sync_directory, write_json
from rlalign.data.download import cache_folder
from rlalign.data.saving import locked
from rlalign.textworld.grammar import ANSWER, BETTER, DRAFT
from rlalign.textworld.pretraining import OnStep, Pretraining, pretrain

if TYPE_CHECKING:
    from rlalign.trainers.revision import RevisionTemplate

FORMAT = 1  # raised when the same settings come to mean another model
RECORD = "textworld.json"
DEFAULT = Pretraining()


def model_folder(settings: Pretraining = DEFAULT, *, progress: bool = False) -> Path:
    """The folder of model and tokenizer, as transformers loads them; made at first use.

    Args:
        settings: of pre-training; each has a folder of its own.
        progress: show a progress bar on stderr while the model is made.

    Raises:
        DatasetError: if the cache cannot be written.
    """
    facts = {"format": FORMAT, **dataclasses.asdict(settings)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    folder = cache_folder() / "textworld" / f"llama-{digest}"
    with locked(folder):
        if not (folder / RECORD).is_file():
            _make(folder, settings, progress)
    return folder


def _make(folder: Path, settings: Pretraining, progress: bool) -> None:
    losses: list[float] = []
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        with _Bar(settings.steps, progress) as bar:
            model, tokenizer = pretrain(settings, _watch(bar, losses))
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _revision_template().save(temporary)
        record = {"format": FORMAT, **dataclasses.asdict(settings), "final_loss": losses[-1]}
        write_json(temporary / RECORD, record)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        sync_directory(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _revision_template() -> RevisionTemplate:
    """What the corpus teaches, in the form in which SRPO asks for it."""
    from rlalign.trainers.revision import RevisionTemplate

    return RevisionTemplate(
        name="textworld",
        generation=f"{{prompt}}{ANSWER}",
        revision=f"{{prompt}}{DRAFT}{{draft}}{BETTER}",
        opening=DRAFT.lstrip("\n"),
        closing=BETTER,
        cue=ANSWER.strip(),
    )


def _watch(bar: _Bar, losses: list[float]) -> OnStep:
    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        bar.move(loss)

    return on_step


class _Bar:
    """A progress bar, or nothing."""

    def __init__(self, steps: int, shown: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=steps, desc="text world's model", unit="step", disable=not shown, leave=False
        )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def move(self, loss: float) -> None:
        self._bar.set_postfix_str(f"loss {loss:.2f}", refresh=False)
        self._bar.update(1)
