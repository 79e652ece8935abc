"""The errors that a user can correct, how a command reports them in one line, and its exit codes."""

from rich.console import Console

MAX_LETTERS = 1500  # the limit of a reported line
REFUSED, DIVERGED, NOT_THE_SAME, WRONG_GRADIENT = 2, 3, 4, 5
# the meaning of each exit code, for the generated reference
EXIT_CODES = {
    "0": "The command has done what it was asked to do.",
    "1": "An error in this software. Python's traceback is on stderr; please report it.",
    f"{REFUSED}": "Refused. One line says which setting, file or directory is wrong, and why. Nothing was trained.",
    f"{DIVERGED}": "The run diverged: its loss was not finite. `result.json` says in which phase, epoch and step.",
    f"{NOT_THE_SAME}": "With `verify=true`, the second training differed from the first. A line says where.",
    f"{WRONG_GRADIENT}": (
        "This machine computes a wrong gradient. A line says of which parameter, by how much, and what to set instead. "
        "Nothing was trained."
    ),
    "128 + n": (
        "Stopped by signal n: 130 by SIGINT (Ctrl-C), 143 by SIGTERM, 140 by SIGUSR2 on Linux. The state is saved: run "
        "the same command to resume."
    ),
    "132, 134, 135, 136, 139": (
        "A shell's report that SIGILL, SIGABRT, SIGBUS, SIGFPE or SIGSEGV killed the process: a fault in native code."
    ),
    "137": "A shell's report that SIGKILL killed the process: often the system was out of memory.",
}


class DistancingError(Exception):
    """A command cannot do what it was asked to do. The message says why, and what to do."""


class ConfigError(DistancingError):
    """A setting is wrong. The message says which key, which value and what is allowed."""


class DatasetError(DistancingError):
    """The images cannot be read. The message says which and why."""


class StorageError(DistancingError):
    """A file or directory of a run cannot be used. The message says which and why."""


class InUseError(StorageError):
    """Another process is at work in the directory of a run."""


class SweepError(DistancingError):
    """A sweep cannot be started, found or changed."""


class EnsembleError(DistancingError):
    """The given networks cannot form an ensemble."""


class LandscapeError(DistancingError):
    """The given networks do not allow this analysis."""


class GradientError(DistancingError):
    """This machine computes a wrong gradient."""


class ReportError(DistancingError):
    """These runs don't allow this table or figure."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def print_error(error: Exception | str, resumable: bool = False) -> int:
    """Print an error on stderr in one line, whatever characters are in it; return the exit code.

    resumable: see `message`.
    """
    line = " ".join(message(error, resumable).split("\n"))
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    if len(line) > MAX_LETTERS:
        line = f"{line[: MAX_LETTERS // 2]} … {line[-MAX_LETTERS // 2 :]}"
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {line}", markup=False)
    return WRONG_GRADIENT if isinstance(error, GradientError) else REFUSED


def message(error: Exception | str, resumable: bool = False) -> str:
    """Return the text of an error. resumable: the run has a saved state, which a failed read or write mentions."""
    resume = "; the saved state is kept: run the same command to resume"
    return f"{error}{resume if resumable and isinstance(error, OSError) else ''}"
