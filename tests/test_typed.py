"""Commands as people type them: ignored settings are refused, and sweeps may mix choices with different settings."""

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY, command_line, launched
from omegaconf import DictConfig

from distancing.errors import ConfigError
from distancing.report.__main__ import main as report

Typed = Callable[..., str]
SHORT = [*TINY, "epochs=7"]
COST = "hydra/launcher=cost"


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str, str], str]:
    """Write an own experiment or sweep; return the option that makes it a choice."""

    def write(name: str, text: str) -> str:
        file = tmp_path / "own" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return f"--config-dir={tmp_path}/own"

    return write


# what would be accepted and ignored

IGNORED = {
    COST: "hydra/launcher=cost is a setting of sweeps, and this is a single run: add -m",
    "hydra/launcher=slurm": "hydra/launcher=slurm is a setting of sweeps",
    "hydra/sweeper=basic": "hydra/sweeper=basic is a setting of sweeps",
    "hydra.sweep.dir=x": "hydra.sweep.dir=x is a setting of sweeps",
    "+hydra.sweeper.params.seed=[0,1]": "+hydra.sweeper.params.seed=[0,1] is a setting of sweeps",
    "hydra.run.dir=x": "hydra.run.dir=x would be ignored here; runs= is the folder of runs",
    "--package optimizer": "--package would be ignored here: it is the part that --cfg shows",
    "hydra.output_subdir=x": "hydra.output_subdir=x would be ignored here",
    "hydra/output=default": "hydra/output=default would be ignored here",
    "hydra.job.chdir=true": "hydra.job.chdir=true would be ignored here",
    "hydra.job.name=x": "hydra.job.name=x would be ignored here",
    "+hydra.job.env_set.OMP_NUM_THREADS=2": "would be ignored here; set variables in the shell",
    "-m seed=0,1 hydra.sweep.subdir=x": "hydra.sweep.subdir=x would be ignored here; runs= is the folder of runs",
    "-m seed=0,1 hydra.run.dir=x": "hydra.run.dir=x would be ignored here",
    "penalty=[laplace,none]": "penalty=[laplace,none]: expected one choice; a sweep over several is -m penalty=lap",
    "model=[mlp]": "model=[mlp]: expected one choice",
    "experiment=[smoke,thesis_mnist]": "experiment=[smoke,thesis_mnist]: expected one choice",
    "+sweep=[escape,thesis]": "expected one choice",
    "hydra/launcher=[local,slurm] -m seed=0,1": "hydra/launcher=[local,slurm]: expected one choice",
    "-m penalty=[laplace,none],gaussian": "penalty=[laplace,none]: expected one choice",
}


@pytest.mark.parametrize("typed", IGNORED)
def test_what_would_be_ignored_is_refused(typed: str, refused: Typed) -> None:
    assert IGNORED[typed] in refused(*SHORT, *typed.split())


@pytest.mark.parametrize(
    ("name", "text", "typed", "said"),
    [
        ("sweep/mine", "# @package hydra\nsweeper: {params: {seed: [0, 1]}}", "+sweep=mine",
         "sweep=mine has no line `mode: MULTIRUN`"),
        ("sweep/mine", "mode: MULTIRUN\nsweeper: {params: {seed: [0, 1]}}", "+sweep=mine", "line `# @package hydra`"),
        ("sweep/mine", "mode: MULTIRUN\nsweeper: {params: {seed: [0, 1]}}", "+sweep=mine -m", "`# @package hydra`"),
        ("sweep/mine", "# @package _global_\nmode: MULTIRUN", "+sweep=mine", "line `# @package hydra`"),
        ("experiment/mine", "epochs: 7", "experiment=mine", "line `# @package _global_`"),
        ("experiment/mine", "epochs: 7", "experiment=mine,smoke -m", "line `# @package _global_`"),
        ("experiment/mine", "defaults: [override /penalty: none]", "experiment=mine", "`# @package _global_`"),
        ("experiment/mine", "# @package _global_\ndefaults: [override /penalty: [none, laplace]]", "experiment=mine",
         "penalty has a list of choices in a YAML"),
        ("experiment/mine", "# @package _global_\nhydra: {job: {chdir: true}}", "experiment=mine",
         "hydra.job.chdir=True would be ignored here"),
        ("experiment/mine", "# @package _global_\nhydra: {sweeper: {params: {seed: [0, 1]}}}", "experiment=mine",
         "hydra.sweeper has settings, and this is a single run"),
    ],
)  # fmt: skip
def test_own_files(name: str, text: str, typed: str, said: str, own: Callable[[str, str], str], refused: Typed) -> None:
    option = own(f"{name}.yaml", text)
    assert said in refused(*typed.split(), option)


