"""The ceiling counts what an update needs: neither more than an agent does, nor much less."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workers.products import PASSES, Product, operations
from benchmarks.workers.protocol import Job
from benchmarks.workers.rlalign_agent import build, replay

FORWARD_CRITIC = 2 * 256 * (23 * 256 + 256 * 256 + 256)
FORWARD_GAUSSIAN = 2 * 256 * (17 * 256 + 256 * 256 + 256 * 12)


def test_operations_of_one_product_in_closed_form() -> None:
    assert Product("forward", 3, 5, 7, 11).operations == 2 * 3 * 5 * 7 * 11
    assert Product("forward", 3, 5, 7, 11, every=2).operations == 3 * 5 * 7 * 11


def test_sac_products_in_closed_form() -> None:
    hidden_inputs = 2 * 256 * (256 * 256 + 256)
    critic = 3 * FORWARD_CRITIC + hidden_inputs  # target, trained: forward and weights
    critic += FORWARD_CRITIC  # in the actor's loss
    least = hidden_inputs + 2 * 256 * 256 * 6  # there, one critic a row
    actor = 3 * FORWARD_GAUSSIAN + 2 * 256 * (256 * 256 + 256 * 12)
    assert operations("sac") == 2 * critic + least + actor
    assert operations("sac_10") == 10 * critic + least + actor


@pytest.mark.parametrize("algorithm", sorted(PASSES))
def test_ceiling_counts_what_an_update_multiplies_and_no_more(algorithm: str) -> None:
    counted = {}
    for accelerated in (False, True):
        job = Job(algorithm, transitions=600, threads=torch.get_num_threads(), device="cpu", seed=0)
        agent = build(job, accelerated=accelerated)
        source = replay(job, agent)
        with FlopCounterMode(display=False) as counter:
            agent.update(source, 2)
        counted[accelerated] = counter.get_total_flops() / 2
    assert operations(algorithm) <= counted[False]
    assert operations(algorithm) > 0.9 * counted[True]
