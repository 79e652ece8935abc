"""The cgroups that this process is in, whose limits a container or a Slurm job sets."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # the root of /proc and /sys


def cgroups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Yield the folders of this process's cgroups and their parents, of versions 1 and 2, for a controller."""
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = top / path.lstrip("/")
        # a container may see the host's path, and its own limit at the top
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def lines(path: Path) -> list[str]:
    """Return the lines of a file of /proc or /sys; none if it is missing, as it is outside of Linux."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
