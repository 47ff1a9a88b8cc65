"""Reports: what is measured, what is said about runs left out, what the files hold."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlalign.errors import CheckpointError, RlalignError
from rlalign.report import describe_run, write_report
from rlalign.report.curves import PANEL_HEIGHT, legend_below
from rlalign.report.groups import make_groups
from rlalign.report.names import LONGEST
from rlalign.report.runs import collect_runs
from rlalign.report.statistics import band, estimate, over_tasks


def results(written: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.results.read_text())
    return found


def test_estimate_of_known_numbers() -> None:
    found = estimate([1.0, 2.0, 3.0, 10.0])
    assert found.mean == 4.0
    assert found.interquartile_mean == 2.5
    assert found.error == pytest.approx(np.std([1, 2, 3, 10], ddof=1) / 2)
    assert found.interval is not None
    low, high = found.interval
    assert 1.0 <= low < 4.0 < high <= 10.0


def test_one_seed_has_no_error_and_no_interval() -> None:
    found = estimate([5.0])
    assert (found.mean, found.error, found.interval) == (5.0, None, None)
    assert band(np.array([[1.0, 2.0]])) is None


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    assert estimate([5.0, 5.0, 5.0]).interval == (5.0, 5.0)


def test_same_scores_give_the_same_interval_every_time() -> None:
    assert estimate([1.0, 2.0, 4.0]) == estimate([1.0, 2.0, 4.0])


def test_band_holds_the_mean_and_follows_each_point() -> None:
    scores = np.array([[0.0, 10.0], [1.0, 20.0], [2.0, 60.0]])
    bounds = band(scores)
    assert bounds is not None
    low, high = bounds
    assert (low <= scores.mean(axis=0)).all()
    assert (high >= scores.mean(axis=0)).all()
    assert high[1] - low[1] > high[0] - low[0] > 0


def test_tasks_are_resampled_each_for_itself() -> None:
    # Without spread inside a task, an interval is a point, however far apart the tasks are.
    found = over_tasks([np.array([0.0, 0.0]), np.array([100.0, 100.0])])
    assert found.mean == 50.0
    assert found.interval == (50.0, 50.0)


def test_runs_that_differ_in_seed_alone_make_a_group(make_run: Any, tmp_path: Path) -> None:
    for seed, score in enumerate([20.0, 30.0, 40.0]):
        make_run(f"s{seed}", seed=seed, offline={50: 1.0, 100: score})
    make_run("other", settings={"expectile": 0.9}, offline={100: 5.0})
    groups = make_groups(collect_runs([tmp_path / "runs"]).runs)
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("iql (expectile=0.9)", 1),
        ("iql (expectile=default)", 3),
    ]
    assert groups[1].final().mean == 30.0


SEVERAL: tuple[dict[str, Any], ...] = (
    {"expectile": 0.9, "inverse_temperature": 10.0, "batch_size": 64},
    {"expectile": 0.5, "inverse_temperature": 1.0, "batch_size": 64},
    {},
)


def test_names_with_several_settings_are_numbers_told_in_a_table(
    make_run: Any, tmp_path: Path
) -> None:
    for task, order in (("local/hopper-medium-v0", (0, 1, 2)), ("local/ant-medium-v0", (1, 2, 0))):
        for number in order:
            where = f"{task[6:9]}-{number}"
            make_run(where, dataset=task, settings=SEVERAL[number], offline={100: number})
    make_run("one", agent="td3_bc", offline={100: 9.0})
    written = write_report([tmp_path / "runs"], tmp_path / "report")
    groups = results(written)["groups"]
    found = {(group["task"], group["label"]): group["final"]["mean"] for group in groups}
    assert found == {
        ("local/hopper-medium-v0", "iql #1"): 1.0,
        ("local/hopper-medium-v0", "iql #2"): 0.0,
        ("local/hopper-medium-v0", "iql #3"): 2.0,
        ("local/ant-medium-v0", "iql #1"): 1.0,
        ("local/ant-medium-v0", "iql #2"): 0.0,
        ("local/ant-medium-v0", "iql #3"): 2.0,
        ("local/hopper-medium-v0", "td3_bc"): 9.0,
    }
    told = {group["label"]: group["told_apart_by"] for group in groups}
    assert told["iql #2"] == {"batch_size": "64", "expectile": "0.9", "inverse_temperature": "10"}
    assert told["td3_bc"] == {}
    text = written.markdown.read_text()
    assert "| iql | batch_size | expectile | inverse_temperature |" in text
    assert "| iql #1 | 64 | 0.5 | 1 |" in text
    assert "| iql #3 | default | default | default |" in text
    assert "<td>iql #2</td><td>64</td><td>0.9</td>" in written.html.read_text()
    assert "iql #1  64          0.5        1" in written.summary


def test_a_task_with_fewer_settings_says_so_in_the_same_table(
    make_run: Any, tmp_path: Path
) -> None:
    make_run("a", settings=SEVERAL[0], offline={100: 1.0})
    make_run("b", settings=SEVERAL[2], offline={100: 2.0})
    for name, expectile in (("c", 0.9), ("d", 0.8)):
        changed = {"expectile": expectile}
        make_run(name, dataset="local/ant-medium-v0", settings=changed, offline={100: 3.0})
    make_run("e", dataset="local/walker2d-medium-v0", offline={100: 4.0})
    written = write_report([tmp_path / "runs"], tmp_path / "report")
    rows = [row for row in written.markdown.read_text().splitlines() if row.startswith("| iql #")]
    table = [row for row in rows if row.count("|") == 5 and "±" not in row][:4]
    assert table == [
        "| iql #1 | 64 | 0.9 | 10 |",
        "| iql #2 | default | default | default |",
        "| iql #3 | – | 0.8 | – |",
        "| iql #4 | – | 0.9 | – |",
    ]
    (plain,) = (group for group in results(written)["groups"] if "walker" in group["task"])
    assert plain["label"] == "iql"


def test_runs_on_other_data_of_the_same_name_are_a_group_of_their_own(
    make_run: Any, tmp_path: Path
) -> None:
    data = ["aaaa1111bbbb", "aaaa1111bbbb", "cccc2222dddd"]
    for seed, fingerprint in enumerate(data):
        make_run(f"run-{seed}", offline={100: 30.0}, seed=seed, fingerprint=fingerprint)
    make_run("other", offline={100: 30.0}, settings={"expectile": 0.9}, fingerprint="dddd")
    collection = collect_runs([tmp_path / "runs"])
    groups = make_groups([run for run in collection.runs if not run.configuration["settings"]])
    assert {group.label: len(group.runs) for group in groups} == {
        "iql (fingerprint=aaaa1111)": 2,
        "iql (fingerprint=cccc2222)": 1,
    }
    runs = tmp_path / "runs"
    assert collection.notes == (
        f"kept apart, the same recipe on different data: {runs}/run-0 (fingerprint aaaa1111), "
        f"{runs}/run-2 (fingerprint cccc2222)",
    )


def test_every_task_has_a_picture_of_its_own(make_run: Any, tmp_path: Path) -> None:
    for name in ("mine", "../mine", "./mine"):
        make_run(name.replace("/", "-"), offline={100: 30.0}, dataset=f"{name}.hdf5")
    written = write_report([tmp_path / "runs"], tmp_path / "report")
    shown = re.findall(r"\((\S+\.png)\)", written.markdown.read_text())
    assert len(shown) == len(set(shown)) == 3
    assert all((tmp_path / "report" / name).is_file() for name in shown)


def test_online_phase_is_measured(make_run: Any) -> None:
    path = make_run(
        "run", offline={100: 40.0}, online={10_000: 20.0, 20_000: 30.0, 30_000: 10.0, 40_000: 60.0}
    )
    (group,) = make_groups(collect_runs([path]).runs)
    assert group.offline_final().mean == 40.0
    dip = group.lowest_early_online()
    assert dip is not None
    assert dip.mean == 20.0
    assert group.final().mean == 60.0
    # Trapezoids from the offline end: 30, 25, 20, 35 over four equal stretches.
    assert group.online_area().mean == pytest.approx(27.5)


def test_seeds_that_are_not_yet_online_keep_the_others_offline(make_run: Any) -> None:
    paths = [
        make_run("a", seed=0, offline={100: 40.0}, online={0: 40.0, 50: 90.0}, status="running"),
        make_run("b", seed=1, offline={100: 20.0}, status="running"),
    ]
    (group,) = make_groups(collect_runs(paths, unfinished=True).runs)
    assert group.final_scores() == [40.0, 20.0]
    assert group.final().mean == 30.0


def test_curves_are_averaged_where_all_seeds_were_evaluated(make_run: Any, tmp_path: Path) -> None:
    make_run("a", seed=0, offline={10: 1.0, 20: 2.0, 30: 3.0})
    make_run("b", seed=1, offline={10: 3.0, 30: 5.0})
    (group,) = make_groups(collect_runs([tmp_path / "runs"]).runs)
    steps, scores = group.curve("offline")
    assert steps.tolist() == [10, 30]
    assert scores.mean(axis=0).tolist() == [2.0, 4.0]


def test_returns_are_reported_where_there_is_no_reference(make_run: Any) -> None:
    path = make_run("run", offline={100: 40.0}, normalized=False)
    (run,) = collect_runs([path]).runs
    assert run.final == 400.0
    assert run.behaviour == 500.0


def test_every_run_left_out_is_named(make_run: Any, tmp_path: Path) -> None:
    make_run("good", offline={100: 1.0})
    make_run("twin", offline={100: 2.0})
    make_run("silent")
    make_run("stopped", seed=3, offline={50: 1.0}, status="interrupted")
    broken = make_run("broken", seed=4, offline={100: 1.0})
    (broken / "evaluations.jsonl").write_text("{oops\n")
    headless = make_run("headless", seed=5, offline={100: 1.0})
    (headless / "run.json").unlink()
    hollow = make_run("hollow", seed=6, offline={100: 1.0})
    (hollow / "run.json").write_text("{}")
    written = write_report([tmp_path / "runs"], tmp_path / "out")
    notes = results(written)["notes"]
    for name in ("twin", "silent", "stopped", "broken", "headless", "hollow"):
        assert sum(f"runs/{name}" in note for note in notes) == 1, (name, notes)
        assert f"runs/{name}" in written.markdown.read_text()
        assert f"runs/{name}" in written.html.read_text()
    assert "interrupted" in next(note for note in notes if "stopped" in note)
    assert len(results(written)["groups"]) == 1


def test_unfinished_runs_are_reported_on_demand(make_run: Any, tmp_path: Path) -> None:
    path = make_run("run", offline={50: 1.0}, status="interrupted")
    written = write_report([path], tmp_path / "out", unfinished=True)
    assert results(written)["groups"][0]["final"]["mean"] == 1.0
    assert "as far as it got" in results(written)["notes"][0]


@pytest.mark.parametrize(
    ("short", "far"),
    [
        (
            {"offline": {50: 1.0}, "status": "interrupted"},
            {"offline": {100: 2.0}, "status": "finished"},
        ),
        (
            {"offline": {50: 1.0}, "status": "interrupted"},
            {"offline": {80: 2.0}, "status": "running"},
        ),
        (
            {"offline": {80: 1.0}, "status": "interrupted"},
            {"offline": {50: 2.0}, "online": {5: 3.0}, "status": "failed"},
        ),
    ],
)
def test_of_two_runs_of_a_seed_the_one_that_came_furthest_is_reported(
    make_run: Any, short: dict[str, Any], far: dict[str, Any]
) -> None:
    left_out, kept = make_run("x-seed0", **short), make_run("x-seed0-2", **far)
    for paths in ([left_out, kept], [kept, left_out]):
        collection = collect_runs(paths, unfinished=True)
        assert [run.path for run in collection.runs] == [kept]
        (note,) = (told for told in collection.notes if told.endswith(f": {left_out}"))
        assert note == f"left out, the same recipe and seed as {kept}: {left_out}"


@pytest.mark.parametrize("width", [5.2, 9.8])
def test_a_long_legend_takes_nothing_from_the_panel(width: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, PANEL_HEIGHT), layout="constrained")
    panel = figure.subplots()
    for number in range(16):
        panel.plot([0, 1], label=f"agent {number:02}".ljust(LONGEST, "x"))
    legend_below(figure, "black")
    figure.draw_without_rendering()
    assert panel.get_position().height * figure.get_figheight() > 0.8 * PANEL_HEIGHT
    legend = figure.legends[0].get_window_extent()
    assert legend.x0 >= 0
    assert legend.x1 <= width * figure.dpi
    assert legend.y1 <= panel.get_window_extent().y0


def test_no_run_is_an_error_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no finished run"):
        write_report([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_in_place_of_the_folder_is_an_error(make_run: Any, tmp_path: Path) -> None:
    path = make_run("run", offline={100: 1.0})
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RlalignError, match="a file is in the place"):
        write_report([path], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


class _Resources(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "href")]


def test_page_holds_everything_itself(make_run: Any, tmp_path: Path) -> None:
    make_run("a", offline={50: 1.0, 100: 2.0}, online={10: 3.0})
    make_run("b", agent="awac", dataset="local/walker2d-medium-v0", offline={100: 2.0})
    written = write_report([tmp_path / "runs"], tmp_path / "out", title="A <title> & more")
    text = written.html.read_text()
    parser = _Resources()
    parser.feed(text)
    assert parser.tags.count("img") == 2
    assert all(resource.startswith("data:image/png;base64,") for resource in parser.loaded)
    assert not re.search(r"https?://|@import|url\(", text)
    assert "<script" not in text
    assert "A &lt;title&gt; &amp; more" in text
    assert "prefers-color-scheme: dark" in text


def test_markdown_names_pictures_that_exist(make_run: Any, tmp_path: Path) -> None:
    path = make_run("a", offline={50: 1.0, 100: 2.0})
    written = write_report([path], tmp_path / "out")
    (picture,) = re.findall(r"!\[.*\]\((.*)\)", written.markdown.read_text())
    assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")


def test_report_made_twice_is_the_same(make_run: Any, tmp_path: Path) -> None:
    for seed in range(3):
        make_run(f"s{seed}", seed=seed, offline={50: seed * 1.5, 100: seed + 3.0})
    first = write_report([tmp_path / "runs"], tmp_path / "one")
    second = write_report([tmp_path / "runs"], tmp_path / "two")
    assert first.html.read_bytes() == second.html.read_bytes()


def test_one_run_given_twice_counts_once(make_run: Any) -> None:
    path = make_run("run", offline={100: 1.0})
    collection = collect_runs([path, path.parent])
    assert len(collection.runs) == 1
    assert collection.notes == ()


def test_tasks_are_summed_up_for_agents_that_have_them_all(make_run: Any, tmp_path: Path) -> None:
    for seed in range(2):
        for task in ("local/hopper-medium-v0", "local/walker2d-medium-v0"):
            make_run(f"iql-{seed}-{task[6:]}", seed=seed, dataset=task, offline={100: 10.0 + seed})
    make_run("awac", agent="awac", offline={100: 50.0})
    written = write_report([tmp_path / "runs"], tmp_path / "out")
    text = written.markdown.read_text()
    table = text.split("**Over all tasks**")[1].split("##")[0]
    assert "iql" in table
    assert "awac" not in table


def test_run_is_described_in_two_lines(make_run: Any) -> None:
    path = make_run("run", offline={100: 40.0}, online={10: 55.0})
    first, second = describe_run(path).splitlines()
    assert first == (
        "iql on local/hopper-medium-v0, seed 0: normalised score: "
        "behaviour 10.0, offline 40.0, online 55.0"
    )
    assert second == f"finished: {path}"
