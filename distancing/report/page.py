"""The report as one HTML file with the table, the figures and the runs' commands. It loads nothing else."""

import base64
from collections.abc import Sequence
from html import escape

from distancing.report.commands import commit, script
from distancing.report.gallery import Picture
from distancing.report.overview import Overview
from distancing.report.tables import cells, columns, headline

CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem }
nav a { margin-right: 1.2em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem }
th, td { padding: .25em .7em; text-align: left; white-space: nowrap }
thead th { border-top: 2px solid; border-bottom: 1px solid } tbody tr:last-child td { border-bottom: 2px solid }
.right { text-align: right } tr.baseline { background: #f2f2f2 }
figure { margin: 1.5rem 0 } figure img { max-width: 100% } figcaption { color: #444; max-width: 50rem }
pre { background: #f5f5f5; padding: .6em .8em; overflow-x: auto; font-size: .85rem; margin: .3em 0 1em }
.damage { color: #a00 } a { color: #0057a0 }
"""


def page(overview: Overview, pictures: Sequence[Picture], title: str) -> str:
    """Return the page. All text that comes from a file is escaped."""
    sections = [
        ("table", "Table", _table(overview)),
        ("figures", "Figures", _figures(pictures)),
        ("runs", "Runs", _runs(overview)),
        ("damage", "Damaged files", _damage(overview)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, heading, _ in sections)
    body = "".join(f'<section id="{anchor}"><h2>{heading}</h2>{text}</section>\n' for anchor, heading, text in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{escape(headline(overview))}</p><nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _table(overview: Overview) -> str:
    heads = columns(overview)
    head = "".join(f'<th class="{column.justify}">{escape(column.head)}</th>' for column in heads)
    rows = []
    for i, group in enumerate(overview.groups):
        row = "".join(
            f'<td class="{column.justify}">{escape(cell)}</td>'
            for column, cell in zip(heads, cells(overview, group), strict=True)
        )
        attribute = ' class="baseline"' if group is overview.baseline else ""
        rows.append(f'<tr{attribute}>{row}<td><a href="#group-{i}">runs</a></td></tr>\n')
    notes = "".join(f"<li>{escape(note)}</li>" for note in overview.notes)
    table = f"<table><thead><tr>{head}<th></th></tr></thead>\n<tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide">{table}</div><ul>{notes}</ul>'


def _figures(pictures: Sequence[Picture]) -> str:
    figures = []
    for i, picture in enumerate(pictures):
        data = base64.b64encode(picture.png).decode()
        caption = escape(picture.caption[:1].upper() + picture.caption[1:])
        image = f'<img src="data:image/png;base64,{data}" alt="{caption}">'
        figures.append(f'<figure id="figure-{i}">{image}<figcaption>{caption}</figcaption></figure>\n')
    return "".join(figures)


def _runs(overview: Overview) -> str:
    known = any(commit(run) for run in overview.runs)
    parts = [] if known else ["<p>It is not known at which commit these runs were trained.</p>"]
    for i, group in enumerate(overview.groups):
        commands = "\n\n".join(script(run) for run in group.runs)
        parts.append(f'<h3 id="group-{i}">{escape(group.name)}</h3><pre>{escape(commands)}</pre>\n')
    return "".join(parts)


def _damage(overview: Overview) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in overview.damaged)
    return f'<ul class="damage">{lines}</ul>' if lines else ""
