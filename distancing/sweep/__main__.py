"""`distancing sweep status|cost|retry|cancel|logs`: watch and control the runs of a sweep."""

import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from distancing.errors import SweepError
from distancing.process.command import ArgumentParser, command
from distancing.runs import Listed, RunDirectory, SweepDirectory, find_sweep
from distancing.sweep import cost, slurm
from distancing.sweep.status import ACTIVE, ENDED, State, Status, status

DAY = 86400.0  # seconds
IDLE = 30.0  # seconds without a running run after which none is expected
HEADER = ("run", "hash", "state", "epoch", "left", "test acc.", "")
TO_THE_RIGHT = ("epoch", "left", "test acc.")
STYLES: dict[State, str] = {
    "finished": "green", "running": "cyan", "queued": "blue", "waiting": "dim", "stopped": "yellow",
    "cancelled": "yellow", "diverged": "magenta", "failed": "red", "killed": "red",
}  # fmt: skip


def argument_parser() -> ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = ArgumentParser(prog="distancing sweep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = ArgumentParser(add_help=False)
    sweep.add_argument("sweep", metavar="SWEEP", help="its directory, or its name in runs/sweeps")
    show = commands.add_parser("status", parents=[sweep], help="show the state of each run")
    show.add_argument("--watch", nargs="?", const=5.0, type=float, metavar="SECONDS", help="refresh until none runs")
    estimate = commands.add_parser("cost", parents=[sweep], help="estimate the hours, disk and memory that are left")
    estimate.add_argument("--at-a-time", type=int, default=1, metavar="N", help="number of runs that train at a time")
    commands.add_parser("retry", parents=[sweep], help="start runs that failed, stopped or lack an analysis")
    commands.add_parser("cancel", parents=[sweep], help="stop queued and running Slurm jobs; saved states are kept")
    logs = commands.add_parser("logs", help="print the log of a run")
    logs.add_argument("run", metavar="RUN", help="its directory, or its hash")
    return parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    args = argument_parser().parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)  # no line broken in a pipe
    if args.command == "logs":
        print(_logs(args.run), end="")
    elif args.command == "status":
        _show(find_sweep(args.sweep), args.watch, console)
    elif args.command == "cost":
        print(_cost(find_sweep(args.sweep), args.at_a_time))
    elif args.command == "retry":
        retry(find_sweep(args.sweep), console)
    else:
        cancel(find_sweep(args.sweep), console)
    return 0


def statuses(sweep: SweepDirectory) -> dict[Listed, Status]:
    """Return the status of each run of the sweep. Slurm is queried once for all of them."""
    runs = sweep.runs()
    queue = slurm.queue(run.path for run in runs)
    status_by_run = {run: status(run, queue) for run in runs}
    dead_jobs = {
        run: RunDirectory(run.path).read_json("job.json").get("job")
        for run, run_status in status_by_run.items()
        if run_status.state in ("failed", "killed")
    }
    ended = slurm.ended([job for job in dead_jobs.values() if job])
    return {run: status(run, queue, ended) if run in dead_jobs else status_by_run[run] for run in runs}


def _show(sweep: SweepDirectory, interval: float | None, console: Console) -> None:
    """Print the table of runs, or refresh it every `interval` seconds until none runs or will be started."""
    if interval is None:
        console.print(table(sweep, statuses(sweep)))
        return
    if not 0 < interval <= DAY:
        raise SweepError(f"--watch={interval:g} is not above 0 and at most a day, {DAY:g} seconds")
    active = time.monotonic()  # when a run was last seen at work
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            try:
                status_by_run = statuses(sweep)
                live.update(table(sweep, status_by_run), refresh=True)
                if any(run_status.state in ACTIVE for run_status in status_by_run.values()):
                    active = time.monotonic()
                elif not _may_start(status_by_run) or time.monotonic() > active + IDLE:
                    return
            except SweepError as error:  # for example while Slurm's controller restarts: keep the last table
                live.console.print(str(error), markup=False)
            time.sleep(interval)


def _may_start(status_by_run: Mapping[Listed, Status]) -> bool:
    """Return True if a run may be started by Hydra's own launcher, which leaves no trace between two runs.

    The other launchers leave a job.json in each run; if such a run waits, its launcher was stopped.
    """
    waiting = (RunDirectory(run.path) for run, run_status in status_by_run.items() if run_status.state == "waiting")
    return any(not directory.read_json("job.json") for directory in waiting)


def _cost(sweep: SweepDirectory, at_a_time: int) -> str:
    """Return the estimated cost of what is left of the sweep. Raise SweepError if none of its runs is frozen yet."""
    if at_a_time < 1:
        raise SweepError(f"--at-a-time={at_a_time} is below 1")
    left = {run: run.epochs - state.epoch for run, state in statuses(sweep).items() if state.state not in ENDED}
    if not left:
        return f"{sweep.path}: all of its runs have ended"
    frozen = [{**config, "epochs": left[run]} for run in left if (config := cost.frozen_config(run.path))]
    if not frozen:
        raise SweepError(f"{sweep.path}: none of its runs is frozen yet")
    tables = cost.estimate(frozen, next(iter(left)).path.parent, at_a_time)
    unfrozen = len(left) - len(frozen)
    return f"{tables}\nand {unfrozen} runs that are not frozen yet" if unfrozen else tables


