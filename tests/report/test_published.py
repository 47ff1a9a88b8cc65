"""Published scores beside ours."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from rlalign.data.d4rl import task
from rlalign.report import write_report
from rlalign.report.groups import make_groups
from rlalign.report.published import published
from rlalign.report.runs import collect_runs


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    text = (resources.files("rlalign.report") / "published.json").read_text()
    return dict(json.loads(text))


@pytest.mark.parametrize(
    ("agent", "locomotion", "antmaze"),
    [("awac", 79.39, 18.58), ("cql", 78.28, 50.71), ("iql", 81.63, 57.17)],
)
def test_offline_scores_have_the_source_s_own_averages(
    figures: dict[str, Any], agent: str, locomotion: float, antmaze: float
) -> None:
    scores = figures["offline"][agent]
    mazes = [score for name, score in scores.items() if name.startswith("antmaze")]
    others = [score for name, score in scores.items() if not name.startswith("antmaze")]
    assert (len(others), len(mazes)) == (9, 6)
    assert mean(others) == pytest.approx(locomotion, abs=0.006)
    assert mean(mazes) == pytest.approx(antmaze, abs=0.006)


@pytest.mark.parametrize(
    ("agent", "before", "after"),
    [
        ("awac", 18.12, 16.46),
        ("cql", 48.38, 95.58),
        ("iql", 56.29, 78.50),
        ("cal_ql", 53.04, 97.33),
    ],
)
def test_online_scores_have_the_source_s_own_averages(
    figures: dict[str, Any], agent: str, before: float, after: float
) -> None:
    pairs = list(figures["online"][agent].values())
    assert len(pairs) == 6
    assert mean(pair[0] for pair in pairs) == pytest.approx(before, abs=0.006)
    assert mean(pair[1] for pair in pairs) == pytest.approx(after, abs=0.006)


def test_every_task_is_one_of_d4rl(figures: dict[str, Any]) -> None:
    for phase in ("offline", "online"):
        for scores in figures[phase].values():
            assert all(task(name).name == name for name in scores)


def test_published_scores_are_those_of_the_phases_that_were_run(make_run: Any) -> None:
    maze = "d4rl/antmaze-umaze-v2"
    paths = [
        make_run("off", dataset=maze, offline={100: 1.0}),
        make_run("on", dataset=maze, agent="awac", offline={100: 1.0}, online={0: 1.0, 10: 2.0}),
        make_run("unknown", dataset=maze, agent="bc", offline={100: 1.0}),
        make_run("local", dataset="local/hopper-medium-v0", offline={100: 1.0}),
    ]
    found = {path.name: published(make_groups(collect_runs([path]).runs)[0]) for path in paths}
    assert found == {"off": "77.0", "on": "52.8 → 98.8", "unknown": None, "local": None}


def test_the_report_shows_them_and_says_where_they_are_from(make_run: Any, tmp_path: Path) -> None:
    make_run("a", dataset="d4rl/hopper-medium-v2", offline={100: 60.0})
    make_run("b", dataset="d4rl/hopper-medium-v2", agent="bc", offline={100: 50.0})
    text = write_report([tmp_path / "runs"], tmp_path / "out").markdown.read_text()
    rows = {row.split(" | ")[0]: row for row in text.splitlines() if row.startswith("| ")}
    assert rows["| iql"].endswith("| 67.5 |")
    assert rows["| bc"].endswith("| – |")
    assert rows["| agent"].endswith("| published |")
    assert "CORL's README" in text


def test_nothing_is_said_of_them_where_there_are_none(make_run: Any, tmp_path: Path) -> None:
    path = make_run("a", offline={100: 60.0})
    text = write_report([path], tmp_path / "out").markdown.read_text()
    assert "ublished" not in text
