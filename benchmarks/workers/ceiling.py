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


class Pool:
    """Operands of the products, one tensor for each shape and role.

    An update finds the weights and activations of the product before still in the cache; giving
    each product operands of its own would measure the memory instead.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.tensors: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def tensor(self, role: str, *shape: int) -> Tensor:
        """Return the tensor of this role and shape, made on first use."""
        key = (role, shape)
        if key not in self.tensors:
            self.tensors[key] = torch.randn(*shape, device=self.device)
        return self.tensors[key]

    def operands(self, product: Product) -> tuple[Tensor, Tensor, Tensor]:
        """Return left [member, m, k], right [member, k, n], result: laid out as in training."""
        count, rows, inner, columns = (
            product.members,
            product.rows,
            product.inner,
            product.columns,
        )
        if product.form == "forward":  # X W
            left = self.tensor("activations", count, rows, inner)
            right = self.tensor("weights", count, inner, columns)
            return left, right, self.tensor("outputs", count, rows, columns)
        if product.form == "weight":  # X^T G
            left = self.tensor("activations", count, inner, rows).transpose(1, 2)
            right = self.tensor("outputs", count, inner, columns)
            return left, right, self.tensor("weight gradients", count, rows, columns)
        # G W^T
        left = self.tensor("outputs", count, rows, inner)
        right = self.tensor("weights", count, columns, inner).transpose(1, 2)
        return left, right, self.tensor("input gradients", count, rows, columns)


def forms(product: Product, pool: Pool) -> list[Call]:
    """Return the ways to do the product."""
    left, right, result = pool.operands(product)

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


def fastest(product: Product, pool: Pool) -> Call:
    """Return the faster form; on CUDA the batched one, since a graph hides launches."""
    calls = forms(product, pool)
    return calls[0] if pool.device == "cuda" else min(calls, key=seconds)


def setup(job: Job) -> Contest:
    """Prepare the products of `job.algorithm`."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    torch.set_grad_enabled(False)
    pool = Pool(job.device)
    calls: dict[int, list[Call]] = {}
    for each in PASSES[job.algorithm]:
        for product in each.products():
            calls.setdefault(product.every, []).append(fastest(product, pool))
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
