"""A recipe's trainer and `training:` section as the config object that they name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.errors import RecipeError, SettingsError
from rlalign.recipe.messages import written_in
from rlalign.suggestions import did_you_mean
from rlalign.trainers import TRAINERS

if TYPE_CHECKING:
    from rlalign.recipe import TrainerRecipe
    from rlalign.trainers.base import PreferenceTrainer
    from rlalign.trainers.settings import PreferenceConfig


def trainer_class(recipe: TrainerRecipe, source: str = "recipe") -> type[PreferenceTrainer]:
    """The class the recipe's `trainer:` names; raises `RecipeError` with the nearest name."""
    return _classes(recipe, source)[1]


def check_training(
    recipe: TrainerRecipe, source: str = "recipe", overrides: Sequence[str] = ()
) -> None:
    """Check the `training:` section without making the config.

    Raises `RecipeError` for an unknown trainer or field (with the nearest name) and for a value
    of another type.
    """
    kind = _classes(recipe, written_in("trainer", source, overrides))[0]
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.init]
    for name, value in recipe.training.items():
        where = written_in(f"training.{name}", source, overrides)
        if name not in names:
            hint = did_you_mean(name, names)
            raise RecipeError(f"{where}: {kind.__name__} has no field training.{name}{hint}")
        if not _fits(value, hints[name]):
            raise RecipeError(
                f"{where}: training.{name} must be {_describe(hints[name])}, got {value!r}"
            )


def defaults_of_model(trainer: str, folder: str) -> dict[str, Any]:
    """Fields that a model's folder decides: SRPO's template, where the model brings one."""
    brings = trainer == "srpo" and (Path(folder) / "revision_template.json").is_file()
    return {"template": folder} if brings else {}


def build_config(
    recipe: TrainerRecipe,
    directory: Path,
    *,
    evaluates: bool,
    defaults: Mapping[str, Any] | None = None,
    source: str = "recipe",
) -> PreferenceConfig:
    """The trainer's config for a run in `directory`.

    Args:
        recipe: its sections decide the fields of `DECIDED_ELSEWHERE`, `training` all others.
        directory: of the run.
        evaluates: whether there are held-out pairs.
        defaults: fields that hold where `training` is silent.
        source: of the recipe, for messages.

    Raises:
        RecipeError: if a field is unknown, of another type, or out of its range.
    """
    check_training(recipe, source)
    import torch

    kind = _classes(recipe, source)[0]
    hints = typing.get_type_hints(kind)
    values = {**(defaults or {}), **recipe.training}
    for name, value in values.items():
        options = _options(hints[name])
        if isinstance(value, str) and list[str] in options and str not in options:
            values[name] = [value]
    stopping = recipe.evaluation.early_stopping
    if stopping is not None:
        if not evaluates:
            raise RecipeError(f"{source}: evaluation.early_stopping needs an evaluation_dataset")
        values.setdefault("load_best_model_at_end", True)
        values.setdefault("metric_for_best_model", "eval_loss")
        # A resumed run has waited as long as it had when it was cut.
        values.setdefault("restore_callback_states_from_checkpoint", True)
    # Else transformers names model card and repository after the folder of checkpoints.
    values.setdefault("hub_model_id", directory.resolve().name)
    no_gpu = not torch.cuda.is_available() and not torch.backends.mps.is_available()
    try:
        return kind(
            output_dir=str(directory / "checkpoints"),
            seed=recipe.seed,
            use_cpu=recipe.device == "cpu" or no_gpu,
            logging_strategy="steps",
            logging_steps=recipe.logging.every,
            save_strategy="steps",
            save_steps=recipe.checkpoint.every,
            save_total_limit=recipe.checkpoint.keep,
            eval_strategy="steps" if evaluates else "no",
            eval_steps=recipe.evaluation.every if evaluates else None,
            report_to="none",
            disable_tqdm=True,
            **values,
        )
    except SettingsError as error:
        raise RecipeError(f"{source}: {error}") from None
    except (ValueError, TypeError, ImportError, FileNotFoundError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RecipeError(f"{source}: training does not fit together: {reason}") from None


def _classes(
    recipe: TrainerRecipe, source: str
) -> tuple[type[PreferenceConfig], type[PreferenceTrainer]]:
    if recipe.trainer not in TRAINERS:
        hint = did_you_mean(recipe.trainer, TRAINERS) or (
            f"; known trainers are {', '.join(sorted(TRAINERS))}"
        )
        raise RecipeError(f"{source}: there is no trainer {recipe.trainer!r}{hint}")
    return TRAINERS[recipe.trainer]


_PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _options(hint: Any) -> Sequence[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of YAML's own types can stand where a config's annotation says `hint`."""
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    origin = typing.get_origin(hint) or hint
    if origin in (list, dict):
        # One name stands for a list of it, as on TRL's command line.
        return isinstance(value, origin) or (hint == list[str] and isinstance(value, str))
    return True  # enumerations and the like, which the config itself reads


def _describe(hint: Any) -> str:
    names = [
        "null" if option is type(None) else _PLAIN.get(option, _named(option))
        for option in _options(hint)
    ]
    return " or ".join(dict.fromkeys(names))


def _named(option: Any) -> str:
    origin = typing.get_origin(option) or option
    plain = {list: "a list", dict: "a mapping"}
    return plain.get(origin, getattr(origin, "__name__", str(option)))
