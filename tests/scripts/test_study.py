"""The learning study: that its runs can be made, what is kept of them, and what its page says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rlalign.recipe import load_any_recipe
from rlalign.report.groups import make_groups
from rlalign.report.runs import collect_runs
from rlalign.rundir import RunDirectory
from scripts.study.plan import Piece, pieces
from scripts.study.records import RECORDS, is_kept, keep
from scripts.study.results import behaviour_table, missing, peer_table
from scripts.study.run import begin_from, command

PIECES = list(pieces())
PIECE = Piece("rlalign", "offline", "iql-hopper", 0, ())


def test_every_run_has_a_folder_of_its_own() -> None:
    assert len({piece.directory(Path()) for piece in PIECES}) == len(PIECES)


@pytest.mark.parametrize(
    "piece",
    [one for one in PIECES if one.program == "rlalign" and one.seed == 0],
    ids=lambda piece: f"{piece.experiment}-{piece.name}",
)
def test_recipes_take_what_the_study_changes(piece: Piece) -> None:
    load_any_recipe(piece.arguments[0], list(piece.arguments[1:]))


def test_kept_records_are_of_runs_in_the_plan() -> None:
    """Else they would stand on the page as what they no longer are."""
    planned = {piece.directory(RECORDS) for piece in PIECES}
    kept = {file.parent for file in RECORDS.rglob("run.json")}
    assert kept
    assert kept <= planned
    for piece in PIECES:
        if piece.program == "rlalign" and is_kept(piece):
            wanted = load_any_recipe(piece.arguments[0], list(piece.arguments[1:]))
            found = RunDirectory.open(piece.directory(RECORDS)).any_recipe
            assert found.to_dict() == wanted.to_dict(), piece


def test_longer_runs_go_on_from_shorter_ones(tmp_path: Path) -> None:
    """What the plan says of the longer run is what the shorter one becomes by the override."""
    longer = [piece for piece in PIECES if piece.shorter]
    assert {piece.experiment for piece in longer} == {"offline-longer"}
    for piece in longer:
        begun = replace(piece, experiment=piece.shorter, shorter="", longer="")
        (short,) = (one for one in PIECES if one.directory(Path()) == begun.directory(Path()))
        made = load_any_recipe(short.arguments[0], [*short.arguments[1:], piece.longer])
        assert made == load_any_recipe(piece.arguments[0], list(piece.arguments[1:]))


def test_longer_run_begins_with_a_copy_of_the_shorter_one(tmp_path: Path) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    begin_from(short, long)
    assert not long.exists()
    run = RunDirectory.create(short, {"agent": "iql"})
    begin_from(short, long)
    assert not long.exists()
    run.finish("finished")
    begin_from(short, long)
    assert RunDirectory.open(long).info == run.info
    piece = replace(PIECE, longer="offline.steps=9")
    assert command(piece, long, Path())[-4:] == [
        "resume", str(long), "offline.steps=9", "--no-progress",
    ]  # fmt: skip
    assert command(PIECE, long, Path())[-3:] == ["resume", str(long), "--no-progress"]


def make(root: Path, piece: Piece, agent: str, scores: list[float]) -> Path:
    """A finished run with evaluations of these scores, and more files than are kept."""
    recipe = {
        "agent": agent,
        "dataset": "local/hopper-medium-v0",
        "environment": "Hopper-v5",
        "seed": piece.seed,
        "offline": {"steps": 30},
    }
    dataset = {"name": "local/hopper-medium-v0", "behaviour_normalized": 10.0}
    run = RunDirectory.create(piece.directory(root), recipe, ["rlalign", "/home"], dataset=dataset)
    for step, score in enumerate(scores):
        row = {"phase": "offline", "step": step, "returns": [score], "mean_return": score}
        run.log_evaluation({**row, "normalized_score": score})
    (run.path / "checkpoints" / "weights.safetensors").write_bytes(b"large")
    run.finish("finished")
    return run.path


def test_record_leaves_out_weights_and_folders_of_the_machine(tmp_path: Path) -> None:
    runs, records = tmp_path / "runs", tmp_path / "records"
    assert not keep(PIECE, runs, records)
    make(runs, PIECE, "iql", [1.0, 2.0])
    assert keep(PIECE, runs, records)
    assert is_kept(PIECE, records)
    record = PIECE.directory(records)
    assert {file.name for file in record.iterdir()} == {
        "recipe.yaml",
        "run.json",
        "evaluations.jsonl",
    }
    assert "command" not in json.loads((record / "run.json").read_text())
    (run,) = collect_runs([records]).runs
    assert run.final == 2.0


def test_run_that_has_not_ended_is_not_kept(tmp_path: Path) -> None:
    path = make(tmp_path / "runs", PIECE, "iql", [1.0])
    RunDirectory.open(path)._update(status="interrupted")
    assert not keep(PIECE, tmp_path / "runs", tmp_path / "records")
    assert not is_kept(PIECE, tmp_path / "records")


def test_page_compares_with_peers_and_data_by_two_standard_errors(tmp_path: Path) -> None:
    """Final scores are 20 and 22 against 30 and 32; the last three lie three lower in the mean."""
    for seed, level in enumerate((20.0, 22.0)):
        piece = replace(PIECE, seed=seed)
        make(tmp_path, piece, "iql", [0.0, level - 6, level - 3, level])
        peer = replace(piece, name="peer")
        make(tmp_path, peer, "d3rlpy-iql", [0.0, level + 4, level + 7, level + 10])
    groups = make_groups(collect_runs([tmp_path]).runs)
    row = next(line for line in peer_table(groups) if line.startswith("| local/"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:] == [
        "iql",
        "d3rlpy-iql",
        "21.0 ± 1.0 against 31.0 ± 1.0",
        "-10.0 ± 1.4",
        "worse",
        "18.0 ± 1.0 against 28.0 ± 1.0",
        "-10.0 ± 1.4",
        "worse",
        "0.02",
    ]
    (row,) = (line for line in behaviour_table(groups) if line.startswith("| local/"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:6] == ["iql", "10.0", "21.0 ± 1.0", "11.0 ± 1.0", "better"]


def test_one_seed_has_no_verdict(tmp_path: Path) -> None:
    make(tmp_path, PIECE, "iql", [5.0])
    make(tmp_path, replace(PIECE, name="peer"), "d3rlpy-iql", [9.0])
    groups = make_groups(collect_runs([tmp_path]).runs)
    for table in (peer_table(groups), behaviour_table(groups)):
        assert sum("one seed" in line for line in table) == 1


def test_runs_without_record_are_named(tmp_path: Path) -> None:
    everything = missing(tmp_path)
    assert "- offline/iql-hopper-medium-replay-v0: seeds 0, 1, 2" in everything
    piece = next(one for one in PIECES if one.name == "iql-hopper-medium-replay-v0")
    make(tmp_path, piece, "iql", [1.0])
    assert "- offline/iql-hopper-medium-replay-v0: seeds 1, 2" in missing(tmp_path)
