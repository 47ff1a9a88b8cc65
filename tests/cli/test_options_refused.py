"""Options that mean nothing for what they are given with are refused, not ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    "option",
    [
        ["--prompts", "5"],
        ["--dataset", "zzz"],
        ["--split", "q"],
        ["--reward", "nope"],
        ["--revisions", "3"],
        ["--record"],
    ],
)
def test_evaluating_an_agent_as_a_language_model(
    refused: Any, tmp_path: Path, option: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("agent: iql\n")
    assert refused("evaluate", "run", *option) == (
        f"run: {option[0]} is for language models; leave it out"
    )


@pytest.mark.parametrize("option", [["--environment", "Hopper-v5"], ["--stochastic"]])
def test_evaluating_a_language_model_as_an_agent(
    refused: Any, tmp_path: Path, option: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("trainer: dpo\n")
    assert refused("evaluate", "run", *option) == (f"run: {option[0]} is for agents; leave it out")


@pytest.mark.parametrize(
    "option", [["--model", "foo"], ["--max-length", "3"], ["--split", "x"], ["--sample", "9"]]
)
def test_describing_transitions_as_preference_data(
    refused: Any, make_dataset: Any, option: list[str]
) -> None:
    make_dataset()
    assert refused("data", "info", "data.hdf5", *option) == (
        f"data.hdf5: {option[0]} is for preference data; leave it out"
    )


def test_collecting_a_local_dataset_from_a_checkpoint(refused: Any) -> None:
    sentence = refused("collect", "local/hopper-medium-v0", "-c", "foo", "-o", "new.hdf5")
    assert sentence == "local/hopper-medium-v0: --checkpoint is for runs; leave it out"


def test_several_processes_without_a_launcher(refused: Any) -> None:
    assert "--processes 4 goes with --launch" in refused("train", "demo", "--processes", "4")


def test_a_launcher_s_variable_that_is_no_number(
    refused: Any, recipe: Any, make_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.cli.test_bad_input_runs import LINES

    make_dataset()
    path = recipe(*LINES)
    monkeypatch.setenv("WORLD_SIZE", "x")
    assert refused("train", path, "--out", "run") == (
        "the environment variable WORLD_SIZE must be a whole number, got 'x'"
    )
