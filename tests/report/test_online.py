"""What is measured of going online, and where it is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlalign.report import write_report
from rlalign.report.curves import Timeline
from rlalign.report.groups import make_groups
from rlalign.report.online import lowest_early, measures, online_area
from rlalign.report.runs import collect_runs, read_run


def test_the_dip_is_the_lowest_of_the_first_twenty_thousand_steps(make_run: Any) -> None:
    scores = {0: 40.0, 10_000: 25.0, 20_000: 22.0, 20_001: 5.0, 50_000: 70.0}
    assert lowest_early(read_run(make_run("run", offline={100: 41.0}, online=scores))) == 22.0


def test_a_run_evaluated_too_rarely_has_no_dip(make_run: Any, tmp_path: Path) -> None:
    rare = make_run("rare", offline={100: 41.0}, online={0: 40.0, 30_000: 1.0})
    late = make_run("late", offline={100: 41.0}, online={30_000: 1.0}, seed=1)
    often = make_run("often", offline={100: 41.0}, online={0: 40.0, 20_000: 9.0}, seed=2)
    assert [lowest_early(read_run(path)) for path in (rare, late, often)] == [None, None, 9.0]
    assert "dip" not in measures(read_run(rare))

    # A mean over the seeds that have a figure would compare different things.
    report = write_report([rare, often], tmp_path / "out")
    assert "| iql | 2 | 41.0 ± 0.0 | – | 5.0 ± 4.0 |" in report.markdown.read_text()
    assert "41.0 ± 0.0  –    5.0 ± 4.0" in report.summary
    (group,) = json.loads(report.results.read_text())["groups"]
    assert group["lowest_in_first_20000_online_steps"] is None


def test_the_area_is_the_mean_score_online(make_run: Any) -> None:
    level = make_run("level", online={0: 30.0, 100: 30.0, 1000: 30.0})
    ramp = make_run("ramp", online={0: 0.0, 1000: 100.0}, seed=1)
    uneven = make_run("uneven", online={0: 0.0, 100: 60.0, 400: 60.0}, seed=2)
    once = make_run("once", online={0: 12.0}, seed=3)
    areas = [online_area(read_run(path)) for path in (level, ramp, uneven, once)]
    assert areas == pytest.approx([30.0, 50.0, (100 * 30 + 300 * 60) / 400, 12.0])


def test_a_curve_without_its_start_begins_at_the_offline_end(make_run: Any) -> None:
    path = make_run("run", offline={50: 1.0, 100: 40.0}, online={100: 60.0})
    assert online_area(read_run(path)) == pytest.approx(50.0)


def test_only_what_was_evaluated_is_measured(make_run: Any) -> None:
    assert measures(read_run(make_run("offline", offline={100: 7.0}))) == {"offline": 7.0}
    online = measures(read_run(make_run("online", online={0: 1.0, 10: 3.0}, seed=1)))
    assert online == {"dip": 1.0, "online": 3.0, "area": 2.0}


@pytest.fixture
def report(make_run: Any, tmp_path: Path) -> Any:
    for seed, dip in enumerate((10.0, 20.0)):
        online = {0: 40.0, 10_000: dip, 20_000: 40.0, 40_000: 60.0 + seed}
        make_run(f"iql-{seed}", seed=seed, offline={50: 1.0, 100: 40.0}, online=online)
    make_run("bc", agent="bc", offline={100: 30.0})
    return write_report([tmp_path / "runs"], tmp_path / "out")


def test_markdown_page_and_terminal_show_offline_dip_online_and_area(report: Any) -> None:
    area = "38.9 ± 1.4"  # of 37.5 and 40.25
    row = ["iql", "2", "40.0 ± 0.0", "15.0 ± 5.0", "60.5 ± 0.5", "[60.0, 61.0]", area]
    assert "| " + " | ".join(row) + " |" in report.markdown.read_text()
    assert "".join(f"<td>{cell}</td>" for cell in row) in report.html.read_text()
    header, bc, iql = report.summary.splitlines()
    columns = ["task", "agent", "seeds", "behaviour", "offline", "dip", "online", "area"]
    assert header.split() == columns
    assert bc.split()[-3:] == ["–", "–", "–"]
    for cell in ("40.0 ± 0.0", "15.0 ± 5.0", "60.5 ± 0.5", area):
        assert cell in iql


def test_every_seed_s_figures_are_given(report: Any) -> None:
    groups = json.loads(report.results.read_text())["groups"]
    runs = next(group["runs"] for group in groups if group["agent"] == "iql")
    assert [run["measures"]["dip"] for run in runs] == [10.0, 20.0]
    assert "iql, seed 1: offline 40.0, dip 20.0, online 61.0, area" in report.markdown.read_text()


def test_the_terminal_is_spared_columns_that_nothing_fills(make_run: Any, tmp_path: Path) -> None:
    path = make_run("run", offline={100: 40.0})
    header = write_report([path], tmp_path / "out").summary.splitlines()[0]
    assert header.split() == ["task", "agent", "seeds", "behaviour", "offline"]


def test_both_phases_lie_on_one_axis_with_the_switch_at_zero(make_run: Any) -> None:
    make_run("long", offline={0: 0.0, 100: 1.0, 400: 2.0}, online={0: 2.0, 50: 3.0})
    path = make_run("short", offline={200: 1.0}, seed=1, settings={"beta": 1.0})
    timeline = Timeline.of(make_groups(collect_runs([path.parent]).runs))
    assert timeline.lengths == {"offline": 400, "online": 50}
    assert timeline.place("offline", np.array([0, 100, 400])).tolist() == [-1.0, -0.75, 0.0]
    assert timeline.place("online", np.array([0, 25, 50])).tolist() == [0.0, 0.5, 1.0]
    places, labels = timeline.ticks()
    assert places == sorted(places)
    assert labels[places.index(0.0)] == "0"  # the online phase's, not the offline phase's 400
    assert labels[0] == "0"
    assert "400" not in labels
    assert labels[-1] == "50"


def test_one_phase_alone_has_the_axis_to_itself(make_run: Any) -> None:
    path = make_run("run", offline={0: 0.0, 1_000_000: 1.0})
    timeline = Timeline.of(make_groups(collect_runs([path]).runs))
    places, labels = timeline.ticks()
    assert (places[0], places[-1]) == (-1.0, 0.0)
    assert labels[-1] == "1M"
