"""Log-probabilities of completions from one forward pass, without the logits of all positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlalign.errors import ModelError

CHECKED = 32  # tokens: enough to see a difference, few enough for all their logits


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


def check_head(model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Compare the head that `score` uses with the model's own logits, on a few tokens.

    Some models change their logits after the head, by a scale or a soft limit. TRL's head knows the
    usual ways; another one would train and measure something else in silence.

    Raises:
        ModelError: if the two differ by more than rounding.
    """
    first = {name: inputs[name][:1, :CHECKED] for name in ("input_ids", "attention_mask")}
    training = model.training
    model.eval()
    with torch.no_grad():
        found = score(model, {**first, "completion_mask": first["attention_mask"]})
        logits = model(**first, use_cache=False).logits[:, :-1]
    model.train(training)
    own = logits.float().log_softmax(-1)[:, -found.tokens.shape[1] :]
    own = own.gather(-1, first["input_ids"][:, 1:, None]).squeeze(-1)
    difference = ((own - found.tokens).abs() * found.mask).sum() / found.mask.sum().clamp(min=1)
    rounding = 1e-2 if logits.dtype == torch.float32 else 1e-1
    if difference > rounding:
        raise ModelError(
            f"{type(model).__name__} does more to its logits than its configuration tells: its "
            f"log-probabilities differ by {difference:.3g} a token from those of the head that "
            "training uses, so it cannot be trained"
        )
