"""Submit jobs to a Slurm cluster through submitit; they are requeued until their runs have ended."""

import contextlib
import getpass
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from distancing.component import component
from distancing.errors import SweepError, first_line
from distancing.process.signals import StopSignal
from distancing.runs import RunDirectory, SweepDirectory
from distancing.sweep.job import KILLED, REQUEUE, Job, note
from distancing.sweep.status import Jobs

# Slurm's variables describe the job around this process, or are options of sbatch and srun. They would reach the new
# jobs and override their settings, but for these:
OURS = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_", "PMI_", "PMIX_")
KEPT = ("SLURM_CONF", "SBATCH_RESERVATION")
ASKED = ("account", "partition", "qos", "constraint")  # SBATCH_… counts where the launcher's setting is null
DEVICES = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL")  # those of the job around this process
COMMANDS = ("sbatch", "squeue", "scontrol", "scancel")
SETUP = ["trap : TERM  # so that the shell outlives a preemption", "export PYTHONFAULTHANDLER=1"]
# After srun, requeue a job whose run was killed or has saved its state in time, but not one that was cancelled. This is
# shell code because it runs outside of a container, and still runs when Python was killed.
TEARDOWN = [
    "code=$?",
    "trap '' TERM  # which Slurm sends when it requeues",
    'case "$code $(squeue -h -j $SLURM_JOB_ID -o %T)" in',
    f'  "{KILLED} RUNNING"|"{REQUEUE} RUNNING"|"{REQUEUE} SIGNALING") scontrol requeue $SLURM_JOB_ID;;',
    '  "0 "*) ;;',
    '  *" RUNNING") echo "exit code $code";;',
    "esac",
    "exit $code",
]


@component
class Slurm:
    """The launcher for a Slurm cluster: job arrays, whose runs are requeued until they have ended.

    The settings are named as in submitit. Null stands for the cluster's default.

    timeout_min (minutes): the time limit of a job. Short jobs start earlier.
    partition: the partition.
    account: the account.
    qos: the quality of service.
    constraint: required features of a node.
    exclude: nodes to avoid.
    gpus_per_node: the number of GPUs of a job. A run uses one.
    gres: the GPUs on clusters that ask for them in this way: `gpu:1`, with gpus_per_node=null.
    cpus_per_task: the number of cores of a run.
    mem_gb (GB): the memory of a job.
    array_parallelism (jobs): the largest number of jobs of an array that run at a time.
    signal_delay_s (seconds): how long before its time limit a run saves its state and is requeued.
    setup: shell lines before the run, such as `module load cuda`.
    srun_args: further arguments of srun.
    additional_parameters: further parameters of sbatch by their long names, such as `{mail-type: FAIL}`.
    python: the interpreter; null for this one. In a container: `singularity exec --nv image.sif python3`.
    runs_per_job (runs): how many runs share a job's GPU, side by side.
    runs_in_a_row (runs): how many times as many runs a job is given, so that short runs do not cost a job each. A run
        starts as soon as another one has ended. The time limit is that of the whole job.
    snapshot: run a copy of the code as it is now, which later edits do not change.
    wait: return the objectives when all runs have ended, for an optimising sweeper.
    """

    timeout_min: PositiveInt
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gpus_per_node: NonNegativeInt | None = None
    gres: str | None = None
    cpus_per_task: PositiveInt | None = None
    mem_gb: PositiveFloat | None = None
    array_parallelism: PositiveInt | None = None
    signal_delay_s: PositiveInt = 120
    setup: list[str]
    srun_args: list[str]
    additional_parameters: dict[str, Any]
    python: str | None = None
    runs_per_job: PositiveInt = 1
    runs_in_a_row: PositiveInt = 1
    snapshot: bool = False
    wait: bool = False

    def check(self) -> None:
        """Raise SweepError if this machine lacks Slurm's commands."""
        if missing := [command for command in COMMANDS if shutil.which(command) is None]:
            raise SweepError(f"hydra/launcher=slurm needs the command {missing[0]}, which this machine doesn't have")

    def start(self, runs: Sequence[Path], sweep: SweepDirectory, code: Path | None) -> Iterator[str]:
        """Submit jobs that resume these runs; return a line for each job array.

        code: the folder of a copy of the package, or None. Raise SweepError if Slurm refuses an array; those before it
        stay submitted.
        """
        lines = []
        parts = _parts([str(run) for run in runs], self.runs_per_job * self.runs_in_a_row)
        jobs = [Job(part, self.runs_per_job) for part in parts]
        for array in _parts(jobs, _max_array_size()):
            with StopSignal() as stop:  # jobs whose numbers are not noted would be submitted a second time
                ids = self._submit(array, sweep, code)
                for job, job_id in zip(array, ids, strict=True):
                    for run in job.runs:
                        note(run, job_id, sweep.jobs, several=len(job.runs) > 1)
            if stop.received:
                raise SystemExit(128 + stop.received)
            lines.append(f"array {ids[0].split('_')[0]}: {len(ids)} jobs" if len(ids) > 1 else f"job {ids[0]}")
        return iter(lines)

    def _submit(self, jobs: Sequence[Job], sweep: SweepDirectory, code: Path | None) -> list[str]:
        import submitit
        from submitit.core.utils import FailedJobError

        executor = submitit.SlurmExecutor(sweep.make_jobs(), python=self.python)
        path = [f"export PYTHONPATH={shlex.quote(str(code.resolve()))}${{PYTHONPATH:+:$PYTHONPATH}}"] if code else []
        # the job's only task forks its runs
        alone = self.runs_per_job == 1
        cores = self.cpus_per_task if alone else self.runs_per_job * (self.cpus_per_task or 1)
        parameters = {
            "job_name": sweep.name,
            "time": self.timeout_min,
            "mem": f"{round(self.mem_gb * 1024)}M" if self.mem_gb else None,
            "ntasks_per_node": 1,
            "cpus_per_task": cores,
            "array_parallelism": self.array_parallelism or len(jobs),
            "stderr_to_stdout": True,
            "setup": [*SETUP, *self.setup, *path],
            "teardown": TEARDOWN,
            # srun does not inherit the cores from sbatch
            "srun_args": [*([f"--cpus-per-task={cores}"] if cores else []), *self.srun_args],
            "additional_parameters": {"requeue": True, **self.additional_parameters},
        }
        same = ("partition", "account", "qos", "constraint", "exclude", "gpus_per_node", "gres", "signal_delay_s")
        parameters |= {name: getattr(self, name) for name in same}
        executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
        try:
            with self._own_environment():
                return [str(job.job_id) for job in executor.map_array(Job.__call__, jobs)]
        except (FailedJobError, subprocess.CalledProcessError, OSError) as error:
            reason = re.findall(r"sbatch: error: (.*)", str(error))
            raise SweepError(f"sbatch refuses: {'; '.join(reason) or first_line(error)}") from error

    @contextlib.contextmanager
    def _own_environment(self) -> Iterator[None]:
        """Hide the variables of a job around this process, and what would override the launcher's settings."""
        kept = {*KEPT, *(f"SBATCH_{name.upper()}" for name in ASKED if getattr(self, name) is None)}
        hidden = {name for name in os.environ if name.startswith(OURS) and name not in kept}
        if "SLURM_JOB_ID" in hidden:
            hidden |= {name for name in DEVICES if name in os.environ}
        values = {name: os.environ.pop(name) for name in hidden}
        try:
            yield
        finally:
            os.environ |= values


