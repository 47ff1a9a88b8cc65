"""Published scores beside ours."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from rlalign.agents import AGENTS
from rlalign.data.d4rl import task
from rlalign.report import write_report
from rlalign.report.groups import make_groups
from rlalign.report.published import published
from rlalign.report.runs import collect_runs

LOCOMOTION = ("halfcheetah", "hopper", "walker2d")
NINE = {"medium", "medium-replay", "medium-expert"}
Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def tables() -> Tables:
    text = (resources.files("rlalign.report") / "published.json").read_text()
    return dict(json.loads(text))


def scores(tables: Tables, phase: str, agent: str) -> dict[str, Any]:
    """All scores of an agent by task."""
    return {
        name: score
        for table in tables[phase]
        if table["agent"] == agent
        for name, score in table["scores"].items()
    }


def locomotion(scores: dict[str, Any]) -> dict[str, float]:
    return {name: score for name, score in scores.items() if name.startswith(LOCOMOTION)}


def nine(scores: dict[str, Any]) -> list[float]:
    """Locomotion without random, expert and full-replay datasets."""
    kinds = {name: name.split("-", 1)[1].removesuffix("-v2") for name in locomotion(scores)}
    return [scores[name] for name, kind in kinds.items() if kind in NINE]


def mazes(scores: dict[str, Any], version: str) -> list[Any]:
    return [
        score
        for name, score in scores.items()
        if name.startswith("antmaze") and name.endswith(version)
    ]


def sides(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The averages before and after the online phase."""
    return mean(pair[0] for pair in pairs), mean(pair[1] for pair in pairs)


@pytest.mark.parametrize(
    ("agent", "of_nine", "of_mazes", "error"),
    [
        ("awac", 79.39, 18.58, 0.006),
        ("cql", 78.28, 50.71, 0.006),
        ("iql", 81.63, 57.17, 0.006),
        ("td3_bc", 76.5, 28.7, 0.1),
        ("sac_n", 92.7, 0.0, 0.1),
        ("edac", 93.5, 0.0, 0.1),
        ("rebrac", 88.5, 76.8, 0.1),
    ],
)
def test_offline_scores_have_the_source_s_own_averages(
    tables: Tables, agent: str, of_nine: float, of_mazes: float, error: float
) -> None:
    found = scores(tables, "offline", agent)
    assert (len(nine(found)), len(mazes(found, "v2"))) == (9, 6)
    assert mean(nine(found)) == pytest.approx(of_nine, abs=error)
    assert mean(mazes(found, "v2")) == pytest.approx(of_mazes, abs=error)


@pytest.mark.parametrize(
    ("agent", "count", "average"),
    [("sac_n", 18, 84.4), ("edac", 18, 85.2), ("rebrac", 18, 81.2), ("rorl", 15, 85.7)],
)
def test_all_of_locomotion_has_the_source_s_own_average(
    tables: Tables, agent: str, count: int, average: float
) -> None:
    found = locomotion(scores(tables, "offline", agent))
    assert len(found) == count
    assert mean(found.values()) == pytest.approx(average, abs=0.1)


def test_mazes_of_rorl_and_of_the_older_version_have_the_sources_own_sums(tables: Tables) -> None:
    assert mean(mazes(scores(tables, "offline", "rorl"), "v2")) == pytest.approx(65.2, abs=0.1)
    for agent, total in {"awac": 107.7, "cql": 303.6, "iql": 378.0}.items():
        found = mazes(scores(tables, "offline", agent), "v0")
        assert len(found) == 6
        assert sum(found) == pytest.approx(total, abs=0.11)
    for agent, totals in {"cql": (149.2, 231.1), "iql": (370.1, 473.7)}.items():
        pairs = mazes(scores(tables, "online", agent), "v0")
        assert [sum(side) for side in zip(*pairs, strict=True)] == pytest.approx(totals, abs=0.11)


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
    tables: Tables, agent: str, before: float, after: float
) -> None:
    pairs = mazes(scores(tables, "online", agent), "v2")
    assert len(pairs) == 6
    assert sides(pairs) == pytest.approx((before, after), abs=0.006)


