"""Recipes: names, bases, overrides, and one clear sentence for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlalign.errors import RecipeError
from rlalign.recipe import (
    Recipe,
    check_recipe,
    dump_recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
    recipe_path,
)
from rlalign.recipe.yaml_files import parse_value, write_yaml

SMALL = """\
agent: iql
dataset: local/hopper-medium-v0
offline: {steps: 1e3}
online: {updates_per_step: 1, warmup_steps: 5}
settings: {expectile: 0.7, hidden: [256, 256]}
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def failure(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, list(overrides))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_recipe_reads_scientific_notation_and_fills_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "a.yaml", SMALL))
    assert recipe.offline.steps == 1000
    assert isinstance(recipe.offline.steps, int)
    assert recipe.online.updates_per_step == 1.0
    assert recipe.online.steps == 0
    assert recipe.online.replay is None
    assert recipe.evaluation.episodes == 10


def test_learning_rate_without_a_dot_is_a_number(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "a.yaml", SMALL), ["settings.learning_rate=3e-4"])
    assert recipe.settings["learning_rate"] == 3e-4


@pytest.mark.parametrize(
    ("text", "value"),
    [("010", 10), ("08", 8), ("200_000", 200_000), ("0x1F", 31), ("0o17", 15), ("1:1", "1:1")],
)
def test_whole_numbers_are_those_of_yaml_1_2(text: str, value: int | str) -> None:
    """`for seed in $(seq -w 1 20)` writes 08 and 010."""
    assert parse_value(text) == value
    assert parse_value(f"[{text}]") == [value]


def test_update_after_may_be_a_whole_float(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "a.yaml", SMALL), ["online.update_after=1e1"])
    assert repr(recipe.online.update_after) == "10"


@pytest.mark.parametrize("text", ["2024-01-01", "2024-01-01 10:00:00", "2024-13-01"])
def test_dates_are_text_as_in_yaml_1_2(text: str) -> None:
    assert parse_value(text) == text
    assert parse_value(write_yaml({"name": text})) == {"name": text}


@pytest.mark.parametrize("text", ["08", "010", "3e-4", "0o7", "1_000", "0x1F", "null"])
def test_text_that_looks_like_a_number_stays_text(text: str) -> None:
    assert parse_value(write_yaml({"name": text})) == {"name": text}


def test_dumped_recipe_loads_to_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "a.yaml", SMALL), ["seed=7", "online.steps=5"])
    again = load_recipe(write(tmp_path, "b.yaml", dump_recipe(recipe)))
    assert again == recipe
    assert again.seed == 7


def test_overrides_have_yaml_types_and_dotted_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", SMALL)
    recipe = load_recipe(
        path,
        ["settings.expectile=0.9", "online.steps=10", "logging.wandb=true", "settings.name='1'"],
    )
    assert recipe.settings == {"expectile": 0.9, "hidden": [256, 256], "name": "1"}
    assert recipe.online.steps == 10
    assert recipe.logging.wandb is True


def test_base_is_merged_key_by_key_and_the_nearest_file_wins(tmp_path: Path) -> None:
    write(tmp_path, "_root.yaml", SMALL + "seed: 1\n")
    write(tmp_path, "_middle.yaml", "base: _root.yaml\nonline: {warmup_steps: 2}\nseed: 2\n")
    path = write(tmp_path, "leaf.yaml", "base: _middle.yaml\nsettings: {expectile: 0.9}\n")
    recipe = load_recipe(path)
    assert recipe.online.updates_per_step == 1.0
    assert recipe.online.warmup_steps == 2
    assert recipe.settings == {"expectile": 0.9, "hidden": [256, 256]}
    assert recipe.seed == 2


def test_circle_of_bases_is_named(tmp_path: Path) -> None:
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    assert "a.yaml -> b.yaml -> a.yaml" in failure(tmp_path / "a.yaml")


def test_missing_base_is_named(tmp_path: Path) -> None:
    message = failure(write(tmp_path, "a.yaml", "base: nowhere.yaml\n" + SMALL))
    assert "a.yaml" in message
    assert "nowhere.yaml" in message


def test_base_may_be_a_shipped_recipe(tmp_path: Path) -> None:
    text = "base: iql/hopper-medium-v2\nsettings: {expectile: 0.8}\n"
    found = load_recipe(write(tmp_path, "mine.yaml", text)).to_dict()
    shipped = load_recipe("iql/hopper-medium-v2", ["settings.expectile=0.8"]).to_dict()
    assert found == shipped


def test_base_beside_the_recipe_comes_before_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "iql").mkdir()
    write(tmp_path / "iql", "hopper-medium-v2", SMALL + "seed: 5\n")
    recipe = load_recipe(write(tmp_path, "mine.yaml", "base: iql/hopper-medium-v2\n"))
    assert recipe.seed == 5


@pytest.mark.parametrize(
    ("base", "hint"),
    [
        ("iql/hoper-medium-v2", "did you mean 'iql/hopper-medium-v2'"),
        ("_rot.yaml", "did you mean '_root.yaml'?"),
        ("../recipes/demo", "nor a shipped recipe"),
    ],
)
def test_unknown_base_suggests_files_beside_and_shipped_recipes(
    tmp_path: Path, base: str, hint: str
) -> None:
    write(tmp_path, "_root.yaml", SMALL)
    message = failure(write(tmp_path, "mine.yaml", f"base: {base}\n"))
    assert f"mine.yaml: its base {base!r} is neither beside it nor a shipped recipe" in message
    assert hint in message


def test_mistake_in_a_base_names_the_base(tmp_path: Path) -> None:
    write(tmp_path, "_root.yaml", SMALL + "evaluation: {episode: 3}\n")
    message = failure(write(tmp_path, "leaf.yaml", "base: _root.yaml\n"))
    assert "_root.yaml: unknown key 'evaluation.episode'; did you mean 'episodes'?" in message


