"""The losses of preference learning as pure functions of log-probabilities.

Nothing here imports trl or transformers: the functions serve any training loop. Notation: a batch
of B pairs of a chosen completion w and a rejected one l to the same prompt x. A completion's
log-probability is the sum over its tokens, end-of-sequence token included, prompt and padding left
out. "Ratio" is log pi(y|x) - log ref(y|x), and gradients flow through the policy alone.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def preference_loss(
    logits: Tensor, *, label_smoothing: float = 0.0, kind: Literal["sigmoid", "hinge"] = "sigmoid"
) -> Tensor:
    """Classify pairs by a logit for "chosen is better": logistic, or hinge at 1.

    Args:
        logits: [B].
        label_smoothing: probability in [0, 0.5) that a label is wrong (cDPO); 0 is plain.
        kind: the logistic loss, or ``"hinge"``, relu(1 - logit), which takes no smoothing.

    Returns:
        [B], at logit 0 log 2 for the logistic loss and 1 for the hinge.
    """
    if kind == "hinge":
        return torch.relu(1.0 - logits)
    loss = -F.logsigmoid(logits)
    if label_smoothing:
        loss = (1.0 - label_smoothing) * loss - label_smoothing * F.logsigmoid(-logits)
    return loss


def dpo_loss(
    *, chosen_ratio: Tensor, rejected_ratio: Tensor, beta: float, label_smoothing: float = 0.0
) -> Tensor:
    """DPO (arXiv 2305.18290, equation 7): -log sigmoid( beta (ratio_w - ratio_l) ).

    Args:
        chosen_ratio: [B], log pi(w|x) - log ref(w|x), summed over tokens.
        rejected_ratio: [B], the same for l.
        beta: strength of the pull to the reference, above 0.
        label_smoothing: see `preference_loss`.

    Returns:
        [B]; log 2 wherever policy and reference agree.
    """
    _same_shape(chosen_ratio, rejected_ratio)
    return preference_loss(beta * (chosen_ratio - rejected_ratio), label_smoothing=label_smoothing)


def simpo_loss(
    *,
    chosen_average: Tensor,
    rejected_average: Tensor,
    beta: float,
    gamma_beta_ratio: float,
    label_smoothing: float = 0.0,
    kind: Literal["sigmoid", "hinge"] = "sigmoid",
) -> Tensor:
    """SimPO (arXiv 2405.14734, equation 6): -log sigmoid( beta (a_w - a_l) - gamma ).

    The average a(y) = log pi(y|x) / |y| is the reward; there is no reference. The margin comes as
    gamma / beta, as in the authors' code: gamma = beta * gamma_beta_ratio.

    Args:
        chosen_average: [B], log-probability per scored token.
        rejected_average: [B].
        beta: scale of the reward, above 0.
        gamma_beta_ratio: target margin between the averages, in nats per token.
        label_smoothing: see `preference_loss`.
        kind: see `preference_loss`.

    Returns:
        [B]. With ratio 0 and completions of n tokens: DPO with a uniform reference and beta / n.
    """
    _same_shape(chosen_average, rejected_average)
    margin = chosen_average - rejected_average - gamma_beta_ratio
    return preference_loss(beta * margin, label_smoothing=label_smoothing, kind=kind)


def leave_one_out(values: Tensor) -> Tensor:
    """Subtract from each sample's value the mean of its siblings' (arXiv 2402.14740, RLOO).

    Args:
        values: [prompts, k]; with k = 1 there are no siblings and nothing is subtracted.

    Returns:
        [prompts, k]; with k >= 2 each row sums to 0.
    """
    siblings = values.shape[1] - 1
    if siblings == 0:
        return values
    return values - (values.sum(1, keepdim=True) - values) / siblings


def reverse_kl_surrogate(
    *, policy: Tensor, reference: Tensor, sampled: Tensor | None = None
) -> Tensor:
    """A scalar whose gradient estimates that of KL(pi || ref), from samples of the policy.

    HyPO's online term (arXiv 2406.01462). The samples come from pi itself, so the
    gradient is the score function's: grad KL = E_pi[ (log pi - log ref) grad log pi ]. The
    log-ratio is a weight without gradient; differentiating through it would add pure noise, and
    differentiating the mean log-ratio alone would *be* pure noise. Its value means nothing.

    Args:
        policy: [prompts, k], log pi(y|x) of the samples, with gradient.
        reference: [prompts, k], log ref(y|x).
        sampled: [prompts, k], log-probabilities under the policy that drew the samples, where that
            is an earlier one: each sample is then weighed by its importance ratio.

    Returns:
        A scalar to be minimised; its gradient is exactly 0 where policy and reference agree.
    """
    _same_shape(policy, reference)
    ratio = (policy - reference).detach()
    return (importance(policy, sampled) * leave_one_out(ratio) * policy).mean()


def reverse_kl_surrogate_to_go(
    *, policy: Tensor, reference: Tensor, mask: Tensor, sampled: Tensor | None = None
) -> Tensor:
    """`reverse_kl_surrogate` with each token weighed by the log-ratios from it onwards alone.

    The same expectation with less variance: a token cannot change the ratios before it.

    Args:
        policy: [prompts, k, tokens], log-probabilities of the samples' tokens, with gradient.
        reference: [prompts, k, tokens].
        mask: [prompts, k, tokens], 1 for tokens of the samples, 0 for prompts and padding; the
            samples' tokens must be aligned from the left, so that the baseline compares like ones.
        sampled: [prompts, k], see `reverse_kl_surrogate`.

    Returns:
        A scalar to be minimised.
    """
    _same_shape(policy, reference)
    _same_shape(policy, mask)
    ratio = ((policy - reference) * mask).detach()
    to_go = ratio.flip(-1).cumsum(-1).flip(-1)
    prompts, k, tokens = to_go.shape
    by_token = to_go.transpose(1, 2).reshape(prompts * tokens, k)
    advantage = leave_one_out(by_token).view(prompts, tokens, k).transpose(1, 2)
    weight = importance((policy * mask).sum(-1), sampled)
    return (weight * (advantage * policy * mask).sum(-1)).mean()


def importance(policy: Tensor, sampled: Tensor | None) -> Tensor:
    """Return pi(y) / pi_sampled(y) without gradient; ones where no earlier policy is given."""
    if sampled is None:
        return torch.ones_like(policy)
    _same_shape(policy, sampled)
    return (policy.detach() - sampled).exp()


def srpo_generative_loss(
    *,
    chosen: Tensor,
    rejected: Tensor,
    chosen_from_rejected: Tensor,
    rejected_from_chosen: Tensor,
    beta: float,
    label: float | Tensor = 1.0,
) -> Tensor:
    """SRPO's loss of the generative policy (arXiv 2406.01660).

    ( (2q - 1) - beta [ s(w|l) + r(w) - s(l|w) - r(l) ] )^2 with r the ratio under the plain prompt
    and s(y2|y1) that under the prompt that shows draft y1.

    Args:
        chosen: [B], r(w).
        rejected: [B], r(l).
        chosen_from_rejected: [B], s(w|l): the chosen completion as a revision of the rejected one.
        rejected_from_chosen: [B], s(l|w).
        beta: strength of the pull to the reference, above 0.
        label: q, the probability that w is preferred to l.

    Returns:
        [B]; 1 where policy and reference agree.
    """
    _same_shape(chosen, rejected)
    _same_shape(chosen_from_rejected, rejected_from_chosen)
    evidence = chosen_from_rejected + chosen - rejected_from_chosen - rejected
    return (2.0 * label - 1.0 - beta * evidence).square()


def srpo_improvement_losses(
    *,
    chosen_from_rejected: Tensor,
    rejected_from_rejected: Tensor,
    chosen_from_chosen: Tensor,
    rejected_from_chosen: Tensor,
    beta: float,
    label: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """SRPO's losses of the self-improvement policy (arXiv 2406.01660): move, and stay.

    Move, given the rejected draft: ( q - 1/2 - beta [s(w|l) - s(l|l)] )^2.
    Stay, given the chosen draft:   ( q - 1/2 - beta [s(w|w) - s(l|w)] )^2.

    Args:
        chosen_from_rejected: [B], s(w|l).
        rejected_from_rejected: [B], s(l|l).
        chosen_from_chosen: [B], s(w|w).
        rejected_from_chosen: [B], s(l|w).
        beta: strength of the pull to the reference, above 0.
        label: q, the probability that w is preferred to l.

    Returns:
        Two of [B]; 1/4 each where policy and reference agree.
    """
    _same_shape(chosen_from_rejected, rejected_from_rejected)
    _same_shape(chosen_from_chosen, rejected_from_chosen)
    target = label - 0.5
    move = (target - beta * (chosen_from_rejected - rejected_from_rejected)).square()
    stay = (target - beta * (chosen_from_chosen - rejected_from_chosen)).square()
    return move, stay


def _same_shape(first: Tensor, second: Tensor) -> None:
    # [B] against [B, 1] would broadcast to [B, B] in silence.
    assert first.shape == second.shape, (first.shape, second.shape)
