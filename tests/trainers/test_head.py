"""The head for CPUs computes what the model's own head and log_softmax do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.errors import ModelError
from rlalign.trainers import SimPOConfig, SimPOTrainer, head
from rlalign.trainers.head import add_head, target_log_probabilities
from rlalign.trainers.scoring import check_head, score
from tests.trainers import tiny


def operands(bias: bool) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, offset = (
        torch.randn(shape, generator=generator, requires_grad=True)
        for shape in ((700, 16), (50, 16), (50,))
    )
    targets = torch.randint(50, (700,), generator=generator)
    return [hidden, weight, offset if bias else None, targets]


@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_those_of_log_softmax(bias: bool) -> None:
    hidden, weight, offset, targets = operands(bias)
    inputs = [tensor for tensor in (hidden, weight, offset) if tensor is not None]
    upstream = torch.randn(700, generator=torch.Generator().manual_seed(1))
    found = target_log_probabilities(hidden, weight, offset, targets)
    logits = hidden @ weight.t() + (0 if offset is None else offset)
    expected = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad(found, inputs, upstream)
    theirs = torch.autograd.grad(expected, inputs, upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(
            target_log_probabilities(hidden, weight, offset, targets), expected
        )


def test_a_second_backward_pass_is_refused() -> None:
    hidden, weight, _, targets = operands(False)
    found = target_log_probabilities(hidden, weight, None, targets).sum()
    found.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="gone through before"):
        found.backward()


def test_no_scored_position_gives_no_number_and_a_gradient_of_zero() -> None:
    hidden, weight, _, targets = operands(False)
    found = target_log_probabilities(hidden[:0], weight, None, targets[:0])
    assert found.shape == (0,)
    assert torch.equal(torch.autograd.grad(found.sum(), weight)[0], torch.zeros_like(weight))


def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(7, 70, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    completion = mask.clone()
    completion[:, :5] = 0
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": completion}


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
def test_scores_and_gradients_of_whole_models_equal_those_of_trls_head(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for ours in (True, False):
        model = tiny.model(family).eval()
        add_head(model, single_process=ours)
        scored = score(model, rows())
        scored.sums.square().sum().backward()
        gradients = [p.grad for p in model.parameters()]
        found.append((scored.tokens.detach(), gradients))
    (tokens, gradients), (expected, others) = found
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=2e-2, rtol=1e-3)


def test_models_that_change_their_logits_keep_trls_head(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(head, "_add_cpu_head", lambda _: taken.append("ours"))
    monkeypatch.setattr(head, "add_fused_lm_head", lambda _: taken.append("trl"))
    model = tiny.model()
    add_head(model, single_process=True)
    add_head(model, single_process=False)
    model.config.final_logit_softcapping = 30.0
    add_head(model, single_process=True)
    assert taken == ["ours", "trl", "trl"]


def halved(model: Any) -> Any:
    """Let the model halve its logits, which no configuration tells."""
    original = model.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        if outputs.get("logits") is not None:
            outputs.logits = outputs.logits / 2
        return outputs

    model.forward = forward
    return model


@pytest.mark.parametrize("family", sorted(tiny.FAMILIES))
@pytest.mark.parametrize("ours", [True, False])
def test_the_head_is_held_to_the_models_own_logits(family: str, ours: bool) -> None:
    model = tiny.model(family)
    add_head(model, single_process=ours)
    model.train()
    check_head(model, rows())
    assert model.training
    with pytest.raises(ModelError, match=r"its log-probabilities differ by [0-9.]+ a token"):
        check_head(halved(model), rows())


def test_training_refuses_a_model_that_changes_its_logits_in_its_own_way(tmp_path: Path) -> None:
    trainer = SimPOTrainer(
        model=halved(tiny.model()),
        args=SimPOConfig(**tiny.settings(tmp_path)),
        train_dataset=tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )
    with pytest.raises(ModelError, match="cannot be trained"):
        trainer.train()


def test_a_copy_runs_its_own_weights() -> None:
    model, ids = tiny.model(), torch.tensor([[5, 6, 7]])
    add_head(model, single_process=True)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(input_ids=ids).logits
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(twin(input_ids=ids).logits, before)
        assert not torch.equal(model(input_ids=ids).logits, before)


def test_generation_is_as_before() -> None:
    model = tiny.model().eval()
    ids = torch.tensor([[5, 6, 7]])
    before = model.generate(ids, do_sample=False, max_new_tokens=5)
    add_head(model, single_process=True)
    assert torch.equal(before, model.generate(ids, do_sample=False, max_new_tokens=5))
    assert model(input_ids=ids, labels=ids).loss > 0
