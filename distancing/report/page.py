"""One HTML file with the table, the figures and every run's command; without a script, a network or another file."""

import base64
from collections.abc import Sequence
from html import escape

from distancing.report.answer import Answer
from distancing.report.commands import commit, script
from distancing.report.gallery import Picture
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


def page(found: Answer, pictures: Sequence[Picture], title: str) -> str:
    """Valid HTML: everything that comes from a file is escaped."""
    parts = {"table": ("Table", _table(found)), "figures": ("Figures", _figures(pictures)),
             "runs": ("Runs", _runs(found)), "damage": ("Damaged files", _damage(found))}  # fmt: skip
    parts = {anchor: part for anchor, part in parts.items() if part[1]}
    links = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, (heading, _) in parts.items())
    body = "".join(f'<section id="{anchor}"><h2>{heading}</h2>{text}</section>\n'
                   for anchor, (heading, text) in parts.items())  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><h1>{escape(title)}</h1><p>{escape(headline(found))}</p><nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _table(found: Answer) -> str:
    heads = columns(found)
    head = "".join(f'<th class="{column.justify}">{escape(column.head)}</th>' for column in heads)
    rows = []
    for i, group in enumerate(found.groups):
        said = [f'<td class="{column.justify}">{escape(cell)}</td>'
                for column, cell in zip(heads, cells(found, group), strict=True)]  # fmt: skip
        kind = ' class="baseline"' if group is found.baseline else ""
        rows.append(f'<tr{kind}>{"".join(said)}<td><a href="#group-{i}">runs</a></td></tr>\n')
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    table = f"<table><thead><tr>{head}<th></th></tr></thead>\n<tbody>{''.join(rows)}</tbody></table>"
    return f'<div class="wide">{table}</div><ul>{notes}</ul>'


def _figures(pictures: Sequence[Picture]) -> str:
    found = []
    for i, picture in enumerate(pictures):
        data, caption = (
            base64.b64encode(picture.png).decode(),
            escape(picture.caption[:1].upper() + picture.caption[1:]),
        )
        found.append(f'<figure id="figure-{i}"><img src="data:image/png;base64,{data}" alt="{caption}">'
                     f"<figcaption>{caption}</figcaption></figure>\n")  # fmt: skip
    return "".join(found)


def _runs(found: Answer) -> str:
    said = [] if any(commit(run) for run in found.runs) else ["<p>At which commit they were trained is not known.</p>"]
    for i, group in enumerate(found.groups):
        commands = "\n\n".join(script(run) for run in group.runs)
        said.append(f'<h3 id="group-{i}">{escape(group.name)}</h3><pre>{escape(commands)}</pre>\n')
    return "".join(said)


def _damage(found: Answer) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in found.damaged)
    return f'<ul class="damage">{lines}</ul>' if lines else ""
