"""How many threads a run computes with, and how long they wait for each other.

Nothing here imports torch before it must: its OpenMP library reads once, when it is loaded, how threads wait.
"""

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import NamedTuple

SPIN = 1_000  # rounds for which a thread waits for the others before it sleeps
SMALL = 20e6  # operations of a forward pass of one batch, below which a second thread gains nothing
WINDOW = 0.5  # seconds for which other processes are watched, at least
ROOT = Path("/")  # of /proc and /sys


def bound_spin(environment: MutableMapping[str, str]) -> None:
    """Let a waiting thread sleep after SPIN rounds, unless the user has said how threads wait.

    GNU's OpenMP library, which comes with torch, waits 300 times as long, on a core that others may need.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = str(SPIN)


def use(number: int | None = None) -> int:
    """Let torch compute with this number of threads, by default with as many as are free; return the number."""
    import torch

    number = number or auto()[0]
    torch.set_num_threads(number)
    return number


def auto(operations: Callable[[], float] = lambda: math.inf) -> tuple[int, str]:
    """Return how many threads to use, and why they are fewer than this process's share of the cores ("" if not).

    operations: of a forward pass of one batch; called only where there is more than one core to share out.
    """
    most = share()
    if most == 1:
        return 1, ""
    if operations() < SMALL:
        return 1, f"a network this small is no faster with {most}"
    return beside_others(most, len(cores()), watch())


def beside_others(most: int, total: int, free: float) -> tuple[int, str]:
    """Return `most` or as many as the cores that other processes leave free of the total, and why they are fewer."""
    free = round(max(0, free))
    if free >= most:
        return most, ""
    which = f"one of {total} cores is" if total - free == 1 else f"{total - free} of {total} cores are"
    return max(1, free), f"{which} taken by other processes"


# what this process may use


def share(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return the usable cores, or OMP_NUM_THREADS, by which users and launchers ask for fewer."""
    most = usable(root, environment)
    return min(most, _positive(environment, "OMP_NUM_THREADS") or most)


def usable(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many cores this process may use, by its affinity, its cgroups' CPU quotas and its Slurm job."""
    return max(1, math.floor(min(len(cores()), *_quotas(root), _in_slurm(environment))))


def cores() -> set[int]:
    """Return the numbers of the cores that the system lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS


def _in_slurm(environment: Mapping[str, str]) -> float:
    """Return the cores of a task of a Slurm job, which not every cluster binds to them; infinity outside of one."""
    if cores_of_task := _positive(environment, "SLURM_CPUS_PER_TASK"):
        return cores_of_task
    tasks = _positive(environment, "SLURM_STEP_TASKS_PER_NODE") or 1
    return (_positive(environment, "SLURM_CPUS_ON_NODE") or math.inf) / tasks


def _positive(environment: Mapping[str, str], name: str) -> int | None:
    """Return the positive integer that the variable begins with (4,2 and 4(x2) are lists); None if there is none."""
    number = re.match(r"\s*0*([1-9]\d*)", environment.get(name, ""))
    return int(number[1]) if number else None


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quotas, in cores, of this process's cgroups, of version 1 and 2, and of all that they are in."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.lstrip("/")
        # a container may see the host's path, and its own quota at the top
        yield from (_quota(each) for each in (group, *group.parents) if each.is_relative_to(top))


def _quota(group: Path) -> float:
    names = ("cpu.max",) if (group / "cpu.max").exists() else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = (int(word) for name in names for word in (group / name).read_text().split())
    except (OSError, ValueError):  # there is no such group here, or its quota is "max"
        return math.inf
    return quota / period if quota > 0 else math.inf


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # not Linux
        return []


# what others leave of it


class Time(NamedTuple):
    """Seconds of the cores in all, and what other processes have left of them, both since some moment in the past."""

    total: float
    left: float


def spent(root: Path = ROOT) -> Time:
    """Return the time of this process's cores until now: idle, or its own, is left; without /proc/stat there is none.

    A hypervisor's other guests ("steal") are other processes, too. The clocks are the kernel's counts of ticks.
    """
    numbers, ticks, idle = cores(), 0, 0
    for line in _lines(root / "proc/stat"):
        name, *fields = line.split()
        number = name.removeprefix("cpu")
        if number.isdecimal() and int(number) in numbers:
            counts = [int(field) for field in fields[:8]]  # user nice system idle iowait irq softirq steal
            ticks, idle = ticks + sum(counts), idle + counts[3] + counts[4]
    second = os.sysconf("SC_CLK_TCK")
    return Time(ticks / second, idle / second + sum(os.times()[:4]))


def left(before: Time, after: Time, total: int) -> float:
    """Return how many of the cores other processes have left meanwhile; all, where no time was counted."""
    return total * (after.left - before.left) / (after.total - before.total) if after.total > before.total else total


_before = spent()


def watch() -> float:
    """Return how many cores other processes have left since the last call, or since this package was imported."""
    global _before
    total = len(cores())
    if 0 < spent().total < _before.total + WINDOW * total:
        time.sleep(WINDOW)
    before, _before = _before, spent()
    return left(before, _before, total)
