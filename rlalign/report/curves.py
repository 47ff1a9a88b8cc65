"""Learning curves: mean over seeds with bootstrap bands, a panel for each phase."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from rlalign.report.groups import Group
from rlalign.report.statistics import band

Theme = Literal["light", "dark"]

# Okabe and Ito's colours, told apart with any colour vision; order puts the clearest first.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
DARK_COLOURS = ("#56B4E9", "#FF8C42", "#2FC99A", "#E79CC4", "#F5C242", "#8AB6FF", "#B0B0B0")
DPI = 150
LINES = ("-", "--", "-.", ":")
_THEMES: dict[Theme, dict[str, str]] = {
    "light": {"text": "#1c2430", "face": "#ffffff", "grid": "#d9dee5"},
    "dark": {"text": "#e4e8ee", "face": "#171b21", "grid": "#363d47"},
}


def draw(groups: Sequence[Group], labels: Sequence[str], theme: Theme = "light") -> bytes:
    """The curves of one task's groups as PNG: updates on the left, environment steps right.

    `labels` are those of the whole report: an agent has the same colour in each of its pictures.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    phases = [
        phase
        for phase in ("offline", "online")
        if any(len(group.curve(phase)[0]) for group in groups)
    ]
    figure = Figure(figsize=(4.6 * max(len(phases), 1) + 0.6, 3.7), layout="constrained", dpi=DPI)
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(len(phases), 1), sharey=True, squeeze=False)[0]
    for panel, phase in zip(panels, phases, strict=False):
        _draw_panel(panel, groups, labels, phase, theme)
    what = "normalised score" if groups[0].runs[0].normalized else "return"
    panels[0].set_ylabel(what)
    colours = _THEMES[theme]
    figure.set_facecolor(colours["face"])
    handles, names = _legend_entries(panels)
    # Long labels need the width; few short ones share a line.
    columns = 1 if max(map(len, names), default=0) > 34 else min(len(names), 4) or 1
    figure.legend(
        handles,
        names,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=colours["text"],
        fontsize=9,
    )
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": "rlalign"}, pil_kwargs={"optimize": True})
    return buffer.getvalue()


def _draw_panel(
    panel: Any, groups: Sequence[Group], labels: Sequence[str], phase: str, theme: Theme
) -> None:
    palette = COLOURS if theme == "light" else DARK_COLOURS
    colours = _THEMES[theme]
    for group in groups:
        index = labels.index(group.label)
        steps, scores = group.curve(phase)
        if not len(steps):
            continue
        colour = palette[index % len(palette)]
        style = LINES[index // len(palette) % len(LINES)]
        marker = "o" if len(steps) == 1 else None
        panel.plot(
            steps,
            scores.mean(axis=0),
            color=colour,
            linestyle=style,
            linewidth=1.8,
            marker=marker,
            label=group.label,
        )
        bounds = band(scores)
        if bounds is not None:
            panel.fill_between(steps, *bounds, color=colour, alpha=0.2, linewidth=0)
    behaviour = next((group.behaviour for group in groups if group.behaviour is not None), None)
    if behaviour is not None:
        panel.axhline(
            behaviour,
            color=colours["text"],
            linestyle=(0, (1, 2)),
            linewidth=1.2,
            label="behaviour",
        )
    unit = "updates" if phase == "offline" else "environment steps"
    panel.set_title(phase, color=colours["text"], fontsize=10, loc="left")
    panel.set_xlabel(unit, color=colours["text"])
    panel.yaxis.label.set_color(colours["text"])
    panel.set_facecolor(colours["face"])
    panel.tick_params(colors=colours["text"], labelsize=9)
    panel.grid(color=colours["grid"], linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(colours["grid"])
    panel.xaxis.set_major_formatter(_thousands)
    panel.margins(x=0.02)


def _thousands(value: float, _: int) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _legend_entries(panels: np.ndarray) -> tuple[list[Any], list[str]]:
    """Each label once, though both panels draw it."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)
