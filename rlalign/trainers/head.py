"""The language model's head, for log-probabilities of completions alone.

On a GPU TRL's fused head projects scored positions in tiles and never holds all logits. Without
Triton it projects every position, prompts and padding included, and takes some eight tile-sized
temporaries; on a CPU this head takes its place.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor
from trl.trainer import add_fused_lm_head
from trl.trainer.utils import FusedCausalLMOutput

ROWS = 256  # positions whose temporaries are in memory at once
# What some models do to logits after the head; TRL's head knows how.
TRANSFORMS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


def add_head(model: Any, *, single_process: bool) -> None:
    """Let `model(..., labels=labels, fused_lm_head=True)` return log-probabilities alone.

    Args:
        model: a causal language model, without an adapter around it.
        single_process: whether nothing shards or replicates it.
    """
    config = model.config.get_text_config()
    transformed = any(getattr(config, name, None) not in (None, 1.0) for name in TRANSFORMS)
    routed = hasattr(config, "output_router_logits")
    if model.device.type == "cpu" and single_process and not transformed and not routed:
        _add_cpu_head(model)
    else:
        add_fused_lm_head(model)


def _add_cpu_head(model: Any) -> None:
    original = model.forward
    # The function, so that a copy of the model runs its own weights, not this model's.
    unbound = getattr(original, "__func__", None)

    # `generate` checks its arguments against the original signature.
    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **kwargs: Any
    ) -> Any:
        if not fused_lm_head:
            plain = original if unbound is None else functools.partial(unbound, self)
            return plain(*args, **kwargs, **({} if labels is None else {"labels": labels}))
        hidden = self.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state
        targets = labels[:, 1:]
        scored = targets != -100
        head = self.get_output_embeddings()
        found = target_log_probabilities(
            hidden[:, :-1][scored], head.weight, head.bias, targets[scored]
        )
        zeros = found.new_zeros(scored.shape)
        return FusedCausalLMOutput(log_probs=zeros.masked_scatter(scored, found))

    model.forward = types.MethodType(forward, model)


def target_log_probabilities(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    """Return log softmax(hidden weight^T + bias) at the targets.

    With gradients it keeps one [positions, vocabulary] table, turned into the logits' gradient in
    place; without, no more than a few rows of it.

    Args:
        hidden: [positions, width].
        weight: [vocabulary, width].
        bias: [vocabulary] or None.
        targets: [positions], token ids.

    Returns:
        [positions], float32.
    """
    if torch.is_grad_enabled():
        return _TargetLogProbabilities.apply(hidden, weight, bias, targets)
    parts = [
        _normalise(_logits(hidden[rows], weight, bias), targets[rows])
        for rows in _tiles(len(targets))
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


class _TargetLogProbabilities(torch.autograd.Function):
    """d log p_t / d z_j = 1[j = t] - p_j."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        table = _logits(hidden, weight, bias)
        parts = [_normalise(table[rows], targets[rows]) for rows in _tiles(len(targets))]
        ctx.save_for_backward(hidden, weight, targets)
        ctx.table, ctx.has_bias = table, bias is not None
        return torch.cat(parts) if parts else table.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        hidden, weight, targets = ctx.saved_tensors
        table, ctx.table = ctx.table, None
        if table is None:
            raise RuntimeError("this graph was gone through before; its table was used up")
        table.mul_(-gradient[:, None])
        table.scatter_add_(1, targets[:, None], gradient[:, None])
        of_logits = table.to(hidden.dtype)
        wanted = ctx.needs_input_grad
        return (
            of_logits @ weight.to(hidden.dtype) if wanted[0] else None,
            (of_logits.t() @ hidden).to(weight.dtype) if wanted[1] else None,
            table.sum(0) if ctx.has_bias and wanted[2] else None,
            None,
        )


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = (hidden @ weight.to(hidden.dtype).t()).float()
    return logits if bias is None else logits.add_(bias)


def _normalise(logits: Tensor, targets: Tensor) -> Tensor:
    """Turn logits into probabilities in place; return the targets' log-probabilities."""
    logits.sub_(logits.amax(1, keepdim=True))
    target = logits.gather(1, targets[:, None])
    total = logits.exp_().sum(1, keepdim=True)
    logits.div_(total)
    return (target - total.log()).squeeze(1)


def _tiles(count: int) -> list[slice]:
    return [slice(start, start + ROWS) for start in range(0, count, ROWS)]
