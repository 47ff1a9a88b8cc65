"""Train d3rlpy on a file and export its policy now and then; runs in d3rlpy's own interpreter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import d3rlpy
import h5py
import torch
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.preprocessing import ReturnBasedRewardScaler, StandardObservationScaler


def iql() -> Any:
    """As our recipe: rewards times 1000 / (best - worst return), observations as they are."""
    return d3rlpy.algos.IQLConfig(reward_scaler=ReturnBasedRewardScaler(multiplier=1000.0))


def td3_bc() -> Any:
    """d3rlpy's defaults are the paper's."""
    return d3rlpy.algos.TD3PlusBCConfig(observation_scaler=StandardObservationScaler())


def cql() -> Any:
    """A fixed weight of 10, four actions a proposal; the threshold is out of reach."""
    return d3rlpy.algos.CQLConfig(
        observation_scaler=StandardObservationScaler(),
        actor_learning_rate=3e-5,
        temp_learning_rate=3e-5,
        alpha_learning_rate=0.0,
        initial_alpha=1.0,
        conservative_weight=10.0,
        n_action_samples=4,
    )


def rebrac() -> Any:
    """Our local recipe's rates and penalties, two layers of 256, a normalised critic."""
    return d3rlpy.algos.ReBRACConfig(
        batch_size=256,
        actor_learning_rate=3e-4,
        critic_learning_rate=3e-4,
        actor_beta=0.05,
        critic_beta=0.5,
        actor_encoder_factory=VectorEncoderFactory([256, 256]),
        critic_encoder_factory=VectorEncoderFactory([256, 256], use_layer_norm=True),
    )


CONFIGURATIONS = {"iql": iql, "td3_bc": td3_bc, "cql": cql, "rebrac": rebrac}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=sorted(CONFIGURATIONS))
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
    config = CONFIGURATIONS[options.algorithm]()
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
