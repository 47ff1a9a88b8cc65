"""What a run ran on: versions, platform, git commit."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from typing import Any

from rlalign.processes import process_count

PACKAGES = (
    "torch",
    "numpy",
    "gymnasium",
    "gymnasium-robotics",
    "mujoco",
    "stable-baselines3",
    "h5py",
    "minari",
    "safetensors",
    "pydantic",
    "transformers",
    "tokenizers",
    "trl",
    "datasets",
    "accelerate",
    "peft",
)


def describe_machine() -> dict[str, Any]:
    """Versions of rlalign, Python and what decides results, git commit, processes together."""
    import rlalign

    return {
        "rlalign": rlalign.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "git": git_commit(),
        "processes": process_count(),
    }


def package_versions() -> dict[str, str]:
    """Version of each package in `PACKAGES` that is installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The commit of the working directory, with "+changes" when files differ from it; or None."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
