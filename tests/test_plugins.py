"""Other people's plugins: Optuna's sweeper, and joblib's and submitit's own launchers."""

import importlib.util
import shlex
from pathlib import Path

import pytest
from conftest import TINY, command_line, result
from omegaconf import OmegaConf

from hydra_plugins.distancing_sweep import PrintBest

SHORT = [*TINY, "epochs=7"]


def needs(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@needs("hydra_plugins.hydra_optuna_sweeper")
@pytest.mark.slow
def test_a_study_goes_on_and_prints_its_best_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """The study is the sum of two calls; a run that diverged is a trial, but not the best; the command is the run's."""
    import optuna

    monkeypatch.chdir(tmp_path)
    sweep = [*SHORT, "+sweep=optimise", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1"]
    assert command_line(*sweep, "optimizer.lr=1e30") == 3
    assert command_line(*sweep, "optimizer.lr=0.01") == 0
    study = optuna.load_study("optimise", "sqlite:///optimise.db")
    values = [trial.value for trial in study.trials]
    (good,) = (run for run in Path("runs").glob("digits-*") if result(run)["status"] == "finished")
    assert values == [float("inf"), result(good)["metrics"]["validation"]["loss"]]
    assert OmegaConf.load("runs/sweeps/optimise/optimization_results.yaml").best_value == values[1]
    command = capfd.readouterr().out.splitlines()[-1]
    assert command.startswith("python train.py ")
    assert command_line(*shlex.split(command)[2:]) == 0
    assert f"{good}: already ended" in capfd.readouterr().out


def test_the_command_of_the_best_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its overrides are those that were typed, which may refer to the settings that the study has chosen."""
    OmegaConf.save({"best_params": {"seed": 7}, "best_value": 0.5}, tmp_path / "optimization_results.yaml")
    hydra = {"sweep": {"dir": str(tmp_path)}, "sweeper": {"params": {"seed": "range(9)", "epochs": "${length}"}},
             "overrides": {"task": ["name=it${seed}"]}}  # fmt: skip
    PrintBest().on_multirun_end(OmegaConf.create({"hydra": hydra, "seed": 0, "length": 5}))
    command = "python train.py 'epochs=${length}' 'name=it${seed}' seed=7"
    assert capsys.readouterr().out == f"best value 0.5 of the study:\n{command}\n"


def test_a_study_without_its_sweeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert command_line(*SHORT, "+sweep=optimise") == 2
    assert "settings of Optuna's sweeper: add hydra/sweeper=optuna" in capfd.readouterr().err


@needs("hydra_plugins.hydra_optuna_sweeper")
@pytest.mark.slow
def test_a_study_with_several_objectives_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    study = ["+sweep=optimise", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "hydra/launcher=local"]
    assert command_line(*SHORT, *study, "hydra.sweeper.direction=[minimize,maximize]") == 2
    assert "a run has one objective, its validation loss: expected minimize" in capfd.readouterr().err
    assert not [*Path().glob("runs/digits-*")]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [
    pytest.param("joblib hydra.launcher.n_jobs=2", marks=needs("hydra_plugins.hydra_joblib_launcher")),
    pytest.param("submitit_local", marks=needs("hydra_plugins.hydra_submitit_launcher")),
])  # fmt: skip
def test_other_launchers(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                         capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """Runs end, and a run that is refused fails the sweep."""
    monkeypatch.chdir(tmp_path)
    typed = ["-m", *SHORT, "seed=0,1", *f"hydra/launcher={launcher}".split()]
    assert command_line(*typed) == 0
    runs = sorted(Path("runs").glob("digits-*"))
    assert [result(run)["status"] for run in runs] == ["finished"] * 2
    (runs[0] / "result.json").write_text("{")
    assert command_line(*typed) == 2
    assert "a run failed with exit code 2" in capfd.readouterr().err
