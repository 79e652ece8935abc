"""Errors that a user can fix, each with a message of one line, and the exit codes of every command."""

REFUSED, DIVERGED, NOT_THE_SAME, WRONG_GRADIENT = 2, 3, 4, 5  # a run stopped by signal n exits with 128 + n
LONGEST_MESSAGE = 1500  # characters


class DistancingError(Exception):
    """A command cannot do what it was asked to do. The message says why, and what to do."""


class ConfigError(DistancingError):
    """A setting is wrong. The message says which key, which value and what is allowed."""


class DatasetError(DistancingError):
    """The images cannot be read. The message says which and why."""


class StorageError(DistancingError):
    """A file or directory of a run cannot be used. The message says which and why."""


class SweepError(DistancingError):
    """A sweep cannot be started, found or changed."""


class EnsembleError(DistancingError):
    """The given networks cannot form an ensemble."""


class LandscapeError(DistancingError):
    """The given networks do not allow this analysis."""


class GradientError(DistancingError):
    """This machine computes a wrong gradient."""


class ReportError(DistancingError):
    """The given runs do not allow this table or figure."""


USER_ERRORS = (DistancingError, OSError)  # reported in one line, without a stack trace


def message(error: Exception) -> str:
    """Return the message for one of USER_ERRORS."""
    advice = "; the saved state is kept: run the same command to resume" if isinstance(error, OSError) else ""
    return f"{error}{advice}"


def refuse(error: Exception | str) -> int:
    """Print the message in one line, with unprintable characters escaped, and return the exit code."""
    from rich.console import Console  # slow to import, and only needed now

    text = error if isinstance(error, str) else message(error)
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(text.split("\n")))
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[: LONGEST_MESSAGE // 2]} … {text[-LONGEST_MESSAGE // 2 :]}"
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {text}", markup=False)
    return WRONG_GRADIENT if isinstance(error, GradientError) else REFUSED
