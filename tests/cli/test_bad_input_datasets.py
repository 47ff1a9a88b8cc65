"""Datasets that are missing, damaged, or of another task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlalign.agents import AGENTS
from tests.agents.tiny import SMALL

OFFLINE = ("dataset: data.hdf5", "environment: Hopper-v5", "offline: {steps: 5}")


def _with(value: float, shape: tuple[int, ...], row: int) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array[row] = value
    return array


@pytest.fixture(params=["train", "info", "verify", "convert"])
def using(request: pytest.FixtureRequest, recipe: Any) -> list[str]:
    """Every command that reads a dataset."""
    return {
        "train": ["train", str(recipe(*OFFLINE)), "--out", "run"],
        "info": ["data", "info", "data.hdf5"],
        "verify": ["data", "verify", "data.hdf5"],
        "convert": ["data", "convert", "data.hdf5", "copy.hdf5"],
    }[request.param]


def test_missing_file(refused: Any, using: list[str]) -> None:
    assert "data.hdf5" in refused(*using)


def test_folder_instead_of_a_file(refused: Any, using: list[str], tmp_path: Path) -> None:
    (tmp_path / "data.hdf5").mkdir()
    assert "data.hdf5: this is a folder, not an HDF5 file" in refused(*using)


def test_missing_file_is_named_once(refused: Any) -> None:
    assert refused("data", "verify", "nope.hdf5") == "nope.hdf5: there is no such file"


def test_truncated_file(refused: Any, using: list[str], make_dataset: Any) -> None:
    path = make_dataset(rows=4000)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "data.hdf5" in refused(*using)


def test_file_that_is_no_hdf5(refused: Any, using: list[str], tmp_path: Path) -> None:
    (tmp_path / "data.hdf5").write_text("observations, actions\n")
    assert "data.hdf5" in refused(*using)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"actions": None}, "actions"),
        ({"rewards": None}, "rewards"),
        ({"terminals": None}, "terminals"),
        ({"observations": np.array([b"text"] * 40)}, "observations"),
        ({"observations": _with(np.nan, (40, 11), 17)}, "17"),
        ({"actions": _with(np.inf, (40, 3), 5)}, "5"),
        ({"rewards": _with(np.nan, (40,), 39)}, "39"),
        ({"actions": np.zeros((39, 3), np.float32)}, "39"),
        ({"observations": np.zeros(40, np.float32)}, "observations"),
        ({"actions": np.zeros((40, 3), np.complex64)}, "actions"),
    ],
    ids=[
        "no actions",
        "no rewards",
        "no terminals",
        "text",
        "NaN",
        "infinity",
        "NaN reward",
        "rows missing",
        "flat observations",
        "complex numbers",
    ],
)
def test_damaged_arrays(
    refused: Any, using: list[str], make_dataset: Any, changes: dict[str, Any], expected: str
) -> None:
    make_dataset(**changes)
    sentence = refused(*using)
    assert "data.hdf5" in sentence
    assert expected in sentence


def test_empty_dataset(refused: Any, using: list[str], make_dataset: Any) -> None:
    make_dataset(rows=0, timeouts=np.zeros(0, bool))
    assert "empty" in refused(*using)


def test_dataset_of_another_task(refused: Any, recipe: Any, make_dataset: Any) -> None:
    make_dataset()
    path = recipe(*OFFLINE)
    sentence = refused("train", path, "environment=HalfCheetah-v5", "--out", "run")
    assert "observation size 11, but the environment's is 17" in sentence


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("d4rl/hopper-medum-v2", "did you mean 'hopper-medium-v2'"),
        ("local/hopper-medum-v0", "did you mean 'hopper-medium-v0'"),
        ("hopper-medium-v2", "a dataset's name begins with local/, d4rl/ or minari/"),
        ("hopper-medium-v0", "did you mean 'local/hopper-medium-v0' or 'd4rl/hopper-medium-v0'?"),
    ],
)
def test_unknown_dataset(refused: Any, recipe: Any, name: str, expected: str) -> None:
    assert expected in refused("data", "info", name)
    assert expected in refused("train", recipe(*OFFLINE), f"dataset={name}", "--out", "run")


def test_no_network(refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlalign.data import d4rl

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(d4rl, "BASE_URL", "https://127.0.0.1:9/")
    d4rl._table.cache_clear()
    try:
        sentence = refused("data", "info", "d4rl/hopper-medium-v2", without_checking=("cache",))
    finally:
        d4rl._table.cache_clear()
    assert "https://127.0.0.1:9/" in sentence
    assert "hopper_medium-v2.hdf5" in sentence


def test_converted_file_is_not_overwritten(refused: Any, make_dataset: Any) -> None:
    make_dataset()
    make_dataset("copy.hdf5")
    assert "exists already" in refused("data", "convert", "data.hdf5", "copy.hdf5")


def test_conversion_into_a_missing_folder(refused: Any, make_dataset: Any, tmp_path: Path) -> None:
    make_dataset()
    (tmp_path / "file").write_text("mine")
    assert "file" in refused("data", "convert", "data.hdf5", "file/copy.hdf5")


def test_collecting_without_a_file(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert "--out FILE.hdf5" in refused("collect", "run")


def test_collecting_where_nothing_can_be_written(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said before anything is collected."""
    from rlalign.data import local

    monkeypatch.setattr(local, "collect_local", None)
    (tmp_path / "file").write_text("mine")
    sentence = refused("collect", "local/hopper-medium-v0", "--out", "file/data.hdf5")
    assert sentence.startswith("file/data.hdf5: the file could not be written")


def test_collecting_a_local_dataset_in_another_environment(refused: Any) -> None:
    sentence = refused("collect", "local/hopper-medium-v0", "-e", "Walker2d-v5", "-o", "new/a")
    assert "leave --environment out" in sentence


def test_collecting_over_a_file(refused: Any, make_dataset: Any) -> None:
    make_dataset()
    sentence = refused("collect", "local/hopper-medium-v0", "--out", "data.hdf5")
    assert "exists already" in sentence


@pytest.mark.parametrize("command", ["verify", "convert"])
def test_preference_data_among_transitions(refused: Any, tmp_path: Path, command: str) -> None:
    """`data list` names the text world, and `data info` takes it."""
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    target = ["new.hdf5"] if command == "convert" else []
    for name in ("textworld", "textworld/validation", "pairs.jsonl"):
        assert refused("data", command, name, *target) == (
            f"{name}: preference data, which `rlalign data info` describes and trainers learn "
            f"from; `rlalign data {command}` takes transitions"
        )
    assert "there is no file data/hopper" in refused("data", command, "data/hopper", *target)


def test_collecting_with_a_seed_that_torch_does_not_take(refused: Any) -> None:
    words = ["collect", "run", "--out", "new.hdf5", "--seed", str(2**64)]
    sentence = refused(*words)
    assert "--seed" in sentence
    assert str(2**64 - 1) in sentence


def test_collecting_more_than_the_memory_holds(refused: Any, tmp_path: Path) -> None:
    AGENTS["sac"]("Pendulum-v1", **SMALL).save(tmp_path / "agent")
    words = ["collect", "agent", "--out", "new.hdf5", "--transitions", "999999999999999"]
    assert refused(*words) == (
        "collected from agent: its 999,999,999,999,999 transitions need 36000000.0 GB of memory, "
        "which this machine does not have"
    )
