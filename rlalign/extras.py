"""The extra columns that some agents' losses read, filled for datasets and for episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rlalign.replay import FixedReplay

if TYPE_CHECKING:
    from rlalign.agent import Agent
    from rlalign.data.dataset import Dataset


def offline_replay(agent: Agent, dataset: Dataset) -> FixedReplay:
    """Return a dataset as the agent's losses read it: in its layout, with its extra columns.

    The dataset's own extra columns are left out; without extras its table is used, not copied.
    """
    if dataset.layout == agent.layout and not agent.extras:
        return FixedReplay(dataset.table, agent.layout, agent.device)
    table = torch.empty(len(dataset), agent.layout.width)
    for name in agent.layout.STANDARD:
        table[:, agent.layout.columns[name]] = dataset.table[:, dataset.layout.columns[name]]
    _fill(agent, table, dataset)
    return FixedReplay(table, agent.layout, agent.device)


class RunningEpisodes:
    """Transitions of episodes that have not ended, kept back until their extra columns are known.

    Agents that do not wait for them are given every transition at once.

    Args:
        agent: fills the columns of each episode that has ended.
        count: how many environments run side by side.
    """

    def __init__(self, agent: Agent, count: int) -> None:
        self.agent = agent
        self._running: list[list[Tensor]] = [[] for _ in range(count)]

    def add(self, rows: Tensor, finished: Sequence[int]) -> Tensor:
        """Take the rows [count, width] of a vector step; return those that are complete.

        Args:
            rows: one for each environment.
            finished: environments whose episode ended with this step, terminated or truncated.

        Returns:
            [n, width], episode after episode.
        """
        if not self.agent.waits_for_episodes:
            for name in self.agent.extras:
                rows[:, self.agent.layout.columns[name]] = 0.0
            return rows
        for running, row in zip(self._running, rows, strict=True):
            running.append(row)
        complete = [self._complete(environment) for environment in finished]
        return torch.cat(complete) if complete else rows[:0]

    def _complete(self, environment: int) -> Tensor:
        from rlalign.data.dataset import Dataset

        rows = torch.stack(self._running[environment])
        self._running[environment] = []
        episode = Dataset(rows, self.agent.layout, np.array([len(rows)]), "an episode")
        _fill(self.agent, rows, episode)
        return rows

    def state_dict(self) -> dict[str, Tensor]:
        """Return the rows kept back, by environment."""
        return {str(i): torch.stack(rows) for i, rows in enumerate(self._running) if rows}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._running = [
            list(tensors[str(i)].cpu().clone()) if str(i) in tensors else []
            for i in range(len(self._running))
        ]


def _fill(agent: Agent, table: Tensor, trajectories: Dataset) -> None:
    """Write the extra columns of whole trajectories into `table`, row for row."""
    columns = agent.extra_columns(trajectories)
    assert set(columns) == set(agent.extras), (set(columns), set(agent.extras))
    for name, values in columns.items():
        where = agent.layout.columns[name]
        table[:, where] = torch.from_numpy(
            np.asarray(values, np.float32).reshape(len(table), where.stop - where.start)
        )
