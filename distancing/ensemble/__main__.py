"""`distancing ensemble RUN…`: score checkpoints as an ensemble, or `--compare` kinds of ensembles."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distancing.data.datasets import Dataset
from distancing.ensemble import compare, corruptions, show, side_by_side
from distancing.ensemble.judge import Weights, judge
from distancing.ensemble.row import Row, read_csv, write_csv
from distancing.ensemble.shift import Shift
from distancing.errors import EnsembleError
from distancing.process import threads
from distancing.process.command import ArgumentParser, check_writable, command
from distancing.runs import Listed, RunDirectory, find_sweep
from distancing.runs.ensemble import EnsembleResult
from distancing.runs.files import export, seal, with_nulls
from distancing.runs.tracking import tracking
from distancing.stored import check_same_data, find_checkpoints, on_this_machine
from distancing.training.settings import device_named

COMPARING = ("members", "baseline", "score", "choose", "independent", "csv", "markdown")  # options that need --compare


def argument_parser() -> ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = ArgumentParser(prog="distancing ensemble", description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="RUN", help="directories of runs and sweeps, checkpoint files")
    parser.add_argument(
        "--weights", default="equal", help="equal (default), likelihood (fitted on the validation images), or 1,2,…"
    )
    parser.add_argument("--refresh-batch-norm", action="store_true", help="recompute each member's statistics")
    parser.add_argument(
        "--ood", metavar="SET[,SET]", help="detect images of these data sets: names of data sets, .npz files, folders"
    )
    parser.add_argument(
        "--corruptions", nargs="?", const="auto", metavar="FOLDER",
        help="corrupt the test images: with the files in FOLDER, or else with CIFAR-10-C in the folder of the data "
        "set, or else by imagecorruptions",
    )  # fmt: skip
    parser.add_argument(
        "--make-corruptions", action="store_true",
        help="first make the files that the FOLDER of --corruptions lacks, with imagecorruptions",
    )  # fmt: skip
    parser.add_argument("--compare", action="store_true", help="compare the kinds of ensembles in sweeps or CSV files")
    parser.add_argument("--members", metavar="K[,K]", default="", help="with --compare: the first K networks of each")
    parser.add_argument("--baseline", metavar="KIND", help="with --compare: compare with this kind (part of its name)")
    parser.add_argument(
        "--score", choices=side_by_side.SCORES, metavar="SCORE",
        help=f"with --baseline: compare this score instead of calibrated_nll: {', '.join(side_by_side.SCORES)}",
    )  # fmt: skip
    parser.add_argument(
        "--choose", action="store_true", help="with --compare: the best trial of each kind, on the validation images"
    )
    parser.add_argument(
        "--independent",
        metavar="KIND",
        help="with --compare: the kind of independent networks (part of its name), for the deep-ensemble equivalent",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="with --compare: write a CSV that it can read again")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="with --compare: write the table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="draw a PNG: scores and matrices, or with --compare curves. "
        "--ood and --corruptions add a PNG each, with -ood and -corruptions at the end of its name",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    threads.use()
    device = device_named(args.device, "--device=")
    for option in COMPARING:
        if getattr(args, option) and not args.compare:
            raise EnsembleError(f"--{option} is for ensembles side by side: add --compare")
    if args.score and not args.baseline:
        raise EnsembleError(f"--score={args.score}: it is compared with a baseline: add --baseline KIND")
    if args.refresh_batch_norm and args.compare:
        raise EnsembleError("--refresh-batch-norm judges one ensemble: leave out --compare")
    for option in ("csv", "markdown", "json", "picture"):
        check_writable(option, getattr(args, option))
    numbers: Any = _compare(args, device, console) if args.compare else _judge(args, device, console).to_dict()
    if args.json:
        export(args.json, json.dumps(with_nulls(numbers), indent=2) + "\n")
    return 0


def _judge(args: argparse.Namespace, device: torch.device, console: Console) -> EnsembleResult:
    """Return the scores of one ensemble. Print them and, with --picture, draw them."""
    members = find_checkpoints(args.paths)
    weights = _weights(args.weights)
    shift = _shift(args, members[0].config.dataset)
    result = judge(members, device, weights, args.refresh_batch_norm)
    console.print(show.table(result))
    result, figures = shift.judge(members, device, result, args.refresh_batch_norm)
    for table in show.shift_tables(result):
        console.print(table)
    if args.picture:
        show.write_picture(show.picture(result), args.picture)
        for name, figure in figures.items():
            show.write_picture(figure(), args.picture.with_stem(f"{args.picture.stem}-{name}"))
    return result


def _shift(args: argparse.Namespace, dataset: Dataset) -> Shift:
    """Return the images beyond the test images. Raise EnsembleError or DatasetError before any scores are computed."""
    dataset, ood = on_this_machine(dataset), args.ood.split(",") if args.ood else []
    if args.make_corruptions:
        Shift.checked(ood, None, dataset, "--")  # a wrong --ood is refused before half an hour of work
        if args.corruptions in (None, "auto"):
            raise EnsembleError("--make-corruptions needs a folder: add --corruptions FOLDER")
        with tracking(Console(stderr=True)) as track:
            corruptions.make(Path(args.corruptions), dataset, track)
    return Shift.checked(ood, args.corruptions, dataset, "--")


def _compare(args: argparse.Namespace, device: torch.device, console: Console) -> list[dict[str, Any]]:
    """Return the scores of all ensembles in the sweeps and CSV files. Print them and write the requested files.

    The trials that --choose leaves out are not judged beyond the test images.
    """
    known, ensembles = _sources(args)
    weights = _weights(args.weights)
    asked = args.ood or args.corruptions or args.make_corruptions
    shift = _common_shift(args, ensembles) if asked else None
    computed = [compare.row_of(ensemble, device, weights) for ensemble in ensembles]
    rows = [*known, *computed]
    best = compare.chosen(rows) if args.choose else rows
    if shift:
        sources = dict(zip(computed, ensembles, strict=True))
        judged = {row: compare.shifted(row, sources[row], shift, device, weights) for row in best if row in sources}
        rows, best = ([judged.get(row, row) for row in group] for group in (rows, best))
    temperatures = show.temperatures({row.temperature_from for row in best})
    title = f"ensembles, on the test images; {temperatures}".rstrip("; ")
    tables = {title: side_by_side.comparison(best, args.baseline, args.independent, args.score)}
    if args.choose:
        tables["all trials"] = side_by_side.trials(rows, best)
    for title, table in tables.items():
        console.print(side_by_side.terminal(title, table))
    records = side_by_side.records(rows, best, args.independent)
    if args.csv:
        write_csv(records, args.csv)
    if args.markdown:
        export(args.markdown, "\n".join(map(side_by_side.markdown, tables.values())))
    if args.picture:
        show.write_picture(side_by_side.picture(best), args.picture)
    return records


def _common_shift(args: argparse.Namespace, ensembles: Sequence[compare.Ensemble]) -> Shift:
    """Return the images beyond the test images for all ensembles. Raise EnsembleError as `_shift` does."""
    if not ensembles:
        raise EnsembleError("--ood and --corruptions need networks, which a CSV file does not have: name the sweep")
    firsts = [find_checkpoints(ensemble.files[:1])[0] for ensemble in ensembles]
    check_same_data(firsts)
    shift = _shift(args, firsts[0].config.dataset)
    if shift.corrupted and shift.folder is None:
        raise EnsembleError(
            "--corruptions: ensembles are compared on stored images: add --corruptions FOLDER --make-corruptions"
        )
    return shift


def _sources(args: argparse.Namespace) -> tuple[list[Row], list[compare.Ensemble]]:
    """Return the rows of the CSV files, and the sweeps' ensembles. Raise EnsembleError if there are none."""
    files = [Path(path) for path in args.paths if path.endswith(".csv")]
    sizes = _sizes(args.members)
    stored = [row for file in files for row in read_csv(file)]
    rows = [row for row in stored if not sizes or row.members in sizes]
    runs: dict[Path | str, Listed] = {}  # each once, although sweeps may share some, or be copies
    for path in args.paths:
        for run in [] if path.endswith(".csv") else find_sweep(path).runs():
            final = RunDirectory(run.path).checkpoint("final")
            runs.setdefault(seal(final) if final.exists() else run.path.resolve(), run)
    ensembles = compare.ensembles([*runs.values()], sizes, args.choose) if runs else []
    if not (rows or ensembles):
        wanted = f"ensembles of {args.members}" if sizes else "ensembles to compare"
        numbers = f"; there are ensembles of {', '.join(map(str, sorted({row.members for row in stored})))}"
        raise EnsembleError(f"there are no {wanted} in {', '.join(args.paths)}{numbers if stored else ''}")
    kinds = [*(row.kind for row in rows), *(ensemble.kind for ensemble in ensembles)]
    for option in ("baseline", "independent"):
        if name := getattr(args, option):
            side_by_side.kind_named(kinds, name, option)  # before the long work
    return rows, ensembles


def _sizes(text: str) -> list[int]:
    """Return the numbers of members in a text such as "2,4,8", each once. Raise EnsembleError for anything else."""
    try:
        sizes = list(dict.fromkeys(int(size) for size in text.split(",") if text))
    except ValueError:
        sizes = [0]
    if any(size < 1 for size in sizes):
        raise EnsembleError(f"--members={text}: write numbers of members, each at least 1, such as 2,4,8")
    return sizes


def _weights(text: str) -> Weights:
    """Return the weights in a text such as "equal" or "1,2,1". Raise EnsembleError for anything else."""
    if text in ("equal", "likelihood"):
        return text
    try:
        return [float(weight) for weight in text.split(",")]
    except ValueError:
        raise EnsembleError(f"--weights={text}: write equal, likelihood, or one number for each member") from None


if __name__ == "__main__":
    sys.exit(main())
