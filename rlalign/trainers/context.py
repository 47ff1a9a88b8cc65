"""How much of a context there is, and which held-out prompts leave room in it for an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from rlalign.data.preferences.messages import chat_arguments
from rlalign.data.preferences.tokens import prompt_ids
from rlalign.errors import RlalignError
from rlalign.trainers.models import context_length
from rlalign.trainers.rows import Tokens

if TYPE_CHECKING:
    from rlalign.data.preferences.loading import Preferences
    from rlalign.trainers.evaluation import Plan

# Models that look positions up in tables which are no embeddings: sines, ALiBi's distances.
TABLED = ("codegen", "ctrl", "gptj", "mpt")
OFFSETS = (0, 2)  # OPT and its kin begin to count at 2


def context_of(model: Any) -> int | None:
    """Tokens that a model was made to read, or None where its config names no number."""
    found: int | None = getattr(model.config.get_text_config(), "max_seq_len", None)  # MPT
    return found or context_length(model)


def position_limit(model: Any) -> int | None:
    """Tokens beyond which a model cannot read; None for one that goes on, as with rotary positions.

    Positions that are learned, or written down in a table, end with their table.
    """
    length = context_of(model)
    if length is None or model.config.get_text_config().model_type in TABLED:
        return length
    words = model.get_input_embeddings()
    learned = any(
        isinstance(module, nn.Embedding)
        and module is not words
        and module.num_embeddings - length in OFFSETS
        for module in model.modules()
    )
    return length if learned else None


@dataclass(frozen=True)
class Chosen:
    """Held-out prompts to sample for.

    Args:
        prompts: as the dataset has them.
        ids: as the models are shown them.
        chat: what else the chat template is given for each, such as tools.
        left_out: prompts passed over because no answer would fit behind them.
    """

    prompts: list[Any]
    ids: Tokens
    chat: list[dict[str, Any]]
    left_out: int


def choose_prompts(rows: Any, tokenizer: Any, plan: Plan, context: int | None) -> Chosen:
    """The first different prompts that leave room for an answer.

    As in training a prompt has to be shorter than `plan.max_length`; with `plan.max_new_tokens`
    behind it, it also has to fit the context, and so has each revision with a draft of that length.

    Args:
        rows: a dataset with the columns prompt, chosen and rejected.
        tokenizer: of the models.
        plan: says how many prompts, how they are shown, and how long answers may be.
        context: tokens that the models can read; None is any number.
    """
    seen: set[str] = set()
    found = Chosen([], [], [], 0)
    left_out = 0
    for row in rows:
        if len(found.prompts) >= plan.prompts:
            break
        if str(row["prompt"]) in seen:
            continue
        seen.add(str(row["prompt"]))
        ids = prompt_ids(shown(row, plan), tokenizer)
        if _fits(row, ids, tokenizer, plan, context):
            found.prompts.append(row["prompt"])
            found.ids.append(ids)
            found.chat.append(chat_arguments(row))
        else:
            left_out += 1
    return replace(found, left_out=left_out)


def shown(row: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """A row as the models are shown it."""
    if not plan.templated or plan.template is None:
        return dict(row)
    return {**row, "prompt": plan.template.generate(row["prompt"])}


def check_room(held_out: Mapping[str, Preferences], model: Any, tokenizer: Any, plan: Plan) -> None:
    """Raise `RlalignError` when not one prompt of a held-out dataset leaves room for an answer."""
    context = context_of(model)
    for pairs in held_out.values():
        chosen = choose_prompts(pairs.rows, tokenizer, plan, context)
        if chosen.left_out and not chosen.prompts:
            answer = f"evaluation.max_new_tokens={plan.max_new_tokens}"
            raise RlalignError(
                f"{pairs.name}: no held-out prompt leaves room for {answer} in the model's "
                f"{context or 'unlimited'} tokens and is shorter than training.max_length="
                f"{plan.max_length}; lower {answer.split('=')[0]} or set evaluation.prompts=0"
            )


def _fits(
    row: Mapping[str, Any], ids: Sequence[int], tokenizer: Any, plan: Plan, context: int | None
) -> bool:
    if plan.max_length is not None and len(ids) >= plan.max_length:
        return False
    if context is None:
        return True
    needed = len(ids) + plan.max_new_tokens
    if plan.revisions and plan.template is not None:
        # With the draft put in later: how long it becomes is not known yet.
        empty = prompt_ids({**row, "prompt": plan.template.revise(row["prompt"], "")}, tokenizer)
        needed = max(needed, len(empty) + 2 * plan.max_new_tokens)
    return needed <= context
