"""stable-baselines3's SAC (or sbx's, where that is installed) learning online."""

from __future__ import annotations

import importlib.util

import torch

from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.stopwatch import Stopwatch, environment
from benchmarks.workers.task import BATCH, HIDDEN

ENVIRONMENT = "HalfCheetah-v5"
WARM_UP = 300


def setup(job: Job) -> Contest:
    """Build the model and let it take its first steps, of which the last are updates too."""
    torch.set_num_threads(job.threads)
    if job.algorithm != "sac":
        raise ValueError(f"this worker knows sac, not {job.algorithm!r}")
    if importlib.util.find_spec("sbx") is not None:
        from sbx import SAC
    else:
        from stable_baselines3 import SAC
    watch = Stopwatch()
    model = SAC(
        "MlpPolicy",
        environment(ENVIRONMENT, watch),
        buffer_size=job.transitions,
        batch_size=BATCH,
        learning_starts=WARM_UP - 20,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device=job.device,
        seed=job.seed,
    )
    model.train = watch.around("update", model.train)
    model.learn(WARM_UP)

    def run(steps: int) -> None:
        model.learn(steps, reset_num_timesteps=False, log_interval=10**9)

    return Contest(run, parts=watch.read)


if __name__ == "__main__":
    serve(setup, ("stable_baselines3", "sbx-rl", "gymnasium", "mujoco"))
