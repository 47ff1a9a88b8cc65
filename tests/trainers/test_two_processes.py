"""Two processes with half a batch each learn what one process learns with the whole of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PROGRAM = """
import json, os, signal, sys
import torch
from transformers import TrainerCallback
torch.set_num_threads(1)
from pathlib import Path
from rlalign.errors import TrainingError
from rlalign.trainers import TRAINERS, RevisionTemplate
from tests.trainers import tiny

method, folder, batch, extra = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
extra = json.loads(extra)
told, spoilt = extra.pop("told", None), extra.pop("spoilt", None)
config_class, trainer_class = TRAINERS[method]
settings = tiny.settings(folder / "out", per_device_train_batch_size=batch, **extra)
if "WORLD_SIZE" in os.environ:
    settings["ddp_backend"] = "gloo"
if method == "srpo":
    RevisionTemplate("short", "{prompt}", "{prompt}({draft})", "(", ")").save(folder)
    settings["template"] = str(folder)
trainer = trainer_class(
    model=tiny.model(),
    args=config_class(**settings),
    train_dataset=tiny.pairs(),
    processing_class=tiny.tokenizer(),
)
if told is not None:
    class Told(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == 1 and int(os.environ["RANK"]) == told:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer.add_callback(Told())
if spoilt is not None and int(os.environ["RANK"]) == spoilt:
    loss = trainer.method_loss

    def spoil(model, inputs):
        return loss(model, inputs) * (float("nan") if trainer.state.global_step == 1 else 1.0)

    trainer.method_loss = spoil
try:
    trainer.train()
except TrainingError as error:
    if spoilt is None:
        raise
    (folder / f"error-{os.environ['RANK']}").write_text(str(error))
if told is not None:
    (folder / f"interrupted-{os.environ['RANK']}").write_text(str(trainer.interrupted))
if trainer.is_world_process_zero():
    rows = [row for row in trainer.state.log_history if "loss" in row]
    (folder / "rows.json").write_text(json.dumps(rows))
"""


def train(method: str, folder: Path, processes: int, batch: int, **extra: Any) -> Any:
    folder.mkdir()
    program = folder / "program.py"
    program.write_text(PROGRAM)
    launcher = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone"]
    count = [] if processes == 1 else [f"--nproc_per_node={processes}"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [
            *(sys.executable, *launcher, *count, str(program)),
            *(method, str(folder), str(batch), json.dumps(extra)),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            "OMP_NUM_THREADS": "1",
            "HF_DATASETS_CACHE": str(folder / "datasets"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "rows.json").read_text())


@pytest.mark.parametrize("method", ["dpo", "srpo"])
def test_all_processes_find_the_reference_computed_beforehand(tmp_path: Path, method: str) -> None:
    one = train(method, tmp_path / "one", 1, 8)
    two = train(method, tmp_path / "two", 2, 4, precompute_ref_log_probs=True)
    found, expected = ([row["rewards/margins"] for row in rows] for rows in (two, one))
    assert found == pytest.approx(expected, abs=1e-3)
    assert found[-1] > 0.01


@pytest.mark.parametrize("method", ["dpo", "simpo", "hypo", "srpo"])
def test_halves_of_a_batch_add_up(tmp_path: Path, method: str) -> None:
    extra = {"kl_weight": 0.0, "max_new_tokens": 4} if method == "hypo" else {}
    one = train(method, tmp_path / "one", 1, 8, **extra)
    two = train(method, tmp_path / "two", 2, 4, **extra)
    for name in ("loss", "rewards/margins", "logps/chosen"):
        found, expected = [row[name] for row in two], [row[name] for row in one]
        assert found == pytest.approx(expected, abs=1e-3)
    assert one[-1]["loss"] < one[0]["loss"] - 0.02


def test_each_process_draws_samples_of_its_own(tmp_path: Path) -> None:
    rows = train("hypo", tmp_path / "two", 2, 4, kl_weight=0.05, max_new_tokens=4)
    assert len(rows) == 4
    assert rows[0]["online_kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["online_kl"] != 0.0
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_signal_to_one_process_is_known_to_all(tmp_path: Path) -> None:
    """The first one writes how the run ended, whichever was told to stop."""
    rows = train("dpo", tmp_path / "two", 2, 4, told=1)
    assert len(rows) == 2
    ended = [(tmp_path / "two" / f"interrupted-{rank}").read_text() for rank in (0, 1)]
    assert ended == ["15", "15"]
    assert (tmp_path / "two" / "out" / "checkpoint-2").is_dir()


def test_a_loss_that_is_not_finite_in_one_process_is_told_by_all(tmp_path: Path) -> None:
    """The first one writes how the run ended, whichever it happened to."""
    train("dpo", tmp_path / "two", 2, 4, spoilt=1)
    told = [(tmp_path / "two" / f"error-{rank}").read_text() for rank in (0, 1)]
    assert all(text.startswith("the DPO loss of step 2 is not finite") for text in told)
