"""Mistakes in recipes, overrides and arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

RANGE = "0 is not in the range"
OFFLINE = ("dataset: data.hdf5", "environment: Hopper-v5", "offline: {steps: 5}")


@pytest.mark.parametrize("command", [["recipes", "show"], ["train"], ["sweep"]])
def test_missing_recipe(refused: Any, command: list[str]) -> None:
    answer = refused(*command, "iql/hoper-medium-v2")
    assert answer.startswith(
        "iql/hoper-medium-v2: neither a recipe file nor a shipped recipe; "
        "did you mean 'iql/hopper-medium-v2' or "
    )


def test_missing_recipe_file(refused: Any) -> None:
    assert refused("train", "nowhere.yaml").startswith("nowhere.yaml: neither a recipe file")


def test_unknown_key(refused: Any, recipe: Any) -> None:
    path = recipe(*OFFLINE, "evaluaton: {episodes: 3}")
    assert refused("train", path) == (
        f"{path}: unknown key 'evaluaton'; did you mean 'evaluation'?"
    )


def test_recipe_that_is_no_yaml(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("agent: [iql\n")
    assert refused("train", "bad.yaml").startswith("bad.yaml: not valid YAML, line 2")


def test_recipe_that_is_binary(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00agent")
    assert "not a text file" in refused("train", "bad.yaml")


def test_recipe_that_is_a_folder(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").mkdir()
    assert "neither a recipe file" in refused("train", "bad.yaml")


def test_key_written_twice(refused: Any, recipe: Any) -> None:
    assert "key 'seed' is written twice" in refused("train", recipe(*OFFLINE, "seed: 1", "seed: 2"))


def test_bases_in_a_circle(refused: Any, recipe: Any) -> None:
    recipe("base: b.yaml", name="a.yaml")
    recipe("base: a.yaml", name="b.yaml")
    assert "goes round in a circle" in refused("train", "a.yaml")


def test_missing_base(refused: Any, recipe: Any) -> None:
    assert "'_none.yaml' is neither beside it" in refused(
        "train", recipe(*OFFLINE, "base: _none.yaml")
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "override 'seed' is not of the form key=value"),
        ("offline.stepz=3", "unknown key 'offline.stepz'; did you mean 'steps'?"),
        ("offline.steps=-5", "offline.steps must be at least 0, got -5"),
        ("offline.steps=soon", "offline.steps must be a whole number, got 'soon'"),
        ("evaluation.episodes=0", "evaluation.episodes must be at least 1, got 0"),
        ("online.replay=mixtur", "online.replay must be "),
        ("agent=iqll", "there is no agent 'iqll'; did you mean 'iql'?"),
        ("settings.expectle=0.9", "iql has no setting 'expectle'; did you mean 'expectile'?"),
        ("settings.gamma=0.9", "iql has no setting 'gamma'; did you mean 'discount'?"),
        ("settings.learning_starts=9", "did you mean 'warmup_steps' or 'random_steps', of the on"),
        (
            "online.learning_starts=9",
            "'online.learning_starts'; did you mean 'warmup_steps' or 'random_steps'?",
        ),
        ("settings.expectile=1.5", "expectile must be"),
        ("settings.expectile=high", "expectile must be a finite number, got 'high'"),
        ("settings.batch_size=0", "batch_size must be at least 1, got 0"),
        ("settings.hidden=256", "hidden must be a list of whole numbers, got 256"),
        ("settings.discount=.inf", "discount must be"),
        ("device=tpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
    ],
)
def test_wrong_override(
    refused: Any, recipe: Any, make_dataset: Any, override: str, expected: str
) -> None:
    make_dataset()
    assert expected in refused("train", recipe(*OFFLINE), override)


@pytest.mark.parametrize("mistake", ["settings.gamma=0.9", "settings.discount=2", "agent=iqll"])
def test_the_place_of_a_mistake_is_named(
    refused: Any, recipe: Any, make_dataset: Any, mistake: str
) -> None:
    make_dataset()
    path, right = recipe(*OFFLINE), "settings.expectile=0.8"
    assert refused("train", path, right, mistake).startswith("the command line: ")
    assert refused("sweep", path, right, mistake, "--out", "o").startswith("the command line: ")
    assert refused("recipes", "show", path, right, mistake).startswith("the command line: ")


def test_mistake_in_the_file_is_not_the_command_lines(
    refused: Any, recipe: Any, make_dataset: Any
) -> None:
    make_dataset()
    path = recipe(*OFFLINE, "settings: {gamma: 0.9}")
    assert refused("train", path, "settings.expectile=0.8").startswith(f"{path}: agent iql")


def test_recipe_that_trains_nothing(refused: Any, recipe: Any) -> None:
    path = recipe("environment: Hopper-v5")
    assert "trains nothing" in refused("train", path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_device_that_is_not_there(refused: Any, recipe: Any, make_dataset: Any) -> None:
    make_dataset()
    assert "no CUDA device" in refused("train", recipe(*OFFLINE), "device=cuda", "--out", "run")


def test_tracker_that_is_not_installed(
    refused: Any, recipe: Any, make_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset()
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    sentence = refused("train", recipe(*OFFLINE), "logging.wandb=true", "--out", "run")
    assert "pip install 'rlalign[wandb]'" in sentence


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'?"),
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "demo", "--ot", "x"], "No such option"),
        (["evaluate", "run", "--episodes", "0"], RANGE),
        (["evaluate", "run", "--episodes", "many"], "valid integer"),
        (["data", "lst"], "No such command 'lst'"),
        (["sweep", "demo", "--seeds", "0"], RANGE),
        (["sweep", "demo", "seed=1,2"], "use --seeds N"),
        (["sweep", "demo", "settings.expectile=0.5,hgh"], "expectile must be a finite number"),
        (["sweep", "demo", "offline.steps=1,-1"], "offline.steps must be at least 0, got -1"),
    ],
)
def test_wrong_arguments(refused: Any, arguments: list[str], expected: str) -> None:
    # Newer versions of typer check with pydantic, older ones with click.
    sentence = refused(*arguments).replace("greater than or equal to 1", RANGE)
    assert expected in sentence
