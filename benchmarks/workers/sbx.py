"""sbx-rl: stable-baselines3's SAC in JAX, many updates compiled into one call."""

from __future__ import annotations

from sbx import SAC
from stable_baselines3.common.logger import Logger

from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.sb3_buffer import fill
from benchmarks.workers.task import BATCH, HIDDEN, Spaces, transitions

# Updates per compiled call: sbx compiles the loop over them, anew for each other number.
CHUNK = 50


def setup(job: Job) -> Contest:
    """Build the model with a full replay buffer; its own defaults but for the network sizes."""
    if job.algorithm != "sac":
        raise ValueError(f"this worker knows sac, not {job.algorithm!r}")
    model = SAC(
        "MlpPolicy",
        Spaces(),
        buffer_size=job.transitions,
        batch_size=BATCH,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",  # of the buffer only: JAX places the networks
        seed=job.seed,
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    fill(model.replay_buffer, transitions(job.transitions, job.seed))

    def run(updates: int) -> None:
        # Each call ends by reading its losses, so nothing is left running when it returns.
        for _ in range(updates // CHUNK):
            model.train(gradient_steps=CHUNK, batch_size=BATCH)

    return Contest(run, chunk=CHUNK)


if __name__ == "__main__":
    serve(setup, ("sbx-rl", "jax", "jaxlib", "flax", "numpy"))
