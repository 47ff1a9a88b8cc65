"""Runs that were cut after their training had ended, while they were evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.atomic import write_json
from rlalign.trainers.run_callback import RECORD, read_record

if TYPE_CHECKING:
    from rlalign.recipe import TrainerRecipe
    from rlalign.rundir import RunDirectory


def mark_trained(model: Path, summary: dict[str, Any]) -> None:
    """Say in the trained model's folder, once it is whole, that training has ended.

    A checkpoint of the last step cannot say so: transformers would take another step from it.
    """
    write_json(model / RECORD, {"summary": summary})


def is_trained(model: Path) -> bool:
    """Whether nothing but the evaluation at the end is left to do."""
    return (model / RECORD).is_file()


def evaluate_trained(
    run: RunDirectory, recipe: TrainerRecipe, model: Path, *, evaluates: bool
) -> dict[str, Any]:
    """Evaluate a run that has been trained, and return its scores.

    Args:
        run: open for writing.
        recipe: the run's.
        model: the trained model's folder.
        evaluates: whether there is something to evaluate.
    """
    from rlalign.trainers.final_evaluation import evaluate_run

    found = evaluate_run(run, recipe, record=True) if evaluates else {}
    final = {name: one.figures for name, one in found.items()}
    return {"train": read_record(model)["summary"], "final": final}
