"""Turns measured turns into medians, ratios and Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contestants import TITLES, Contestant
from benchmarks.process import Turn
from benchmarks.turns import Measurement


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest of several values."""

    median: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.low:{spec}}-{self.high:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """Return median and extremes of at least one value."""
    return Spread(median(values), min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One contestant's line.

    Args:
        rate: updates per second.
        advantage: rlalign's rate divided by this contestant's, paired round by round.
        ceiling: this contestant's rate divided by the products', paired round by round.
    """

    group: str
    library: str
    rate: Spread
    advantage: Spread | None
    ceiling: Spread | None


def _ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    return spread([a / b for a, b in zip(above, below, strict=True)])


def rows(turns: Mapping[Contestant, Sequence[Turn]], clock: str) -> list[Row]:
    """Return a line for each contestant; `clock` is ``"cpu"`` or ``"wall"``."""
    rates = {each: [turn.rate(clock) for turn in turns[each]] for each in turns}
    of = {(each.group, each.library): rates[each] for each in rates}
    lines = []
    for each, own in rates.items():
        ours, limit = of.get((each.group, "rlalign")), of.get((each.group, "products"))
        is_peer = each.library not in ("rlalign", "products")
        lines.append(
            Row(
                group=each.group,
                library=each.library,
                rate=spread(own),
                advantage=_ratio(ours, own) if is_peer and ours else None,
                ceiling=_ratio(own, limit) if each.library != "products" and limit else None,
            )
        )
    return lines


def updates_table(lines: Sequence[Row], facts: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of updates per second."""
    clock = _clock(facts)
    out = [
        f"# Updates per {clock}: {facts['device']}, threads: {facts['threads']}",
        "",
        "Median and range over rounds; ratios are taken round by round.",
        "",
        f"| | library | updates per {clock} | rlalign is faster by | share of the limit |",
        "|---|---|---|---|---|",
    ]
    for line in lines:
        library = "*matrix products alone*" if line.library == "products" else line.library
        out.append(
            f"| {TITLES[line.group]} | {library} | {line.rate:.1f} "
            f"| {f'{line.advantage:.2f}' if line.advantage else ''} "
            f"| {f'{line.ceiling:.0%}' if line.ceiling else ''} |"
        )
    return out


def online_table(turns: Mapping[Contestant, Sequence[Turn]], facts: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of environment steps per second."""
    out = [
        f"# Environment steps per second: {facts['device']}, threads: {facts['threads']}",
        "",
        "SAC learning on HalfCheetah-v5, one environment, one update a step; by the clock. "
        "Median and range over rounds.",
        "",
        "| library | steps per second | in the physics | in the update | outside both "
        "| outside both, us a step |",
        "|---|---|---|---|---|---|",
    ]
    for each, own in turns.items():
        physics = spread([turn.parts["environment"] / turn.wall for turn in own])
        update = spread([turn.parts["update"] / turn.wall for turn in own])
        rest = [turn.wall - turn.parts["environment"] - turn.parts["update"] for turn in own]
        share = spread([left / turn.wall for left, turn in zip(rest, own, strict=True)])
        cost = spread([1e6 * left / turn.updates for left, turn in zip(rest, own, strict=True)])
        rate = spread([turn.rate("wall") for turn in own])
        out.append(
            f"| {each.library} | {rate:.1f} | {physics:.1%} | {update:.1%} "
            f"| {share:.1%} | {cost:.0f} |"
        )
    return out


def notes(facts: Mapping[str, Any]) -> list[str]:
    """Return how it was measured, as a list in Markdown."""
    machine = facts["machine"]
    versions = (
        f"{library}: " + ", ".join(f"{name} {version}" for name, version in found.items())
        for library, found in facts["versions"].items()
    )
    return [
        "",
        f"- {machine['processor']} ({machine['cores']} cores, {machine['vector_instructions']}), "
        f"{machine['system']}; load of the machine before and after: "
        f"{machine['load_before']}, {machine['load_after']}.",
        f"- {facts['rounds']} rounds of about {facts['seconds']} s a turn, contestants taking "
        f"turns; {facts['pinned']}.",
        f"- Batch 256, two hidden layers of 256, observation 17, action 6, "
        f"replay of {facts['transitions']:,} transitions.",
        f"- {machine['time']}. {'; '.join(versions)}.",
        "",
    ]


def write_updates(folder: Path, name: str, measurement: Measurement) -> str:
    """Write ``name.md`` and ``name.json`` for updates per second and return the Markdown."""
    facts, turns = measurement.facts, measurement.turns
    lines = rows(turns, facts["clock"])
    page = "\n".join(updates_table(lines, facts) + notes(facts))
    _write(folder, name, page, measurement, {"rows": [asdict(line) for line in lines]})
    return page


def write_online(folder: Path, name: str, measurement: Measurement) -> str:
    """Write ``name.md`` and ``name.json`` for environment steps per second; return the Markdown."""
    page = "\n".join(online_table(measurement.turns, measurement.facts) + notes(measurement.facts))
    _write(folder, name, page, measurement, {})
    return page


def _clock(facts: Mapping[str, Any]) -> str:
    return "CPU-second" if facts["clock"] == "cpu" else "second"


def _write(
    folder: Path, name: str, page: str, measurement: Measurement, more: Mapping[str, Any]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(page, encoding="utf-8")
    turns = {each.name: [asdict(turn) for turn in own] for each, own in measurement.turns.items()}
    content = {**measurement.facts, **more, "turns": turns}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
