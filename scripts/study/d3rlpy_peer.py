"""d3rlpy's agents on the very file that our agents learn from, evaluated as ours are."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlalign.data.dataset import load_dataset
from scripts.study.plan import OFFLINE_UPDATES
from scripts.study.record import begin, record

EVERY = 10_000


class Exported:
    """A policy that d3rlpy exported as TorchScript, observation scaling included."""

    def __init__(self, path: Path) -> None:
        self._module = torch.jit.load(str(path))

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return the policy's actions [count, act]."""
        with torch.no_grad():
            actions = self._module(torch.as_tensor(observation, dtype=torch.float32))
        return actions.numpy(), state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=["iql", "td3_bc", "cql", "rebrac"])
    parser.add_argument("dataset")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--d3rlpy-python", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset(f"local/{options.dataset}")
    assert dataset.environment is not None
    behaviour = float(dataset.episode_returns().mean())
    facts = {
        "name": f"local/{options.dataset}",
        "environment": dataset.environment,
        "fingerprint": dataset.fingerprint,
        "transitions": len(dataset),
        "behaviour_return_mean": behaviour,
        "behaviour_normalized": float(dataset.normalized_score(behaviour)),
    }
    run = begin(
        options.out,
        f"d3rlpy-{options.algorithm}",
        options.seed,
        dataset.environment,
        "offline",
        OFFLINE_UPDATES,
        facts,
    )
    file = options.out / "data.hdf5"
    policies = options.out / "policies"
    dataset.save(file)
    trainer = Path(__file__).with_name("d3rlpy_train.py")
    subprocess.run(
        [
            options.d3rlpy_python, trainer, options.algorithm, file, policies,
            "--seed", str(options.seed), "--steps", str(OFFLINE_UPDATES), "--every", str(EVERY),
        ],
        check=True,
    )  # fmt: skip
    for step in range(EVERY, OFFLINE_UPDATES + 1, EVERY):
        policy = Exported(policies / f"step-{step}.pt")
        record(run, policy, dataset.environment, "offline", step)
    file.unlink()
    run.finish("finished")


if __name__ == "__main__":
    main()
