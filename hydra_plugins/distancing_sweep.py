"""Hydra's way to distancing.sweep: a sweeper and two launchers. Hydra finds plugins in this namespace only, and
imports them at every start: what is slow to import is imported where it is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """The runs of a `distancing.sweep.grid.Grid`, all of them checked before the first one is started."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._master = hydra_context.config_loader, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Sequence[JobReturn]:
        """Raises SweepError or ConfigError before anything is started, and the first failed run's error after all."""
        from distancing.runs import SweepDirectory
        from distancing.sweep.freeze import freeze
        from distancing.sweep.grid import Grid
        from distancing.sweep.launch import list_runs

        grid: Grid = _component(Grid, self._settings, "hydra.sweeper")
        jobs = grid.expand(arguments, OverridesParser.create(config_loader=self._loader).parse_overrides)
        if not isinstance(self._launcher, DistancingLauncher):  # ours check for themselves, whatever the sweeper
            frozen = freeze(self._loader, self._master, jobs)
            if not isinstance(self._launcher, CostLauncher):
                list_runs(frozen, SweepDirectory(self._master.hydra.sweep.dir))
        returned = self._launcher.launch(jobs, initial_job_idx=0)
        for each in returned:
            if each.status == JobStatus.FAILED:
                raise each._return_value
        return returned


class DistancingLauncher(Launcher):
    """Runs that are frozen here and started elsewhere."""

    kind: str

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:  # noqa: ARG002
        from distancing.sweep.launch import KINDS

        self._loader, self._master = hydra_context.config_loader, config
        self._place = _component(KINDS[self.kind], self._settings, "hydra.launcher")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:  # noqa: ARG002
        """The runs' objectives if they are waited for, else nothing. Raises SweepError or ConfigError."""
        from distancing.runs import SweepDirectory
        from distancing.sweep.freeze import freeze
        from distancing.sweep.launch import launch, wait

        self._place.check()
        frozen = freeze(self._loader, self._master, job_overrides)
        for line in launch(frozen, SweepDirectory(self._master.hydra.sweep.dir), self._place):
            print(line, flush=True)
        if not self._place.wait:
            return []
        wait([run.listed for run in frozen])
        return [_returned(run.directory, run.overrides) for run in frozen]


class CostLauncher(Launcher):
    """Starts nothing, and says what the runs would cost."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:  # noqa: ARG002
        self._loader, self._master = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:  # noqa: ARG002
        """Raises ConfigError."""
        from distancing.sweep.cost import Devices, said
        from distancing.sweep.freeze import freeze

        devices: Devices = _component(Devices, self._settings, "hydra.launcher")
        runs = freeze(self._loader, self._master, job_overrides)
        print(said([run.flat for run in runs], runs[0].directory.parent, devices.at_a_time))
        return []


class SlurmLauncher(DistancingLauncher):
    """Job arrays on a Slurm cluster."""

    kind = "slurm"


class LocalLauncher(DistancingLauncher):
    """Several processes on this machine."""

    kind = "local"


def _component(cls: type, settings: dict[str, Any], path: str) -> Any:
    """Raises ConfigError for a wrong setting."""
    from distancing.config import construct

    # not resolved: `${seed}` in a sweep is each run's
    plain = {name: OmegaConf.to_container(each) if OmegaConf.is_config(each) else each
             for name, each in settings.items()}  # fmt: skip
    return construct(cls, plain, path)


def _returned(directory: Path, overrides: Sequence[str]) -> JobReturn:
    from distancing.errors import SweepError
    from distancing.runs import Listed, RunDirectory
    from distancing.runs.result import read_result
    from distancing.sweep.status import status

    if result := read_result(RunDirectory(directory)):
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=result.objective)
    ended = status(Listed(directory, tuple(overrides), 0), {})
    why = SweepError(f"{directory} has not ended ({ended}): python -m distancing.sweep status says more")
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=why)
