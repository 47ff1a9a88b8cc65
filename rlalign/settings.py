"""Settings of agents: frozen dataclasses, checked on creation, without torch."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, cast

from rlalign.errors import CheckpointError, SettingsError
from rlalign.setting_hints import setting_hint

S = TypeVar("S")


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raise SettingsError in one sentence unless `condition` holds."""
    if not condition:
        raise SettingsError(f"setting {name} must be {expected}, got {value!r}", name)


def whole_number(name: str, value: Any, least: int = 0) -> int:
    """Return a number of steps, given as an int or as a float such as 1e5.

    Raises SettingsError where it is none, or below `least`.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        number = float(value)
        if number.is_integer() and number >= least:
            return int(number)
    raise SettingsError(f"{name} must be a whole number of at least {least}, got {value!r}", name)


def require_bounds(name: str, bounds: tuple[float, ...]) -> None:
    """Raise SettingsError unless `bounds` are a lower and a higher number."""
    ordered = len(bounds) == 2 and bounds[0] < bounds[1]
    require(ordered, name, bounds, "a lower and a higher number")


@dataclass(frozen=True)
class AgentSettings:
    """What all agents share.

    Args:
        batch_size: transitions per update.
        discount: of future rewards, in [0, 1].
        target_rate: share of the online network that a target takes over at each averaging.
        hidden: widths of the hidden layers of every network; an empty list makes them linear.
        observation_normalization: ``"standard"`` subtracts the dataset's mean and divides by its
            standard deviation + 1e-3; frozen, and applied online too.
        reward_scale: factor on rewards; ``"return_range"`` is 1000 / (max - min) of the dataset's
            undiscounted episode returns.
        reward_shift: added to the scaled reward.
    """

    batch_size: int = 256
    discount: float = 0.99
    target_rate: float = 0.005
    hidden: tuple[int, ...] = (256, 256)
    observation_normalization: Literal["none", "standard"] = "none"
    reward_scale: float | Literal["return_range"] = 1.0
    reward_shift: float = 0.0

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(0.0 <= self.discount <= 1.0, "discount", self.discount, "in [0, 1]")
        require(0.0 < self.target_rate <= 1.0, "target_rate", self.target_rate, "in (0, 1]")
        require(
            all(width >= 1 for width in self.hidden), "hidden", self.hidden, "widths of at least 1"
        )
        require(
            self.reward_scale == "return_range" or float(self.reward_scale) > 0,
            "reward_scale",
            self.reward_scale,
            "above 0 or 'return_range'",
        )
        for field in dataclasses.fields(self):
            if field.name.endswith("learning_rate"):
                rate = getattr(self, field.name)
                require(rate >= 0, field.name, rate, "at least 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclass(frozen=True)
class OnlineSettings:
    """How an agent learns from interaction.

    Args:
        environments: how many run side by side.
        updates_per_step: gradient updates per environment step (update-to-data ratio); a
            fraction such as 0.5 updates after every second step.
        update_after: environment steps after which the updates that are due are made together, 1
            for every step; ``"episode"`` makes them once an episode has ended (Cal-QL).
        warmup_steps: environment steps before the first update.
        random_steps: environment steps at the start that act uniformly at random; none where the
            agent has learned from a dataset before.
        exploration: ``"policy"`` acts as the agent explores, by sampling or with its noise;
            ``"deterministic"`` acts as in evaluation.
        replay: ``"online"`` draws interaction alone, ``"union"`` the offline dataset and
            interaction as one buffer, ``"mixture"`` a fixed share of each per batch,
            ``"annealed"`` a share that moves linearly with the environment steps.
        offline_fraction: the dataset's share of a batch under ``"mixture"``, and where that of
            ``"annealed"`` starts.
        final_offline_fraction: where the share of ``"annealed"`` ends and stays.
        anneal_steps: environment steps over which it moves.
        buffer_size: capacity for interaction.
        reset_optimizers: begin with fresh moments of Adam; networks, targets, multipliers and
            normalisation are always carried over.
    """

    environments: int = 1
    updates_per_step: float = 1.0
    update_after: int | Literal["episode"] = 1
    warmup_steps: int = 0
    random_steps: int = 0
    exploration: Literal["policy", "deterministic"] = "policy"
    replay: Literal["online", "union", "mixture", "annealed"] = "online"
    offline_fraction: float = 0.5
    final_offline_fraction: float = 0.0
    anneal_steps: int = 100_000
    buffer_size: int = 1_000_000
    reset_optimizers: bool = False

    def __post_init__(self) -> None:
        require(self.environments >= 1, "environments", self.environments, "at least 1")
        require(self.updates_per_step > 0, "updates_per_step", self.updates_per_step, "above 0")
        after = self.update_after
        require(
            after == "episode" or (isinstance(after, int) and after >= 1),
            "update_after",
            after,
            "at least 1 or 'episode'",
        )
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        require(self.random_steps >= 0, "random_steps", self.random_steps, "at least 0")
        require(self.anneal_steps >= 1, "anneal_steps", self.anneal_steps, "at least 1")
        require(self.buffer_size >= 1, "buffer_size", self.buffer_size, "at least 1")
        for name in ("offline_fraction", "final_offline_fraction"):
            require(0.0 <= getattr(self, name) <= 1.0, name, getattr(self, name), "in [0, 1]")

    def without_effect(self, given: Iterable[str]) -> list[str]:
        """Return those names of settings that mean nothing under this `replay`."""
        annealed = self.replay == "annealed"
        used = {
            "offline_fraction": annealed or self.replay == "mixture",
            "final_offline_fraction": annealed,
            "anneal_steps": annealed,
        }
        return [name for name in given if not used.get(name, True)]


def _names(settings_type: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(settings_type)]


@cache
def _types(settings_type: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(settings_type)


def build_settings(settings_type: type[S], values: Mapping[str, Any], owner: str) -> S:
    """Create settings from plain values, as a recipe or a checkpoint holds them.

    Args:
        settings_type: the dataclass.
        values: by field name; lists become tuples, integers floats and whole floats such as 1e5
            integers where a field says so.
        owner: the agent's name, for messages.

    Raises:
        SettingsError: for an unknown name (with the nearest known one), a value of another type,
            or one out of range.
    """
    kind = cast(Any, settings_type)
    names = _names(kind)
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            online = [] if kind is OnlineSettings else _names(OnlineSettings)
            hint = setting_hint(name, names, online)
            raise SettingsError(f"agent {owner} has no setting {name!r}{hint}", name)
        checked[name] = _convert(name, value, _types(kind)[name])
    return settings_type(**checked)


def require_unchanged(section: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a run would go on with other settings than it began with.

    Args:
        section: of the recipe, for the message.
        saved: at the checkpoint; settings that are not in it, of an older version, are passed over.
        now: of the recipe, with today's defaults.
    """
    for name, value in now.items():
        if name in saved and saved[name] != value:
            raise CheckpointError(
                f"{section}.{name} is {value!r}, but the run began with {saved[name]!r}: its "
                "recipe.yaml or the defaults of rlalign have changed since; to go on, write "
                f"{name}: {saved[name]!r} under {section}: in its recipe.yaml"
            )


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """Return `value` as the annotated type, or raise SettingsError."""
    origin = typing.get_origin(wanted)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(wanted):
            try:
                return _convert(name, value, option)
            except SettingsError:
                continue
    elif origin is Literal:
        if value in typing.get_args(wanted):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            element = typing.get_args(wanted)[0]
            return tuple(_convert(name, item, element) for item in value)
    elif wanted is type(None):
        if value is None:
            return None
    elif wanted is float:
        if not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value):
            return float(value)
    elif wanted is int:
        number = not isinstance(value, bool) and isinstance(value, Real)
        if number and (isinstance(value, Integral) or float(value).is_integer()):
            return int(value)
    elif isinstance(value, wanted):
        return value
    raise SettingsError(f"setting {name} must be {_describe(wanted)}, got {value!r}", name)


def _describe(wanted: Any) -> str:
    origin = typing.get_origin(wanted)
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in typing.get_args(wanted))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(wanted))
    if origin is tuple:
        kind = {int: "whole numbers", float: "finite numbers"}
        element = typing.get_args(wanted)[0]
        return f"a list of {kind.get(element, _describe(element))}"
    return {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "a text",
    }.get(wanted, getattr(wanted, "__name__", str(wanted)))
