"""Completions drawn from the policy while it learns, and the KL that they show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rlalign.errors import DatasetError, SettingsError
from rlalign.trainers.rows import Tokens, as_rows, end_tokens, prompts_of
from rlalign.trainers.sampling import Sampler, TransformersSampler, VLLMSampler
from rlalign.trainers.scoring import score

EVALUATION = 1_000_000  # streams of random numbers from here on are those of evaluations


class OnlineSamples:
    """The part of a preference trainer that samples; the trainer brings what is declared here."""

    args: Any
    accelerator: Any
    model: Any
    model_wrapped: Any
    state: Any
    compute_loss_context_manager: Any
    reference_scores: Any  # (inputs) -> Scored
    record: Any  # (metrics) -> None
    rows_per_pair: ClassVar[int]
    _tokenizer: Any
    _sampler: Sampler | None = None

    def draw(self, prompts: Tokens, *, count: int = 1, stream: int = 0) -> dict[str, Tensor]:
        """Draw completions from the policy: `count` for each prompt, one prompt after the other.

        The random numbers depend on seed, step, process and stream alone, and those of training
        stay as they are: a run that samples trains on the same batches as one that does not, and a
        resumed run draws what it would have drawn.

        Args:
            prompts: token ids.
            count: completions of each.
            stream: tells draws within one step apart.

        Returns:
            Rows as the collators make them, [prompts * count, length].
        """
        if not all(prompts):
            raise DatasetError("a prompt has no tokens, so nothing can be drawn behind it")
        sampler = self._make_sampler() if self._sampler is None else self._sampler
        self._sampler = sampler
        self.check_room(prompts)
        repeated = [prompt for prompt in prompts for _ in range(count)]
        words = (self.args.seed, self.state.global_step, self.accelerator.process_index, stream)
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        step = self.state.global_step
        completions = sampler.draw(self.model_wrapped, repeated, seed=seed, step=step)
        return as_rows(
            repeated,
            completions,
            pad=self._tokenizer.pad_token_id,
            device=self.accelerator.device,
        )

    def prompts(self, inputs: dict[str, Tensor]) -> Tokens:
        """Return the prompts of a collated batch, one for each pair."""
        return prompts_of(inputs, inputs["input_ids"].shape[0] // self.rows_per_pair)

    def record_samples(self, rows: dict[str, Tensor], *, ratio: Tensor) -> None:
        """Record the online KL, E_pi[ log pi(y|x) - log ref(y|x) ], of completions from the policy.

        Args:
            rows: the samples.
            ratio: [rows], their summed log-ratios.
        """
        lengths = rows["completion_mask"].sum(1)
        last = rows["attention_mask"].sum(1, keepdim=True) - 1
        final = rows["input_ids"].gather(1, last).squeeze(1)
        ends = torch.tensor(sorted(self._ends()), device=final.device)
        self.record(
            {
                "online_kl": ratio,
                "samples/length": lengths,
                "samples/unfinished": (~torch.isin(final, ends)).float(),
            }
        )

    def measure_online_kl(self, inputs: dict[str, Tensor], stream: int) -> None:
        """Draw one completion for each of a batch's prompts and record the KL."""
        rows = self.draw(self.prompts(inputs), stream=stream)
        with torch.no_grad(), self.compute_loss_context_manager():
            ratio = score(self.model_wrapped, rows).sums - self.reference_scores(rows).sums
        self.record_samples(rows, ratio=ratio)

    def check_room(self, prompts: Iterable[Sequence[int]]) -> None:
        """Raise SettingsError where a sample behind one of the prompts exceeds the context."""
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        longest = max((len(prompt) for prompt in prompts), default=0)
        new = self.args.max_new_tokens
        if room is not None and longest + new > room:
            raise SettingsError(
                f"max_new_tokens {new} after a prompt of {longest} tokens exceeds the model's "
                f"{room} positions; lower max_new_tokens or leave out longer prompts (in a recipe: "
                f"data.max_prompt_length={max(1, room - new)})"
            )

    def _ends(self) -> set[int]:
        return end_tokens(self.accelerator.unwrap_model(self.model), self._tokenizer)

    def _make_sampler(self) -> Sampler:
        if self.args.use_vllm:
            return VLLMSampler(
                self.model, self.accelerator, self._tokenizer, self.args, self._ends()
            )
        return TransformersSampler(
            self.accelerator,
            self._tokenizer,
            ends=self._ends(),
            max_new_tokens=self.args.max_new_tokens,
            batch_size=self.args.generation_batch_size,
            checkpointing=self.args.gradient_checkpointing_kwargs,
        )
