"""The memory that this process may still take."""

import math
from pathlib import Path

from distancing.process.cgroups import ROOT, cgroups, lines

VERSIONS = (  # for each version of cgroups, the files of the limit and the use, and a prefix in memory.stat
    ("memory.max", "memory.current", ""),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)


def free(root: Path = ROOT) -> float:
    """Return the bytes that the system and this process's cgroups have left; infinity if neither is known.

    Cached files count as free, because the system drops them when memory is needed.
    """
    available = [1024 * size for name, size in _numbers(root / "proc/meminfo").items() if name == "MemAvailable:"]
    left = (_left(group, *version) for group in cgroups("memory", root) for version in VERSIONS)
    return min((*available, *left), default=math.inf)


def _left(group: Path, limit: str, usage: str, prefix: str) -> float:
    """Return the bytes that a cgroup has left; infinity if it has no limit."""
    try:
        most, used = (int((group / name).read_text()) for name in (limit, usage))
    except (OSError, ValueError):  # there is no such group here, or its limit is "max"
        return math.inf
    statistics = _numbers(group / "memory.stat")
    cached = sum(statistics.get(f"{prefix}{state}_file", 0) for state in ("active", "inactive"))
    return max(0, most - used + cached)


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers in a file of names and numbers, by their names."""
    words = (line.split() for line in lines(path))
    return {name: int(number) for name, number, *_ in words}
