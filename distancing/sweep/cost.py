"""Estimate the cost of a sweep from finished runs of the same networks, data and settings."""

import heapq
import io
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import PositiveInt
from rich.console import Console
from rich.table import Table

from distancing.component import component
from distancing.errors import StorageError
from distancing.runs import RunDirectory
from distancing.runs.flat import Leaf, flat

Config = Mapping[str, Leaf]  # setting → value
Workload = tuple[tuple[str, Leaf], ...]  # the settings that the time of an epoch depends on
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
RECENT = 500  # runs, which take 1 s to read
NOT_TIMED = ("dataset.root", "dataset.download", "dataset.seed", "dataset.bootstrap_seed", "dataset.fold")


@component
class Devices:
    """The launcher that starts nothing: it prints the estimated cost of the sweep.

    at_a_time (runs): the number of runs that would train at the same time.
    """

    at_a_time: PositiveInt = 1


@dataclass(frozen=True)
class Measured:
    """The measured cost of a workload on one device, as medians over finished runs.

    runs: the number of these runs. seconds: the time of an epoch, evaluations included. disk: the size of the run's
        directory in bytes. memory: the peak in bytes, or None if it was not measured.
    """

    runs: int
    seconds: float
    disk: float
    memory: float | None


def workload(config: Config) -> Workload:
    """Return the settings of a run that the time of its epochs depends on."""
    return tuple(sorted((k, v) for k, v in config.items() if k.startswith(TIMED) and k not in NOT_TIMED))


def frozen_tree(run: Path) -> dict[str, Any]:
    """Return the resolved config of a frozen run; {} if it can't be read."""
    try:
        tree = yaml.load(RunDirectory(run).config.read_bytes(), yaml.CSafeLoader)
    except (OSError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


def frozen_config(run: Path) -> Config:
    """Return the settings of a frozen run by their dotted names; {} if they can't be read."""
    return flat(frozen_tree(run))


def measured(folder: Path) -> dict[str, dict[Workload, Measured]]:
    """Return device → workload → the cost of the finished ones among the RECENT newest runs in the folder.

    Skip files that can't be read.
    """
    samples: dict[tuple[str, Workload], list[tuple[float, float, float | None]]] = defaultdict(list)
    for run in _recent(folder):
        try:
            result = RunDirectory(run).read_result()
            config = frozen_config(run) if result else {}
            # a file that another process replaces meanwhile can't be read either
            disk = sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) if config else 0
        except (StorageError, OSError):
            continue
        if config and result and result.get("status") == "finished" and result["epochs"]:
            sample = (result["seconds"] / result["epochs"], float(disk), result.get("peak_memory"))
            samples[str(result["device"]), workload(config)].append(sample)
    devices: dict[str, dict[Workload, Measured]] = defaultdict(dict)
    for (device, load), runs in samples.items():
        seconds, disks, memories = zip(*runs, strict=True)
        memory = [peak for peak in memories if peak is not None]
        devices[device][load] = Measured(
            len(runs),
            statistics.median(seconds),
            statistics.median(disks),
            statistics.median(memory) if memory else None,
        )
    return devices


def _recent(folder: Path) -> list[Path]:
    """Return the RECENT newest directories in the folder, sorted by name."""
    if not folder.is_dir():
        return []
    directories = [entry for entry in os.scandir(folder) if entry.is_dir()]
    newest = heapq.nlargest(RECENT, directories, key=lambda entry: entry.stat().st_mtime)
    return sorted(Path(entry.path) for entry in newest)


def estimate(planned: Sequence[Config], folder: Path, at_a_time: int = 1) -> str:
    """Return a table for each device on which finished runs in the folder have measured a planned workload.

    Total hours are divided by `at_a_time`, the number of runs that train at the same time.
    """
    epochs: dict[Workload, list[int]] = defaultdict(list)
    for config in planned:
        epochs[workload(config)].append(int(config["epochs"] or 0))
    names = _names(epochs)
    tables: list[Table] = []
    for device, known in measured(folder).items():
        if any(load in known for load in epochs):
            tables.append(_device_table(device, known, epochs, names, at_a_time))
    if not tables:
        which = f" ({'; '.join(list(names.values())[:3])}{'; …' if len(names) > 3 else ''})" if len(names) > 1 else ""
        return (
            f"the cost of {len(planned)} runs{which} is unknown, because no finished run in {folder} is like them: "
            "train one with few epochs first"
        )
    console = Console(highlight=False, width=200, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(*tables)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _device_table(
    device: str,
    known: Mapping[Workload, Measured],
    epochs: Mapping[Workload, list[int]],
    names: Mapping[Workload, str],
    parallel: int,
) -> Table:
    rows = Table(title=f"cost on {device}", title_justify="left", box=None, pad_edge=False)
    for column in ("", "runs", "epochs", "s/epoch", "measured", "hours", "GB on disk", "GB of memory"):
        rows.add_column(column, justify="right" if column else "left", no_wrap=bool(column))
    hours = disk = 0.0
    counts, unknown = 0, 0
    for load, runs in epochs.items():
        start = [names[load], str(len(runs)), str(sum(runs))]
        if not (cost := known.get(load)):
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


def _names(workloads: Iterable[Workload]) -> dict[Workload, str]:
    """Return a name for each workload, made of the settings in which the workloads differ."""
    settings = {load: load if "penalty._target_" in dict(load) else (*load, ("penalty", "none")) for load in workloads}
    common = set.intersection(*map(set, settings.values())) if settings else set()
    plain = "each" if len(settings) == 1 else "the others"
    return {
        load: " ".join(_name(*setting) for setting in own if setting not in common) or plain
        for load, own in settings.items()
    }


def _name(key: str, value: Leaf) -> str:
    """Return a setting as it is typed, or only the name of a class."""
    return str(value).rpartition(".")[2] if key.endswith("_target_") else f"{key}={value}"
