"""The report of preference trainers' runs laid out as HTML and as Markdown."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.report.preference_runs import PreferenceGroup, PreferenceRun
from rlalign.report.render import html_page, html_table, markdown_table
from rlalign.report.tables import Table

EXPLANATION = (
    "Figures are means over seeds ± one standard error, on held-out pairs and on samples for their "
    "prompts. Accuracy and margin: of the log-ratio to the initial model, in nats; accuracy per "
    "token: of the average log-probability. Win rate: the policy's sample has the higher reward "
    "than the initial model's, ties half. Reverse KL is estimated on the policy's samples, forward "
    "KL on the initial model's, in nats a completion. Length is in tokens; distinct-2 is the share "
    "of different pairs of words."
)


def page(
    title: str,
    notes: Sequence[str],
    tasks: Mapping[str, list[PreferenceGroup]],
    tables: Mapping[str, list[Table]],
    curves: Mapping[str, tuple[str, bytes]],
) -> str:
    """The report as one HTML file.

    Args:
        title: above it.
        notes: what is not in it.
        tasks: the groups of each task.
        tables: of each task.
        curves: name and PNG of the picture, for the tasks that have one.
    """
    heading = html.escape(title)
    body = [f"<h1>{heading}</h1>", f'<p class="soft">{html.escape(EXPLANATION)}</p>']
    if notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        body.append(f'<div class="notes">Not everything is in this report:<ul>{items}</ul></div>')
    for task, groups in tasks.items():
        body.append(f"<section><h2>{html.escape(task)}</h2>")
        if task in curves:
            data = base64.b64encode(curves[task][1]).decode()
            body.append(
                f'<figure><img alt="Curves of {html.escape(task)}" '
                f'src="data:image/png;base64,{data}"></figure>'
            )
        body += [html_table(table) for table in tables[task]]
        body += [_samples(group.label, group.runs[0]) for group in groups if group.runs[0].samples]
        body.append("</section>")
    return html_page(heading, body)


def _samples(label: str, run: PreferenceRun) -> str:
    """Samples of the initial model and the policy side by side."""
    revised = any(sample.get("revisions") for sample in run.samples)
    columns = ["dataset", "prompt", "initial model", label, *(["last revision"] if revised else [])]
    rows = []
    for sample in run.samples:
        prompt = sample["prompt"]
        cells = [
            str(sample.get("dataset", "")),
            prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, indent=1),
            _with_reward(sample, "initial"),
            _with_reward(sample, "policy"),
        ]
        if revised:
            cells.append((sample.get("revisions") or [""])[-1])
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    return (
        f"<details><summary>Samples: {html.escape(label)}, seed {run.seed}</summary>"
        f'<div class="scroll"><table class="samples"><thead><tr>{head}</tr></thead><tbody>'
        + "\n".join(rows)
        + "</tbody></table></div></details>"
    )


def _with_reward(sample: dict[str, Any], who: str) -> str:
    reward = sample.get(f"{who}_reward")
    return str(sample[who]) + ("" if reward is None else f"\n(reward {reward:.2f})")


def markdown(
    title: str,
    notes: Sequence[str],
    tables: Mapping[str, list[Table]],
    curves: Mapping[str, tuple[str, bytes]],
) -> str:
    """The report as Markdown; see `page`."""
    parts = [f"# {title}", EXPLANATION]
    if notes:
        parts.append(
            "**Not everything is in this report:**\n\n" + "\n".join(f"- {n}" for n in notes)
        )
    for task in tables:
        parts.append(f"## {task}")
        if task in curves:
            parts.append(f"![Curves of {task}]({curves[task][0]})")
        parts += [markdown_table(table) for table in tables[task]]
    return "\n\n".join(parts) + "\n"
