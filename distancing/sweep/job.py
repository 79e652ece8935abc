"""The job of a sweep: start or resume the frozen run in a directory."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from distancing.errors import ConfigError, DistancingError, StorageError, message, print_error
from distancing.runs import RunDirectory

REQUEUE = 128 + signal.SIGUSR2  # the exit code of a run that Slurm must requeue
WAIT = 300.0  # seconds to wait for another process to release the run's directory
STARTS = 5  # without progress, until a run is given up


class Job:
    """A Slurm job, each task of which resumes one run. submitit stores it as a pickle."""

    def __init__(self, runs: Sequence[str]) -> None:
        self.runs = list(runs)

    def __call__(self) -> None:
        """Resume the run of this task. Raise SystemExit with its exit code unless it is 0."""
        # submitit's handlers would requeue or fail the job by themselves. Before training there is nothing to save.
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        task = int(os.environ.get("SLURM_PROCID", "0"))
        if task < len(self.runs) and (code := resume(self.runs[task], in_slurm=True)):
            raise SystemExit(code)


def resume(path: str, in_slurm: bool = False) -> int:
    """Start or resume the run in `path`; return its exit code: 0 if it finished or diverged.

    An error is written to the directory's error.txt. In Slurm, SIGTERM only saves the state, because it precedes a
    kill by an unknown time. If another process holds the directory there, such as an orphan on a lost node, the exit
    code asks for a requeue.
    """
    from distancing.config.checks import read_config
    from distancing.experiment.main import run

    directory = RunDirectory(path, WAIT) if in_slurm else RunDirectory(path)
    try:
        if not directory.in_use:
            _count_start(directory)
        config = read_config(directory.config)
        if not directory.path.name.endswith(config.hash):
            raise ConfigError(f"{directory.config} is not the config that {path} is named after")
        run(config, directory, save_only=(signal.SIGTERM,) if in_slurm else ())
        return 0
    except StorageError as error:
        if in_slurm and directory.in_use:
            print_error(f"{error}; the job is queued again")
            return REQUEUE
        return _failed(directory, error)
    except (DistancingError, OSError) as error:
        return _failed(directory, error)
    except Exception:
        return _failed(directory, traceback.format_exc().strip())
    except SystemExit as stop:
        if stop.code != REQUEUE:
            directory.write_json("job.json", {**directory.read_json("job.json"), "stopped": True})
        raise


def _failed(directory: RunDirectory, error: Exception | str) -> int:
    """Write the error to the directory's error.txt and to stderr; return the exit code."""
    directory.error.write_text(f"{message(error, resumable=True)}\n")
    return print_error(error, resumable=True)


def _count_start(directory: RunDirectory) -> None:
    """Count this start. Raise StorageError after too many starts without a new saved state."""
    newest = next((state.name for state in directory.states()), "")
    before = directory.read_json("starts.json")
    times = int(before.get("times", 0)) + 1 if before.get("newest") == newest else 1
    directory.write_json("starts.json", {"newest": newest, "times": times})
    if times > STARTS:
        raise StorageError(
            f"{directory.path} was started {STARTS} times without progress after {newest or 'its start'}: does it have "
            "enough memory, and enough time until the limit?"
        )


if __name__ == "__main__":
    sys.exit(resume(sys.argv[1]))
