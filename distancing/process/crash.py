"""Processes that a signal has killed: faulthandler's dump, and the cause of death from exit status and log."""

import contextlib
import faulthandler
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

NATIVE = {  # the signals of a fault in native code, as faulthandler names them
    "Segmentation fault": Signals.SIGSEGV,
    "Aborted": Signals.SIGABRT,
    "Bus error": Signals.SIGBUS,
    "Illegal instruction": Signals.SIGILL,
    "Floating-point exception": Signals.SIGFPE,
    "Floating point exception": Signals.SIGFPE,  # until Python 3.11
}
ADVICE = "after a fault in native code, try speed=plain threads=1: contiguous tensors and one thread"
TITLE = "Fatal Python error: "
FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
OURS = re.compile(r"(?:.*/)?((?:distancing|torch)(?:/\w+)+\.py)")
LINES, LETTERS = 3, 200  # how much of a log is quoted


@dataclass(frozen=True)
class Death:
    """The death of a process.

    by: the signal. place: the place in the Python code, or "" if it is unknown. log: the last lines before the death.
    """

    by: Signals
    place: str
    log: tuple[str, ...]

    def __str__(self) -> str:
        if self.by == Signals.SIGKILL:
            return "by SIGKILL; out of memory?"
        return f"by {self.by.name}" + (f" in {self.place}" if self.place else "")

    @property
    def advice(self) -> str:
        """The settings to try, or "" if there is no advice."""
        return ADVICE if self.by in NATIVE.values() else ""


def trace() -> None:
    """Print the Python stack on stderr if a fault in native code kills this process."""
    if sys.__stderr__ and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Also write the stack of `trace` to the file `path`. Remove the file at the end, unless the process dies."""
    path.unlink(missing_ok=True)  # an earlier process left it: this one may be killed before tee has started
    # faulthandler writes to one file only; tee outlives this process, and ignores Ctrl-C
    with subprocess.Popen(["tee", "-i", str(path)], stdin=subprocess.PIPE, stdout=sys.__stderr__) as tee:
        assert tee.stdin is not None
        faulthandler.enable(tee.stdin)
        try:
            yield
        finally:
            faulthandler.disable()
            trace()
    path.unlink(missing_ok=True)


def signal_of(status: int) -> Signals | None:
    """Return the signal in an exit status: −n as Python reports it, 128 + n as a shell or srun does."""
    try:
        return Signals(-status if status < 0 else status - 128)
    except ValueError:
        return None


def death(log: str, status: int | None = None) -> Death | None:
    """Return how the process that wrote `log` died, or None if no signal killed it.

    status: its exit status. None: it is unknown, and a dump in the log decides.
    """
    before, title, dump = log.rpartition(TITLE)
    dumped = NATIVE.get(dump.partition("\n")[0], Signals.SIGABRT) if title else None  # other fatal errors abort
    by = dumped if status is None else signal_of(status)
    if by is None:
        return None
    return Death(by, _place(dump), last_lines(before)) if by == dumped else Death(by, "", last_lines(log))


def last_lines(log: str) -> tuple[str, ...]:
    """Return the last LINES lines that are not empty, each cut to LETTERS characters."""
    return tuple(line[:LETTERS] for line in log.splitlines() if line.strip())[-LINES:]


def _place(dump: str) -> str:
    """Return the innermost frame of this package or torch; after one of torch, also that of this package."""
    # a thread that Python does not know has no stack here; the main thread, which comes last, waits for it
    threads = re.split(r"^(?=Current thread|Thread)", dump, flags=re.MULTILINE)
    thread = next((thread for thread in threads if thread.startswith("Current thread")), threads[-1])
    frames = FRAME.findall(thread)
    ours = [(match[1], line, name) for file, line, name in frames if (match := OURS.fullmatch(file))]
    package = [frame for frame in ours if frame[0].startswith("distancing/")]
    places = list(dict.fromkeys([*ours[:1], *package[:1]])) or frames[:1]
    return ", called from ".join(f"{file}:{line} {name}" for file, line, name in places)