def table(sweep: SweepDirectory, status_by_run: dict[Listed, Status]) -> RenderableType:
    """Return a table with a row for each run: the overrides that distinguish it, and its status."""
    common = set.intersection(*(set(run.overrides) for run in status_by_run)) if status_by_run else set()
    cells = [
        (
            " ".join(override for override in run.overrides if override not in common) or "the only one",
            run.path.name.rpartition("-")[2],
            run_status.state,
            f"{run_status.epoch}/{run.epochs}",
            _duration(run_status.seconds_left),
            "" if run_status.test_accuracy is None else f"{run_status.test_accuracy:.2%}",
            run_status.note,
        )
        for run, run_status in status_by_run.items()
    ]
    rows = _aligned([HEADER, *cells], ["bold", *(STYLES[run_status.state] for run_status in status_by_run.values())])
    counts = Counter(run_status.state for run_status in status_by_run.values())
    summary = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
    return Group(Text(f"{sweep.path}: {len(status_by_run)} runs: {summary}", "bold"), rows, *_deaths(status_by_run))


def _aligned(rows: Sequence[Sequence[str]], styles: Sequence[str]) -> Text:
    """Return the rows as a table, twenty times as fast as rich's. styles: the style of the state in each row."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    text = Text()
    for row, style in zip(rows, styles, strict=True):
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        padded = [
            space + cell if name in TO_THE_RIGHT else cell + space
            for name, cell, space in zip(HEADER, row, spaces, strict=True)
        ]
        text.append("  ".join(padded[:2]) + "  ").append(padded[2], style)
        text.append(("  " + "  ".join(padded[3:])).rstrip() + "\n")
    text.right_crop()  # the last newline
    return text


def _deaths(status_by_run: dict[Listed, Status]) -> Iterator[RenderableType]:
    """Yield the last log lines of each run whose process died, then settings to try."""
    for run, run_status in status_by_run.items():
        if run_status.log:
            yield Text(f"the log of {run.path.name} ends with")
            yield from (Text(f"  {line}") for line in run_status.log)
    advice = (run_status.advice for run_status in status_by_run.values() if run_status.advice)
    yield from map(Text, dict.fromkeys(advice))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def retry(sweep: SweepDirectory, console: Console) -> None:
    """Start all runs that have not ended, or lack something at their end, with the sweep's last launcher.

    Those that are queued or running are left alone. Raise SweepError if launcher.json is damaged, or others can write
    to it.
    """
    from distancing.config.checks import construct
    from distancing.errors import ConfigError
    from distancing.sweep.launch import LAUNCHERS, start

    sweep.check_trust()
    name, settings = sweep.read_launcher()
    settings.pop("threads", None)  # of an older version's local launcher; each run has its own now
    try:
        launcher = construct(LAUNCHERS[name], settings, "launcher")
    except (ConfigError, KeyError) as error:
        raise SweepError(f"{sweep.path}/launcher.json: {error}") from error
    launcher.check()
    with sweep.lock():
        todo = [
            run.path
            for run, run_status in statuses(sweep).items()
            if run_status.incomplete or run_status.state not in (*ACTIVE, *ENDED)
        ]
        console.print(f"{len(todo)} to start", markup=False)
        messages = start(todo, sweep, launcher)
    for line in messages:
        console.print(line, markup=False)


def cancel(sweep: SweepDirectory, console: Console) -> None:
    """Cancel the sweep's queued and running Slurm jobs, and say how to stop runs that Slurm did not start."""
    jobs: dict[str, None] = {}
    others: list[RunDirectory] = []
    with sweep.lock():  # a launcher may still be submitting jobs
        for run, run_status in statuses(sweep).items():
            if run_status.state in ACTIVE:
                directory = RunDirectory(run.path)
                job = directory.read_json("job.json")
                if job.get("launcher") == "slurm":
                    jobs[str(job["job"])] = None
                    directory.write_json("job.json", {**job, "cancelled": True})
                else:
                    others.append(directory)
        slurm.cancel([*jobs])
    console.print(f"{len(jobs)} cancelled", markup=False)
    if others:
        owners = (run.read_json(".owner") for run in others if run.in_use)  # a dead one leaves its file
        here = [str(owner.get("pid")) for owner in owners if owner.get("host") == socket.gethostname()]
        gone = f"; if it is gone, kill {' '.join(here)}" if here else ""  # SIGTERM saves the state
        line = f"{len(others)} not started by Slurm: press Ctrl-C in the command that started them{gone}"
        console.print(line, markup=False)


def _logs(run: str) -> str:
    """Return the log of a run. Raise SweepError if there is no such run, or no log of it."""
    paths = [Path(run), *Path("runs").glob(f"*-{run}")] if "/" not in run else [Path(run)]
    path = next((path for path in paths if path.is_dir()), None)
    if path is None:
        raise SweepError(f"{run} is neither the directory of a run nor the hash of one in runs/")
    log = RunDirectory(path).read_json("job.json").get("log")
    if not log:
        raise SweepError(f"{path} was not started by a launcher")
    if not (path / log).is_file():
        raise SweepError(f"{path}: its job has not printed anything yet")
    return (path / log).read_text(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
