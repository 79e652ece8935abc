"""What a sweep will cost, from what finished runs of the same networks have cost."""

import io
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import PositiveInt
from rich.console import Console
from rich.table import Table

from distancing.component import component
from distancing.errors import StorageError
from distancing.flat import Leaf, flat
from distancing.runs import RunDirectory, SweepDirectory

Config = Mapping[str, Leaf]  # setting → value
Kind = tuple[tuple[str, Leaf], ...]  # the settings that an epoch's time depends on
TIMED = (
    "model.",
    "dataset.",
    "batch_size",
    "precision",
    "channels_last",
    "compile",
    "penalty.distance.",
    "penalty._target_",
)
NOT_TIMED = ("dataset.root", "dataset.download", "dataset.seed", "dataset.bootstrap_seed", "dataset.fold")


@component
class Devices:
    """at_a_time: how many runs have one at the same time."""

    at_a_time: PositiveInt = 1


@dataclass(frozen=True)
class Measured:
    """Of one kind of run on one device, medians over so many runs: seconds of an epoch, evaluations and all; bytes on
    disk; bytes of memory at the most, None where that was not measured."""

    runs: int
    seconds: float
    disk: float
    memory: float | None


def kind(config: Config) -> Kind:
    return tuple(sorted((k, v) for k, v in config.items() if k.startswith(TIMED) and k not in NOT_TIMED))


def configs(sweep: SweepDirectory) -> list[Config]:
    """Of those of the sweep's runs that are frozen."""
    return [config for run in sweep.runs() if (config := _config(run.path))]


def _config(run: Path) -> Config | None:
    try:
        tree = yaml.load(RunDirectory(run).config.read_bytes(), yaml.CSafeLoader)
    except (OSError, yaml.YAMLError):
        return None
    return flat(tree) if isinstance(tree, dict) else None


def measured(folder: Path) -> dict[str, dict[Kind, Measured]]:
    """Device → kind → what finished runs in the folder have taken. Files that can't be read are passed over."""
    found: dict[tuple[str, Kind], list[tuple[float, float, float | None]]] = defaultdict(list)
    for path in sorted(folder.glob("*/result.json")):
        try:
            result, config = RunDirectory(path.parent).read_result(), _config(path.parent)
        except (StorageError, OSError):
            continue
        if config and result and result.get("status") == "finished" and result["epochs"]:
            disk = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
            each = (result["seconds"] / result["epochs"], float(disk), result.get("peak_memory"))
            found[str(result["device"]), kind(config)].append(each)
    devices: dict[str, dict[Kind, Measured]] = defaultdict(dict)
    for (device, of), runs in found.items():
        seconds, disks, memories = zip(*runs, strict=True)
        memory = [each for each in memories if each is not None]
        devices[device][of] = Measured(
            len(runs),
            statistics.median(seconds),
            statistics.median(disks),
            statistics.median(memory) if memory else None,
        )
    return devices


def said(planned: Sequence[Config], folder: Path, at_a_time: int = 1) -> str:
    """A table for each device on which some of it was measured, by finished runs in the folder: hours of one device, or
    with so many at a time."""
    epochs: dict[Kind, list[int]] = defaultdict(list)
    for config in planned:
        epochs[kind(config)].append(int(config["epochs"] or 0))
    names = _names(epochs)
    tables: list[Table] = []
    for device, known in measured(folder).items():
        if any(each in known for each in epochs):
            tables.append(_of_device(device, known, epochs, names, at_a_time))
    if not tables:
        which = f" ({'; '.join(list(names.values())[:3])}{'; …' if len(names) > 3 else ''})" if len(names) > 1 else ""
        return f"nothing in {folder} says what {len(planned)} runs will cost{which}: a run with epochs=2 would"
    console = Console(highlight=False, width=200, file=io.StringIO(), color_system=None)
    with console.capture() as shown:
        console.print(*tables)
    return "\n".join(line.rstrip() for line in shown.get().splitlines())


def _of_device(
    device: str,
    known: Mapping[Kind, Measured],
    epochs: Mapping[Kind, list[int]],
    names: Mapping[Kind, str],
    parallel: int,
) -> Table:
    rows = Table(title=f"cost on {device}", title_justify="left", box=None, pad_edge=False)
    for column in ("", "runs", "epochs", "s/epoch", "measured", "hours", "GB on disk", "GB of memory"):
        rows.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    hours = disk = 0.0
    counts, unknown = 0, 0
    for each, runs in epochs.items():
        start = [names[each], str(len(runs)), str(sum(runs))]
        if not (cost := known.get(each)):
            rows.add_row(*start, "?", "no run")
            unknown += len(runs)
            continue
        h, d = cost.seconds * sum(runs) / 3600, cost.disk * len(runs) / 1e9
        rows.add_row(*start, f"{cost.seconds:.3g}", f"{cost.runs} runs", f"{h:.2f}", f"{d:.2f}",
                     "?" if cost.memory is None else f"{cost.memory / 1e9:.2f}")  # fmt: skip
        hours, disk, counts = hours + h, disk + d, counts + len(runs)
    label = f"all{f' but {unknown}' if unknown else ''}" + (f", {parallel} at a time" if parallel > 1 else "")
    rows.add_row(label, str(counts), "", "", "", f"{hours / parallel:.2f}", f"{disk:.2f}", "", style="bold")
    return rows


def _names(kinds: Iterable[Kind]) -> dict[Kind, str]:
    """By the settings in which they differ: their last names, and of a class its own."""
    found = list(kinds)
    common = set.intersection(*(set(each) for each in found)) if found else set()
    return {each: " ".join(_name(k, v) for k, v in each if (k, v) not in common) or "each" for each in found}


def _name(key: str, value: Leaf) -> str:
    name = key.rpartition(".")[2]
    return str(value).rpartition(".")[2] if name == "_target_" else f"{name}={value}"
