"""`python -m distancing.sweep status|cost|retry|cancel|logs`: looking after a sweep."""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from distancing import crash
from distancing.errors import SweepError, refuse
from distancing.runs import Listed, RunDirectory, SweepDirectory, find_sweep
from distancing.sweep import cost, slurm
from distancing.sweep.status import ACTIVE, ENDED, State, Status, status

STYLES: dict[State, str] = {
    "finished": "green", "running": "cyan", "queued": "blue", "waiting": "dim", "stopped": "yellow",
    "cancelled": "yellow", "diverged": "magenta", "failed": "red", "killed": "red",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m distancing.sweep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = argparse.ArgumentParser(add_help=False)
    sweep.add_argument("sweep", metavar="SWEEP", help="its directory, or its name in runs/sweeps")
    look = commands.add_parser("status", parents=[sweep], help="where its runs are")
    look.add_argument("--watch", nargs="?", const=5.0, type=float, metavar="SECONDS", help="again and again")
    price = commands.add_parser("cost", parents=[sweep], help="hours, disk and memory, as finished runs had them")
    price.add_argument("--at-a-time", type=int, default=1, metavar="N", help="devices that its runs have")
    commands.add_parser("retry", parents=[sweep], help="start what failed, was killed or stopped, or never started")
    commands.add_parser("cancel", parents=[sweep], help="stop what waits or runs; its saved states are kept")
    logs = commands.add_parser("logs", help="what a run said")
    logs.add_argument("run", metavar="RUN", help="its directory, or its hash")
    args = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1000)  # no line broken in a pipe
    try:
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
    except (SweepError, OSError) as error:
        return refuse(str(error))
    except KeyboardInterrupt:
        return 130
    return 0


def statuses(sweep: SweepDirectory) -> dict[Listed, Status]:
    """Of each of the sweep's runs; Slurm is asked once."""
    runs = sweep.runs()
    queue = slurm.queue(run.path for run in runs)
    found = {run: status(run, queue) for run in runs}
    gone = {
        run: RunDirectory(run.path).read_json("job.json").get("job")
        for run, each in found.items()
        if each.state in ("failed", "killed")
    }
    ended = slurm.ended([job for job in gone.values() if job])
    return {run: status(run, queue, ended) if run in gone else found[run] for run in runs}


def _show(sweep: SweepDirectory, every: float | None, console: Console) -> None:
    if every is None:
        console.print(table(sweep, statuses(sweep)))
        return
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            try:
                found = statuses(sweep)
                live.update(table(sweep, found), refresh=True)
                if not any(each.state in (*ACTIVE, "waiting") for each in found.values()):
                    return
            except SweepError as error:  # a controller that is restarted, say: the table stays as it was
                live.console.print(str(error), markup=False)
            time.sleep(every)


def _cost(sweep: SweepDirectory, at_a_time: int) -> str:
    """Raises SweepError if no run is frozen yet."""
    runs = sweep.runs()
    planned = cost.configs(sweep)
    if not planned or at_a_time < 1:
        raise SweepError(f"{sweep.path}: none of its runs is frozen yet" if not planned else
                         f"--at-a-time={at_a_time} is below 1")  # fmt: skip
    found = cost.said(planned, runs[0].path.parent, at_a_time)
    waiting = len(runs) - len(planned)
    return f"{found}\nand {waiting} runs that are not frozen yet" if waiting else found


def table(sweep: SweepDirectory, found: dict[Listed, Status]) -> RenderableType:
    """A row for each run: what makes it this one, and where it is."""
    common = set.intersection(*(set(run.overrides) for run in found)) if found else set()
    rows = Table(box=None, pad_edge=False)
    for column, justify in (("run", "left"), ("hash", "left"), ("state", "left"), ("epoch", "right"), ("left", "right"),
                            ("test acc.", "right"), ("", "left")):  # fmt: skip
        rows.add_column(column, justify=justify, no_wrap=column != "")  # type: ignore[arg-type]  # a literal
    for run, each in found.items():
        rows.add_row(
            Text(" ".join(o for o in run.overrides if o not in common) or "the only one"),
            run.path.name.rpartition("-")[2],
            Text(each.state, STYLES[each.state]),
            f"{each.epoch}/{run.epochs}",
            _duration(each.seconds_left),
            "" if each.test_accuracy is None else f"{each.test_accuracy:.2%}",
            Text(each.note),
        )
    counts = Counter(each.state for each in found.values())
    said = ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])
    return Group(Text(f"{sweep.path}: {len(found)} runs: {said}", "bold"), rows, *_deaths(found))


def _deaths(found: dict[Listed, Status]) -> Iterator[RenderableType]:
    """The last lines of the logs of runs whose processes died, and settings to try."""
    for run, each in found.items():
        if each.log:
            yield Text(f"the log of {run.path.name} ends with")
            yield from (Text(f"  {line}") for line in each.log)
    yield from map(Text, dict.fromkeys(each.advice for each in found.values() if each.advice))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def retry(sweep: SweepDirectory, console: Console) -> None:
    """Start again, in the way of the sweep's last start, all runs that neither end nor wait nor run."""
    from distancing.config import construct
    from distancing.errors import ConfigError
    from distancing.sweep.launch import KINDS, start

    sweep.check_trust()
    kind, settings = sweep.read_launcher()
    settings.pop("threads", None)  # of an older version's local launcher; each run has its own now
    try:
        place = construct(KINDS[kind], settings, "launcher")
    except (ConfigError, KeyError) as error:
        raise SweepError(f"{sweep.path}/launcher.json: {error}") from error
    place.check()
    with sweep.lock():
        todo = [run.path for run, each in statuses(sweep).items() if each.state not in (*ACTIVE, *ENDED)]
        console.print(f"{len(todo)} to start", markup=False)
        said = start(todo, sweep, place)
    for line in said:
        console.print(line, markup=False)


def cancel(sweep: SweepDirectory, console: Console) -> None:
    """Stop what waits or runs in Slurm."""
    jobs = []
    for run, each in statuses(sweep).items():
        directory = RunDirectory(run.path)
        job = directory.read_json("job.json")
        if each.state in ACTIVE and job.get("launcher") == "slurm":
            jobs.append(str(job["job"]))
            directory.write_json("job.json", {**job, "cancelled": True})
    slurm.cancel(jobs)
    console.print(f"{len(jobs)} cancelled", markup=False)


def _logs(run: str) -> str:
    """Raises SweepError if there is no such run, or none of its output."""
    paths = [Path(run), *Path("runs").glob(f"*-{run}")] if "/" not in run else [Path(run)]
    path = next((path for path in paths if path.is_dir()), None)
    if path is None:
        raise SweepError(f"{run} is neither the directory of a run nor the hash of one in runs/")
    log = RunDirectory(path).read_json("job.json").get("log")
    if not log:
        raise SweepError(f"{path} was not started by a launcher")
    if not (path / log).is_file():
        raise SweepError(f"{path}: its job has not said anything yet")
    return (path / log).read_text(errors="replace")


if __name__ == "__main__":
    crash.trace()
    sys.exit(main())
