"""A sweep on disk: the list of its runs, how they are launched, and what the launchers leave."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from distancing.errors import SweepError
from distancing.runs.files import write


@dataclass(frozen=True)
class Listed:
    """A run of a sweep. path: its directory; overrides: what makes it this one; epochs: of the whole run."""

    path: Path
    overrides: tuple[str, ...]
    epochs: int


class SweepDirectory:
    """The files of one sweep.

    runs.jsonl       a line for each run: its directory (as seen from here), overrides, epochs
    launcher.json    where its runs were started last, for `retry`
    jobs/            Slurm's output of each job, and what submitit keeps of it
    code/            the code that jobs run, if they run a copy
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.jobs, self.code = self.path / "jobs", self.path / "code"
        self._list, self._launcher = self.path / "runs.jsonl", self.path / "launcher.json"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def lock(self) -> filelock.BaseFileLock:
        """Held while runs are looked at and started, so that nobody starts them twice."""
        self.path.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.path.parent / ".lock")

    def add(self, runs: Iterable[Listed]) -> None:
        """Add to the list what isn't in it."""
        known = {run.path.resolve(): run for run in self.runs()}
        for run in runs:
            known[run.path.resolve()] = run
        lines = [
            json.dumps({"run": os.path.relpath(path, self.path), "overrides": list(run.overrides),
                        "epochs": run.epochs})
            for path, run in known.items()
        ]  # fmt: skip
        write(self._list, "".join(f"{line}\n" for line in lines).encode())

    def runs(self, strict: bool = True) -> list[Listed]:
        """The list. Raises SweepError for a line that can't be read, or that leads away from here: the runs lie in the
        folder that sweeps/NAME lies in, or else in the current one. strict: off for what tells of damage itself."""
        found, homes = [], (self.path.resolve().parent.parent, Path.cwd())
        lines = self._list.read_bytes().splitlines() if self._list.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                path = Path(os.path.normpath(self.path / entry["run"]))
                if not any(path.resolve().is_relative_to(home) for home in homes):
                    raise ValueError(f"{path} is not in {homes[0]}")
                found.append(Listed(path, tuple(map(str, entry["overrides"])), int(entry["epochs"])))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                if strict:
                    said = str(error) or repr(error)
                    raise SweepError(f"{self._list}, line {number}, can't be read: {said}") from error
        return found

    def check_trust(self) -> None:
        """Raises SweepError if others could have written what is executed from here: shell lines in launcher.json, and
        submitit's pickles in jobs/."""
        for path, forbidden in ((self.path, 0o002), (self._launcher, 0o002), (self.jobs, 0o022)):
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue
            if facts.st_uid != os.getuid():
                raise SweepError(f"{path} belongs to another user, who would say what runs as you")
            if facts.st_mode & forbidden:
                raise SweepError(f"{path} can be written by others, who would say what runs as you: chmod go-w {path}")

    def make_jobs(self) -> Path:
        """jobs/, in which nobody else may write. Raises SweepError if others may."""
        self.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.check_trust()
        return self.jobs

    def write_launcher(self, kind: str, settings: dict[str, Any]) -> None:
        write(self._launcher, json.dumps({"kind": kind, "settings": settings}, indent=2).encode())

    def read_launcher(self) -> tuple[str, dict[str, Any]]:
        """Raises SweepError if there is none, or none that can be read."""
        try:
            found = json.loads(self._launcher.read_text())
            return str(found["kind"]), dict(found["settings"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SweepError(f"{self._launcher} does not say where the runs were started: {error}") from error


def find_sweep(what: str) -> SweepDirectory:
    """The sweep in the directory `what`, or of that name in runs/sweeps. Raises SweepError."""
    for path in (Path(what), Path("runs/sweeps") / what):
        if (path / "runs.jsonl").exists():
            return SweepDirectory(path)
    there = sorted(path.parent.name for path in Path("runs/sweeps").glob("*/runs.jsonl"))
    hint = f"; in runs/sweeps: {', '.join(there)}" if there else ""
    raise SweepError(f"{what} is not the directory of a sweep{hint}")
