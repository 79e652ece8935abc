"""The job of a sweep: start or resume the frozen runs in some directories."""

import functools
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from distancing.errors import (
    NOT_THE_SAME,
    ConfigError,
    DistancingError,
    InUseError,
    StorageError,
    message,
    print_error,
)
from distancing.process import threads
from distancing.runs import RunDirectory
from distancing.sweep import forks

REQUEUE = 128 + signal.SIGUSR2  # the exit code of a run that Slurm must requeue
KILLED = 128 + signal.SIGKILL
AGAIN = (REQUEUE, -signal.SIGUSR2, -signal.SIGKILL)  # the exit statuses of a run that its job resumes when requeued
WAIT = 300.0  # seconds to wait for another process to release the run's directory
STARTS = 5  # without progress, until a run is given up


class Job:
    """A Slurm job that resumes runs, `at_a_time` side by side. submitit stores it as a pickle."""

    def __init__(self, runs: Sequence[str], at_a_time: int = 1) -> None:
        self.runs, self.at_a_time = list(runs), at_a_time

    def __call__(self) -> None:
        """Resume the runs. Raise SystemExit with the job's exit code unless it is 0."""
        # submitit's handlers would requeue or fail the job by themselves. Before training there is nothing to save.
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = self._resume_all() if len(self.runs) > 1 else resume(self.runs[0], in_slurm=True)
        if code:
            raise SystemExit(code)

    def _resume_all(self) -> int:
        """Resume the runs that have not ended, each in a fork of this process, until time is up. Return the exit code.

        SIGUSR2, which says so, reaches all processes of the job. Here it stays pending.
        """
        from submitit import JobEnvironment

        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        here = JobEnvironment()
        for path in self.runs:
            note(path, here.job_id, here.paths.folder, several=True)
        os.environ["OMP_NUM_THREADS"] = str(max(1, threads.share() // self.at_a_time))
        forks.import_everything()
        runs = [RunDirectory(run) for run in self.runs]
        waiting = deque(run for run in runs if run.read_json("job.json").get("exit") in (None, *AGAIN))
        running: dict[RunDirectory, BaseProcess] = {}
        while running or (waiting and not _time_is_up()):
            while waiting and len(running) < self.at_a_time and not _time_is_up():
                run = waiting.popleft()
                running[run] = _begin(run)
            wait([process.sentinel for process in running.values()], forks.POLL)
            for run in [run for run, process in running.items() if not process.is_alive()]:
                run.write_json("job.json", {**run.read_json("job.json"), "exit": running.pop(run).exitcode})
        return REQUEUE if waiting else _exit_code([int(run.read_json("job.json").get("exit", 1)) for run in runs])


def note(run: str, job_id: str, jobs: Path, several: bool) -> None:
    """Write the job.json of a run of a submitted job, with its log in the folder `jobs`.

    several: the job has several runs, which begin and end in turn. It may start before its launcher knows its number,
    and so writes the files itself. A file that is of this job already stays as it is.
    """
    directory = RunDirectory(run)
    if several and directory.read_json("job.json").get("job") == job_id:
        return
    log = jobs / f"{job_id}_{directory.path.name if several else '0_log'}.out"
    content = {"launcher": "slurm", "job": job_id, "log": os.path.relpath(log, run)}
    directory.write_json("job.json", content | ({"begun": False} if several else {}))


def _time_is_up() -> bool:
    return signal.SIGUSR2 in signal.sigpending()


def _begin(run: RunDirectory) -> BaseProcess:
    """Fork the process of a run of several in this job."""
    job = {key: value for key, value in run.read_json("job.json").items() if key != "exit"}
    run.write_json("job.json", {**job, "begun": True})
    process = forks.fork(functools.partial(_resume_fork, str(run.path)), run.path / str(job["log"]), {})
    if _time_is_up():  # perhaps the signal came before the fork
        os.kill(process.pid or 0, signal.SIGUSR2)
    return process


def _resume_fork(path: str) -> int:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
    return resume(path, in_slurm=True)


def _exit_code(statuses: Sequence[int]) -> int:
    """Return the exit code of a job whose runs' processes ended with these exit statuses, as srun would report it.

    A run that must be resumed counts most, because it needs a requeue.
    """
    codes = [status if status >= 0 else 128 - status for status in statuses]
    return next((code for code in (REQUEUE, KILLED) if code in codes), max(codes))


def resume(path: str, in_slurm: bool = False) -> int:
    """Start or resume the run in `path`; return its exit code: 0 if it diverged, or has finished with its analyses.

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
        result = run(config, directory, save_only=(signal.SIGTERM,) if in_slurm else ())
        if config.verify and not result.verified:
            directory.error.write_text("its second training differed from the first\n")
            return NOT_THE_SAME
        return 0
    except InUseError as error:  # that process may have ended since
        if in_slurm:
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
    """Write the error to the directory's error.txt, unless it was moved or deleted, and to stderr.

    Return the exit code.
    """
    if directory.path.is_dir():
        directory.error.write_text(f"{message(error, directory.resumable)}\n")
    return print_error(error, directory.resumable)


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
