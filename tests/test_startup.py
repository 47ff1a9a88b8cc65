"""Importing rlalign and asking for help stay quick, because nothing heavy is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    *("torch", "gymnasium", "stable_baselines3", "mujoco", "matplotlib", "scipy", "tensorboard"),
    *("pydantic", "h5py", "minari", "requests", "numpy"),
)


def heavy_modules_after(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has imported after `code`."""
    report = (
        f"import sys; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    names = done.stderr.strip().strip("[]")
    return [name.strip(" '") for name in names.split(",") if name]


@pytest.mark.parametrize(
    "code",
    [
        "import rlalign",
        "from rlalign.cli import run; run(['--help'])",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert heavy_modules_after(code) == []


def test_the_check_sees_a_heavy_import() -> None:
    assert heavy_modules_after("import numpy") == ["numpy"]
