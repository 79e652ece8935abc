"""The number of threads that a run computes with, and how long they wait for each other.

Torch is imported late: its OpenMP library reads from the environment, when it is loaded, how threads wait.
"""

import math
import os
import re
import time
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

from distancing.process.cgroups import ROOT, cgroups, lines

SPIN = 1_000  # rounds for which a thread waits for the others before it sleeps
SMALL = 20e6  # operations of a forward pass of one batch below which a second thread gains nothing
WINDOW = 0.5  # the shortest time for which other processes are watched, in seconds


def bound_spin(environment: MutableMapping[str, str]) -> None:
    """Let a waiting thread sleep after SPIN rounds, unless the environment says how threads wait.

    GNU's OpenMP library, which comes with torch, waits 300 times as long, on a core that others may need.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = str(SPIN)


def use(number: int | None = None) -> int:
    """Let torch compute with this number of threads, by default with as many as are free. Return the number."""
    import torch

    number = number or auto()[0]
    torch.set_num_threads(number)
    return number


def auto(operations: Callable[[], float] = lambda: math.inf) -> tuple[int, str]:
    """Return how many threads to use, and why they are fewer than this process's share of the cores ("" if not).

    operations: returns the operations of a forward pass of one batch. It is only called if there are several cores.
    """
    most = share()
    if most == 1:
        return 1, ""
    if operations() < SMALL:
        return 1, f"a network this small is no faster with {most}"
    return beside_others(most, len(cores()), watch())


def beside_others(most: int, total: int, free: float) -> tuple[int, str]:
    """Return `most`, or the number of cores that other processes leave free, and the reason if that is fewer."""
    free = round(max(0, free))
    if free >= most:
        return most, ""
    taken = f"one of {total} cores is" if total - free == 1 else f"{total - free} of {total} cores are"
    return max(1, free), f"{taken} taken by other processes"


# the cores that this process may use


def share(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of usable cores, or OMP_NUM_THREADS, with which users and launchers ask for fewer."""
    most = usable(root, environment)
    return min(most, _positive(environment, "OMP_NUM_THREADS") or most)


def usable(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of cores that this process's affinity, its cgroups' quotas and its Slurm job allow."""
    quotas = map(_quota, cgroups("cpu", root))
    return max(1, math.floor(min(len(cores()), *quotas, _in_slurm(environment))))


def cores() -> set[int]:
    """Return the numbers of the cores that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS


def _in_slurm(environment: Mapping[str, str]) -> float:
    """Return the cores of a task of a Slurm job, because not every cluster enforces them; infinity outside a job."""
    if cores_of_task := _positive(environment, "SLURM_CPUS_PER_TASK"):
        return cores_of_task
    tasks = _positive(environment, "SLURM_STEP_TASKS_PER_NODE") or 1
    return (_positive(environment, "SLURM_CPUS_ON_NODE") or math.inf) / tasks


def _positive(environment: Mapping[str, str], name: str) -> int | None:
    """Return the positive integer at the start of the variable (4,2 and 4(x2) are lists), or None."""
    number = re.match(r"\s*0*([1-9]\d*)", environment.get(name, ""))
    return int(number[1]) if number else None


def _quota(group: Path) -> float:
    """Return the CPU quota of a cgroup, in cores; infinity if it has none."""
    names = ("cpu.max",) if (group / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = (int(word) for name in names for word in (group / name).read_text().split())
    except (OSError, ValueError):  # there is no such group here, or its quota is "max"
        return math.inf
    return quota / period if quota > 0 else math.inf


# the cores that other processes leave free


class Time(NamedTuple):
    """Core seconds since some moment. total: the time of all cores. left: the time that other processes did not use."""

    total: float
    left: float


def spent(root: Path = ROOT) -> Time:
    """Return the time of this process's cores until now, from the kernel's counts of ticks; 0 without /proc/stat.

    Idle time and this process's own time count as left. A hypervisor's other guests ("steal") are other processes.
    """
    numbers, ticks, idle = cores(), 0, 0
    for line in lines(root / "proc/stat"):
        name, *fields = line.split()
        number = name.removeprefix("cpu")
        if number.isdecimal() and int(number) in numbers:
            counts = [int(field) for field in fields[:8]]  # user nice system idle iowait irq softirq steal
            ticks, idle = ticks + sum(counts), idle + counts[3] + counts[4]
    second = os.sysconf("SC_CLK_TCK")
    return Time(ticks / second, idle / second + sum(os.times()[:4]))


def left(before: Time, after: Time, total: int) -> float:
    """Return the number of cores that other processes left between two times; all if no time was counted."""
    return total * (after.left - before.left) / (after.total - before.total) if after.total > before.total else total


_before = spent()


def watch_from_now() -> None:
    """Start to watch other processes now, as a forked process must, whose own time is not that of its parent."""
    global _before
    _before = spent()


def watch() -> float:
    """Return the number of cores that other processes left since the last call, or since the import."""
    global _before
    total = len(cores())
    if 0 < spent().total < _before.total + WINDOW * total:
        time.sleep(WINDOW)
    before, _before = _before, spent()
    return left(before, _before, total)
