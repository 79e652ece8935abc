"""`python -m distancing.ensemble RUN…`: are these networks worth more together? `--compare`: which kind is?"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from distancing import threads
from distancing.command import command
from distancing.ensemble import compare, show, side_by_side
from distancing.ensemble.judge import Weights, judge
from distancing.errors import EnsembleError
from distancing.runs import find_sweep
from distancing.stored import find_checkpoints


@command
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distancing.ensemble", description=__doc__)
    parser.add_argument("what", nargs="+", metavar="RUN", help="directories of runs and sweeps, files of checkpoints")
    parser.add_argument(
        "--weights", default="equal", help="equal (default), likelihood (of the validation part), or 1,2,…"
    )
    parser.add_argument("--refresh-batch-norm", action="store_true", help="compute each member's statistics anew")
    parser.add_argument("--compare", action="store_true", help="the kinds of ensembles in a sweep, side by side")
    parser.add_argument("--members", metavar="K[,K]", default="", help="with --compare: the first so many of each")
    parser.add_argument("--baseline", metavar="KIND", help="with --compare: a part of a kind's name, to compare with")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="with --compare: its numbers, which it reads again")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="with --compare: the table")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="a PNG: growth and matrices; or curves of each kind"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    args = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)
    threads.use()
    device = torch.device(args.device)
    if args.compare:
        numbers: Any = _side_by_side(args, device)
        console.print(side_by_side.table(numbers, args.baseline))
        if args.csv:
            side_by_side.write_csv(numbers, args.csv)
        if args.markdown:
            args.markdown.write_text(side_by_side.markdown(numbers, args.baseline), encoding="utf-8")
        if args.picture:
            side_by_side.write_picture(numbers, args.picture)
    else:
        found = judge(find_checkpoints(args.what), device, _weights(args.weights), args.refresh_batch_norm)
        console.print(show.table(found))
        if args.picture:
            show.write_picture(found, args.picture)
        numbers = found
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=2) + "\n")
    return 0


def _side_by_side(args: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Of CSV files as they are, and of sweeps."""
    files = [Path(each) for each in args.what if each.endswith(".csv")]
    sizes = _sizes(args.members)
    found = [row for file in files for row in side_by_side.read_csv(file) if not sizes or row["members"] in sizes]
    runs = [run for each in args.what if not each.endswith(".csv") for run in find_sweep(each).runs()]
    if runs:
        found += compare.compare(compare.ensembles(runs, sizes), device, _weights(args.weights))
    if not found:
        raise EnsembleError(f"there are no ensembles to compare in {', '.join(args.what)}")
    return found


def _sizes(text: str) -> list[int]:
    """Raises EnsembleError."""
    try:
        sizes = [int(each) for each in text.split(",") if text]
    except ValueError:
        sizes = [0]
    if any(size < 1 for size in sizes):
        raise EnsembleError(f"--members={text}: numbers of members, 1 or more, such as 2,4,8")
    return sizes


def _weights(text: str) -> Weights:
    """Raises EnsembleError."""
    if text in ("equal", "likelihood"):
        return text
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise EnsembleError(f"--weights={text}: equal, likelihood, or one number for each member") from None


if __name__ == "__main__":
    sys.exit(main())
