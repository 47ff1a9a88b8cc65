"""A trainer's recipe carried out in a run directory: train, resume, evaluate at the end."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.errors import CheckpointError, DatasetError, RecipeError, RlalignError
from rlalign.new_run import require_free
from rlalign.processes import is_first_process, process_count, resume_command
from rlalign.rundir import RunDirectory

if TYPE_CHECKING:
    from rlalign.recipe import TrainerRecipe
    from rlalign.trainers.preparation import Pairs
    from rlalign.trainers.run_callback import RunCallback

MODEL = "model"  # the trained model's folder in a run directory
STOPS = (signal.SIGINT, signal.SIGTERM)


def train(recipe: TrainerRecipe, directory: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Carry out a trainer's recipe in a new run directory.

    Under `accelerate launch` every process calls this; the first one writes the directory.

    Raises:
        RlalignError: if something is wrong with the recipe, the data, the model or the directory.
        SystemExit: 130 or 143 after SIGINT or SIGTERM, once a checkpoint was written.
    """
    directory = Path(directory)
    if is_first_process():
        require_free(directory)  # said before hours of loading
    parts = _prepare(recipe, directory, progress=progress)
    run = None
    if is_first_process():
        run = RunDirectory.create(directory, recipe, dataset=parts.facts)
    try:
        trainer, callback = _make_trainer(parts, run, seconds=0.0, progress=progress)
    except BaseException:
        if run is not None:
            # Nothing was learned yet: a mistake leaves nothing behind.
            run.close()
            shutil.rmtree(directory, ignore_errors=True)
        raise
    return _carry_out(parts, run, trainer, callback, None)


def resume(directory: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Continue an interrupted run from its last whole checkpoint.

    Raises:
        CheckpointError: if the run is finished, damaged, or its data has changed.
    """
    from rlalign.trainers.after_training import evaluate_trained, is_trained
    from rlalign.trainers.run_callback import read_record, whole_checkpoints

    opened = RunDirectory.open_unfinished(directory)
    _check_processes(opened)
    parts = _prepare(_recipe(opened), opened.path, progress=progress)
    recorded = (opened.info.get("dataset") or {}).get("fingerprint")
    if recorded and recorded != parts.facts["fingerprint"]:
        raise CheckpointError(
            f"{directory}: {parts.facts['name']} has changed since the run began; its fingerprint "
            f"is {str(parts.facts['fingerprint'])[:12]}, it was {recorded[:12]}"
        )
    model = opened.path / MODEL
    if is_trained(model) and process_count() == 1:
        evaluates = bool(parts.pairs.held_out)
        with _recording(opened):
            scores = evaluate_trained(opened, parts.recipe, model, evaluates=evaluates)
        opened.write_scores(scores)
        opened.finish("finished")
        return scores
    checkpoints = whole_checkpoints(opened.checkpoints)
    beginning: dict[str, Any] = {"mark": {}, "seconds": 0.0}
    record = read_record(checkpoints[-1]) if checkpoints else beginning
    run = opened if is_first_process() else None
    if run is not None:
        run.rewind(record["mark"])
    trainer, callback = _make_trainer(
        parts, run, seconds=float(record["seconds"]), progress=progress
    )
    return _carry_out(parts, run, trainer, callback, checkpoints[-1] if checkpoints else None)


def _check_processes(run: RunDirectory) -> None:
    """Refuse another number of processes: a step would have another batch, and others follow."""
    before, now = run.info.get("processes", 1), process_count()
    if before != now:
        raise CheckpointError(
            f"{run.path}: trained by {before} process{'es' if before > 1 else ''}, and now there "
            f"{'are' if now > 1 else 'is'} {now}; go on with: {resume_command(run.path, before)}"
        )


@dataclass
class _Parts:
    """A recipe's parts, loaded and checked."""

    recipe: TrainerRecipe
    directory: Path
    config: Any
    model: Any
    tokenizer: Any
    pairs: Pairs
    facts: dict[str, Any]


def _recipe(run: RunDirectory) -> TrainerRecipe:
    from rlalign.recipe import TrainerRecipe

    recipe = run.any_recipe
    if not isinstance(recipe, TrainerRecipe):
        raise CheckpointError(f"{run.path}: a run of an agent, not of a trainer")
    return recipe


def _prepare(recipe: TrainerRecipe, directory: Path, *, progress: bool) -> _Parts:
    import torch

    from rlalign.data.preferences.loading import check_source
    from rlalign.trainers.final_evaluation import check_evaluation, check_prompts
    from rlalign.trainers.models import TEXTWORLD, load_model, load_tokenizer, model_path
    from rlalign.trainers.preparation import check_length, describe, load_pairs
    from rlalign.trainers.recipe_config import build_config, check_training, defaults_of_model

    _quieten(progress)
    check_training(recipe)
    for name in filter(None, (recipe.dataset, recipe.evaluation_dataset)):
        check_source(name)  # said before a model is fetched, or the text world's is trained
    path = model_path(recipe.model.name, progress=progress)
    check_evaluation(recipe, path)
    if recipe.model.name == TEXTWORLD and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # two threads are slower at its size
    tokenizer = load_tokenizer(recipe.model, path)
    pairs = load_pairs(recipe, tokenizer)
    # Before the model: DeepSpeed's ZeRO-3 has to know of it when weights are loaded.
    config = build_config(
        recipe,
        directory,
        evaluates=pairs.validation is not None,
        defaults=defaults_of_model(recipe.trainer, path),
    )
    model = load_model(recipe.model, path, tokenizer, adapter=recipe.peft is not None)
    check_length(model, config.max_length)
    check_prompts(recipe, model, tokenizer, pairs, config)
    return _Parts(recipe, directory, config, model, tokenizer, pairs, describe(pairs))


def _make_trainer(
    parts: _Parts, run: RunDirectory | None, *, seconds: float, progress: bool
) -> tuple[Any, RunCallback]:
    from transformers import EarlyStoppingCallback
    from transformers.trainer_callback import PrinterCallback

    from rlalign.trainers.interruption import SaveOnSignal
    from rlalign.trainers.preparation import lora
    from rlalign.trainers.recipe_config import trainer_class
    from rlalign.trainers.run_callback import RunCallback

    callback = RunCallback(run, seconds=seconds, progress=progress)
    patience = parts.recipe.evaluation.early_stopping
    callbacks = [callback] if patience is None else [callback, EarlyStoppingCallback(patience)]
    try:
        trainer = trainer_class(parts.recipe)(
            model=parts.model,
            args=parts.config,
            train_dataset=parts.pairs.train.rows,
            eval_dataset=parts.pairs.validation,
            processing_class=parts.tokenizer,
            peft_config=lora(parts.recipe),
            callbacks=callbacks,
        )
    except RlalignError:
        raise
    except ValueError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"the recipe cannot be carried out: {reason}") from None
    if not parts.recipe.data.streaming and len(trainer.train_dataset) == 0:
        raise DatasetError(
            f"{parts.pairs.train.name}: every prompt fills training.max_length="
            f"{parts.config.max_length} tokens, so no completion is left to learn from"
        )
    trainer.remove_callback(PrinterCallback)
    for one in trainer.callback_handler.callbacks:
        if isinstance(one, SaveOnSignal):
            one.signals = STOPS
    return trainer, callback


