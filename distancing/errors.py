"""What a user can mend, each error with a message of one line, and the exit codes of every command."""

REFUSED, DIVERGED, NOT_THE_SAME, WRONG_GRADIENT = 2, 3, 4, 5  # a run stopped by signal n exits with 128 + n


class DistancingError(Exception):
    """A command can't do what it was asked to; the message says why, and what would help."""


class ConfigError(DistancingError):
    """A setting is wrong; the message says which key, which value and what is allowed."""


class DatasetError(DistancingError):
    """The images could not be read; the message says which and why."""


class StorageError(DistancingError):
    """A file or directory of a run can't be used; the message says which and why."""


class SweepError(DistancingError):
    """A sweep can't be started, found or changed as it was asked."""


class EnsembleError(DistancingError):
    """These networks can't be one ensemble."""


class LandscapeError(DistancingError):
    """This can't be asked of these networks."""


class GradientError(DistancingError):
    """This machine computes a wrong gradient."""


class ReportError(DistancingError):
    """These runs don't allow this table or figure."""
