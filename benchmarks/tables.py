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


def markdown(lines: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """Return a page: the table, then how it was measured."""
    clock = "CPU-second" if facts["clock"] == "cpu" else "second"
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
    machine = facts["machine"]
    out += [
        "",
        f"- {machine['processor']} ({machine['cores']} cores, {machine['vector_instructions']}), "
        f"{machine['system']}; load of the machine before and after: "
        f"{machine['load_before']}, {machine['load_after']}.",
        f"- {facts['rounds']} rounds of about {facts['seconds']} s a turn, contestants taking "
        f"turns; {facts['pinned']}.",
        f"- Batch 256, two hidden layers of 256, observation 17, action 6, "
        f"{facts['transitions']:,} transitions in the replay.",
        f"- {machine['time']}. "
        + "; ".join(
            f"{library}: " + ", ".join(f"{name} {version}" for name, version in found.items())
            for library, found in facts["versions"].items()
        )
        + ".",
        "",
    ]
    return "\n".join(out)


def write(
    path: Path,
    turns: Mapping[Contestant, Sequence[Turn]],
    facts: Mapping[str, Any],
) -> str:
    """Write ``path.md`` and ``path.json`` and return the Markdown."""
    lines = rows(turns, facts["clock"])
    page = markdown(lines, facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".md").write_text(page, encoding="utf-8")
    content = {
        **facts,
        "rows": [asdict(line) for line in lines],
        "turns": {each.name: [asdict(turn) for turn in turns[each]] for each in turns},
    }
    path.with_name(path.name + ".json").write_text(
        json.dumps(content, indent=1) + "\n", encoding="utf-8"
    )
    return page
