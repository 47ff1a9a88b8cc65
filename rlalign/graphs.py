"""Updates as CUDA graphs: the whole step, captured once per cadence pattern and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rlalign.learner import Learner, Metrics

Batches = Mapping[str, Tensor]
NoiseBySource = Mapping[str, Mapping[str, Tensor]]


class CapturedSteps:
    """Replays `Learner.apply` from captured graphs, one for each set of updates that fall due.

    Small networks on a GPU are bound by kernel launches; a graph launches the step at once.
    Batches and noise are copied into fixed buffers, which the graphs read.

    Args:
        learner: its networks, optimisers and targets must lie on a CUDA device.
    """

    WARMUP = 3  # eager steps, so that lazily created workspaces exist before a capture

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.graphs: dict[object, torch.cuda.CUDAGraph] = {}
        self.latest: dict[object, dict[str, Metrics]] = {}
        self.batches: dict[str, Tensor] = {}
        self.noise: dict[str, dict[str, Tensor]] = {}
        self.eager_steps = 0

    def replay(self, batches: Batches, noise: NoiseBySource) -> None:
        """Run the step that is due at the learner's `step_count`."""
        with torch.cuda.device(self.learner.device):  # a capture records the current device's work
            self._replay(batches, noise)

    def _replay(self, batches: Batches, noise: NoiseBySource) -> None:
        self._fill(batches, noise)
        learner = self.learner
        if self.eager_steps < self.WARMUP:
            self.eager_steps += 1
            self._warm_up()
            return
        pattern = self._pattern()
        if pattern not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            before, learner.latest = learner.latest, {}
            # Capturing records the kernels without running them; the replay below runs them.
            with torch.cuda.graph(graph):
                learner.apply(self.batches, self.noise)
            self.graphs[pattern] = graph
            self.latest[pattern] = learner.latest
            learner.latest = before
        self.graphs[pattern].replay()
        # Updates that were not due keep what they last reported.
        learner.latest = {**learner.latest, **self.latest[pattern]}

    def clear(self) -> None:
        """Forget the captured steps: what the losses read besides tensors has changed."""
        self.graphs.clear()
        self.latest.clear()

    def _warm_up(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.learner.apply(self.batches, self.noise)
        torch.cuda.current_stream().wait_stream(stream)

    def _pattern(self) -> object:
        """Return which updates and averages are due, and the sizes of the batches."""
        step = self.learner.step_count
        return (
            tuple(update.due(step) for update in self.learner.updates),
            tuple(step % target.every == 0 for target in self.learner.targets.values()),
            tuple((name, len(rows)) for name, rows in self.batches.items()),
        )

    def _fill(self, batches: Batches, noise: NoiseBySource) -> None:
        """Copy the step's input into the fixed buffers; a new batch size makes new ones."""
        for name, rows in batches.items():
            if name not in self.batches or self.batches[name].shape != rows.shape:
                self.batches[name] = torch.empty_like(rows)
                self.noise[name] = {key: torch.empty_like(v) for key, v in noise[name].items()}
                self.clear()
            self.batches[name].copy_(rows)
            for key, value in noise[name].items():
                self.noise[name][key].copy_(value)