def queue(runs: Iterable[Path]) -> dict[str, str]:
    """Return the user's queued and running jobs → their state; {} without a query if none of the runs is a Slurm job.

    Raise SweepError if Slurm doesn't answer, so that queued runs are not taken for dead.
    """
    if not any(RunDirectory(run).read_json("job.json").get("launcher") == "slurm" for run in runs):
        return {}
    lines = _query("squeue", "-h", "-r", "-u", getpass.getuser(), "-o", "%i %T")
    return dict(line.split() for line in lines)


def ended(ids: Sequence[str]) -> Jobs:
    """Return the final states of these jobs from Slurm's accounting; {} without accounting."""
    states: dict[str, str] = {}
    if not ids or shutil.which("sacct") is None:
        return states
    try:
        for line in _query("sacct", "-n", "-P", "-X", "-D", "-o", "JobID,State", "-j", ",".join(ids)):
            job, state = line.split("|")[:2]
            states[job] = state.split()[0]
    except SweepError:
        pass  # a cluster without accounting
    return states


def cancel(ids: Sequence[str]) -> None:
    """Cancel these jobs. Raise SweepError if Slurm refuses."""
    for part in _parts(list(ids), 500):  # to bound the length of a command line
        _query("scancel", *part)


def _query(*command: str) -> list[str]:
    """Return the output lines of a Slurm command. Raise SweepError if it fails."""
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except subprocess.CalledProcessError as error:
        *_, reason = error.stderr.strip().splitlines() or [error]
        raise SweepError(f"{command[0]}: {reason}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SweepError(f"{command[0]}: {error}") from error
    return process.stdout.splitlines()


def _max_array_size() -> int:
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", "\n".join(_query("scontrol", "show", "config")), re.MULTILINE)
    return max(1, int(match.group(1)) if match else 1001)


def _parts(items: Sequence[Any], n: int) -> Iterator[Sequence[Any]]:
    """Divide the items into parts of n."""
    return (items[i : i + n] for i in range(0, len(items), n))
