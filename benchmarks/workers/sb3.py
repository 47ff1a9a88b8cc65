"""stable-baselines3: SAC and TD3, through the `train` method that its `learn` calls."""

from __future__ import annotations

import torch
from stable_baselines3 import SAC, TD3
from stable_baselines3.common.logger import Logger

from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.sb3_buffer import fill
from benchmarks.workers.task import BATCH, HIDDEN, Spaces, transitions


def setup(job: Job) -> Contest:
    """Build the model with a full replay buffer; its own defaults but for the network sizes."""
    torch.set_num_threads(job.threads)
    model = {"sac": SAC, "td3": TD3}[job.algorithm](
        "MlpPolicy",
        Spaces(),
        buffer_size=job.transitions,
        batch_size=BATCH,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device=job.device,
        seed=job.seed,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    fill(model.replay_buffer, transitions(job.transitions, job.seed))

    def run(updates: int) -> None:
        model.train(gradient_steps=updates, batch_size=BATCH)
        if job.device == "cuda":
            torch.cuda.synchronize()

    return Contest(run)


if __name__ == "__main__":
    serve(setup, ("stable_baselines3", "torch", "numpy"))
