"""Tell a process from a later one with the same number."""

from pathlib import Path


def started(pid: int) -> str | None:
    """Return when the process with this number started, in the kernel's ticks; None if the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22; the name of the program, field 2, may have spaces
