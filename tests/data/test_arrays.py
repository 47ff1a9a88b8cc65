"""Datasets from arrays in memory are those that a file with the same arrays gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from rlalign.data.dataset import Dataset, load_dataset
from rlalign.data.verify import verify
from rlalign.errors import DatasetError


def steps(lengths: tuple[int, ...] = (4, 3, 5), terminated: tuple[int, ...] = (1,)) -> Any:
    """Arrays of episodes with known successors; `terminated` numbers those not cut off."""
    random = np.random.default_rng(0)
    chains = [random.normal(size=(length + 1, 3)).astype(np.float32) for length in lengths]
    rows, ends = sum(lengths), np.cumsum(lengths) - 1
    flags = np.zeros((2, rows), bool)
    for index, end in enumerate(ends):
        flags[0 if index in terminated else 1, end] = True
    return {
        "observations": np.concatenate([chain[:-1] for chain in chains]),
        "actions": random.uniform(-1, 1, (rows, 2)).astype(np.float32),
        "rewards": random.normal(size=rows).astype(np.float32),
        "terminations": flags[0],
        "truncations": flags[1],
        "next_observations": np.concatenate([chain[1:] for chain in chains]),
    }


def without(*names: str, **changes: Any) -> Any:
    return {key: value for key, value in {**steps(), **changes}.items() if key not in names}


@pytest.mark.parametrize("left_out", [(), ("next_observations",)])
def test_arrays_and_a_file_of_them_are_the_same_dataset(
    tmp_path: Path, left_out: tuple[str, ...]
) -> None:
    arrays = without(*left_out)
    names = {"terminations": "terminals", "truncations": "timeouts"}
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for key, values in arrays.items():
            file[names.get(key, key)] = values
    made = Dataset.from_arrays(**arrays)
    assert made.fingerprint == load_dataset(tmp_path / "a.hdf5").fingerprint
    assert [finding for finding in verify(made) if finding.level != "ok"] == []


def test_given_successors_keep_every_row() -> None:
    arrays = steps()
    made = Dataset.from_arrays(**arrays)
    assert made.ends.tolist() == [4, 7, 12]
    assert made.truncated.tolist() == [True, False, True]
    for name in ("observations", "actions", "rewards", "next_observations"):
        assert np.array_equal(getattr(made, name), arrays[name])
    assert not np.shares_memory(made.observations, arrays["observations"])


def test_successors_are_rebuilt_from_the_row_after() -> None:
    arrays = without("next_observations")
    made = Dataset.from_arrays(**arrays)
    # Rows 3 and 11 end truncated trajectories, so their successors are unknown.
    kept = [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert np.array_equal(made.observations, arrays["observations"][kept])
    assert made.ends.tolist() == [3, 6, 10]
    assert np.array_equal(made.next_observations[:3], arrays["observations"][1:4])
    assert made.metadata == {"rows_without_successor": 2}


def test_last_row_ends_a_trajectory_whatever_its_flags_say() -> None:
    arrays = without("truncations", "next_observations")
    made = Dataset.from_arrays(**arrays)
    assert made.ends.tolist() == [7, 11]
    assert made.truncated.tolist() == [False, True]


def test_lists_tensors_and_columns_are_taken() -> None:
    arrays = without("next_observations")
    expected = Dataset.from_arrays(**arrays).fingerprint
    lists = {name: values.tolist() for name, values in arrays.items()}
    assert Dataset.from_arrays(**lists).fingerprint == expected
    columns = {**arrays, "rewards": arrays["rewards"][:, None]}
    columns["terminations"] = torch.from_numpy(arrays["terminations"].astype(np.float32))[:, None]
    assert Dataset.from_arrays(**columns).fingerprint == expected


def test_what_is_told_of_the_arrays_is_kept(tmp_path: Path) -> None:
    made = Dataset.from_arrays(
        **steps(),
        name="mine",
        environment="Hopper-v5",
        action_low=-2,
        action_high=[1.0, 2.0],
        reference=(0, 10),
    )
    for dataset in (made, load_dataset(made.save(tmp_path / "mine.hdf5"))):
        assert dataset.environment == "Hopper-v5"
        assert dataset.action_low is not None
        assert dataset.action_high is not None
        assert dataset.action_low.tolist() == [-2.0, -2.0]
        assert dataset.action_high.tolist() == [1.0, 2.0]
        assert dataset.normalized_score(5.0) == 50.0
    assert made.name == "mine"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (without(rewards=np.zeros(3)), "'rewards' has 3 rows, 'observations' 12"),
        (without(rewards=np.zeros((12, 2))), "'rewards' has shape (12, 2), expected (12,)"),
        (without(actions=np.zeros(12)), "'actions' has shape (12,), expected (12, size)"),
        (without(actions=np.zeros((12, 2), int)), "'actions' has dtype int64, expected floating"),
        (without(observations=[[1.0], [1.0, 2.0]]), "'observations' is not an array"),
        (without(observations=np.zeros((0, 3))), "the dataset is empty"),
        (without(next_observations=np.zeros((12, 4))), "'next_observations' has shape (12, 4)"),
        (without(rewards=np.full(12, np.nan)), "'rewards' holds NaN or infinity, first in row 0"),
        (without(terminations=np.full(12, 2)), "'terminations' is 2 in row 0, not 0 or 1"),
        (without(truncations=["no"] * 12), "'truncations' has dtype"),
        (without(terminations=[True]), "'terminations' has 1 rows"),
        (
            without("truncations", "next_observations", terminations=np.zeros(12)),
            "no row is marked in 'terminations' and there is no 'truncations'",
        ),
        (without(action_low=-1.0), "action_low and action_high must be finite numbers"),
        (without(action_low=1.0, action_high=-1.0), "the lower ones below the higher ones"),
        (without(action_low=[0.0] * 3, action_high=1.0), "one or 2 each"),
        (without(reference=(1.0, 1.0)), "reference must be the different returns"),
        (without(reference=3.0), "reference must be the different returns"),
    ],
)
def test_wrong_array_is_one_sentence(arguments: Any, expected: str) -> None:
    with pytest.raises(DatasetError) as caught:
        Dataset.from_arrays(**arguments, name="mine")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("mine: ")
    assert "\n" not in str(caught.value)
