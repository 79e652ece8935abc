"""Hydra plugins for sweeps: a sweeper and three launchers, which call distancing.sweep.

Hydra finds plugins in this namespace only and imports them at every start, so slow imports stand inside functions.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """Launch the runs of a `distancing.sweep.grid.Grid` after all of them have been checked."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._master = hydra_context.config_loader, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        """Launch the runs. Raise SweepError or ConfigError before any starts, and a failed run's error after all."""
        from distancing.errors import SweepError
        from distancing.runs import SweepDirectory
        from distancing.sweep.freeze import freeze
        from distancing.sweep.grid import Grid
        from distancing.sweep.launch import list_runs

        if "n_trials" in self._settings:
            raise SweepError("this sweep has settings of Optuna's sweeper: add hydra/sweeper=optuna")
        grid: Grid = _component(Grid, self._settings, "hydra.sweeper")
        parse = OverridesParser.create(config_loader=self._loader).parse_overrides
        jobs = grid.expand(arguments, parse)
        for line in grid.replaced(arguments, parse):
            print(f"note: {line}", flush=True)
        if not isinstance(self._launcher, DistancingLauncher):  # which checks the runs of any sweeper itself
            frozen = list(dict.fromkeys(freeze(self._loader, self._master, jobs)))
            jobs = [list(run.overrides) for run in frozen]
            if not isinstance(self._launcher, CostLauncher):
                list_runs(frozen, SweepDirectory(self._master.hydra.sweep.dir))
        returned = self._launcher.launch(jobs, initial_job_idx=0)
        for job in returned:
            if job.status == JobStatus.FAILED:
                raise job._return_value
        if incomplete := getattr(self._launcher, "incomplete", []):
            raise SweepError("; ".join(incomplete))
        return returned


class DistancingLauncher(Launcher):
    """Freeze the runs and start them in other processes.

    name: of the launcher in distancing.sweep. incomplete: a line for each run that lacks something at the end.
    """

    name: str
    incomplete: Sequence[str] = ()

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:  # noqa: ARG002
        from distancing.sweep.launch import LAUNCHERS

        self._loader, self._master = hydra_context.config_loader, config
        self._launcher = _component(LAUNCHERS[self.name], self._settings, "hydra.launcher")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:  # noqa: ARG002
        """Start the runs; return their objectives if the launcher waits for them. Raise SweepError or ConfigError."""
        from distancing.runs import SweepDirectory
        from distancing.sweep.freeze import freeze
        from distancing.sweep.launch import incomplete, launch, wait

        self._launcher.check()
        frozen = freeze(self._loader, self._master, job_overrides)
        for line in launch(list(dict.fromkeys(frozen)), SweepDirectory(self._master.hydra.sweep.dir), self._launcher):
            print(line, flush=True)
        if not self._launcher.wait:
            return []
        wait([run.listed for run in frozen])
        self.incomplete = incomplete(run.listed for run in dict.fromkeys(frozen))
        return [_returned(run.directory, run.overrides) for run in frozen]


class CostLauncher(Launcher):
    """Print what the runs would cost, and start none."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:  # noqa: ARG002
        self._loader, self._master = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:  # noqa: ARG002
        """Print the estimated cost of the runs. Raise ConfigError for a wrong run."""
        from distancing.sweep.cost import Devices, estimate
        from distancing.sweep.freeze import freeze

        devices: Devices = _component(Devices, self._settings, "hydra.launcher")
        runs = list(dict.fromkeys(freeze(self._loader, self._master, job_overrides)))
        print(estimate([run.flat for run in runs], runs[0].directory.parent, devices.at_a_time))
        return []


class SlurmLauncher(DistancingLauncher):
    """Start runs in job arrays on a Slurm cluster."""

    name = "slurm"


class LocalLauncher(DistancingLauncher):
    """Start runs in several processes on this machine."""

    name = "local"


class PrintBest(Callback):
    """Print the command of the best run, after a sweep by Optuna's plugin."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Print it from the plugin's optimization_results.yaml, which has the best values of what was optimised."""
        best = OmegaConf.load(Path(config.hydra.sweep.dir) / "optimization_results.yaml")
        chosen = {str(key): value for key, value in best.best_params.items()}
        hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)  # overrides may refer to the chosen settings
        typed = OverridesParser.create().parse_overrides(
            [*(f"{key}={value}" for key, value in hydra["sweeper"]["params"].items()), *hydra["overrides"]["task"]]
        )
        fixed = {
            override.key_or_group: override.input_line or ""
            for override in typed
            if override.key_or_group not in (*chosen, "sweep")
        }
        command = shlex.join(["python", "train.py", *fixed.values(), *(f"{key}={chosen[key]}" for key in chosen)])
        print(f"best value {best.best_value:.6g} of the study:\n{command}", flush=True)


def _component(cls: type, settings: dict[str, Any], path: str) -> Any:
    """Return a component with these settings. Raise ConfigError for a wrong setting."""
    from distancing.config.checks import construct

    # not resolved, because each run of a sweep has its own `${seed}`
    plain = {
        name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value for name, value in settings.items()
    }
    return construct(cls, plain, path)


def _returned(directory: Path, overrides: Sequence[str]) -> JobReturn:
    """Return the objective of a run that has ended, or the error of one that has not."""
    from distancing.errors import SweepError
    from distancing.runs import Listed, RunDirectory
    from distancing.runs.result import read_result
    from distancing.sweep.status import status

    if result := read_result(RunDirectory(directory)):
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=result.objective)
    run_status = status(Listed(directory, tuple(overrides), 0), {})
    error = SweepError(f"{directory} has not ended ({run_status}): distancing sweep status says more")
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