def test_options_may_stand_anywhere(own: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                    capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    option = own("experiment/mine.yaml", "# @package _global_\nepochs: 7\n")
    assert command_line("seed=3", option, "experiment=mine", "--cfg", "job", "model=mlp") == 0
    shown = yaml.safe_load(capfd.readouterr().out)
    assert (shown["seed"], shown["epochs"], shown["model"]["_target_"]) == (3, 7, "distancing.models.MLP")


# sweeps over choices that have different settings


def planned(*typed: str) -> tuple[int, list[str]]:
    """Return the number of runs that the cost launcher plans, and the lines before the estimate."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        launched(*typed, COST)
    *lines, last = said.getvalue().splitlines()
    return int(last.partition("cost of ")[2].partition(" runs")[0]), lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "runs", "said"),
    [
        ("penalty=gaussian,none penalty.sigma=0.3,1 seed=0,1", 6,
         ["penalty.sigma does not apply to penalty=none: 2 runs instead of 4"]),
        ("penalty=gaussian,none penalty.sigma=0.3,1 penalty.strength=1,2,3 seed=0", 7,
         ["penalty.sigma and penalty.strength do not apply to penalty=none: 1 runs instead of 6"]),
        ("penalty=gaussian,none penalty.sigma=1 seed=0,1", 4, ["penalty.sigma does not apply to penalty=none"]),
        ("model=mlp,resnet8 model.depth=8,14 model.shortcut=conv,pad", 6,
         ["model.shortcut does not apply to model=mlp: 2 runs instead of 4"]),
        ("phases=cycles,single phases.cycle.times=1,2", 3,
         ["phases.cycle.times does not apply to phases=single: 1 runs instead of 2"]),
        ("analysis=[barrier],[] analysis.barrier.pairs=ends", 1,
         ["analysis.barrier.pairs does not apply to analysis=[]",
          "analysis makes no run of its own: runs that differ in it alone are one, with the first value"]),
        ("penalty=gaussian,random_projection penalty.distance.dimensions=4,8", 3,
         ["penalty.distance.dimensions does not apply to penalty=gaussian: 1 runs instead of 2"]),
        ("optimizer=sgd,momentum optimizer.momentum=0,0.5", 2, []),  # all have it
    ],
)  # fmt: skip
def test_a_setting_applies_where_it_exists(typed: str, runs: int, said: list[str], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert planned(*SHORT, *typed.split()) == (runs, said)


def test_the_same_in_a_sweep_file(own: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    option = own("sweep/mine.yaml", "# @package hydra\nmode: MULTIRUN\nsweeper:\n  params: {penalty.sigma: [0.3, 1]}\n"
                 "  cases: {hills: {penalty: gaussian}, control: {penalty: none, seed: [0, 1]}}")  # fmt: skip
    assert command_line(*SHORT, option, "+sweep=mine", COST) == 0
    said = capfd.readouterr().out
    assert said.startswith("penalty.sigma does not apply to penalty=none: 2 runs instead of 4\n")
    assert "the cost of 4 runs" in said


@pytest.mark.parametrize("typed", ["penalty=gaussian,none penalty.sigmaa=1,2", "penalty=none penalty.sigma=1,2"])
def test_a_setting_that_no_choice_has(typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="is not a setting"):
        launched(*SHORT, *typed.split(), COST)


def test_a_conditional_sweep_runs_by_each_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All launchers, Hydra's own included, get the runs without the settings that do not apply."""
    monkeypatch.chdir(tmp_path)
    ran: list[str] = []

    def task(cfg: DictConfig) -> float:
        ran.append(cfg.name)
        return 0.0

    launched(*SHORT, "penalty=laplace,none", "penalty.sigma=1,2", task=task)
    assert [name.split("-")[2] for name in ran] == ["laplace", "laplace", "none"]


# saved configs


@pytest.mark.slow
def test_a_saved_config_is_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                   capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """A config saved by `--cfg job`, and the config that the run has stored, lead to the same run."""
    monkeypatch.chdir(tmp_path)
    assert command_line(*SHORT, "seed=3", "--cfg", "job") == 0
    Path("saved").mkdir()
    Path("saved/my.yaml").write_text(capfd.readouterr().out)
    assert command_line(*SHORT, "seed=3") == 0
    (run,) = Path("runs").iterdir()
    capfd.readouterr()
    shutil.copy(run / ".hydra/config.yaml", "saved/stored.yaml")
    for name in ("my", "stored"):
        assert command_line("--config-dir=saved", f"--config-name={name}") == 0
        assert f"{run}: already ended" in capfd.readouterr().out
    assert command_line("-cd", f"{run}/.hydra", "-cn", "config") == 2
    assert "config.yaml would be ignored, because" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "saved"]
    assert command_line("-m", "--config-name", "my", "seed=3,4", "-cd", "saved", COST) == 0
    assert "cost on cpu" in capfd.readouterr().out


