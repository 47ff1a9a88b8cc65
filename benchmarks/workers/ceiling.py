"""The ceiling: the matrix products of an algorithm's update and nothing else.

Operands and results are allocated beforehand. Each stack's product runs as one batched product
or as one product a member, whichever a short trial finds faster. On CUDA all of an update's
products are one captured graph.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.workers.products import PASSES, Product
from benchmarks.workers.protocol import Contest, Job, serve

Call = Callable[[], object]
TRIAL = 30


def operands(product: Product, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return left [member, m, k], right [member, k, n] and result, laid out as in training."""
    shape = (product.members, product.rows, product.inner, product.columns)
    members, rows, inner, columns = shape
    left = torch.randn(members, rows, inner, device=device)
    right = torch.randn(members, inner, columns, device=device)
    if product.form == "weight":  # X^T: activations lie [batch, inner]
        left = torch.randn(members, inner, rows, device=device).transpose(1, 2)
    if product.form == "input":  # W^T: weights lie [columns, inner] of this product
        right = torch.randn(members, columns, inner, device=device).transpose(1, 2)
    return left, right, torch.empty(members, rows, columns, device=device)


def forms(product: Product, device: str) -> list[Call]:
    """Return the ways to do the product."""
    left, right, result = operands(product, device)

    def batched() -> None:
        torch.bmm(left, right, out=result)

    singles = list(zip(left.unbind(), right.unbind(), result.unbind(), strict=True))

    def one_by_one() -> None:
        for a, b, c in singles:
            torch.mm(a, b, out=c)

    return [batched, one_by_one]


def seconds(call: Call) -> float:
    """Return the shortest of several times."""
    shortest = float("inf")
    for _ in range(TRIAL):
        start = time.perf_counter()
        call()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest


def fastest(product: Product, device: str) -> Call:
    """Return the faster form; on CUDA the batched one, since a graph hides launches."""
    calls = forms(product, device)
    return calls[0] if device == "cuda" else min(calls, key=seconds)


def setup(job: Job) -> Contest:
    """Prepare the products of `job.algorithm`."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    torch.set_grad_enabled(False)
    calls: dict[int, list[Call]] = {}
    for each in PASSES[job.algorithm]:
        for product in each.products():
            calls.setdefault(product.every, []).append(fastest(product, job.device))
    period = max(calls)
    assert all(period % every == 0 for every in calls)

    def round_of_updates() -> None:
        for update in range(period):
            for every, products in calls.items():
                if update % every == 0:
                    for call in products:
                        call()

    once: Call = round_of_updates if job.device == "cpu" else captured(round_of_updates)

    def run(updates: int) -> None:
        for _ in range(updates // period):
            once()
        if job.device == "cuda":
            torch.cuda.synchronize()

    return Contest(run, chunk=period)


def captured(call: Call) -> Call:
    """Return `call` as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


if __name__ == "__main__":
    serve(setup, ("torch",))
