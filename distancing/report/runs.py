"""Find runs and read their files. Damaged files are reported, and do not keep the others from being read."""

import glob
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from distancing.errors import ReportError, StorageError, SweepError
from distancing.runs import Listed, RunDirectory, SweepDirectory, find_sweep
from distancing.runs.files import Json
from distancing.runs.flat import Leaf, flat, typed

State = Literal["finished", "diverged", "failed", "damaged", "unfinished", "missing"]
STATES: tuple[State, ...] = get_args(State)
FILES = (".hydra/config.yaml", "result.json", "metrics.csv")  # a directory with one of these files is that of a run


@dataclass(eq=False)
class Run:
    """A run as its files describe it.

    state: `failed` has an error.txt and no result, `damaged` a file that can't be read; `unfinished` is running,
        waiting or was stopped; `missing` is in a sweep's list and has no files yet.
    overrides: as typed. typed: the same as setting → value.
    name: the path as users know it, also within a packed file, whose runs have a `path` in a temporary folder.
    config: the resolved settings, {} if there is no config.
    result: result.json, {} if there is none.
    """

    path: Path
    state: State
    overrides: tuple[str, ...]
    name: str
    config: dict[str, Leaf] = field(default_factory=dict)
    result: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.typed = dict(map(typed, self.overrides))

    @property
    def seed(self) -> int | None:
        """The seed; None if it is not a whole number."""
        seed = self.config.get("seed", self.typed.get("seed", "0"))
        try:
            return int(str(seed))
        except ValueError:
            return None


def collect(sources: Iterable[str] | Mapping[str, str]) -> tuple[list[Run], list[str]]:
    """Read the runs of these sources, each run once. Return them, and a line for each damaged file.

    sources: directories of runs and of sweeps, names of sweeps, folders of runs, and globs of all these. A mapping, as
    from `pack.unpacked`, has the name of each source, which is shown, and where it can be read.

    Raise ReportError for a source without runs.
    """
    runs: dict[Path, Run] = {}
    damage: list[str] = []
    for name, source in (sources if isinstance(sources, Mapping) else {source: source for source in sources}).items():
        own_damage: list[str] = []
        for listed in _find(source, name, own_damage):
            path = listed.path.resolve()
            if path not in runs:
                runs[path] = read(listed, str(listed.path).replace(source, name), own_damage)
        damage += [line.replace(source, name) for line in own_damage]
    return list(runs.values()), damage


def _find(source: str, name: str, damage: list[str]) -> list[Listed]:
    matches = sorted(glob.glob(source)) if glob.has_magic(source) and not Path(source).exists() else [source]
    if runs := [run for match in matches for run in _runs_in(match, damage)]:
        return runs
    reason = "is not a run, a sweep, or a folder of runs" if matches else "matches nothing"
    try:
        find_sweep(source)
        reason = "is a sweep without runs"
    except SweepError as error:
        reason += str(error).partition("of a sweep")[2]  # the names of the sweeps that exist
    raise ReportError(f"{name} {reason}")


def _runs_in(source: str, damage: list[str]) -> Sequence[Listed]:
    path = Path(source)
    if _is_run(path):
        return [Listed(path, (), 0)]
    try:
        return _runs_of(find_sweep(source), damage)
    except SweepError:
        folders = sorted(path.iterdir()) if path.is_dir() else []
        return [Listed(folder, (), 0) for folder in folders if _is_run(folder)]


def _runs_of(sweep: SweepDirectory, damage: list[str]) -> Sequence[Listed]:
    runs, file = sweep.runs(strict=False), sweep.path / "runs.jsonl"
    lines = sum(bool(line.strip()) for line in file.read_bytes().splitlines())
    if lines > len(runs):
        damage.append(f"{file}: {lines - len(runs)} of {lines} lines can't be read")
    return runs


def _is_run(path: Path) -> bool:
    return any((path / file).exists() for file in FILES)


def read(listed: Listed, name: str, damage: list[str]) -> Run:
    """Return the run in this directory. Add a line to `damage` for each file that can't be read."""
    directory, damage_before = RunDirectory(listed.path), len(damage)
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
    if len(damage) > damage_before:
        state = "damaged"
    elif result:
        state = result["status"]
    elif directory.error.exists():
        state = "failed"
    else:
        state = "unfinished" if _is_run(listed.path) else "missing"
    typed_overrides = listed.overrides if overrides is None else tuple(map(str, overrides))
    return Run(listed.path, state, typed_overrides, name, flat(config or {}), result or {})


def _yaml(path: Path, expected: type, damage: list[str]) -> Any:
    """Return the content of a file; None if it is missing or damaged."""
    try:
        content = yaml.load(path.read_bytes(), yaml.CSafeLoader)
        if not isinstance(content, expected):
            raise yaml.YAMLError(f"not a {expected.__name__}")
        return content
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, OSError, ValueError) as error:
        damage.append(f"{path} is damaged ({' '.join(str(error).split())[:80]})")
        return None


def versions(runs: Iterable[Run]) -> list[str]:
    """Return the versions of the code, as hashes of the source, that made these runs."""
    return sorted({json.dumps(run.result["source"]) for run in runs if run.result.get("source")})
