"""Peers' evaluations in run directories like our own, so that one report shows both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rlalign.data.d4rl import reference_of_environment
from rlalign.envs.vector import Environments
from rlalign.evaluate import Policy, evaluate
from rlalign.rundir import RunDirectory

EPISODES = 20


def begin(
    directory: Path, agent: str, seed: int, environment: str, phase: str, steps: int, dataset: Any
) -> RunDirectory:
    """Make a peer's run directory; peers do not resume, so an unfinished one is made anew."""
    shutil.rmtree(directory, ignore_errors=True)
    recipe = {
        "agent": agent,
        "environment": environment,
        "dataset": dataset["name"] if dataset else None,
        "seed": seed,
        phase: {"steps": steps},
        "evaluation": {"every": 10_000, "episodes": EPISODES},
        "logging": {"tensorboard": False},
    }
    return RunDirectory.create(directory, recipe, dataset=dataset)


def record(run: RunDirectory, policy: Policy, environment: str, phase: str, step: int) -> None:
    """Evaluate a peer's policy as ours are and write the result."""
    environments = Environments(environment, 10, seed=1000 + step, record=False)
    try:
        result = evaluate(policy, environments, EPISODES)
    finally:
        environments.close()
    row = result.to_dict(reference_of_environment(environment))
    run.log_evaluation({"phase": phase, "step": step, "updates": step, "env_steps": step, **row})
