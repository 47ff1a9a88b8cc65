"""Small recipes and datasets, and how a mistake has to look.

Exit code 2, one line on stderr, nothing written, nothing lost.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rlalign import cli

Refused = Callable[..., str]
MakeDataset = Callable[..., Path]


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name not in (".lock", "MUJOCO_LOG.TXT")  # MuJoCo notes its own warnings there
    }


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RLALIGN_TRACEBACK", raising=False)


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run the command line, check all that a mistake has in common, and return the sentence."""

    def check(*arguments: str | Path, without_checking: tuple[str, ...] = ()) -> str:
        before = _contents(tmp_path)
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        told = capsys.readouterr().err
        assert code == 2, told
        assert told.startswith("error: "), told
        assert told.endswith("\n")
        assert told.count("\n") == 1, told
        assert "Traceback" not in told
        after = {
            name: content
            for name, content in _contents(tmp_path).items()
            if not name.startswith(without_checking or ("\0",))
        }
        assert after == before
        return told.removeprefix("error: ").strip()

    return check


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Write an HDF5 file in D4RL's layout with Hopper's sizes; arguments replace arrays."""

    def make(name: str = "data.hdf5", rows: int = 40, **changes: Any) -> Path:
        generator = np.random.default_rng(0)
        states = generator.normal(size=(4, rows // 4 + 1, 11)).astype(np.float32)
        timeouts = np.zeros(rows, bool)
        if rows:
            timeouts[rows // 4 - 1 :: rows // 4] = True
        arrays: dict[str, Any] = {
            "observations": states[:, :-1].reshape(rows, 11),
            "next_observations": states[:, 1:].reshape(rows, 11),
            "actions": generator.uniform(-0.9, 0.9, (rows, 3)).astype(np.float32),
            "rewards": generator.normal(size=rows).astype(np.float32),
            "terminals": np.zeros(rows, bool),
            "timeouts": timeouts,
        }
        arrays |= changes
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                if value is not None:
                    file[key] = value
        return path

    return make


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    """Write a small recipe; `recipe("offline: {steps: 5}")` appends lines."""

    def write(*lines: str, name: str = "small.yaml", agent: str = "iql") -> Path:
        path = tmp_path / name
        path.write_text("\n".join([f"agent: {agent}", *lines]) + "\n")
        return path

    return write
