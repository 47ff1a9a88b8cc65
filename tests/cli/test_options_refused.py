"""Options that mean nothing for what they are given with are refused, not ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlalign import cli
from rlalign.agents import AGENTS
from tests.agents.tiny import SMALL


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


@pytest.mark.parametrize(
    "option", [["--environment", "Hopper-v5"], ["--stochastic"], ["--episodes", "10"]]
)
def test_evaluating_a_language_model_as_an_agent(
    refused: Any, tmp_path: Path, option: list[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("trainer: dpo\n")
    assert refused("evaluate", "run", *option) == (f"run: {option[0]} is for agents; leave it out")


@pytest.mark.parametrize(
    "option", [["--model", "foo"], ["--max-length", "3"], ["--split", "train"], ["--sample", "0"]]
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


def test_a_folder_hides_no_local_dataset_and_may_be_a_run(refused: Any, tmp_path: Path) -> None:
    for name in ("hopper-medium-v0", "mine"):
        (tmp_path / "local" / name).mkdir(parents=True)
    sentence = refused("collect", "local/hopper-medium-v0", "-c", "foo", "-o", "new.hdf5")
    assert sentence == "local/hopper-medium-v0: --checkpoint is for runs; leave it out"
    assert "--out FILE.hdf5" in refused("collect", "local/mine")


@pytest.mark.parametrize("command", [["evaluate"], ["collect", "-o", "new.hdf5"]])
def test_a_file_has_no_checkpoints(refused: Any, tmp_path: Path, command: list[str]) -> None:
    AGENTS["sac"]("Pendulum-v1", **SMALL).save(tmp_path / "agent")
    for name in ("agent.safetensors", "agent"):
        sentence = refused(*command, name, "--checkpoint", "latest")
        assert sentence == f"{name}: --checkpoint is for runs; leave it out"


@pytest.mark.parametrize("name", ["local/hopper-medium-v0", "d4rl/hopper-medium-v0", "data.hdf5"])
def test_horizon_of_what_says_itself_where_episodes_end(
    refused: Any, make_dataset: Any, name: str
) -> None:
    make_dataset()
    sentence = refused("data", "convert", name, "new.hdf5", "--horizon", "10")
    assert sentence == f"{name}: a horizon is for a file without timeouts; leave it out"


def test_horizon_of_a_file_without_timeouts(make_dataset: Any, tmp_path: Path) -> None:
    make_dataset("bare.hdf5", timeouts=None)
    assert cli.run(["data", "convert", "bare.hdf5", "new.hdf5", "--horizon", "10"]) == 0
    assert (tmp_path / "new.hdf5").is_file()


def test_several_processes_without_a_launcher(refused: Any) -> None:
    assert "--processes 4 goes with --launch" in refused("train", "demo", "--processes", "4")


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "RANK"])
def test_a_launcher_s_variable_that_is_no_number(
    refused: Any, recipe: Any, make_dataset: Any, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    from tests.cli.test_bad_input_runs import LINES

    make_dataset()
    path = recipe(*LINES)
    monkeypatch.setenv(variable, "x")
    assert refused("train", path, "--out", "run") == (
        f"the environment variable {variable} must be a whole number, got 'x'"
    )
