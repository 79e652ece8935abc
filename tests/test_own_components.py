"""Components outside of the package, as a user has them: the docs' example, run from a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, compose, only_run, result

from distancing import trust
from distancing.config import check
from distancing.errors import ConfigError

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
    assert f"set {trust.VARIABLE}=mine, or add the line mine to {example}/settings" in refused.stderr
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model._target_=mine.nn.Conv2d"], r"can't import mine\.nn: ModuleNotFoundError: .*"),
        (["model._target_=mine.Stripes"], "mine has no such Model, a torch.nn.Module, or a function"),
        (["model._target_=mine.component", WIDTH], "mine has no such Model"),
        (["model._target_=mine.Missing"], "mine has no such Model"),
        (["dataset._target_=mine.Small"], "mine has no such Dataset"),
        (["+model.depth=3"], r"it can't be built for images of shape \(1, 8, 8\) and 2 classes: .*depth"),
        ([WIDTH], "missing 1 required .*width"),
        (["model._target_=minestrone.Net"], "if you trust the code of minestrone, set"),
        (["model._target_=mine.wrong", WIDTH], r"for two images and 2 classes it returns shape \(2, 3\) instead of"),
        (["model._target_=mine.frozen", WIDTH], r"its parameter 0\.weight is frozen"),
        (["dataset.noise=a"], "dataset.noise='a'"),
        (["penalty.kernel._target_=broken.Kernel"], "can't import broken: SyntaxError"),
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
    )
    (example / "broken.py").write_text("1 +\n")
    monkeypatch.setenv(trust.VARIABLE, os.pathsep.join([str(file), str(example / "broken.py")]))
    with pytest.raises(ConfigError, match=message):
        check(stripes(example, *overrides))


def stripes(example: Path, *overrides: str) -> object:
    searched = f"hydra.searchpath=[file://{example}/mine/conf]"
    return compose(searched, "dataset=stripes", "model=small", "penalty=plateau", *TINY, *overrides)


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
