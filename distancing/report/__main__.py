"""`distancing report SOURCE…`: summarise hundreds of runs as a table, figures and one page."""

import argparse
import functools
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from distancing.errors import ReportError
from distancing.process.command import ArgumentParser, check_writable, command
from distancing.report.commands import link, script, tags
from distancing.report.overview import Overview, summarise
from distancing.report.pack import pack, unpacked
from distancing.report.runs import collect
from distancing.report.tables import as_csv, latex, markdown, rich
from distancing.runs.files import export


def argument_parser() -> ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = ArgumentParser(
        prog="distancing report",
        description=__doc__,
        epilog="--metric, --by, --where and --baseline can be given several times.",
    )
    add = parser.add_argument
    add_repeated = functools.partial(add, action="append", default=[])
    add("sources", nargs="+", metavar="SOURCE", help="a sweep, a run, a folder of runs, a glob, or a packed file")
    add_repeated(
        "--metric", metavar="NAME", help="from result.json or metrics.csv (default: test.accuracy and test.loss)"
    )
    add_repeated("--by", metavar="KEY", help="sort by this setting, and plot against it")
    add_repeated("--where", metavar="KEY=VALUE[,VALUE]", help="only the runs with one of these values")
    add("--best", type=_positive, metavar="N", help="only the N groups that are best in the first metric")
    add_repeated("--baseline", metavar="KEY=VALUE", help="compare with the group that has this setting")
    add("--csv", type=Path, metavar="FILE", help="the table with all digits")
    add("--markdown", type=Path, metavar="FILE", help="the table")
    add("--latex", type=Path, metavar="FILE", help="the table, for the package booktabs")
    add("--figures", type=Path, metavar="DIR", help="every figure for which there is data, as PNG and PDF")
    add("--html", type=Path, metavar="FILE", help="table, figures and commands in one file")
    add("--all", type=Path, metavar="DIR", help="all of the above, in this folder")
    add("--tensorboard", type=Path, metavar="DIR", help="links to the runs, named by the settings that vary")
    add("--pack", type=Path, metavar="FILE", help="the results without weights, as a .zip file that can be a SOURCE")
    add("--command", action="store_true", help="only print the command that repeats each run")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    for option in ("csv", "markdown", "latex", "html", "pack"):
        check_writable(option, getattr(args, option))
    for option in ("figures", "all", "tensorboard"):
        check_writable(option, getattr(args, option), folder=True)
    if args.pack and args.pack.suffix != ".zip":
        raise ReportError(f"--pack={args.pack}: only a file named .zip can be a source later: name one")
    with unpacked(args.sources) as sources:
        _report(args, sources, console)
    return 0


def _report(args: argparse.Namespace, sources: Mapping[str, str], console: Console) -> None:
    if args.command:
        print("\n\n".join(script(run) for run in collect(sources)[0]))
        return
    if args.tensorboard and (packed := [source for source in args.sources if source.endswith(".zip")]):
        raise ReportError(f"--tensorboard={args.tensorboard}: {packed[0]} holds no logs of TensorBoard; name its sweep")
    overview = summarise(sources, args.metric, args.by, args.where, args.best, args.baseline)
    if args.all:
        args.csv, args.markdown, args.latex = (args.all / f"table.{suffix}" for suffix in ("csv", "md", "tex"))
        args.figures, args.html = args.all / "figures", args.all / "index.html"
    console.print(rich(overview))
    for path, render in ((args.csv, as_csv), (args.markdown, markdown), (args.latex, latex)):
        if path:
            export(path, render(overview))
    if args.figures or args.html:
        _draw(overview, args)
    if args.pack:
        pack([run for group in overview.all_groups for run in group.runs], args.pack)
    if args.tensorboard:
        links = link(overview, args.tensorboard)
        known = tags(overview)
        if without := [name for name in overview.metrics if name not in known]:
            console.print(f"TensorBoard has no {', '.join(without)}", markup=False)
        console.print(f"{links} runs: tensorboard --logdir {shlex.quote(str(args.tensorboard))}", markup=False)
    if damaged := overview.damaged:
        console.print(f"{len(damaged)} damaged files:", style="red")
        for line in damaged:
            console.print(f"  {line}", markup=False)


def _draw(overview: Overview, args: argparse.Namespace) -> None:
    from distancing.report.gallery import file_name, gallery  # matplotlib is slow to import
    from distancing.report.page import page

    pictures = list(gallery(overview))
    if folder := args.figures:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            export(folder / f"{file_name(picture)}.png", picture.png)
            export(folder / f"{file_name(picture)}.pdf", picture.pdf)
    if args.html:
        export(args.html, page(overview, pictures, " ".join(args.sources)))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
