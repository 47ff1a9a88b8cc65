"""What a trainer's recipe names, loaded and checked: datasets, tokenizer, model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlalign.data.preferences.loading import Preferences, Reading, load_preferences
from rlalign.data.preferences.splitting import split_by_prompt
from rlalign.errors import DatasetError, ModelError
from rlalign.trainers.context import position_limit

if TYPE_CHECKING:
    from rlalign.recipe import TrainerRecipe

VALIDATION = "validation"


@dataclass
class Pairs:
    """A recipe's datasets.

    Args:
        train: to learn from.
        held_out: by name; `validation` is evaluated while training, others at the end.
    """

    train: Preferences
    held_out: dict[str, Preferences]

    @property
    def validation(self) -> Any:
        """The rows to evaluate on while training, or None."""
        found = self.held_out.get(VALIDATION)
        return None if found is None else found.rows


def load_pairs(recipe: TrainerRecipe, tokenizer: Any) -> Pairs:
    """Load a recipe's datasets for a tokenizer.

    Raises `DatasetError` where one is missing, damaged, or does not fit the tokenizer.
    """
    data = recipe.data
    train = _load(
        recipe, tokenizer, recipe.dataset, data.split, data.limit, streaming=data.streaming
    )
    held_out: dict[str, Preferences] = {}
    limit = data.evaluation_limit
    if recipe.evaluation_dataset is not None:
        held_out[VALIDATION] = load_held_out(recipe, tokenizer, recipe.evaluation_dataset)
    elif data.evaluation_split is not None:
        held_out[VALIDATION] = load_held_out(
            recipe, tokenizer, recipe.dataset, data.evaluation_split
        )
    elif data.evaluation_share:
        train, held = split_by_prompt(train, data.evaluation_share, recipe.seed)
        if limit is not None:
            held.rows = held.rows.select(range(min(limit, len(held.rows))))
        _fit(held, recipe, tokenizer)
        held_out[VALIDATION] = held
    _fit(train, recipe, tokenizer)
    for name, dataset in recipe.evaluation.more.items():
        held_out[name] = load_held_out(recipe, tokenizer, dataset)
    return Pairs(train, held_out)


def load_held_out(
    recipe: TrainerRecipe, tokenizer: Any, dataset: str, split: str | None = None
) -> Preferences:
    """Load pairs to evaluate on, as a recipe's `data:` section says.

    Args:
        recipe: says what to leave out.
        tokenizer: of the model.
        dataset: name or path.
        split: of it; by default the recipe's `data.evaluation_split`, or train.
    """
    data = recipe.data
    split = split or held_out_split(dataset, data.evaluation_split)
    pairs = _load(recipe, tokenizer, dataset, split, data.evaluation_limit)
    _fit(pairs, recipe, tokenizer)
    return pairs


def _load(
    recipe: TrainerRecipe,
    tokenizer: Any,
    dataset: str,
    split: str,
    limit: int | None,
    *,
    streaming: bool = False,
) -> Preferences:
    data = recipe.data
    same = dataset == recipe.dataset  # others have commits and configurations of their own
    reading = Reading(
        split=split,
        configuration=data.configuration if same else None,
        revision=data.revision if same else None,
        streaming=streaming,
        limit=limit,
        invalid=data.invalid,
        drop_identical=data.drop_identical,
        as_messages=tokenizer.chat_template is not None,
    )
    return load_preferences(dataset, reading)


def _fit(pairs: Preferences, recipe: TrainerRecipe, tokenizer: Any) -> None:
    """Leave out prompts that the recipe finds too long; refuse pairs the tokenizer cannot write."""
    _check_template(pairs, tokenizer)
    if recipe.data.max_prompt_length is not None:
        _drop_long_prompts(pairs, tokenizer, recipe.data.max_prompt_length)


def held_out_split(dataset: str, split: str | None) -> str:
    """The split to read of a held-out dataset that names none: the recipe's, where it can have one.

    A file holds one split only, which is called train.
    """
    return "train" if split is None or Path(dataset).expanduser().is_file() else split


def check_length(model: Any, max_length: int | None) -> None:
    """Raise `ModelError` when pairs may be longer than a model with learned positions can read.

    Rotary positions go on beyond what the model was trained for; learned ones end there.
    """
    context = position_limit(model)
    if context is not None and (max_length is None or max_length > context):
        raise ModelError(
            f"training.max_length is {max_length}, but the model has positions for {context} "
            f"tokens only; set training.max_length={context}"
        )


def lora(recipe: TrainerRecipe) -> Any:
    """The adapter's config, or None."""
    if recipe.peft is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=recipe.peft.r,
        lora_alpha=recipe.peft.alpha,
        lora_dropout=recipe.peft.dropout,
        target_modules=recipe.peft.target_modules,
        task_type="CAUSAL_LM",
    )


def describe(pairs: Pairs) -> dict[str, Any]:
    """Names, fingerprints and sizes, as run.json holds them."""
    return {
        **_facts(pairs.train),
        "held_out": {name: _facts(one) for name, one in pairs.held_out.items()},
    }


def _facts(one: Preferences) -> dict[str, Any]:
    return {
        "name": one.name,
        "format": one.form.name,
        "fingerprint": one.fingerprint,
        "pairs": len(one.rows) if one.fingerprint is not None else None,
        "left_out": one.left_out,
    }


def _check_template(pairs: Preferences, tokenizer: Any) -> None:
    if tokenizer.chat_template is None and isinstance(next(iter(pairs.rows))["prompt"], list):
        raise DatasetError(
            f"{pairs.name}: holds chat messages, but the tokenizer has no chat template; use an "
            "instruction-tuned model, add chat_template.jinja to the model's folder, or give the "
            "pairs as text"
        )


def _drop_long_prompts(pairs: Preferences, tokenizer: Any, longest: int) -> None:
    from rlalign.data.preferences.tokens import prompt_ids

    def fits(row: Mapping[str, Any]) -> bool:
        return len(prompt_ids(row, tokenizer)) <= longest

    before = len(pairs.rows) if pairs.fingerprint is not None else None
    pairs.rows = pairs.rows.filter(fits)
    if before is not None:
        if len(pairs.rows) == 0:
            raise DatasetError(
                f"{pairs.name}: every prompt is longer than data.max_prompt_length={longest}"
            )
        if len(pairs.rows) < before:
            pairs.left_out["long prompt"] = before - len(pairs.rows)
