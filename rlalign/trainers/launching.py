"""`--launch`: the same command on several GPUs, through accelerate and the configs shipped here."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rlalign.errors import MissingPackageError, RecipeError
from rlalign.suggestions import did_you_mean

FOLDER = Path(__file__).parent / "launch_configs"


def launch_configs() -> list[str]:
    """Names of the configs that come with rlalign."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def launch_command(config: str, processes: int | None, arguments: Sequence[str]) -> list[str]:
    """The command that starts `rlalign ARGUMENTS` once for each GPU.

    Args:
        config: a shipped one by its name (zero2, zero3, fsdp2, multi_gpu), or a file such as
            `accelerate config` writes.
        processes: how many; None as the config says.
        arguments: of rlalign.

    Raises:
        RecipeError: if there is no such config.
        MissingPackageError: without accelerate, or without DeepSpeed where the config needs it.
    """
    path = FOLDER / f"{config}.yaml"
    if not path.is_file():
        path = Path(config)
    if not path.is_file():
        known = launch_configs()
        hint = did_you_mean(config, known) or f"; shipped are {', '.join(known)}"
        raise RecipeError(f"--launch {config}: neither a shipped config nor a file{hint}")
    if importlib.util.find_spec("accelerate") is None:
        raise MissingPackageError("--launch needs accelerate; pip install 'rlalign[llm]'")
    if "DEEPSPEED" in path.read_text() and importlib.util.find_spec("deepspeed") is None:
        raise MissingPackageError(f"--launch {config} needs DeepSpeed; pip install deepspeed")
    count = [] if processes is None else ["--num_processes", str(processes)]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]
    return [*launcher, *count, "-m", "rlalign", *arguments]


def launch(config: str, processes: int | None, arguments: Sequence[str]) -> None:
    """Become the launcher; signals and the exit code are then its own."""
    command = launch_command(config, processes, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
