"""Train d3rlpy on a file and export its policy now and then; runs in d3rlpy's own interpreter."""

from __future__ import annotations

import argparse
from pathlib import Path

import d3rlpy
import h5py
import torch
from d3rlpy.preprocessing import ReturnBasedRewardScaler, StandardObservationScaler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=["iql", "td3_bc"])
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--every", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    d3rlpy.seed(options.seed)
    with h5py.File(options.file) as file:
        dataset = d3rlpy.dataset.MDPDataset(
            observations=file["observations"][()],
            actions=file["actions"][()],
            rewards=file["rewards"][()],
            terminals=file["terminals"][()],
            timeouts=file["timeouts"][()],
        )
    if options.algorithm == "iql":
        # As our recipe: rewards times 1000 / (best - worst return), observations as they are.
        config = d3rlpy.algos.IQLConfig(reward_scaler=ReturnBasedRewardScaler(multiplier=1000.0))
    else:
        config = d3rlpy.algos.TD3PlusBCConfig(observation_scaler=StandardObservationScaler())
    algorithm = config.create(device="cpu:0")
    options.out.mkdir(parents=True, exist_ok=True)

    def export(algo: d3rlpy.base.LearnableBase, _: int, step: int) -> None:
        if step % options.every == 0:
            algo.save_policy(str(options.out / f"step-{step}.pt"))

    algorithm.fit(
        dataset,
        n_steps=options.steps,
        n_steps_per_epoch=options.every,
        logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
        callback=export,
        show_progress=False,
    )


if __name__ == "__main__":
    main()
