"""What an agent does to raw transitions before it learns from them, offline and online alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlalign.errors import DatasetError, SettingsError
from rlalign.layout import Layout
from rlalign.replay import RowTransform
from rlalign.settings import AgentSettings

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset
    from rlalign.envs.spaces import ActionScale

STD_FLOOR = 1e-3  # added to the standard deviation, as TD3+BC and CORL do


@dataclass
class Preprocessing:
    """Observation statistics and reward map, frozen once learning has begun.

    Args:
        mean, std: of observations [obs]; zeros and ones leave them raw.
        reward_scale, reward_shift: r -> scale * r + shift.
        prepared: whether a dataset has been seen.
    """

    mean: Tensor
    std: Tensor
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    prepared: bool = False

    @classmethod
    def identity(cls, observation_size: int, settings: AgentSettings) -> Preprocessing:
        """Return raw observations, with the settings' reward map where it needs no dataset."""
        scale = 1.0 if settings.reward_scale == "return_range" else float(settings.reward_scale)
        return cls(
            torch.zeros(observation_size),
            torch.ones(observation_size),
            scale,
            settings.reward_shift,
        )

    @classmethod
    def from_dataset(cls, dataset: Dataset, settings: AgentSettings) -> Preprocessing:
        """Take from a dataset what the settings ask for.

        Raises:
            DatasetError: if rewards are to be scaled by the range of its returns and there is none.
        """
        result = cls.identity(dataset.layout.observation_size, settings)
        result.prepared = True
        if settings.observation_normalization == "standard":
            mean, std = dataset.observation_statistics()
            result.mean = torch.as_tensor(mean, dtype=torch.float32)
            result.std = torch.as_tensor(std, dtype=torch.float32) + STD_FLOOR
        if settings.reward_scale == "return_range":
            span = dataset.return_range()
            if span == 0.0:
                raise DatasetError(
                    f"{dataset.name}: all {len(dataset.ends)} trajectories have the same return, "
                    "so there is no range to scale rewards by; set reward_scale to a number"
                )
            result.reward_scale = 1000.0 / span
        return result

    def check_prepared(self, settings: AgentSettings) -> None:
        """Check that no setting waits for a dataset.

        Raises:
            SettingsError: if one does.
        """
        waiting = {
            "observation_normalization": ("standard", "'none'"),
            "reward_scale": ("return_range", "a number"),
        }
        for name, (value, other) in waiting.items():
            if getattr(settings, name) == value and not self.prepared:
                raise SettingsError(
                    f"setting {name} is {value!r}, which comes from a dataset, and the agent has "
                    f"seen none: call prepare(dataset) or fit first, or set it to {other}"
                )

    @property
    def normalizes(self) -> bool:
        """Whether observations are changed at all."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def transform(
        self,
        layout: Layout,
        scale: ActionScale,
        action_limit: float | None,
        device: torch.device,
    ) -> RowTransform:
        """Return the map from packed rows in the environment's units to the agent's."""
        return RowTransform(
            layout,
            mean=self.mean if self.normalizes else None,
            std=self.std if self.normalizes else None,
            action_low=torch.from_numpy(scale.low),
            action_high=torch.from_numpy(scale.high),
            reward_scale=self.reward_scale,
            reward_shift=self.reward_shift,
            action_limit=action_limit,
            device=device,
        )

    def observations(self, raw: Tensor) -> Tensor:
        """Return normalised observations [batch, obs], on the device of `raw`."""
        if not self.normalizes:
            return raw
        return (raw - self.mean.to(raw.device)) / self.std.to(raw.device)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return statistics and reward map."""
        return {"mean": self.mean, "std": self.std}, {
            "reward_scale": self.reward_scale,
            "reward_shift": self.reward_shift,
            "prepared": self.prepared,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.mean, self.std = tensors["mean"].clone(), tensors["std"].clone()
        self.reward_scale = float(state["reward_scale"])
        self.reward_shift = float(state["reward_shift"])
        self.prepared = bool(state.get("prepared", True))  # older checkpoints lack it
