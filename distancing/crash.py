"""How a process was killed by a signal: faulthandler's dump, and what an exit status and a log tell afterwards."""

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
LINES, LETTERS = 3, 200  # of a log that are repeated


@dataclass(frozen=True)
class Death:
    """by: the signal that killed a process. place: where Python was, or empty. log: its last lines before that."""

    by: Signals
    place: str
    log: tuple[str, ...]

    def __str__(self) -> str:
        if self.by == Signals.SIGKILL:
            return "by SIGKILL; out of memory?"
        return f"by {self.by.name}" + (f" in {self.place}" if self.place else "")

    @property
    def advice(self) -> str:
        """What to try."""
        return ADVICE if self.by in NATIVE.values() else ""


def trace() -> None:
    """Print the Python stack on stderr if a fault in native code kills this process."""
    if sys.__stderr__ and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """Print that stack to the file `path`, too; unless the process dies, the file is removed at the end."""
    # faulthandler writes to one file only; tee lives on when this process is dead, and ignores Ctrl-C
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
    """Return how the process died that wrote `log`, or None if no signal killed it.

    status: its exit status; None: not known, then a dump in the log tells.
    """
    before, title, dump = log.rpartition(TITLE)
    dumped = NATIVE.get(dump.partition("\n")[0], Signals.SIGABRT) if title else None  # Python aborts on other errors
    by = dumped if status is None else signal_of(status)
    if by is None:
        return None
    return Death(by, _place(dump), last_lines(before)) if by == dumped else Death(by, "", last_lines(log))


def last_lines(log: str) -> tuple[str, ...]:
    return tuple(line[:LETTERS] for line in log.splitlines() if line.strip())[-LINES:]


def _place(dump: str) -> str:
    """Return the innermost frame of this package or torch, and if that is torch's, the one of this package, too."""
    # a thread that Python does not know has no stack of its own; the main thread, which comes last, waits for it
    threads = re.split(r"^(?=Current thread|Thread)", dump, flags=re.MULTILINE)
    thread = next((thread for thread in threads if thread.startswith("Current thread")), threads[-1])
    frames = FRAME.findall(thread)
    ours = [(match[1], line, name) for file, line, name in frames if (match := OURS.fullmatch(file))]
    package = [frame for frame in ours if frame[0].startswith("distancing/")]
    places = list(dict.fromkeys([*ours[:1], *package[:1]])) or frames[:1]
    return ", called from ".join(f"{file}:{line} {name}" for file, line, name in places)
