"""The directory of a sweep: the list of its runs, the launcher's settings, and the files of its jobs."""

import json
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import filelock

from distancing.errors import SweepError
from distancing.runs.files import Json, write


@dataclass(frozen=True)
class Listed:
    """A run in a sweep's list.

    path: its directory.
    overrides: its settings as typed.
    epochs: the length of the whole run.
    """

    path: Path
    overrides: tuple[str, ...]
    epochs: int


class SweepDirectory:
    """The files of one sweep.

    runs.jsonl       a line for each run: its directory (relative to the sweep's), overrides, epochs
    launcher.json    the launcher that started the runs last, for `retry`
    jobs/            Slurm's output of each job, and submitit's files
    code/            the copy of the code that jobs run, if they run a copy
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.jobs, self.code = self.path / "jobs", self.path / "code"
        self._list, self._launcher = self.path / "runs.jsonl", self.path / "launcher.json"

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def lock(self) -> filelock.BaseFileLock:
        """Return the lock to hold while runs are checked and started, so that none is started twice."""
        self.path.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.path.parent / ".lock")

    def check_folder(self, runs: Iterable[Listed]) -> None:
        """Raise SweepError for the first run in a folder that the list may not name."""
        for run in runs:
            if not self._may_list(run.path):
                raise SweepError(
                    f"hydra.sweep.dir={self.path}: the list of this sweep can't name runs in {run.path.parent}: take "
                    f"{run.path.parent}/sweeps/{self.name}"
                )

    def _may_list(self, run: Path) -> bool:
        """Return whether a run is in the folder that contains sweeps/NAME, or in the current folder."""
        return any(run.resolve().is_relative_to(home) for home in (self.path.resolve().parent.parent, Path.cwd()))

    def add(self, runs: Iterable[Listed]) -> None:
        """Add runs to the list, or replace those with the same directory."""
        known = {run.path.resolve(): run for run in self.runs()}
        for run in runs:
            known[run.path.resolve()] = run
        home = self.path.resolve()
        entries = [
            {"run": os.path.relpath(path, home), "overrides": list(run.overrides), "epochs": run.epochs}
            for path, run in known.items()
        ]
        write(self._list, "".join(f"{json.dumps(entry)}\n" for entry in entries).encode())

    def runs(self, strict: bool = True) -> list[Listed]:
        """Return the runs in the list.

        Raise SweepError for a damaged line, and for a run outside both the folder that contains sweeps/NAME and the
        current folder. strict=False skips such lines.
        """
        runs = []
        lines = self._list.read_bytes().splitlines() if self._list.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                path = Path(os.path.normpath(self.path / entry["run"]))
                if not self._may_list(path):
                    raise ValueError(f"{path} is not in {self.path.resolve().parent.parent}")
                runs.append(Listed(path, tuple(map(str, entry["overrides"])), int(entry["epochs"])))
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
                if strict:
                    reason = str(error) or repr(error)
                    raise SweepError(f"{self._list}, line {number}, can't be read: {reason}") from error
        return runs

    def check_trust(self) -> None:
        """Raise SweepError if another user could have written the files that are executed from here.

        These are the shell lines in launcher.json and submitit's pickles in jobs/.
        """
        for path, forbidden in ((self.path, 0o002), (self._launcher, 0o002), (self.jobs, 0o022)):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if stat.st_uid != os.getuid():
                raise SweepError(f"{path} belongs to another user, who could run commands as you")
            if stat.st_mode & forbidden:
                mend = f"chmod go-w {shlex.quote(str(path))}"
                raise SweepError(f"{path} can be written by others, who could run commands as you: {mend}")

    def make_jobs(self) -> Path:
        """Create jobs/, writable for this user alone, and return it. Raise SweepError if others can write to it."""
        self.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.check_trust()
        return self.jobs

    def write_launcher(self, kind: str, settings: Json) -> None:
        """Write the launcher's kind and settings."""
        write(self._launcher, json.dumps({"kind": kind, "settings": settings}, indent=2).encode())

    def read_launcher(self) -> tuple[str, Json]:
        """Return the launcher's kind and settings. Raise SweepError if the file is missing or damaged."""
        try:
            launcher = json.loads(self._launcher.read_text())
            return str(launcher["kind"]), dict(launcher["settings"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SweepError(f"{self._launcher}, which names the launcher, can't be read: {error}") from error


def find_sweep(sweep: str) -> SweepDirectory:
    """Return the sweep with this directory, or with this name in runs/sweeps. Raise SweepError if there is none."""
    for path in (Path(sweep), Path("runs/sweeps") / sweep):
        if (path / "runs.jsonl").exists():
            return SweepDirectory(path)
    names = sorted(path.parent.name for path in Path("runs/sweeps").glob("*/runs.jsonl"))
    hint = f"; runs/sweeps has {', '.join(names)}" if names else ""
    raise SweepError(f"{sweep} is not the directory of a sweep{hint}")
