"""Which runs there are, and what their files say. A file that can't be read is named, and the others are read."""

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from distancing.errors import ReportError, StorageError, SweepError
from distancing.flat import Leaf, flat, typed
from distancing.runs import Listed, RunDirectory, SweepDirectory, find_sweep

State = Literal["finished", "diverged", "failed", "damaged", "unfinished", "missing"]
STATES: tuple[State, ...] = ("finished", "diverged", "failed", "damaged", "unfinished", "missing")
FILES = (".hydra/config.yaml", "result.json", "metrics.csv")  # one of them makes a directory a run's


@dataclass(eq=False)
class Run:
    """state: `failed` left an error.txt and no result, `damaged` has a file that can't be read, `unfinished` runs,
        waits or was stopped, `missing` is in a sweep's list and left nothing yet.
    overrides: as typed. typed: the same as setting → value. config: the resolved settings; empty if there are none.
    result: result.json; empty if there is none.
    """

    path: Path
    state: State
    overrides: tuple[str, ...]
    config: dict[str, Leaf] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.typed = dict(map(typed, self.overrides))

    @property
    def seed(self) -> int | None:
        seed = self.config.get("seed", self.typed.get("seed", "0"))
        try:
            return int(str(seed))
        except ValueError:
            return None


def collect(what: Iterable[str]) -> tuple[list[Run], list[str]]:
    """The runs that these directories of runs or sweeps, names of sweeps, folders of runs, and globs of them stand for,
    each once; and a line for each damaged file. Raises ReportError for one that stands for nothing."""
    found: dict[Path, Run] = {}
    damage: list[str] = []
    for each in what:
        for listed in _listed(each, damage):
            key = listed.path.resolve()
            if key not in found:
                found[key] = read(listed, damage)
    return list(found.values()), damage


def _listed(what: str, damage: list[str]) -> Iterator[Listed]:
    matches = sorted(glob.glob(what)) if glob.has_magic(what) and not Path(what).exists() else [what]
    some = False
    for match in matches:
        for run in _runs_in(match, damage):
            some = True
            yield run
    if not some:
        why = "matches nothing" if not matches else "is no run, sweep, or folder of runs"
        try:
            find_sweep(what)
            why = "is a sweep without runs"
        except SweepError as error:
            why += str(error).partition("sweep")[2]  # the sweeps that there are
        raise ReportError(f"{what} {why}")


def _runs_in(what: str, damage: list[str]) -> Iterator[Listed]:
    path = Path(what)
    if _is_run(path):
        yield Listed(path, (), 0)
        return
    try:
        sweep = find_sweep(what)
    except SweepError:
        if path.is_dir():
            yield from (Listed(each, (), 0) for each in sorted(path.iterdir()) if _is_run(each))
        return
    yield from _of_sweep(sweep, damage)


def _of_sweep(sweep: SweepDirectory, damage: list[str]) -> Sequence[Listed]:
    runs, file = sweep.runs(strict=False), sweep.path / "runs.jsonl"
    lines = sum(bool(line.strip()) for line in file.read_bytes().splitlines())
    if lines > len(runs):
        damage.append(f"{file}: {lines - len(runs)} of {lines} lines can't be read")
    return runs


def _is_run(path: Path) -> bool:
    return any((path / file).exists() for file in FILES)


def read(listed: Listed, damage: list[str]) -> Run:
    """What the directory's files say; each that can't be read adds a line to `damage`."""
    directory, said = RunDirectory(listed.path), len(damage)
    config = _yaml(directory.config, dict, damage)
    overrides = _yaml(directory.overrides, list, damage)
    try:
        result = directory.read_result()
        if result is not None and not (isinstance(result, dict) and result.get("status") in ("finished", "diverged")):
            raise StorageError(f"{listed.path}/result.json is damaged: it has no status")
    except (StorageError, OSError) as error:
        damage.append(str(error).removesuffix("; overwrite=true starts over"))
        result = None
    state: State
    if len(damage) > said:
        state = "damaged"
    elif result:
        state = result["status"]
    elif directory.error.exists():
        state = "failed"
    else:
        state = "unfinished" if _is_run(listed.path) else "missing"
    said_then = tuple(map(str, overrides)) if overrides is not None else listed.overrides
    return Run(listed.path, state, said_then, flat(config or {}), result or {})


def _yaml(path: Path, kind: type, damage: list[str]) -> Any:
    """None if there is no such file, or none that can be read."""
    try:
        found = yaml.load(path.read_bytes(), yaml.CSafeLoader)
        if not isinstance(found, kind):
            raise yaml.YAMLError(f"no {kind.__name__}")
        return found
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, OSError, ValueError) as error:
        damage.append(f"{path} is damaged ({' '.join(str(error).split())[:80]})")
        return None


def versions(runs: Iterable[Run]) -> list[str]:
    """The different codes (hashes of their source) that made these runs."""
    return sorted({json.dumps(run.result["source"]) for run in runs if run.result.get("source")})
