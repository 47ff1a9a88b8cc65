"""Recipes of trainers: the shipped ones load and hold the papers' numbers; mistakes are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlalign.errors import MissingPackageError, RecipeError
from rlalign.recipe import TrainerRecipe, check_recipe, list_recipes, load_any_recipe, load_recipe
from rlalign.trainers.launching import FOLDER, launch_command, launch_configs
from rlalign.trainers.recipe_config import build_config

pytest.importorskip("trl")

METHODS = ("dpo", "simpo", "hypo", "srpo")


def trainer_recipe(name: str | Path, *overrides: str) -> TrainerRecipe:
    """A trainer's recipe by its name."""
    recipe = load_any_recipe(name, list(overrides))
    assert isinstance(recipe, TrainerRecipe)
    return recipe


NAMES = [name for name in list_recipes() if isinstance(load_any_recipe(name), TrainerRecipe)]


@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_and_its_fields_exist(name: str) -> None:
    recipe = trainer_recipe(name)
    check_recipe(recipe, name)
    assert recipe.trainer == name.partition("/")[0]


def test_each_method_has_the_embedded_task_and_small_models() -> None:
    for method in METHODS:
        for name in ("tiny", "qwen2.5-0.5b-lora", "smollm2-135m-lora"):
            assert f"{method}/{name}" in NAMES
        assert trainer_recipe(f"{method}/tiny").model.name == "textworld"
        assert trainer_recipe(f"{method}/qwen2.5-0.5b-lora").peft is not None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("simpo/mistral-7b-base", (2.0, 0.8, 3e-7, 1024)),
        ("simpo/mistral-7b-instruct", (2.5, 0.1, 5e-7, 2048)),
        ("simpo/llama-3-8b-base", (2.0, 0.5, 6e-7, 2048)),
        ("simpo/llama-3-8b-instruct", (2.5, 0.55, 1e-6, 2048)),
        ("simpo/llama-3-8b-instruct-v0.2", (10.0, 0.3, 1e-6, 2048)),
        ("simpo/gemma-2-9b-it", (10.0, 0.5, 8e-7, 2048)),
    ],
)
def test_simpo_is_as_the_authors_ran_it(name: str, expected: tuple[float, ...]) -> None:
    training = trainer_recipe(name).training
    keys = ("beta", "gamma_beta_ratio", "learning_rate", "max_length")
    assert tuple(training[key] for key in keys) == expected
    four_gpus = 4
    steps = training["per_device_train_batch_size"] * training["gradient_accumulation_steps"]
    assert steps * four_gpus == 128


def test_papers_of_the_other_methods() -> None:
    hh = trainer_recipe("dpo/pythia-2.8b-hh").training
    assert (hh["beta"], hh["learning_rate"], hh["optim"]) == (0.1, 5e-7, "rmsprop")
    tldr = trainer_recipe("hypo/pythia-1.4b-tldr")
    assert tldr.training["kl_weight"] == 1e-4
    assert tldr.peft is not None
    assert (tldr.peft.r, tldr.peft.alpha, tldr.peft.dropout) == (1024, 2048, 0.0)
    srpo = trainer_recipe("srpo/pythia-1b-tldr")
    assert (srpo.training["alpha"], srpo.training["template"]) == (0.8, "tldr")
    assert srpo.evaluation.revisions == 5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer=simpoo", "there is no trainer 'simpoo'; did you mean 'simpo'?"),
        ("training.bta=1", "SimPOConfig has no field training.bta; did you mean 'beta'?"),
        ("training.beta=high", "training.beta must be a number, got 'high'"),
        ("training.max_steps=1.5", "training.max_steps must be a whole number, got 1.5"),
        ("training.bf16=1", "training.bf16 must be true or false"),
    ],
)
def test_training_section_is_held_to_the_config(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match="mine: ") as caught:
        check_recipe(trainer_recipe("simpo/tiny", override), "mine")
    assert expected in str(caught.value)


def test_one_name_stands_for_a_list_of_it(tmp_path: Path) -> None:
    recipe = trainer_recipe("dpo/tiny", "training.loss_type=ipo", "training.label_names=extra")
    config = build_config(recipe, tmp_path, evaluates=False)
    assert (config.loss_type, config.label_names) == (["ipo"], ["extra"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "training.output_dir=x",
            "says training.output_dir, which is decided by the run directory",
        ),
        ("training.save_steps=5", "which is decided by checkpoint.every"),
        ("training.trust_remote_code=true", "never runs code that comes with a model"),
        ("model.dtype=float8", "model.dtype must be 'auto', 'float32', 'float16' or 'bfloat16'"),
        ("model.nam=x", "unknown key 'model.nam'; did you mean 'name'?"),
        ("evaluation.promts=3", "unknown key 'evaluation.promts'; did you mean 'prompts'?"),
        ("beta=3", "known keys are trainer, model, dataset"),
        ("peft.rank=3", "unknown key 'peft.rank'; known keys are r, alpha, dropout"),
        ("peft.dropout=2", "peft.dropout must be at most 1, got 2"),
        ("peft.dropout=0.1", "peft.dropout, which needs training.disable_dropout=false"),
        ("data.invalid=skip", "data.invalid must be 'error' or 'drop', got 'skip'"),
        ("device=cuda", "device must be 'auto' or 'cpu', got 'cuda'"),
        ("agent=iql", "names both an agent and a trainer"),
    ],
)
def test_wrong_section_is_one_sentence(override: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_any_recipe("simpo/tiny", [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapters_dropout_acts_where_dropout_is_left_on() -> None:
    changes = ("peft.dropout=0.1", "training.disable_dropout=false")
    recipe = trainer_recipe("simpo/tiny", *changes)
    assert recipe.peft is not None
    assert recipe.peft.dropout == 0.1


def test_streaming_needs_an_end() -> None:
    with pytest.raises(RecipeError, match=r"needs training\.max_steps"):
        load_any_recipe("simpo/llama-3-8b-base", ["data.streaming=true"])


def test_trainers_recipe_is_not_taken_for_an_agents() -> None:
    with pytest.raises(RecipeError, match="a recipe of a trainer, where one of an agent"):
        load_recipe("dpo/tiny")


def test_dumped_recipe_loads_to_the_same_recipe(tmp_path: Path) -> None:
    from rlalign.recipe import dump_recipe

    recipe = trainer_recipe("srpo/tiny", "peft.r=4")
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_any_recipe(path) == recipe


@pytest.mark.parametrize("name", launch_configs())
def test_launch_configs_are_what_accelerate_reads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config: Any = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.num_processes == 8
    assert config.mixed_precision == "bf16"


def test_launch_command_starts_rlalign_once_for_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    command = launch_command("fsdp2", 4, ["train", "simpo/tiny"])
    assert command[-4:] == ["-m", "rlalign", "train", "simpo/tiny"]
    assert command[command.index("--num_processes") + 1] == "4"
    with pytest.raises(RecipeError, match="did you mean 'zero3'"):
        launch_command("zero33", None, [])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "deepspeed" or None)
    with pytest.raises(MissingPackageError, match="pip install deepspeed"):
        launch_command("zero3", None, [])