@pytest.mark.parametrize(
    ("agent", "before", "after"),
    [
        ("iql", 42.5, 65.1),
        ("cal_ql", 31.5, 58.1),
        ("td3_bc", 36.7, 45.4),
        ("rebrac", 55.0, 91.1),
    ],
)
def test_mazes_and_hands_online_have_the_source_s_own_averages(
    tables: Tables, agent: str, before: float, after: float
) -> None:
    found = scores(tables, "online", agent)
    pairs = [pair for name, pair in found.items() if not name.endswith("-v0")]
    assert len(pairs) == 10
    assert sides(pairs) == pytest.approx((before, after), abs=0.1)


def test_every_task_is_one_of_d4rl_and_every_agent_one_of_rlalign(tables: Tables) -> None:
    for table in tables["offline"] + tables["online"]:
        assert all(task(name).name == name for name in table["scores"])
        assert table["agent"] in AGENTS


def test_every_table_has_a_source_and_no_score_has_two(tables: Tables) -> None:
    for phase, found in tables.items():
        assert all(re.search(r"arXiv \d{4}\.\d{5}\b", table["source"]) for table in found)
        keys = [(table["agent"], name) for table in found for name in table["scores"]]
        assert len(keys) == len(set(keys)), phase


@pytest.mark.parametrize("agent", ["ro2o", "famo2o_iql", "famo2o_awac", "famo2o_cql"])
def test_scores_that_could_not_be_checked_are_left_out(tables: Tables, agent: str) -> None:
    assert not scores(tables, "offline", agent)
    assert not scores(tables, "online", agent)


def test_published_scores_are_those_of_the_phases_that_were_run(make_run: Any) -> None:
    maze = "d4rl/antmaze-umaze-v2"
    paths = [
        make_run("off", dataset=maze, offline={100: 1.0}),
        make_run("on", dataset=maze, agent="awac", offline={100: 1.0}, online={0: 1.0, 10: 2.0}),
        make_run("alone", dataset=maze, agent="rlpd", online={0: 1.0, 10: 2.0}),
        make_run("unknown", dataset=maze, agent="bc", offline={100: 1.0}),
        make_run("local", dataset="local/hopper-medium-v0", offline={100: 1.0}),
    ]
    found = {path.name: published(make_groups(collect_runs([path]).runs)[0]) for path in paths}
    assert found == {
        "off": "77.0",
        "on": "52.8 → 98.8",
        "alone": "0.0 → 98.0",
        "unknown": None,
        "local": None,
    }


def test_the_report_shows_them_and_says_where_they_are_from(make_run: Any, tmp_path: Path) -> None:
    make_run("a", dataset="d4rl/hopper-medium-v2", offline={100: 60.0})
    make_run("b", dataset="d4rl/hopper-medium-v2", agent="bc", offline={100: 50.0})
    text = write_report([tmp_path / "runs"], tmp_path / "out").markdown.read_text()
    rows = {row.split(" | ")[0]: row for row in text.splitlines() if row.startswith("| ")}
    assert rows["| iql"].endswith("| 67.5 |")
    assert rows["| bc"].endswith("| – |")
    assert rows["| agent"].endswith("| published |")
    assert "CORL's README" in text


def test_the_report_names_only_the_sources_of_what_it_shows(make_run: Any, tmp_path: Path) -> None:
    make_run("a", dataset="d4rl/hopper-medium-v2", offline={100: 60.0})
    make_run("b", dataset="d4rl/hopper-medium-v2", agent="awac", offline={100: 60.0})
    make_run("c", dataset="d4rl/hopper-medium-v2", agent="rorl", offline={100: 90.0})
    text = write_report([tmp_path / "runs"], tmp_path / "out").markdown.read_text()
    assert "awac, iql: CORL's README (arXiv 2210.07105), last checkpoints" in text
    assert "rorl: arXiv 2305.09836, Table 16." in text
    assert "Table 17" not in text
    assert "2502.02538" not in text


def test_nothing_is_said_of_them_where_there_are_none(make_run: Any, tmp_path: Path) -> None:
    path = make_run("a", offline={100: 60.0})
    text = write_report([path], tmp_path / "out").markdown.read_text()
    assert "ublished" not in text
