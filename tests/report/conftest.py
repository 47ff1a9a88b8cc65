"""Run directories with made-up scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlalign.recipe import parse_recipe
from rlalign.rundir import RunDirectory, Status

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A function that writes a run: `make_run("a", offline={100: 20.0}, online={50: 30.0})`."""

    def make(
        name: str,
        *,
        offline: dict[int, float] | None = None,
        online: dict[int, float] | None = None,
        seed: int = 0,
        agent: str = "iql",
        dataset: str = "local/hopper-medium-v0",
        settings: dict[str, Any] | None = None,
        status: Status = "finished",
        normalized: bool = True,
        fingerprint: str | None = None,
    ) -> Path:
        recipe = parse_recipe(
            {
                "agent": agent,
                "dataset": dataset,
                "seed": seed,
                "settings": settings or {},
                "offline": {"steps": 100},
                "logging": {"tensorboard": False},
            }
        )
        facts = {"name": dataset, "behaviour_normalized": 10.0, "behaviour_return_mean": 500.0}
        if fingerprint is not None:
            facts["fingerprint"] = fingerprint
        run = RunDirectory.create(tmp_path / "runs" / name, recipe, ["rlalign"], dataset=facts)
        for phase, points in (("offline", offline or {}), ("online", online or {})):
            for step, score in points.items():
                run.log_evaluation(
                    {
                        "phase": phase,
                        "step": step,
                        "returns": [score * 10],
                        "mean_return": score * 10,
                        "normalized_score": score if normalized else None,
                    }
                )
        run.finish(status)
        return run.path

    return make
