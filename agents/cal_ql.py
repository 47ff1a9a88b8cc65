"""Calibrated Q-learning: CQL that presses no value below the data's return (arXiv 2303.05479)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from rlalign.agents.cql import CQL, CQLSettings
from rlalign.data.packing import is_jump
from rlalign.data.returns import Array, returns_to_go
from rlalign.layout import Batch
from rlalign.learner import Metrics
from rlalign.settings import OnlineSettings, require

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset


@dataclass(frozen=True)
class CalQLSettings(CQLSettings):
    """Settings of Cal-QL; the defaults are those of the authors' code.

    Their AntMaze runs have critics of four layers, output layers of gain 0.01 and rewards 10 r - 5
    as well: so have the recipes. The authors give no settings for locomotion.

    Args:
        calibrate_online: keep the bound online (authors' code); False drops it, as CORL does.
        failure_reward: the environment's reward, before scaling, of every step that has not
            reached a goal. A trajectory that never gets another one is taken to fail forever:
            its returns are those of that reward without end. None: no sparse rewards.
        endless_reward: beyond a truncated trajectory its last reward goes on forever (the authors'
            setting for Kitchen); False adds nothing. Near the cut returns are then too low where
            rewards are above 0, and the bound is weaker; where they are below 0 returns are too
            high, and the bound switches the penalty off.
    """

    hidden: tuple[int, ...] = (256, 256)
    observation_normalization: Literal["none", "standard"] = "none"
    actor_learning_rate: float = 1e-4
    temperature_learning_rate: float = 1e-4
    cql_weight: float = 5.0
    lagrange: bool = True
    gap: float = 0.8
    backup: Literal["sample", "max_min", "min_max"] = "max_min"
    calibrate_online: bool = True
    failure_reward: float | None = None
    endless_reward: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        endless = self.failure_reward is not None or self.endless_reward
        require(
            self.discount < 1.0 or not endless,
            "discount",
            self.discount,
            "below 1 where rewards go on forever",
        )


class CalQL(CQL):
    """CQL whose penalty leaves the policy's actions alone once they fall below the data's return.

    With returns of minus infinity it is CQL. Batches online are half offline and half online, and
    the updates of an episode follow its end, when its returns are known.
    """

    name = "cal_ql"
    settings_type = CalQLSettings
    settings: CalQLSettings
    online_defaults = OnlineSettings(replay="mixture", offline_fraction=0.5, update_after="episode")
    action_limit = 1.0 - 1e-5

    @property
    def extras(self) -> Mapping[str, int]:
        return {"mc_returns": 1}

    def extra_columns(self, trajectories: Dataset) -> Mapping[str, Array]:
        """The return-to-go of each row in the losses' units; -inf where nothing is bounded."""
        if self.online and not self.settings.calibrate_online:
            return {"mc_returns": np.full(len(trajectories), -math.inf, np.float32)}
        scale, shift = self.preprocessing.reward_scale, self.preprocessing.reward_shift
        rewards = scale * trajectories.rewards.astype(np.float64) + shift
        ends = trajectory_ends(trajectories)
        discount, failure = self.settings.discount, self.settings.failure_reward
        beyond = np.zeros(len(ends))
        if self.settings.endless_reward:
            truncated = trajectories.terminations[ends - 1] == 0.0
            beyond = truncated * rewards[ends - 1] / (1.0 - discount)
        returns = returns_to_go(rewards, ends, discount, beyond)
        if failure is not None:
            lengths = np.diff(ends, prepend=0)
            starts = ends - lengths
            failed = np.logical_and.reduceat(trajectories.rewards == np.float32(failure), starts)
            forever = (scale * failure + shift) / (1.0 - discount)
            returns[np.repeat(failed, lengths)] = forever
        return {"mc_returns": returns}

    def calibrate(self, batch: Batch, values: Tensor) -> tuple[Tensor, Metrics]:
        """max(Q_i(s, a), G) at the policy's actions (equation 5); no gradient where G is larger."""
        bound = batch["mc_returns"].unsqueeze(-1)
        return torch.maximum(values, bound), {"bound_rate": (values.detach() < bound).float()}


def trajectory_ends(dataset: Dataset) -> Array:
    """The row after each trajectory's last, where episodes glued together are parted as well.

    A dataset without a mark between two episodes shows it in s_{t+1}, which is not s'_t then.
    """
    apart = is_jump(dataset.next_observations[:-1], dataset.observations[1:])
    ended = dataset.terminations[:-1] != 0.0
    return np.union1d(dataset.ends, np.flatnonzero(apart | ended) + 1)
