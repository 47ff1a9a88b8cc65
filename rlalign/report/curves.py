"""Learning curves: mean over seeds with bootstrap bands, both phases on one axis."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlalign.report.groups import Group
from rlalign.report.statistics import band

Theme = Literal["light", "dark"]
Phase = Literal["offline", "online"]

PHASES: tuple[Phase, ...] = ("offline", "online")
_UNITS: dict[Phase, str] = {"offline": "updates", "online": "environment steps"}

# Okabe and Ito's colours, told apart with any colour vision; order puts the clearest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
DARK_COLOURS = ("#56B4E9", "#FF8C42", "#2FC99A", "#E79CC4", "#F5C242", "#8AB6FF", "#B0B0B0")
DPI = 150
PANEL_HEIGHT = 3.4  # inches
LINES = ("-", "--", "-.", ":")
_THEMES: dict[Theme, dict[str, str]] = {
    "light": {"text": "#1c2430", "face": "#ffffff", "grid": "#d9dee5"},
    "dark": {"text": "#e4e8ee", "face": "#171b21", "grid": "#363d47"},
}


@dataclass(frozen=True)
class Timeline:
    """One axis for both phases, each scaled to its own length; the switch lies at 0.

    Args:
        lengths: units of each phase that there is, updates offline and environment steps online.
    """

    lengths: Mapping[Phase, int]

    @classmethod
    def of(cls, groups: Sequence[Group]) -> Timeline:
        """As long as the longest of the groups, phase by phase."""
        ends: dict[Phase, int] = {}
        for phase in PHASES:
            steps = [group.curve(phase)[0] for group in groups]
            last = [int(points[-1]) for points in steps if len(points)]
            if last:
                ends[phase] = max(*last, 1)
        return cls(ends)

    def place(self, phase: Phase, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where steps of a phase lie: [-1, 0] offline, [0, 1] online."""
        where: NDArray[np.float64] = steps / self.lengths[phase]
        return where - 1.0 if phase == "offline" else where

    def ticks(self) -> tuple[list[float], list[str]]:
        """Places and labels; next to the switch the online phase's 0 alone is labelled."""
        from matplotlib.ticker import MaxNLocator

        places, labels = [], []
        for phase, length in self.lengths.items():
            for step in MaxNLocator(5).tick_values(0, length):
                crowded = phase == "offline" and "online" in self.lengths and step > 0.9 * length
                if 0 <= step <= length and not crowded:
                    places.append(float(self.place(phase, np.array([step]))[0]))
                    labels.append(_thousands(step))
        return places, labels


def draw(groups: Sequence[Group], labels: Sequence[str], theme: Theme = "light") -> bytes:
    """The curves of one task's groups as PNG: updates, then environment steps, the switch marked.

    `labels` are those of the whole report: an agent has the same colour in each of its pictures.
    """
    from matplotlib.figure import Figure

    timeline = Timeline.of(groups)
    width = 4.6 * max(len(timeline.lengths), 1) + 0.6
    figure = Figure(figsize=(width, PANEL_HEIGHT), layout="constrained", dpi=DPI)
    panel = figure.subplots()
    _draw_curves(panel, groups, labels, timeline, theme)
    _dress(panel, timeline, theme)
    panel.set_ylabel("normalised score" if groups[0].runs[0].normalized else "return")
    figure.set_facecolor(_THEMES[theme]["face"])
    legend_below(figure, _THEMES[theme]["text"])
    return as_png(figure)


def legend_below(figure: Any, colour: str) -> None:
    """Put the legend of all panels under them; the figure grows by it, so the panels do not shrink.

    It has as many columns, up to four, as fit beside each other.
    """
    entries: dict[str, Any] = {}  # each label once, though panels and phases repeat it
    for panel in figure.axes:
        for handle, name in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if not entries:
        return
    for columns in range(min(4, len(entries)), 0, -1):
        legend = figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            labelcolor=colour,
            fontsize=9,
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    height = legend.get_window_extent().height / figure.dpi
    figure.set_figheight(figure.get_figheight() + height)


def as_png(figure: Any) -> bytes:
    """A figure as a picture."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, metadata={"Software": "rlalign"}, pil_kwargs={"optimize": True}, format="png"
    )
    return buffer.getvalue()


def _draw_curves(
    panel: Any, groups: Sequence[Group], labels: Sequence[str], timeline: Timeline, theme: Theme
) -> None:
    palette = COLOURS if theme == "light" else DARK_COLOURS
    for group in groups:
        index = labels.index(group.label)
        colour = palette[index % len(palette)]
        style = LINES[index // len(palette) % len(LINES)]
        for phase in timeline.lengths:
            steps, scores = group.curve(phase)
            if not len(steps):
                continue
            where = timeline.place(phase, steps)
            panel.plot(
                where,
                scores.mean(axis=0),
                color=colour,
                linestyle=style,
                linewidth=1.8,
                marker="o" if len(steps) == 1 else None,
                label=group.label,
            )
            bounds = band(scores)
            if bounds is not None:
                panel.fill_between(where, *bounds, color=colour, alpha=0.2, linewidth=0)
    behaviour = next((group.behaviour for group in groups if group.behaviour is not None), None)
    if behaviour is not None:
        panel.axhline(
            behaviour,
            color=_THEMES[theme]["text"],
            linestyle=(0, (1, 2)),
            linewidth=1.2,
            label="behaviour",
        )


def _dress(panel: Any, timeline: Timeline, theme: Theme) -> None:
    """Name the phases, mark the switch, and colour what is not a curve."""
    colours = _THEMES[theme]
    places, labels = timeline.ticks()
    panel.set_xticks(places, labels)
    if len(timeline.lengths) > 1:
        panel.axvline(0.0, color=colours["text"], linewidth=1.0)
    for phase in timeline.lengths:
        panel.annotate(
            f"{phase}, {_UNITS[phase]}",
            (-1.0 if phase == "offline" else 0.0, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, 4),
            textcoords="offset points",
            color=colours["text"],
            fontsize=10,
        )
    panel.yaxis.label.set_color(colours["text"])
    panel.set_facecolor(colours["face"])
    panel.tick_params(colors=colours["text"], labelsize=9)
    panel.grid(color=colours["grid"], linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(colours["grid"])
    start = -1.0 if "offline" in timeline.lengths else 0.0
    end = 1.0 if "online" in timeline.lengths else 0.0
    panel.set_xlim(start - 0.02, end + 0.02)


def _thousands(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"