def test_a_config_saved_without_its_values(tmp_path: Path, refused: Typed) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "own")
    config = tmp_path / "own/config.yaml"
    name = next(line for line in config.read_text(encoding="utf-8").splitlines() if line.startswith("name:"))
    (tmp_path / "own/my.yaml").write_text(f"seed: 0\n{name}\n")
    assert "saved without its values" in refused("--config-name=my", f"--config-dir={tmp_path}/own")


# printed commands, and terminals

FOLDER = "a b'c \"ü"


@pytest.mark.slow
def test_printed_commands_are_pasted_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capfd: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """A shell runs what a run, a sweep and a report print, from a folder whose name needs quotes."""
    monkeypatch.chdir(tmp_path)
    typed = [*SHORT, r"""runs="a b'c \"ü" """.strip(), "seed=0"]
    assert command_line(*typed) == 0
    (run,) = Path(FOLDER).glob("digits-*")
    printed = capfd.readouterr().out
    assert command_line("-m", *typed, "hydra/launcher=local") == 0
    printed += capfd.readouterr().out
    assert report([str(run), "--command", "--tensorboard", f"{FOLDER}/links"]) == 0
    assert report([str(run), "--tensorboard", f"{FOLDER}/links"]) == 0
    printed += capfd.readouterr().out
    commands = re.findall(r"(?:python|distancing|tensorboard) .*", printed)
    starts = ["tensorboard", "distancing ensemble", "distancing sweep", "python train.py"]
    assert [sum(command.startswith(start) for command in commands) for start in starts] == [2, 1, 1, 1]
    for command in commands:
        if command.startswith("tensorboard"):
            assert Path(shlex.split(command)[-1]).is_dir()
            continue
        command = re.sub("^distancing", "python -m distancing", command)
        command = command.replace("python", shlex.quote(sys.executable), 1).replace("train.py", str(ROOT / "train.py"))
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
        assert done.returncode == 0, done.stderr
        if "train.py" in command:
            assert f"{run}: already ended" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_command_in_a_terminal_without_theta(encoding: str, tmp_path: Path) -> None:
    sweep = tmp_path / "runs/sweeps/it"
    sweep.mkdir(parents=True)
    (sweep / "runs.jsonl").write_text('{"run": "../../ä", "overrides": ["θ=‖"], "epochs": 1}\n', encoding="utf-8")
    packed = str(ROOT / "results/strength_sigma.zip")
    for line in (["report", "--help"], ["ensemble", "--help"], ["landscape", "--help"], ["sweep", "--help"],
                 ["report", packed, "--where", "penalty.sigma=3", "--baseline", "penalty=none"],
                 ["sweep", "status", str(sweep)], ["train", "--help"]):  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "distancing", *line], capture_output=True, cwd=tmp_path,
                              env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding})  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b""), line
        assert done.stdout.decode(encoding)
