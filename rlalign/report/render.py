"""A report as Markdown and as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from importlib import resources

from rlalign.report.curves import DPI
from rlalign.report.document import Document, Section
from rlalign.report.tables import Table


def markdown(document: Document) -> str:
    """The report as Markdown; pictures are files beside it."""
    parts = [f"# {document.title}", document.explanation]
    if document.notes:
        parts.append("**Not everything is in this report:**")
        parts.append("\n".join(f"- {note}" for note in document.notes))
    parts += [markdown_table(table) for table in document.tables]
    for section in document.sections:
        parts.append(f"## {section.task}")
        parts.append(f"![Learning curves of {section.task}]({section.file_stem}.png)")
        parts += [markdown_table(table) for table in section.tables]
        parts.append("Runs:\n\n" + "\n".join(f"- {run}" for run in section.runs))
    parts.append(f"Made with {', '.join(document.versions)}.")
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """A table as Markdown, its title in bold before it."""

    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    rule = "|" + "|".join([" --- ", *[" ---: "] * (len(table.columns) - 1)]) + "|"
    rows = [line(table.columns), rule, *map(line, table.rows)]
    return f"**{table.title}**\n\n" + "\n".join(rows)


def page(document: Document) -> str:
    """The report as HTML, styles and pictures inside."""
    title = html.escape(document.title)
    body = [f"<h1>{title}</h1>", f'<p class="soft">{html.escape(document.explanation)}</p>']
    if document.notes:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in document.notes)
        body.append(
            f'<div class="notes"><strong>Not everything is in this report:</strong>'
            f"<ul>{items}</ul></div>"
        )
    body += [html_table(table) for table in document.tables]
    body += [_html_section(section) for section in document.sections]
    versions = html.escape(", ".join(document.versions))
    body.append(f"<footer>Made with {versions}.</footer>")
    return html_page(title, body)


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page of HTML elements, the style inside; `title` is escaped already."""
    style = (resources.files("rlalign.report") / "page.css").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html_section(section: Section) -> str:
    task = html.escape(section.task)
    runs = "".join(f"<li>{html.escape(run)}</li>" for run in section.runs)
    return "\n".join(
        [
            f"<section><h2>{task}</h2>",
            "<figure><picture>"
            f'<source media="(prefers-color-scheme: dark)" srcset="{_inline(section.dark)}">'
            f'<img alt="Learning curves of {task}" width="{_width(section.light)}" '
            f'src="{_inline(section.light)}">'
            "</picture></figure>",
            *[html_table(table) for table in section.tables],
            f"<details><summary>{len(section.runs)} runs</summary><ul>{runs}</ul></details>",
            "</section>",
        ]
    )


def html_table(table: Table) -> str:
    """A table as HTML, its title as the caption."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll"><table><caption>{html.escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _width(png: bytes) -> int:
    """Width in CSS pixels, 96 an inch; PNG's header holds the width in dots."""
    return int.from_bytes(png[16:20], "big") * 96 // DPI


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
