"""Log-probabilities of completions from one forward pass, without the logits of all positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Scored:
    """Completions scored by a model.

    Args:
        tokens: [rows, length - 1], log-probabilities of the tokens; 0 outside completions.
        mask: [rows, length - 1], 1 where a completion's token was scored.
        router_loss: the load-balancing loss of a mixture of experts, where it was asked for.
    """

    tokens: Tensor
    mask: Tensor
    router_loss: Tensor | None = None

    @property
    def sums(self) -> Tensor:
        """[rows], log-probability of each completion."""
        return self.tokens.sum(1)

    @property
    def lengths(self) -> Tensor:
        """[rows], scored tokens of each completion, at least 1."""
        return self.mask.sum(1).clamp(min=1)

    @property
    def averages(self) -> Tensor:
        """[rows], log-probability per scored token."""
        return self.sums / self.lengths


def score(model: nn.Module, inputs: Mapping[str, Tensor], *, router: bool = False) -> Scored:
    """Score the completions of right-padded rows with TRL's fused head.

    Args:
        model: a causal language model that `trl.trainer.add_fused_lm_head` was applied to.
        inputs: `input_ids`, `attention_mask`, `completion_mask`, each [rows, length].
        router: also return the load-balancing loss of a mixture of experts.
    """
    mask = inputs["completion_mask"]
    labels = inputs["input_ids"].masked_fill(mask == 0, -100)
    outputs = model(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        labels=labels,
        use_cache=False,
        fused_lm_head=True,
        **({"output_router_logits": True} if router else {}),
    )
    scored = mask[:, 1:]
    # Prompt-learning adapters put virtual tokens in front; only real ones count.
    tokens = outputs.log_probs[:, -scored.shape[1] :]
    return Scored(tokens, scored, outputs.aux_loss if router else None)
