from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from rlalign.layout import Batch, Layout
from tests.toy_data import random_rows


@pytest.fixture
def layout() -> Layout:
    return Layout(3, 2, {"mc_returns": 1, "next_actions": 2})


def test_columns_lie_side_by_side_in_the_documented_order(layout: Layout) -> None:
    expected = {
        "observations": (0, 3),
        "actions": (3, 5),
        "rewards": (5, 6),
        "terminations": (6, 7),
        "next_observations": (7, 10),
        "mc_returns": (10, 11),
        "next_actions": (11, 13),
    }
    assert {name: (w.start, w.stop) for name, w in layout.columns.items()} == expected
    assert list(layout.columns) == list(expected)
    assert layout.width == 13


def test_packed_fields_come_back_as_the_batch_s_columns(layout: Layout) -> None:
    generator = np.random.default_rng(0)
    fields = {
        "observations": generator.normal(size=(5, 3)),
        "actions": generator.normal(size=(5, 2)),
        "rewards": generator.normal(size=5),
        "terminations": np.array([0, 1, 0, 0, 1]),
        "next_observations": generator.normal(size=(5, 3)),
        "mc_returns": generator.normal(size=(5, 1)),
        "next_actions": generator.normal(size=(5, 2)),
    }
    batch = Batch(layout.pack(**fields), layout)
    assert len(batch) == 5
    for name, value in fields.items():
        wanted = torch.as_tensor(value, dtype=torch.float32)
        wanted = wanted[:, 0] if name == "mc_returns" else wanted
        torch.testing.assert_close(batch[name], wanted, rtol=0, atol=0)
    for name in Layout.STANDARD:
        assert torch.equal(getattr(batch, name), batch[name])


def test_scalars_are_vectors_and_vectors_of_one_stay_matrices() -> None:
    """[batch] against [batch, 1] is what broadcasting would turn into [batch, batch] in silence."""
    layout = Layout(1, 1, {"weight": 1, "pair": 2})
    batch = Batch(random_rows(layout, 6), layout)
    shapes = {name: tuple(batch[name].shape) for name in layout.columns}
    assert shapes == {
        "observations": (6, 1),
        "actions": (6, 1),
        "rewards": (6,),
        "terminations": (6,),
        "next_observations": (6, 1),
        "weight": (6,),
        "pair": (6, 2),
    }


def test_a_batch_is_views_and_copies_nothing(layout: Layout) -> None:
    rows = random_rows(layout, 4)
    batch = Batch(rows, layout)
    joint = batch.observation_actions
    assert torch.equal(joint, torch.cat((batch.observations, batch.actions), dim=1))
    rows.fill_(7.0)
    assert bool((joint == 7.0).all())
    assert bool((batch.rewards == 7.0).all())


def test_a_value_shared_by_losses_is_computed_once_per_batch(layout: Layout) -> None:
    rows = random_rows(layout, 4)
    calls: list[str] = []

    def compute() -> torch.Tensor:
        calls.append("called")
        return rows.sum()

    first, second = Batch(rows, layout), Batch(rows, layout)
    assert first.once("sum", compute) is first.once("sum", compute)
    assert calls == ["called"]
    first.once("another", compute)
    second.once("sum", compute)
    assert len(calls) == 3


def test_a_layout_survives_json_and_compares_by_its_columns(layout: Layout) -> None:
    copy = Layout(**json.loads(json.dumps(layout.to_dict())))
    assert copy == layout
    assert hash(copy) == hash(layout)
    assert Layout(3, 2) != layout
    assert Layout(3, 2) != Layout(2, 3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0, 2), "'observations' must have a size of at least 1, got 0"),
        ((3, 0), "'actions' must have a size of at least 1"),
        ((3, 2, {"x": 0}), "'x' must have a size of at least 1"),
        ((3, 2, {"rewards": 1}), "'rewards' is a standard column"),
    ],
)
def test_impossible_columns_are_refused(arguments: tuple, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Layout(*arguments)


def test_packing_refuses_missing_unknown_and_misshapen_columns() -> None:
    layout = Layout(3, 2)
    fields = {
        "observations": np.zeros((4, 3)),
        "actions": np.zeros((4, 2)),
        "rewards": np.zeros(4),
        "terminations": np.zeros(4),
        "next_observations": np.zeros((4, 3)),
    }
    layout.pack(**fields)
    with pytest.raises(ValueError, match="expected columns"):
        layout.pack(**{name: value for name, value in fields.items() if name != "rewards"})
    with pytest.raises(ValueError, match="expected columns"):
        layout.pack(**fields, returns=np.zeros(4))
    with pytest.raises(ValueError, match=r"actions must be \[4, 2\], got \[4, 3\]"):
        layout.pack(**{**fields, "actions": np.zeros((4, 3))})
    with pytest.raises(ValueError, match=r"rewards must be \[4, 1\], got \[4, 4\]"):
        layout.pack(**{**fields, "rewards": np.zeros((4, 4))})
