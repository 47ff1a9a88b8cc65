"""stable-baselines3's SAC online, evaluated as ours is."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from stable_baselines3 import SAC

from scripts.study.plan import ONLINE_STEPS
from scripts.study.record import begin, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("algorithm", choices=["sac"])
    parser.add_argument("task")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = begin(options.out, "sb3-sac", options.seed, options.task, "online", ONLINE_STEPS, None)
    # The settings that our recipe has: 5,000 random steps, one update a step, two layers of 256.
    model = SAC(
        "MlpPolicy",
        options.task,
        seed=options.seed,
        learning_starts=5_000,
        policy_kwargs={"net_arch": [256, 256]},
        device="cpu",
    )
    record(run, model, options.task, "online", 0)
    for step in range(10_000, ONLINE_STEPS + 1, 10_000):
        model.learn(10_000, reset_num_timesteps=step == 10_000)
        record(run, model, options.task, "online", step)
    run.finish("finished")


if __name__ == "__main__":
    main()
