"""The six sequences of a pair in SRPO: two completions under three prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl.data_utils import common_prefix_length

from rlalign.data.preferences.messages import chat_arguments, plain_messages, short
from rlalign.data.preferences.tokens import encode_prompt
from rlalign.errors import DatasetError
from rlalign.trainers.revision import RevisionTemplate
from rlalign.trainers.rows import as_rows

# Which prompt and which completion each sequence consists of. The names are those of the losses'
# arguments, so that a sequence cannot reach a loss under another's name.
SEQUENCES: Mapping[str, tuple[str, str]] = {
    "chosen": ("prompt_ids", "chosen_ids"),
    "rejected": ("prompt_ids", "rejected_ids"),
    "chosen_from_rejected": ("draft_rejected_ids", "chosen_ids"),
    "rejected_from_rejected": ("draft_rejected_ids", "rejected_ids"),
    "chosen_from_chosen": ("draft_chosen_ids", "chosen_ids"),
    "rejected_from_chosen": ("draft_chosen_ids", "rejected_ids"),
}
COLUMNS = ("prompt_ids", "draft_chosen_ids", "draft_rejected_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True)
class EncodePair:
    """Tokenises a row {prompt, chosen, rejected}: three prompts and two completions.

    A completion has the same ids behind each of the three: those behind the plain prompt. A text
    whose first letters would merge with the prompt's last is tokenised on its own instead.

    Args:
        tokenizer: of the model.
        template: makes the three prompts.
    """

    tokenizer: Any
    template: RevisionTemplate

    def __call__(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        """Return the columns named in `COLUMNS`.

        Raises `DatasetError` for content that is not text, for a draft that calls tools, and where
        the chat template does not begin a conversation with its prompt as it writes that alone.
        """
        try:
            return self._encoded(row)
        except DatasetError as error:
            raise DatasetError(
                f"{error} (in the pair of the prompt {short(row['prompt'])})"
            ) from None

    def _encoded(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        chat = chat_arguments(row)
        prompt = row["prompt"]
        plain = self.template.generate(prompt)
        encoded = {
            "prompt_ids": encode_prompt(self.tokenizer, plain, **chat),
            **{
                f"draft_{side}_ids": encode_prompt(
                    self.tokenizer, self.template.revise(prompt, self._draft(row[side])), **chat
                )
                for side in ("chosen", "rejected")
            },
        }
        for side in ("chosen", "rejected"):
            encoded[f"{side}_ids"] = self._completion(plain, row[side], chat)
        return encoded

    def _draft(self, completion: Any) -> Any:
        if isinstance(completion, str):
            return completion.removesuffix(self.tokenizer.eos_token or "")
        return completion

    def _completion(self, prompt: Any, completion: Any, chat: Mapping[str, Any]) -> list[int]:
        if isinstance(completion, str):
            end = self.tokenizer.eos_token
            text = completion if completion.endswith(end) else completion + end
            before, whole = self._plain_ids(prompt), self._plain_ids(prompt + text)
            if common_prefix_length(before, whole) == len(before):
                # On its own, a tokenizer in SentencePiece's manner would put a space before it.
                return whole[len(before) :]
            return self._plain_ids(text)
        whole = self.tokenizer.apply_chat_template(
            prompt + plain_messages(completion, "a completion"),
            tokenize=True,
            return_dict=True,
            **chat,
        )["input_ids"]
        before = encode_prompt(self.tokenizer, prompt, **chat)
        if common_prefix_length(before, list(whole)) < len(before):
            # What the template wrote elsewhere would be repeated, and scored, as an answer.
            raise DatasetError(
                "the chat template writes a prompt with its answer otherwise than the prompt "
                "alone, so an answer cannot be put behind another prompt; give the model a "
                "template whose prompt stays as it is"
            )
        return list(whole[len(before) :])

    def _plain_ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def longest(row: Mapping[str, Any]) -> int:
    """Tokens of the longest of a row's six sequences."""
    return max(len(row[prompt]) + len(row[answer]) for prompt, answer in SEQUENCES.values())


@dataclass
class SRPOCollator:
    """Lays B rows out as six blocks of B, in the order of `SEQUENCES`.

    Args:
        pad: id of the padding token.
        multiple: pad to a length that it divides.
    """

    pad: int = 0
    multiple: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return `input_ids`, `attention_mask`, `completion_mask`, each [6 B, length].

        `ref_logps`, [B, 6], is there where the rows have it.
        """
        prompts = [list(row[prompt]) for prompt, _ in SEQUENCES.values() for row in rows]
        answers = [list(row[answer]) for _, answer in SEQUENCES.values() for row in rows]
        batch = as_rows(prompts, answers, pad=self.pad, multiple=self.multiple)
        if "ref_logps" in rows[0]:
            batch["ref_logps"] = torch.tensor([row["ref_logps"] for row in rows])
        return batch
