"""What the README and the pages in docs show works: Python runs, commands, recipes, links exist."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
import yaml

from rlalign.agents import AGENTS
from rlalign.cli import run
from rlalign.recipe import check_recipe, load_any_recipe, parse_recipe

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md")), ROOT / "benchmarks" / "README.md"]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
THOUSANDS = re.compile(r"\b\d+_000\b")
DATASET = "local/hopper-medium-v0"


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Fenced blocks in `language`, each with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    found = (match for match in FENCE.finditer(text) if match[1] == language)
    return [(text.count("\n", 0, match.start(2)), match[2]) for match in found]


def recipe_in(page: str, first: str) -> str:
    """The YAML of a page in docs that begins with `first`."""
    (found,) = (text for _, text in blocks(DOCS / page, "yaml") if text.startswith(first))
    return found


def run_examples(page: Path, dataset: Path) -> dict[str, Any]:
    """Run a page's Python in order; return the names it leaves behind."""
    names: dict[str, Any] = {"__name__": page.stem}
    for line, source in blocks(page, "python"):
        # Numbers written in thousands become small, and the dataset is one that is at hand.
        small = THOUSANDS.sub("30", source).replace(DATASET, str(dataset))
        exec(compile("\n" * line + small, str(page), "exec"), names)
    return names


@pytest.fixture
def hopper(tmp_path: Path) -> Path:
    """A small dataset of random actions in Hopper, in D4RL's layout."""
    environment = gymnasium.make("Hopper-v5", max_episode_steps=60)
    environment.action_space.seed(0)
    rows: dict[str, list[Any]] = {}
    observation, _ = environment.reset(seed=0)
    for _ in range(400):
        action = environment.action_space.sample()
        following, reward, terminated, truncated, _ = environment.step(action)
        row = {"observations": observation, "actions": action, "rewards": reward}
        row |= {"terminals": terminated, "timeouts": truncated, "next_observations": following}
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
        observation = environment.reset()[0] if terminated or truncated else following
    path = (
        tmp_path / "hopper_medium-v2.hdf5"
    )  # the name tells the task, and so its reference scores
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            kind = np.bool_ if name in ("terminals", "timeouts") else np.float32
            file[name] = np.asarray(values, kind)
    return path


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_readmes_python_runs_in_order(hopper: Path) -> None:
    names = run_examples(README, hopper)
    assert Path("hopper-iql.safetensors").exists()
    assert names["action"].shape == (3,)
    assert names["agent"].name == "sac"


def test_python_pages_examples_run_in_order(hopper: Path) -> None:
    names = run_examples(DOCS / "python.md", hopper)
    assert len(names["dataset"]) == 30
    assert names["agent"].num_timesteps == 60
    assert list(Path("logs").rglob("events.out.tfevents.*"))


def test_recipes_can_be_carried_out_from_python(hopper: Path) -> None:
    names = run_examples(DOCS / "recipes.md", hopper)
    assert {"behaviour", "offline", "online"} <= set(names["scores"])
    assert names["agent"].num_timesteps == 30


def test_the_agent_in_the_architecture_page_learns_and_is_known_to_recipes() -> None:
    page = DOCS / "architecture.md"
    ((_, source),) = blocks(page, "python")
    Path("my_agents.py").write_text(source)
    changes = "environment: Pendulum-v1\nonline: {steps: 30, warmup_steps: 10, random_steps: 10}\n"
    Path("mine.yaml").write_text("agent: my_agents.py:DDPG\n" + changes)
    assert run(["train", "mine.yaml", "evaluation.every=null", "--out", "run"]) == 0


def test_preference_pages_python_runs_in_order(hopper: Path) -> None:
    from tests.trainers import tiny
    from tests.trainers.runs import save_model, save_pairs

    save_model(Path("my-model"))
    Path("my-data").mkdir()
    save_pairs(Path("my-data/train.jsonl"), tiny.pairs())
    names = run_examples(DOCS / "preference-training.md", hopper)
    assert names["trainer"].state.global_step == 30
    assert names["answer"].shape[1] > names["prompt"]["input_ids"].shape[1]


@pytest.mark.parametrize("page", ["recipes.md", "preference-training.md"])
def test_own_recipes_on_top_of_shipped_ones_are_recipes(page: str) -> None:
    Path("mine.yaml").write_text(recipe_in(page, "# mine.yaml"))
    check_recipe(load_any_recipe("mine.yaml"))


def test_the_recipes_page_shows_every_key_and_its_default() -> None:
    shown = yaml.safe_load(recipe_in("recipes.md", "agent:"))
    known = parse_recipe({"agent": "iql", "dataset": DATASET, "offline": {"steps": 1}}).to_dict()
    known["offline"]["steps"] = 0
    assert shown == known


def test_the_agents_page_shows_the_classes_defaults() -> None:
    text = (DOCS / "agents.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if "|" in line
    ]
    (heads,) = [row for row in rows if row[0] == "setting"]
    shown: Mapping[str, Any] = {
        row[0].strip("`"): row[1:] for row in rows if len(row) == len(heads)
    }
    checked = 0
    for column, head in enumerate(heads[1:]):
        settings = AGENTS[head.lower().replace("+", "_")].settings_type()
        for name, cells in shown.items():
            value = getattr(settings, name, None)
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert float(cells[column].split(",")[0]) == value, (name, head)
                checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    "line", [line for _, text in blocks(README, "console") for line in text.splitlines()]
)
def test_commands_and_their_options_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    assert words[0] == "rlalign"
    groups = {"data": 2, "recipes": min(2, len(words) - 1)}
    command = words[1 : 1 + groups.get(words[1], 1)]
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in words if option.startswith("--"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_linked_files_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []
