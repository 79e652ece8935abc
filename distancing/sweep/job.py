"""What a job of a sweep does: go on with the frozen run in a directory, wherever it is started."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence

from distancing.errors import USER_ERRORS, ConfigError, StorageError, message, refuse
from distancing.runs import RunDirectory

REQUEUE = 128 + signal.SIGUSR2  # the exit code of a run that Slurm shall start again
WAIT = 300.0  # seconds for another process to leave the run's directory
STARTS = 5  # without getting any further


class Job:
    """A Slurm job: each of its tasks goes on with one run. submitit keeps it as a pickle."""

    def __init__(self, runs: Sequence[str]) -> None:
        self.runs = list(runs)

    def __call__(self) -> None:
        """Raises SystemExit with the run's exit code, unless it has ended."""
        # submitit's handlers would requeue or fail the job on their own. Before training there is nothing to save.
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        task = int(os.environ.get("SLURM_PROCID", "0"))
        if task < len(self.runs) and (code := go_on(self.runs[task], in_slurm=True)):
            raise SystemExit(code)


def go_on(path: str, in_slurm: bool = False) -> int:
    """Go on with the run in `path`; the exit code: 0 if it has ended, and that a run diverged is a result.

    What goes wrong is left in the directory's error.txt. In Slurm, SIGTERM only saves the state, since it comes
    before a kill and nobody knows how long before; and where another process holds the directory, an orphan on a
    node that was lost, the job is to be queued again.
    """
    from distancing.config import read_config
    from distancing.experiment import run

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
            refuse(f"{error}; the job is queued again")
            return REQUEUE
        return _failed(directory, error)
    except USER_ERRORS as error:
        return _failed(directory, error)
    except Exception:
        return _failed(directory, traceback.format_exc().strip())
    except SystemExit as stop:
        if stop.code != REQUEUE:
            directory.write_json("job.json", {**directory.read_json("job.json"), "stopped": True})
        raise


def _failed(directory: RunDirectory, why: Exception | str) -> int:
    directory.error.write_text(f"{why if isinstance(why, str) else message(why)}\n")
    return refuse(why)


def _count_start(directory: RunDirectory) -> None:
    """Raises StorageError if the run was started again and again and never saved anything new."""
    newest = next((state.name for state in directory.states()), "")
    before = directory.read_json("starts.json")
    times = int(before.get("times", 0)) + 1 if before.get("newest") == newest else 1
    directory.write_json("starts.json", {"newest": newest, "times": times})
    if times > STARTS:
        raise StorageError(
            f"{directory.path} was started {STARTS} times and never came past {newest or 'its start'}: is there "
            "enough memory, and time until the limit?"
        )


if __name__ == "__main__":
    sys.exit(go_on(sys.argv[1]))
