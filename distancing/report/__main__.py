"""`python -m distancing.report WHAT…`: what hundreds of runs say together, as a table, figures, and one page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distancing.command import command
from distancing.report.answer import Answer, answer
from distancing.report.commands import link, script
from distancing.report.pack import pack, unpacked
from distancing.report.runs import collect
from distancing.report.tables import as_csv, latex, markdown, rich


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distancing.report", description=__doc__)
    add = parser.add_argument
    add("what", nargs="+", metavar="WHAT", help="sweeps, directories of runs, folders of them, globs, or packed files")
    add("--metric", action="append", default=[], metavar="NAME", help="a number of result.json, or a column of "
        "metrics.csv; may be given again (default: test.accuracy and test.loss)")  # fmt: skip
    add("--by", action="append", default=[], metavar="KEY", help="sort by this setting, and draw against it")
    add("--where", action="append", default=[], metavar="KEY=VALUE[,VALUE]", help="only these runs")
    add("--best", type=_positive, metavar="N", help="only the N groups with the best first metric")
    add("--baseline", action="append", default=[], metavar="KEY=VALUE", help="compare with the group that has this")
    add("--csv", type=Path, metavar="FILE", help="the table with all digits")
    add("--markdown", type=Path, metavar="FILE")
    add("--latex", type=Path, metavar="FILE", help="the table for booktabs")
    add("--figures", type=Path, metavar="DIR", help="every figure that the runs allow, as PNG and PDF")
    add("--html", type=Path, metavar="FILE", help="all of it in one file")
    add("--all", type=Path, metavar="DIR", help="all of these, in this folder")
    add("--tensorboard", type=Path, metavar="DIR", help="links to the runs, named by what varies, for tensorboard")
    add(
        "--pack", type=Path, metavar="FILE", help="all runs' numbers, without weights, in one .zip that this reads, too"
    )
    add("--command", action="store_true", help="print what repeats each run, and nothing else")
    args = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    with unpacked(args.what) as what:
        _report(args, what, console)
    return 0


def _report(args: argparse.Namespace, what: Sequence[str], console: Console) -> None:
    if args.command:
        print("\n\n".join(script(run) for run in collect(what)[0]))
        return
    found = answer(what, args.metric, args.by, args.where, args.best, args.baseline)
    if args.all:
        args.csv, args.markdown, args.latex = (args.all / f"table.{kind}" for kind in ("csv", "md", "tex"))
        args.figures, args.html = args.all / "figures", args.all / "index.html"
    console.print(rich(found))
    for path, text in ((args.csv, as_csv), (args.markdown, markdown), (args.latex, latex)):
        if path:
            _write(path, text(found))
    if args.figures or args.html:
        _draw(found, args.figures, args.html, " ".join(args.what))
    if args.pack:
        pack(found.runs, args.pack)
    if args.tensorboard:
        made = link(found, args.tensorboard)
        console.print(f"{made} runs: tensorboard --logdir {args.tensorboard}", markup=False)
    if damaged := found.damaged:
        console.print(f"{len(damaged)} damaged files:", style="red")
        for line in damaged:
            console.print(f"  {line}", markup=False)


def _draw(found: Answer, folder: Path | None, html: Path | None, what: str) -> None:
    from distancing.report.gallery import file_name, gallery  # matplotlib is slow to import
    from distancing.report.page import page

    pictures = list(gallery(found))
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            (folder / f"{file_name(picture)}.png").write_bytes(picture.png)
            (folder / f"{file_name(picture)}.pdf").write_bytes(picture.pdf)
    if html:
        _write(html, page(found, pictures, what))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main())
