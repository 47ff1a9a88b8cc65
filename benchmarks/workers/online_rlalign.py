"""rlalign's SAC learning online."""

from __future__ import annotations

import torch

from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.stopwatch import Stopwatch, environment
from benchmarks.workers.task import BATCH, HIDDEN
from rlalign.agents import SAC

ENVIRONMENT = "HalfCheetah-v5"
WARM_UP = 300


def setup(job: Job) -> Contest:
    """Build the agent and let it take its first steps, of which the last are updates too."""
    torch.set_num_threads(job.threads)
    if job.algorithm != "sac":
        raise ValueError(f"this worker knows sac, not {job.algorithm!r}")
    watch = Stopwatch()
    agent = SAC(
        lambda: environment(ENVIRONMENT, watch),
        seed=job.seed,
        device=job.device,
        batch_size=BATCH,
        hidden=HIDDEN,
    )
    agent.update = watch.around("update", agent.update)  # type: ignore[method-assign]
    agent.learn(
        WARM_UP,
        warmup_steps=WARM_UP - 20,
        random_steps=WARM_UP - 20,
        buffer_size=job.transitions,
    )

    def run(steps: int) -> None:
        agent.learn(steps, warmup_steps=0, random_steps=0, buffer_size=job.transitions)

    return Contest(run, parts=watch.read)


if __name__ == "__main__":
    serve(setup, ("rlalign", "gymnasium", "mujoco", "torch"))
