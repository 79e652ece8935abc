"""Hydra's way to distancing.sweep: a sweeper and two launchers, which must live in this namespace to be found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class GridSweeper(Sweeper):
    """The runs that distancing.sweep.grid.Grid says, all of them checked before the first one is started."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        from distancing.config import construct
        from distancing.sweep.directory import SweepDirectory
        from distancing.sweep.freeze import freeze
        from distancing.sweep.grid import Grid
        from distancing.sweep.launch import list_runs

        settings = {name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                    for name, value in self.settings.items()}  # fmt: skip
        grid: Grid = construct(Grid, settings, "hydra.sweeper")
        parse = OverridesParser.create(config_loader=self.loader).parse_overrides
        jobs = grid.expand(arguments, parse)
        if not isinstance(self.launcher, _Launcher):  # ours do the same, for any sweeper
            frozen = freeze(self.loader, self.config, jobs)
            list_runs(frozen, SweepDirectory(self.config.hydra.sweep.dir))
        returned = self.launcher.launch(jobs, initial_job_idx=0)
        if failed := [each for each in returned if each.status == JobStatus.FAILED]:
            raise failed[0]._return_value
        return returned


class _Launcher(Launcher):
    kind: str

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:  # noqa: ARG002
        from distancing.config import construct
        from distancing.sweep.launch import KINDS

        self.loader, self.config = hydra_context.config_loader, config
        settings = {name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
                    for name, value in self.settings.items()}  # fmt: skip
        self.place = construct(KINDS[self.kind], settings, "hydra.launcher")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:  # noqa: ARG002
        from distancing.sweep.directory import SweepDirectory
        from distancing.sweep.freeze import freeze
        from distancing.sweep.launch import launch, wait

        self.place.check()
        frozen = freeze(self.loader, self.config, job_overrides)
        for line in launch(frozen, SweepDirectory(self.config.hydra.sweep.dir), self.place):
            print(line, flush=True)
        if not self.place.wait:
            return []
        wait([run.listed for run in frozen])
        return [_returned(run.directory, run.overrides) for run in frozen]


class SlurmLauncher(_Launcher):
    """Job arrays on a Slurm cluster."""

    kind = "slurm"


class LocalLauncher(_Launcher):
    """Several processes on this machine."""

    kind = "local"


def _returned(directory: Path, overrides: Sequence[str]) -> JobReturn:
    from distancing.experiment import objective
    from distancing.storage import RunDirectory
    from distancing.sweep.directory import SweepError

    result = RunDirectory(directory).read_result()
    if result:
        return JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=objective(result))
    failure = SweepError(f"{directory} has not ended: see  python -m distancing.sweep status")
    return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=failure)
