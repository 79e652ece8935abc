"""Components outside of the package, as a user has them: the docs' example, run from a folder of its own."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, compose, only_run, result, start

from distancing.component import trust
from distancing.config.checks import check, check_new
from distancing.data.datasets import Digits
from distancing.errors import ConfigError, DatasetError
from distancing.models.factory import Factory

PAGE = ROOT / "docs/how-to/own-components.md"
CHOICES = ["--config-dir", "mine/conf", "dataset=stripes", "model=small", "penalty=plateau"]
WIDTH = "~model.width"
TINY = ["epochs=7", "phases.cycle.times=1", "batch_size=50", "device=cpu", "threads=1"]


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the files of the docs' example; return their folder. No module is trusted."""
    (tmp_path / "mine").mkdir()
    text = PAGE.read_text()
    (tmp_path / "mine/mine.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])
    for name, content in re.findall(r"```yaml\n# (\S+)\n(.*?)```", text, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv(trust.VARIABLE, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    return tmp_path


def distancing(folder: Path, *arguments: str, trusted: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in this folder, with this package on the path and these modules trusted."""
    environment = {**os.environ, trust.VARIABLE: trusted, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "distancing", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_docs_example_from_a_folder_of_its_own(example: Path) -> None:
    """It trains, is an ensemble, has a landscape and a report, and is swept from a copy of its code; edits show."""
    file = example / "mine/mine.py"
    mine = str(file)
    refused = distancing(example, "train", *CHOICES, *TINY)
    assert refused.returncode == 2
    assert f"set {trust.VARIABLE}={mine}, or add the line {mine} to {example}/settings" in refused.stderr
    assert refused.stderr.count("\n") == 1
    done = distancing(example, "train", *CHOICES, *TINY, "analysis=[barrier]", trusted=mine)
    assert done.returncode == 0, done.stderr
    run = only_run(example / "runs")
    assert result(run)["metrics"]["test"]["accuracy"] == 1
    for command in (["ensemble", str(run)], ["landscape", str(run), "--only", "valley"], ["report", str(run)]):
        done = distancing(example, *command, trusted=mine)
        assert done.returncode == 0, done.stderr
    stranger = distancing(example, "ensemble", str(run))
    assert stranger.returncode == 2
    assert "if you trust the code of mine" in stranger.stderr
    file.write_text(f"{file.read_text()}\n# edited\n")
    again = distancing(example, "train", *CHOICES, *TINY, trusted=mine)
    assert "the source code has changed since" in again.stdout
    swept = [
        *CHOICES,
        *TINY,
        "model._target_=mine.narrow",
        "~model.width",
        "seed=1",
        "hydra.sweep.dir=runs/sweeps/it",
    ]
    local = ["hydra/launcher=local", "hydra.launcher.snapshot=true"]
    done = distancing(example, "train", "-m", *swept, *local, trusted=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    (code,) = (example / "runs/sweeps/it/code").iterdir()
    assert (code / "mine.py").read_text() == file.read_text()
    assert len(list((example / "runs").glob("stripes-*/result.json"))) == 2


PARTS = """
import torch
from matplotlib.figure import Figure
from distancing.component.analysis import Analysis
from distancing.component import component
from distancing.hills.distances import Distance
from distancing.hills.kernels import Kernel
from distancing.landscape.subject import Findings
from distancing.training.optimizers import Optimizer
from distancing.training.schedules import Schedule

@component
class Heavy(Optimizer):
    ball: float = 0.9
    def build(self, theta):
        return torch.optim.SGD([theta.vector], self.lr, self.ball, weight_decay=2 * self.l2)

@component
class Halves(Schedule):
    def __call__(self, lr, t, length):
        return lr * 0.5 ** (t // 2)

@component
class Squares(Distance):
    def __call__(self, theta, checkpoints):
        return (theta - checkpoints).square().sum(1)

@component
class Bell(Kernel):
    def __call__(self, d, sigma):
        return torch.exp(-d / (2 * sigma**2))

@component
class Norms(Analysis):
    def __call__(self, subject, track):
        values = {name: float(row.norm()) for name, row in zip(subject.names, subject.parameters)}
        return Findings(values, [values], Figure())

@component
class NoOptimizer(Optimizer):
    def build(self, theta):
        return torch.optim.SGD([torch.zeros(3, requires_grad=True)], self.lr)

@component
class NoneAtAll(Optimizer):
    def build(self, theta):
        pass

@component
class Undecayed(Optimizer):
    def build(self, theta):
        return torch.optim.RMSprop([theta.vector], lr=self.lr)

@component
class Negative(Schedule):
    def __call__(self, lr, t, length):
        return lr * (1 - 2 * t / length)

@component
class Loud(Schedule):
    def __call__(self, lr, t, length):
        return lr / t

@component
class Single(Distance):
    def __call__(self, theta, checkpoints):
        return (theta - checkpoints).square().sum()

@component
class Flat(Kernel):
    def __call__(self, d, sigma):
        return torch.exp(-d.sum() / sigma.sum())

@component
class Sharp(Kernel):
    def __call__(self, d, sigma):
        return torch.exp(-d / 0 / sigma)

@component
class NoFindings(Analysis):
    def __call__(self, subject, track):
        return {}
"""
OWN = ["optimizer=heavy", "scheduler=halves", "penalty=bell", "analysis=[norms]"]
THEIRS = ["optimizer=momentum", "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.5"]


@pytest.fixture
def parts(example: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a trusted file with one component of each other kind, and wrong ones; return its folder."""
    (example / "parts.py").write_text(PARTS)
    for name, content in {
        "optimizer/heavy": "_target_: parts.Heavy\nlr: 0.1\nl2: 0.001\n",
        "scheduler/halves": "_target_: parts.Halves\n",
        "penalty/bell": "defaults: [gaussian]\nkernel: {_target_: parts.Bell}\ndistance: {_target_: parts.Squares}\n",
        "analysis/norms": "norms: {_target_: parts.Norms}\n",
    }.items():
        file = example / f"conf/{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.setenv(trust.VARIABLE, str(example / "parts.py"))
    monkeypatch.chdir(example)
    return example


@pytest.mark.slow
def test_own_components_train_as_those_of_the_package(parts: Path) -> None:
    """Copies of an optimiser, a schedule, a distance and a kernel give the same losses; the analysis is computed."""
    command = [sys.executable, str(ROOT / "train.py"), "--config-dir", "conf", *OWN, "model=mlp", "runs=own", *TINY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert start(*THEIRS, "model=mlp", "runs=theirs", *TINY) == 0
    own, theirs = (result(only_run(parts / folder)) for folder in ("own", "theirs"))
    for split, metrics in theirs["metrics"].items():
        assert own["metrics"][split] == pytest.approx(metrics, rel=1e-3)
    assert own["analysis"]["norms"].keys() == {"descend", "settle-1"}
    assert own["source"] != theirs["source"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("optimizer._target_=parts.NoOptimizer", "optimizer: NoOptimizer does not step theta.vector to other"),
        (
            "optimizer._target_=parts.NoneAtAll",
            "optimizer: NoneAtAll builds NoneType instead of a torch.optim.Optimizer",
        ),
        ("optimizer._target_=parts.Bell", "parts has no such Optimizer"),
        ("optimizer._target_=parts.Undecayed", "Undecayed does not apply l2=0.001 to"),
        ("optimizer.decay=weights", "Heavy does not apply l2=0.001 to the parameters that decay=weights names: give"),
        ("optimizer.bell=1", "optimizer.bell is not a setting; allowed here: lr, l2, decay, ball"),
        ("scheduler._target_=parts.Negative", r"scheduler: Negative returns -0.1 at epoch 7 of 7, but a learning rate"),
        ("scheduler._target_=parts.Loud", r"scheduler: Loud raises ZeroDivisionError in parts.py, line \d+: float div"),
        ("penalty.distance._target_=parts.Single", r"penalty.distance: Single returns \[\] for two checkpoints, but"),
        ("penalty.kernel._target_=parts.Flat", "penalty.kernel: Flat does not return finite heights of the shape of"),
        ("penalty.kernel._target_=parts.Sharp", "penalty.kernel: Sharp does not return finite heights"),
        ("analysis.norms._target_=parts.Squares", "analysis.norms._target_=parts.Squares: parts has no such Analysis"),
    ],
)
def test_one_line_says_what_is_wrong_with_the_others(parts: Path, overrides: str, message: str) -> None:
    searched = f"hydra.searchpath=[file://{parts}/conf]"
    with pytest.raises(ConfigError, match=message):
        check_new(check(compose(searched, *OWN, *TINY, *overrides.split())), ())


def test_an_analysis_that_returns_something_else(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched = f"hydra.searchpath=[file://{parts}/conf]"
    assert start(searched, *OWN, *TINY, "model=mlp", "analysis.norms._target_=parts.NoFindings") == 2
    assert capsys.readouterr().err == "error: analysis.norms: NoFindings returns dict, not Findings\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("np.uint8)[..., None]", "np.float32)[..., None]:images of float32 and labels of int64 instead of uint8"),
        ("[..., None], labels", r", labels:images \(200, 8, 8\) and labels \(200,\) instead of \(200, 8, 8, 1\)"),
        ("np.arange(n) % 2", "np.arange(n) % 3:labels from 0 to 2 for 2 classes"),
        ("draw(self.available)", r"draw(199):images \(199, 8, 8, 1\) and labels"),
    ],
)
def test_what_a_data_set_reads_is_checked(
    example: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    file = example / "mine/mine.py"
    changed, _, said = message.partition(":")
    file.with_name("other.py").write_text(file.read_text().replace(change, changed))
    monkeypatch.syspath_prepend(str(file.parent))
    monkeypatch.delitem(sys.modules, "other", raising=False)
    with pytest.raises(DatasetError, match=f"dataset: Stripes has {said}"):
        importlib.import_module("other").Stripes().load(torch.device("cpu"))


def test_a_data_set_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Digits, "read")
    with pytest.raises(DatasetError, match="dataset: Digits does not define read"):
        Digits().load(torch.device("cpu"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model._target_=mine.nn.Conv2d"], r"can't import mine\.nn: ModuleNotFoundError: .*"),
        (["model._target_=mine.Stripes"], "mine has no such Model, torch.nn.Module, or function"),
        (["model._target_=mine.component", WIDTH], "mine has no such Model"),
        (["model._target_=mine.Missing"], "mine has no such Model"),
        (["dataset._target_=mine.Small"], "mine has no such Dataset"),
        (["+model.depth=3"], r"it can't be built for images of shape \(1, 8, 8\) and 2 classes: .*depth"),
        ([WIDTH], "missing 1 required .*width"),
        (["model._target_=minestrone.Net"], "if you trust the code of minestrone, set"),
        (["model._target_=mine.wrong", WIDTH], r"for two images and 2 classes it returns shape \(2, 3\) instead of"),
        (["model._target_=mine.frozen", WIDTH], r"its parameter 0\.weight is frozen"),
        (["model._target_=mine.double", WIDTH], r"its parameter 0\.weight is torch.float64, but a run"),
        (["model._target_=mine.Two", WIDTH], "it returns tuple instead of logits of shape .* in training mode"),
        (["model._target_=mine.lazy", WIDTH], "model: it has lazy layers, whose sizes are not known before the first"),
        (["dataset._target_=mine.Sizeless", "~dataset.noise"], "dataset: Sizeless does not define available"),
        (["dataset.noise=a"], "dataset.noise='a'"),
        (["penalty.kernel._target_=broken.Kernel"], "can't import broken: SyntaxError"),
        (["penalty.kernel._target_=queue.Kernel"], "Python's own library has a module queue, which hides yours"),
    ],
)
def test_one_line_says_what_is_wrong(
    example: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], message: str
) -> None:
    file = example / "mine/mine.py"
    file.write_text(
        file.read_text()
        + "\n\ndef wrong() -> nn.Module:\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))\n"
        + "\ndef frozen() -> nn.Module:\n    return narrow((1, 8, 8), 2).requires_grad_(False)\n"
        + "\ndef double() -> nn.Module:\n    return narrow((1, 8, 8), 2).double()\n"
        + "\ndef lazy() -> nn.Module:\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))\n"
        + "\nclass Two(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        + "        self.inner, self.rate = narrow((1, 8, 8), 2), torch.ones(1).item()\n\n"
        + "    def forward(self, x):\n        y = self.inner(x)\n        return (y, y) if self.training else y\n"
        + "\n@component\nclass Sizeless(Dataset):\n    image_shape, classes = (1, 8, 8), 2\n"
    )
    (example / "broken.py").write_text("1 +\n")
    (example / "queue.py").write_text("class Kernel: ...\n")
    files = [file, example / "broken.py", example / "queue.py"]
    monkeypatch.setenv(trust.VARIABLE, os.pathsep.join(map(str, files)))
    with pytest.raises(ConfigError, match=message):
        check(stripes(example, *overrides))


def test_a_network_in_a_message() -> None:
    assert str(Factory(factory=torch.nn.Linear, settings={"in_features": 2, "bias": False})).endswith(
        ".Linear(in_features=2, bias=False)"
    )


def stripes(example: Path, *overrides: str) -> object:
    searched = f"hydra.searchpath=[file://{example}/mine/conf]"
    return compose(searched, "dataset=stripes", "model=small", "penalty=plateau", *TINY, *overrides)


@pytest.mark.parametrize(
    ("file", "entry"),
    [("mine/mine.py", "mine/mine.py"), ("mine/__init__.py", "mine"), ("mine.py", "mine.py")],
)
def test_the_hint_names_what_can_be_imported(
    file: str, entry: str, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example)
    (example / file).touch()
    wanted = str(example / entry)
    hint = trust.how_to_trust("mine.inner")
    assert f"set {trust.VARIABLE}={wanted}, or add the line {wanted} to" in hint
    monkeypatch.chdir(example / "mine/conf")
    assert f"set {trust.VARIABLE}=mine, or" in trust.how_to_trust("mine.inner")


def test_three_ways_to_trust(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable, the user's file, or an entry point of an installed package; a prefix is not enough."""
    assert not trust.is_trusted("mine")
    monkeypatch.setenv(trust.VARIABLE, f"other{os.pathsep}mine")
    assert trust.is_trusted("mine.inner")
    assert not trust.is_trusted("mines")
    monkeypatch.delenv(trust.VARIABLE)
    trust.settings_file().parent.mkdir(parents=True)
    trust.settings_file().write_text(f"# mine\n\n{example}/mine/mine.py  # by its path\n")
    assert trust.trusted()["mine"] == example / "mine"
    trust.settings_file().unlink()
    assert not trust.is_trusted("mine")
    package = example / "elsewhere/mine-1.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(f"[{trust.GROUP}]\nany = mine.components\n")
    assert trust.is_trusted("mine.components")
    assert not trust.is_trusted("mine")
