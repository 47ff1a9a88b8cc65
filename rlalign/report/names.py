"""What groups of runs are called: their method, with what tells them from its other groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

LONGEST = 36  # characters of a name, in headings of tables and in legends


class Head(NamedTuple):
    """What a name needs to know of a group."""

    method: str  # agent or trainer
    task: str
    configuration: Mapping[str, Any]  # the recipe of its runs


@dataclass(frozen=True)
class Name:
    """A group's name.

    Args:
        method: agent or trainer.
        settings: keys and values, as text, of what tells it from the method's others on the task.
        number: stands for the settings where they are too long for a label.
    """

    method: str
    settings: tuple[tuple[str, str], ...] = ()
    number: int | None = None

    @property
    def label(self) -> str:
        """For tables and pictures."""
        if self.number is not None:
            return f"{self.method} #{self.number}"
        if not self.settings:
            return self.method
        return f"{self.method} ({', '.join(f'{key}={value}' for key, value in self.settings)})"


def name_groups(heads: Sequence[Head], section: str) -> list[Name]:
    """Name each group; `section` is left out before settings.

    Where a name of a method would be longer than `LONGEST`, its names are numbered, equal settings
    by an equal number on every task, so that scores can be put together over tasks.
    """
    names = _full_names(heads, section)
    long = {name.method for name in names if name.settings and len(name.label) > LONGEST}
    found = {
        method: sorted({name.settings for name in names if name.method == method} - {()})
        for method in long
    }
    return [
        replace(name, number=found[name.method].index(name.settings) + 1)
        if name.settings and name.method in long
        else name
        for name in names
    ]


def _full_names(heads: Sequence[Head], section: str) -> list[Name]:
    """Names with all settings, however long."""
    flat = [_flat(head.configuration) for head in heads]
    rivals: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for head, mine in zip(heads, flat, strict=True):
        rivals.setdefault((head.method, head.task), []).append(mine)
    differing = {key: _differing(configurations) for key, configurations in rivals.items()}
    names = []
    for head, mine in zip(heads, flat, strict=True):
        told = differing[head.method, head.task]
        settings = ((key.removeprefix(section), _short(mine.get(key))) for key in told)
        names.append(Name(head.method, tuple(settings)))
    return names


def _differing(rivals: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that not all of the configurations have the same value of."""
    keys = sorted({key for rival in rivals for key in rival})
    return [key for key in keys if len({repr(rival.get(key)) for rival in rivals}) > 1]


def _short(value: Any) -> str:
    if value is None:
        return "default"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(configuration: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in configuration.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
