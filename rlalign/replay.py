"""Replay: where transitions lie and how batches are drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rlalign.errors import CheckpointError
from rlalign.layout import Layout

State = tuple[dict[str, Tensor], dict[str, Any]]


class Source(Protocol):
    """Anything that yields packed rows for an update."""

    layout: Layout

    def __len__(self) -> int:
        """Return the number of transitions that can be drawn."""
        ...

    def sample(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return packed rows [batch_size, width], drawn with replacement."""
        ...


class RowTransform:
    """One affine map of a packed row: observations, actions and rewards as the losses see them.

    The table keeps raw units; the map is applied to each gathered batch, so that offline and
    online transitions are treated alike and exactly once.

    Args:
        layout: the columns.
        mean, std: statistics of observations [obs]; None leaves observations raw.
        action_low, action_high: bounds [act] that are mapped to [-1, 1]; None leaves actions.
        reward_scale, reward_shift: r -> scale * r + shift.
        action_limit: actions are clipped to [-action_limit, action_limit]; None leaves them.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        action_low: Tensor | None = None,
        action_high: Tensor | None = None,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        action_limit: float | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.layout = layout
        scale = torch.ones(layout.width)
        shift = torch.zeros(layout.width)
        if mean is not None and std is not None:
            for name in ("observations", "next_observations"):
                where = layout.columns[name]
                scale[where] = (1.0 / std.double()).float().cpu()
                shift[where] = (-mean.double() / std.double()).float().cpu()
        if action_low is not None and action_high is not None:
            span = (action_high - action_low).cpu()
            scale[layout.columns["actions"]] = 2.0 / span
            shift[layout.columns["actions"]] = -1.0 - 2.0 * action_low.cpu() / span
        scale[layout.columns["rewards"]] = reward_scale
        shift[layout.columns["rewards"]] = reward_shift
        self.identity = bool((scale == 1).all() and (shift == 0).all())
        self.scale = scale.to(device)
        self.shift = shift.to(device)
        self.action_limit = action_limit

    def __call__(self, rows: Tensor) -> Tensor:
        """Transform rows [batch, width] in place and return them."""
        if not self.identity:
            torch.addcmul(self.shift, rows, self.scale, out=rows)
        if self.action_limit is not None:
            rows[:, self.layout.columns["actions"]].clamp_(-self.action_limit, self.action_limit)
        return rows


class FixedReplay:
    """Transitions that never change, such as an offline dataset.

    Args:
        table: packed rows [n, width] in raw units; not copied if already on `device`.
        layout: the columns.
        device: where the table lies and batches are gathered.
    """

    def __init__(self, table: Tensor, layout: Layout, device: torch.device | str = "cpu") -> None:
        if table.dim() != 2 or table.shape[1] != layout.width or len(table) == 0:
            raise ValueError(f"table must be [n >= 1, {layout.width}], got {list(table.shape)}")
        self.table = table.to(device)
        self.layout = layout

    def __len__(self) -> int:
        return len(self.table)

    def sample(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return rows [batch_size, width], drawn uniformly with replacement."""
        index = torch.randint(
            len(self.table), (batch_size,), generator=generator, device=self.table.device
        )
        return self.table.index_select(0, index)


