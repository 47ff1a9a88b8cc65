"""Evaluate a run: at the end of its training, or later by `rlalign evaluate`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.atomic import write_atomic
from rlalign.errors import CheckpointError, RlalignError
from rlalign.trainers.evaluation import Evaluated, Plan, evaluate

if TYPE_CHECKING:
    from rlalign.recipe import TrainerRecipe
    from rlalign.recipe.trainer_schema import PreferenceEvaluation
    from rlalign.rundir import RunDirectory
    from rlalign.trainers.preparation import Pairs
    from rlalign.trainers.revision import RevisionTemplate
    from rlalign.trainers.run_callback import RunCallback

SAMPLES = "samples.jsonl"
CANNOT_REVISE = (
    "revisions need a model that was trained to revise (trainer srpo) or whose folder brings a "
    "revision_template.json; set evaluation.revisions=0"
)


def evaluate_at_end(
    recipe: TrainerRecipe,
    run: RunDirectory,
    trainer: Any,
    pairs: Pairs,
    callback: RunCallback,
) -> dict[str, Any]:
    """Evaluate a trainer's policy on all held-out datasets and write what was found.

    Returns the figures by dataset, under `final`.
    """
    from rlalign.trainers.models import model_path
    from rlalign.trainers.voices import voices_of_trainer

    if not pairs.held_out:
        return {"final": {}}
    policy, initial = voices_of_trainer(recipe, trainer)
    template = getattr(trainer, "template", None)
    if template is None:
        template = _template(Path(model_path(recipe.model.name)))
    plan = make_plan(recipe, max_length=trainer.args.max_length, template=template)
    found = {
        name: evaluate(policy, initial, held_out.rows, plan)
        for name, held_out in pairs.held_out.items()
    }
    step, seconds = trainer.state.global_step, callback.seconds
    for name, one in found.items():
        row = {"phase": "final", "dataset": name, "step": step, "time": round(seconds, 3)}
        run.log_evaluation({**row, **one.figures})
    write_samples(run.path, found)
    return {"final": {name: one.figures for name, one in found.items()}}


def check_evaluation(recipe: TrainerRecipe, model_folder: str) -> None:
    """Look for what the evaluation at the end needs, before hours of training.

    Reward models are not loaded yet: they would take memory all the while.

    Args:
        recipe: says what to evaluate.
        model_folder: of the initial model, which may bring a revision template.

    Raises `RlalignError` for a reward function, judge or revision that cannot be had.
    """
    from rlalign.trainers.judges import endpoint_judge
    from rlalign.trainers.rewards import load_reward

    settings = recipe.evaluation
    if settings.revisions and recipe.trainer != "srpo" and _template(Path(model_folder)) is None:
        raise RlalignError(CANNOT_REVISE)
    if settings.reward is not None and (settings.reward == "textworld" or ":" in settings.reward):
        load_reward(settings.reward)
    if settings.judge is not None:
        endpoint_judge(settings.judge)


def check_prompts(
    recipe: TrainerRecipe, model: Any, tokenizer: Any, pairs: Pairs, config: Any
) -> None:
    """Raise `RlalignError` when the evaluation at the end would find no prompt with room behind it.

    Args:
        recipe: says what to evaluate.
        model: whose context has to do.
        tokenizer: the model's.
        pairs: the recipe's, loaded.
        config: of the trainer.
    """
    from rlalign.trainers.context import check_room
    from rlalign.trainers.models import model_path
    from rlalign.trainers.revision import revision_template

    named = getattr(config, "template", None)  # SRPO's
    folder = Path(model_path(recipe.model.name))
    template = _template(folder) if named is None else revision_template(named)
    plan = make_plan(
        recipe, max_length=config.max_length, template=template, reward=None, judge=None
    )
    check_room(pairs.held_out, model, tokenizer, plan)


def _template(*folders: Path) -> RevisionTemplate | None:
    """The revision template in the first of some folders that has one."""
    from rlalign.trainers.revision import FILE, RevisionTemplate

    found = next((folder for folder in folders if (folder / FILE).is_file()), None)
    return None if found is None else RevisionTemplate.load(found)


def make_plan(
    recipe: TrainerRecipe,
    *,
    max_length: int | None,
    template: RevisionTemplate | None = None,
    **changes: Any,
) -> Plan:
    """What the recipe's `evaluation:` section asks for, with some fields changed.

    Raises `RlalignError` for a reward, judge or revision that cannot be had.
    """
    from rlalign.trainers.judges import endpoint_judge
    from rlalign.trainers.rewards import load_reward

    settings: PreferenceEvaluation = recipe.evaluation.model_copy(update=changes)
    if settings.revisions and template is None:
        raise RlalignError(CANNOT_REVISE)
    return Plan(
        prompts=settings.prompts,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        max_length=max_length,
        seed=recipe.seed,
        reward=None
        if settings.reward is None
        else load_reward(settings.reward, device=recipe.device),
        judge=None if settings.judge is None else endpoint_judge(settings.judge),
        revisions=settings.revisions,
        template=template,
        templated=recipe.trainer == "srpo",
        shown=settings.shown,
    )


def evaluate_run(
    run: RunDirectory,
    recipe: TrainerRecipe,
    *,
    checkpoint: str = "latest",
    dataset: str | None = None,
    split: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int | None = None,
    record: bool = False,
) -> dict[str, Evaluated]:
    """Evaluate a run's model, or one of its checkpoints, beside the initial model.

    Args:
        run: of a trainer.
        recipe: the run's.
        checkpoint: "latest" is the trained model, or the newest checkpoint of a run that has not
            ended; else a checkpoint's name.
        dataset: preference pairs to evaluate on, read as the recipe's `data:` section says; by
            default the recipe's held-out ones.
        split: of `dataset`; by default the recipe's `data.evaluation_split`, or train.
        changes: of fields of the recipe's `evaluation:` section.
        seed: of the samples; None as the run's.
        record: write figures and samples into the run directory, for its report.

    Raises:
        RlalignError: if model, data, reward or judge cannot be had.
    """
    from rlalign.trainers.models import load_trained, model_path
    from rlalign.trainers.preparation import load_held_out, load_pairs
    from rlalign.trainers.voices import voices_of_model

    if split is not None and dataset is None:
        raise RlalignError(f"--split {split}: of which dataset? Add --dataset NAME or PATH")
    if record and checkpoint != "latest":
        raise RlalignError(
            f"--checkpoint {checkpoint}: the report shows the trained model's figures, so those of "
            "a checkpoint are not recorded; leave --record out"
        )
    folder = trained_folder(run, checkpoint)
    model, tokenizer = load_trained(recipe.model, folder)
    if dataset is not None:
        pairs = load_held_out(recipe, tokenizer, dataset, split)
        held_out = {pairs.name: pairs}  # which says the split
    else:
        held_out = load_pairs(recipe, tokenizer).held_out
    if not held_out:
        raise RlalignError(
            f"{run.path}: the recipe names no held-out pairs; add --dataset NAME or PATH"
        )
    plan = make_plan(
        recipe,
        max_length=recipe.training.get("max_length", 1024),
        template=_template(folder, Path(model_path(recipe.model.name))),
        **(changes or {}),
    )
    if seed is not None:
        plan = dataclasses.replace(plan, seed=seed)
    policy, initial = voices_of_model(recipe, model, tokenizer)
    found = {name: evaluate(policy, initial, one.rows, plan) for name, one in held_out.items()}
    if record:
        for name, evaluated in found.items():
            step = next((row["step"] for row in reversed(run.metrics())), 0)
            row = {"phase": "final", "dataset": name, "step": step}
            run.log_evaluation({**row, **evaluated.figures})
        write_samples(run.path, found)
        run.close()
    return found


def trained_folder(run: RunDirectory, checkpoint: str) -> Path:
    """The folder of a run's model or checkpoint; raises `CheckpointError` when there is none."""
    from rlalign.trainers.run_callback import whole_checkpoints
    from rlalign.trainers.runs import MODEL

    whole = whole_checkpoints(run.checkpoints)
    if checkpoint == "latest":
        if (run.path / MODEL).is_dir():
            return run.path / MODEL
        if not whole:
            raise CheckpointError(f"{run.path}: holds no checkpoint")
        return whole[-1]
    for folder in whole:
        if folder.name == checkpoint:
            return folder
    known = ", ".join(folder.name for folder in whole) or "none"
    raise CheckpointError(f"{run.path}: no checkpoint {checkpoint!r}; there are {known}")


def write_samples(folder: Path, found: Mapping[str, Evaluated]) -> None:
    """Write the samples to be read, one a line."""
    rows = [{"dataset": name, **sample} for name, one in found.items() for sample in one.samples]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomic(folder / SAMPLES, text.encode())
