"""The benchmark of preference trainers: its table, and that contestants do the same work."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.preference import CONTESTANTS, arguments, job, lines
from benchmarks.process import Turn
from benchmarks.workers import preference_trainer as worker


def turns(seconds: float, peak: float) -> list[Turn]:
    return [Turn(updates=10, cpu=seconds, wall=seconds, parts={"peak_bytes": peak})] * 3


def test_table_sets_ours_beside_trls() -> None:
    measured = {
        ("simpo", "rlalign"): turns(5.0, 2.0**20),
        ("simpo", "trl"): turns(10.0, 2.0**21),
        ("hypo", "rlalign"): turns(20.0, 2.0**21),
    }
    ours, theirs, alone = lines(measured, "wall")[2:]
    assert "2.000 (2.000-2.000) | 1 | CPO-SimPO, TRL | 2.00 (2.00-2.00) | 0.50" in ours
    assert theirs.endswith("| | | |")
    assert "0.500" in alone


@pytest.mark.parametrize("method", ["simpo", "dpo"])
def test_both_libraries_see_the_same_rows_in_the_same_order(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {**worker.SIZES["small"], "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1}
    monkeypatch.setitem(worker.SIZES, "small", {**small, "intermediate_size": 16})
    options = arguments().parse_args(["--length", "24", "--batch", "2"])
    seen = []
    for key in ((method, "rlalign"), (method, "trl")):
        assert key in CONTESTANTS
        trainer = worker.trainer(job(key, options), str(tmp_path))
        batch = next(iter(trainer.get_train_dataloader()))
        if "input_ids" in batch:
            rows = [batch["input_ids"][0], batch["input_ids"][2]]
        else:  # TRL's CPO
            rows = [batch["chosen_input_ids"][0], batch["rejected_input_ids"][0]]
        seen.append([[int(token) for token in row if token != 0] for row in rows])
        weights = sum(float(p.detach().double().sum()) for p in trainer.model.parameters())
        seen[-1].append([weights])  # type: ignore[list-item]
    assert seen[0] == seen[1]