class GrowingReplay:
    """A ring buffer that grows with interaction up to its capacity, then overwrites the oldest.

    Memory is taken in steps as transitions arrive, not for the whole capacity at once.

    Args:
        layout: the columns.
        capacity: the largest number of transitions kept.
        device: where the table lies.
    """

    GROWTH = 65_536

    def __init__(self, layout: Layout, capacity: int, device: torch.device | str = "cpu") -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.layout = layout
        self.capacity = capacity
        self.added = 0
        self.table = torch.empty(min(capacity, self.GROWTH), layout.width, device=device)

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, rows: Tensor) -> None:
        """Append packed rows [n, width], n at most the capacity."""
        if len(rows) > self.capacity:
            raise ValueError(f"cannot add {len(rows)} rows to a buffer of {self.capacity}")
        needed = min(len(self) + len(rows), self.capacity)
        if needed > len(self.table):
            self._grow(needed)
        start = self.added % self.capacity
        head = min(len(rows), self.capacity - start)
        self.table[start : start + head] = rows[:head]
        if head < len(rows):
            self.table[: len(rows) - head] = rows[head:]
        self.added += len(rows)

    def _grow(self, needed: int) -> None:
        size = min(self.capacity, max(needed, len(self.table) * 2))
        table = torch.empty(size, self.layout.width, device=self.table.device)
        table[: len(self)] = self.table[: len(self)]
        self.table = table

    def newest(self, count: int) -> Tensor:
        """Return the latest `count` rows, or all if there are fewer, the oldest first."""
        order = torch.arange(self.added - min(count, len(self)), self.added)
        return self.table[(order % self.capacity).to(self.table.device)]

    def sample(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return rows [batch_size, width], drawn uniformly with replacement."""
        if len(self) == 0:
            raise ValueError("the replay buffer is empty")
        index = torch.randint(
            len(self), (batch_size,), generator=generator, device=self.table.device
        )
        return self.table.index_select(0, index)

    def state_dict(self) -> State:
        """Return contents and cursor."""
        return {"table": self.table[: len(self)]}, {
            "added": self.added,
            "capacity": self.capacity,
            "layout": self.layout.to_dict(),
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            CheckpointError: if capacity or columns differ.
        """
        if state["capacity"] != self.capacity or state["layout"] != self.layout.to_dict():
            raise CheckpointError(
                f"replay of capacity {state['capacity']} with {state['layout']} does not fit "
                f"one of capacity {self.capacity} with {self.layout.to_dict()}"
            )
        rows = tensors["table"]
        self.added = len(rows)
        if len(rows) > len(self.table):
            self.table = torch.empty(
                min(self.capacity, -(-len(rows) // self.GROWTH) * self.GROWTH),
                self.layout.width,
                device=self.table.device,
            )
        self.table[: len(rows)] = rows
        self.added = int(state["added"])


class MixedReplay:
    """Several sources in one batch.

    Args:
        sources: the parts, of one layout.
        fractions: each part's share of a batch, summing to 1; None draws every transition of all
            parts with equal probability (shares proportional to the parts' current sizes).

    With fractions, rows of a part lie together, the first part's first; a batch of 256 at
    (0.5, 0.5) holds exactly 128 of each. Proportional draws choose the part per row.
    """

    def __init__(self, sources: Sequence[Source], fractions: Sequence[float] | None) -> None:
        layouts = {source.layout for source in sources}
        if len(layouts) != 1:
            raise ValueError("the sources of a mixture must have one layout")
        if fractions is not None and (
            len(fractions) != len(sources) or min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-6
        ):
            raise ValueError(f"fractions must be one per source and sum to 1, got {fractions}")
        self.sources = list(sources)
        self.fractions = None if fractions is None else list(fractions)
        self.layout = sources[0].layout

    def __len__(self) -> int:
        return sum(len(source) for source in self.sources)

    def counts(self, batch_size: int, generator: torch.Generator) -> list[int]:
        """Return how many rows of a batch come from each source."""
        if self.fractions is not None:
            pairs = zip(self.sources, self.fractions, strict=True)
            shares = [share if len(source) > 0 else 0.0 for source, share in pairs]
            if sum(shares) == 0.0:  # every part with a share is empty
                shares = [float(len(source) > 0) for source in self.sources]
            sums = [sum(shares[: i + 1]) / sum(shares) for i in range(len(shares))]
            edges = [round(batch_size * part) for part in sums]
            return [edge - start for start, edge in zip([0, *edges], edges, strict=False)]
        sizes = torch.tensor([float(len(source)) for source in self.sources])
        edges_of_parts = sizes.cumsum(0) / sizes.sum()
        draws = torch.rand(batch_size, generator=generator, device=generator.device).cpu()
        part = torch.bucketize(draws, edges_of_parts[:-1], right=True)
        return torch.bincount(part, minlength=len(self.sources)).tolist()

    def sample(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return rows [batch_size, width]; parts that are still empty give their share away.

        Raises:
            ValueError: if every source is empty.
        """
        filled = [source for source in self.sources if len(source) > 0]
        if not filled:
            raise ValueError("every source of the mixture is empty")
        if len(filled) == 1:
            return filled[0].sample(batch_size, generator)
        rows = [
            source.sample(count, generator)
            for source, count in zip(self.sources, self.counts(batch_size, generator), strict=True)
            if count > 0
        ]
        return torch.cat(rows)


class AnnealedReplay(MixedReplay):
    """A mixture of two parts whose shares move linearly with the steps of interaction.

    Args:
        offline, online: the parts, of one layout.
        start: the offline part's share of a batch at step 0.
        end: its share from step `steps` on.
        steps: at least 1.
    """

    def __init__(
        self, offline: Source, online: Source, *, start: float, end: float, steps: int
    ) -> None:
        super().__init__([offline, online], [start, 1.0 - start])
        self.start = start
        self.end = end
        self.steps = steps

    def set_step(self, step: int) -> None:
        """Draw by the shares of a step."""
        progress = min(1.0, step / self.steps)
        share = self.start + progress * (self.end - self.start)
        self.fractions = [share, 1.0 - share]