def _carry_out(
    parts: _Parts,
    run: RunDirectory | None,
    trainer: Any,
    callback: RunCallback,
    checkpoint: Path | None,
) -> dict[str, Any]:
    try:
        with _recording(run):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
            if trainer.interrupted is not None:
                raise SystemExit(128 + trainer.interrupted)
            trainer.save_model(str(parts.directory / MODEL))
            scores: dict[str, Any] = {"train": callback.summary}
            if process_count() == 1:
                from rlalign.trainers.after_training import mark_trained
                from rlalign.trainers.final_evaluation import evaluate_at_end

                assert run is not None
                mark_trained(parts.directory / MODEL, callback.summary)
                scores |= evaluate_at_end(parts.recipe, run, trainer, parts.pairs, callback)
    finally:
        if run is not None:
            run.close()
    if run is not None:
        run.write_scores(scores)
        run.finish("finished")
    return scores


@contextmanager
def _recording(run: RunDirectory | None) -> Iterator[None]:
    """Write into run.json how a run ended that did not finish."""

    def finish(status: Any, message: str) -> None:
        if run is not None:
            run.finish(status, message)

    try:
        yield
    except RlalignError as error:
        finish("failed", str(error))
        raise
    except SystemExit as stop:
        finish("interrupted", f"stopped by signal, exit code {stop.code}")
        raise
    except BaseException as error:
        finish("failed", f"{type(error).__name__}: {error}")
        raise


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "is not a prefix" in record.getMessage()


def _quieten(progress: bool) -> None:
    """Leave the terminal to the progress bar and to errors."""
    import datasets
    import transformers

    # Renamed arguments of transformers that TRL still uses by their old names.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    # But that prompts were cut must be known: samples would be drawn behind what is left of them.
    tokenizing = logging.getLogger("trl.trainer.dpo_trainer")
    tokenizing.setLevel(logging.WARNING)
    tokenizing.addFilter(_is_worth_saying)
    if not progress:
        datasets.disable_progress_bars()
