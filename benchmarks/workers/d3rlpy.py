"""d3rlpy: SAC and offline agents, the two calls that its `fit` makes per step."""

from __future__ import annotations

import d3rlpy
import numpy as np
import torch

from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.task import BATCH, EPISODE, HIDDEN, transitions


def setup(job: Job) -> Contest:
    """Build the algorithm and its dataset; its own defaults but for batch and network sizes."""
    torch.set_num_threads(job.threads)
    d3rlpy.seed(job.seed)
    encoder = d3rlpy.models.VectorEncoderFactory(list(HIDDEN))
    networks = {"actor_encoder_factory": encoder, "critic_encoder_factory": encoder}
    if job.algorithm == "iql":
        networks["value_encoder_factory"] = encoder
    if job.algorithm == "rebrac":  # whose critics are normalised
        networks["critic_encoder_factory"] = d3rlpy.models.VectorEncoderFactory(
            list(HIDDEN), use_layer_norm=True
        )
    config = {
        "sac": d3rlpy.algos.SACConfig,
        "iql": d3rlpy.algos.IQLConfig,
        "td3_bc": d3rlpy.algos.TD3PlusBCConfig,
        "cql": d3rlpy.algos.CQLConfig,
        "rebrac": d3rlpy.algos.ReBRACConfig,
    }[job.algorithm](batch_size=BATCH, compile_graph=job.device == "cuda", **networks)
    algorithm = config.create(device="cuda:0" if job.device == "cuda" else "cpu:0")
    data = transitions(job.transitions, job.seed)
    timeouts = np.zeros(job.transitions, np.float32)
    timeouts[EPISODE - 1 :: EPISODE] = 1.0
    timeouts[-1] = 1.0
    dataset = d3rlpy.dataset.MDPDataset(
        observations=data.observations,
        actions=data.actions,
        rewards=data.rewards,
        terminals=np.zeros(job.transitions, np.float32),
        timeouts=timeouts,
        action_space=d3rlpy.ActionSpace.CONTINUOUS,
    )
    algorithm.build_with_dataset(dataset)

    def run(updates: int) -> None:
        for _ in range(updates):
            algorithm.update(dataset.sample_transition_batch(BATCH))
        if job.device == "cuda":
            torch.cuda.synchronize()

    return Contest(run)


if __name__ == "__main__":
    serve(setup, ("d3rlpy", "torch", "numpy"))
