"""`verify` finds what would mislead training; `describe` and `convert` tell the truth."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from rlalign.data.behaviour import UniformPolicy
from rlalign.data.collecting import collect
from rlalign.data.dataset import Dataset, load_dataset
from rlalign.data.verify import convert, describe, verify
from rlalign.errors import DatasetError


@pytest.fixture
def dataset() -> Dataset:
    made = collect(UniformPolicy(3), "Hopper-v5", 200, seed=0, environments=3, progress=False)
    made.reference = (-20.0, 80.0)
    return made


def errors(dataset: Dataset | Path) -> dict[str, str]:
    return {
        finding.check: finding.message for finding in verify(dataset) if finding.level == "error"
    }


def test_sound_dataset_passes_every_check(dataset: Dataset, tmp_path: Path) -> None:
    findings = verify(dataset.save(tmp_path / "a.hdf5"))
    assert {finding.level for finding in findings} == {"ok"}
    assert {finding.check for finding in findings} == {
        "sizes",
        "fingerprint",
        "values",
        "actions",
        "terminations",
        "continuity",
        "returns",
    }


def test_each_fault_is_found_where_it_is(dataset: Dataset) -> None:
    middle = int(dataset.starts[2]) + 1
    dataset.next_observations[middle, 0] += 1.0
    dataset.terminations[middle + 1] = 1.0
    dataset.actions[7, 1] = 1.5
    dataset.rewards[9] = np.nan
    found = errors(dataset)
    assert set(found) == {"continuity", "terminations", "actions", "values"}
    assert f"first in row {middle}" in found["continuity"]
    assert f"row {middle + 1} terminates" in found["terminations"]
    assert found["actions"].endswith("1 rows lie outside the environment's bounds")
    assert found["values"].endswith("row 9")


def test_changed_file_no_longer_has_its_fingerprint(dataset: Dataset, tmp_path: Path) -> None:
    path = dataset.save(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file["rewards"][3] += 1.0
    assert "its data has changed" in errors(path)["fingerprint"]


def test_file_that_cannot_be_loaded_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.hdf5").write_text("no")
    assert "not an HDF5 file" in errors(tmp_path / "a.hdf5")["loading"]


def test_useless_rewards_and_shuffled_rows_are_warned_of(dataset: Dataset) -> None:
    dataset.rewards[:] = 0.0
    dataset.ends = np.arange(1, len(dataset) + 1)
    warned = {finding.check for finding in verify(dataset) if finding.level == "warning"}
    assert warned == {"returns", "sizes"}


def test_description_holds_the_facts_as_json(dataset: Dataset) -> None:
    facts = json.loads(json.dumps(describe(dataset)))
    assert facts["transitions"] == 200
    assert facts["terminated"] + facts["cut off"] == facts["trajectories"] == len(dataset.ends)
    mean = dataset.episode_returns().mean()
    assert facts["episode return"]["mean"] == pytest.approx(mean, abs=1e-3)
    assert facts["normalised score"]["mean"] == pytest.approx(mean + 20.0, abs=1e-3)


def test_conversion_keeps_the_data_and_existing_files(dataset: Dataset, tmp_path: Path) -> None:
    source = dataset.save(tmp_path / "a.hdf5")
    target = convert(source, tmp_path / "b.hdf5")
    assert load_dataset(target).fingerprint == dataset.fingerprint
    with pytest.raises(DatasetError, match="exists already"):
        convert(source, target)
    assert convert(source, target, overwrite=True) == target