def test_mistake_on_the_command_line_names_the_command_line(tmp_path: Path) -> None:
    message = failure(write(tmp_path, "a.yaml", SMALL), "offline.stepz=4")
    assert message == "the command line: unknown key 'offline.stepz'; did you mean 'steps'?"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("agnet=sac", "did you mean 'agent'?"),
        ("steps=4", "did you mean 'offline.steps' or 'online.steps'?"),
        ("expectile=0.9", "settings.expectile"),
        ("offline.steps=-1", "offline.steps must be at least 0, got -1"),
        ("offline.steps=1.5", "offline.steps must be a whole number, got 1.5"),
        ("offline.steps=many", "offline.steps must be a whole number, got 'many'"),
        ("offline.steps=true", "offline.steps must be a whole number, got True"),
        ("offline=3", "offline must be a mapping of keys to values, got 3"),
        ("seed.x=3", "seed must be a whole number, got {'x': 3}"),
        ("settings=3", "settings must be a mapping of names to values, got 3"),
        ("online.updates_per_step=often", "updates_per_step must be a number, got 'often'"),
        ("online.updates_per_step=.nan", "online.updates_per_step must be "),
        ("online.updates_per_step=0", "online.updates_per_step must be above 0, got 0"),
        ("online.replay=both", "replay must be 'union', 'online', 'mixture' or 'annealed', got"),
        ("online.update_after=step", "a whole number of at least 1 or 'episode', got 'step'"),
        ("online.update_after=0", "a whole number of at least 1 or 'episode', got 0"),
        ("online.update_after=0.0", "a whole number of at least 1 or 'episode', got 0.0"),
        ("online.update_after=1.5", "a whole number of at least 1 or 'episode', got 1.5"),
        ("online.update_after=true", "a whole number of at least 1 or 'episode', got True"),
        ("online.update_after=.inf", "a whole number of at least 1 or 'episode', got inf"),
        ("online.offline_fraction=1.5", "online.offline_fraction must be at most 1, got 1.5"),
        ("logging.wandb=1", "logging.wandb must be true or false, got 1"),
        ("agent=3", "agent must be text, got 3"),
        ("device=tpu", "device must be 'cpu', 'cuda' or 'cuda:N', got 'tpu'"),
        ("evaluation.every=0", "evaluation.every must be at least 1, got 0"),
        ("dataset=", "names neither a dataset nor an environment"),
        ("offline.steps=0", "trains nothing"),
        ("seed", "override 'seed' is not of the form key=value"),
        ("=3", "override '=3' is not of the form key=value"),
        ("offline..steps=3", "is not of the form key=value"),
        ("settings.hidden=[1,", "the value is not valid YAML"),
    ],
)
def test_wrong_override_is_one_sentence(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in failure(write(tmp_path, "a.yaml", SMALL), override)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "found nothing"),
        ("- 1\n", "found list"),
        ("agent: [iql\n", "line 2"),
        ("agent: iql\nagent: sac\n", "line 2: key 'agent' is written twice"),
        ("1: iql\n", "key 1 is not text"),
        ("dataset: x\noffline: {steps: 1}\n", "the key 'agent' is missing"),
        ("agent: iql\nbase: 3\n", "`base` must be a file or a shipped recipe, got 3"),
    ],
)
def test_wrong_file_is_one_sentence(tmp_path: Path, text: str, expected: str) -> None:
    message = failure(write(tmp_path, "wrong.yaml", text))
    assert "wrong.yaml" in message
    assert expected in message


def test_offline_steps_need_a_dataset() -> None:
    with pytest.raises(RecipeError, match="but no dataset"):
        parse_recipe({"agent": "sac", "environment": "Hopper-v5", "offline": {"steps": 5}})


def test_mixture_needs_a_dataset() -> None:
    online = {"steps": 5, "replay": "mixture"}
    with pytest.raises(RecipeError, match="no dataset to mix in"):
        parse_recipe({"agent": "sac", "environment": "Hopper-v5", "online": online})


def test_share_without_effect_is_told() -> None:
    changes = ["online.steps=5", "online.offline_fraction=0.3"]
    recipe = load_recipe("iql/hopper-medium-v2", changes)
    with pytest.warns(UserWarning, match="the command line: online offline_fraction without eff"):
        check_recipe(recipe, "mine", changes)
    recipe = load_recipe("iql/hopper-medium-v2", [*changes, "online.replay=mixture"])
    check_recipe(recipe, "mine", changes)  # no warning, which would be an error here


def test_online_recipe_needs_no_dataset() -> None:
    recipe = parse_recipe({"agent": "sac", "environment": "Hopper-v5", "online": {"steps": 5}})
    assert recipe.dataset is None
    assert recipe.online.steps == 5


def test_unknown_name_suggests_shipped_recipes() -> None:
    with pytest.raises(RecipeError, match="did you mean 'demo'"):
        recipe_path("dmeo")


def test_shipped_names_do_not_reach_outside_their_folder() -> None:
    with pytest.raises(RecipeError):
        recipe_path("../recipes/demo")


def test_run_directory_stands_for_its_recipe(tmp_path: Path) -> None:
    write(tmp_path, "recipe.yaml", SMALL)
    assert load_recipe(tmp_path).agent == "iql"


def test_bases_are_not_listed() -> None:
    names = list_recipes()
    assert "demo" in names
    assert not any(Path(name).name.startswith("_") for name in names)


def test_recipe_is_frozen() -> None:
    recipe = Recipe(agent="iql", dataset="x", offline={"steps": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3
