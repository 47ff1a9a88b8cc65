"""What `rlalign data info` and `rlalign evaluate` print of preference data and of its trainers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer


def describe(
    dataset: str,
    model: str | None,
    max_length: int | None,
    split: str,
    sample: int,
    *,
    as_json: bool,
) -> None:
    """Print the facts of a preference dataset."""
    from rlalign.data.preferences import load_preferences
    from rlalign.data.preferences.inspection import describe_preferences
    from rlalign.data.preferences.loading import Reading

    tokenizer, ends = None, []
    if model is not None:
        from rlalign.recipe.trainer_schema import Model
        from rlalign.trainers.generation import configured_ends
        from rlalign.trainers.models import load_tokenizer, model_path

        path = model_path(model)
        tokenizer, ends = load_tokenizer(Model(name=model), path), configured_ends(path)
    chat = tokenizer is not None and tokenizer.chat_template is not None
    reading = Reading(split=split, invalid="drop", drop_identical=False, as_messages=chat)
    facts = describe_preferences(
        load_preferences(dataset, reading),
        tokenizer,
        max_length=max_length,
        sample=sample,
        ends=ends,
    )
    typer.echo(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else _facts_text(facts))


def evaluate_run(
    directory: Path,
    checkpoint: str,
    dataset: str | None,
    split: str | None,
    asked: Mapping[str, Any],
    *,
    seed: int,
    record: bool,
    as_json: bool,
) -> None:
    """Evaluate a trainer's run and print figures and a sample."""
    from rlalign.errors import CheckpointError
    from rlalign.recipe import TrainerRecipe
    from rlalign.rundir import RunDirectory
    from rlalign.trainers.final_evaluation import evaluate_run as evaluate

    run = RunDirectory.open(directory)
    recipe = run.any_recipe
    if not isinstance(recipe, TrainerRecipe):
        raise CheckpointError(f"{directory}: a run of an agent, not of a trainer")
    changes = {key: value for key, value in asked.items() if value is not None}
    found = evaluate(
        run,
        recipe,
        checkpoint=checkpoint,
        dataset=dataset,
        split=split,
        changes=changes,
        seed=seed,
        record=record,
    )
    if as_json:
        document = {
            name: {"figures": one.figures, "samples": one.samples} for name, one in found.items()
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for name, one in found.items():
        typer.echo(name)
        for key, value in one.figures.items():
            typer.echo(f"  {key:28}{value:.4g}")
        if one.samples:
            first = one.samples[0]
            for key in ("prompt", "initial", "policy"):
                typer.echo(f"  {key}: {first[key]}")


def _facts_text(facts: Mapping[str, Any]) -> str:
    lines = []
    for key, value in facts.items():
        if key == "sample":
            continue
        if isinstance(value, Mapping):
            text = ", ".join(f"{name} {number:g}" for name, number in value.items()) or "–"
        else:
            text = (
                "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
            )
        lines.append(f"{key:18}{text}")
    lines.append("sample")
    lines += [f"  {part}: {text!r}" for part, text in facts["sample"].items()]
    return "\n".join(lines)
