"""The project's files agree with each other, and an installed wheel needs no checkout."""

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from distancing.config.project import TRAIN, main

FILES = ("pyproject.toml", "README.md", "LICENSE", "distancing", "hydra_plugins", "conf")


def test_init_writes_the_files_of_the_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (ROOT / "train.py").read_text(encoding="utf-8") == TRAIN
    assert main([str(tmp_path / "mine")]) == 0
    written = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine").rglob("*.*")}
    assert written == {Path("train.py"), *(path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml"))}
    assert main([str(tmp_path / "mine")]) == 2
    assert "train.py and" in capsys.readouterr().err
    assert (tmp_path / "mine/train.py").read_text(encoding="utf-8") == TRAIN


def test_one_version_everywhere() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert project is not None
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == project[1]
    assert f"## [{project[1]}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_wheel_trains_without_the_checkout(tmp_path: Path) -> None:
    """It is installed in a new environment, which lies inside another project's git repository."""

    def run(*command: str | Path, cwd: Path = tmp_path) -> str:
        process = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        return process.stdout

    (tmp_path / "source").mkdir()
    for name in FILES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / "source" / name)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "dist", "./source")
    shutil.rmtree(tmp_path / "source")
    run("git", "init", "-q")
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "theirs")
    run(sys.executable, "-m", "venv", "venv")
    bin_folder = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
    python = bin_folder / "python"
    installed = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    # the libraries of this environment, without its editable install of the checkout
    libraries = [path for path in sys.path if path.endswith("-packages")] or [sysconfig.get_path("purelib")]
    Path(installed, "libraries.pth").write_text("\n".join(libraries), encoding="utf-8")
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", next((tmp_path / "dist").glob("*.whl")))
    assert run(python, "-c", "import distancing; print(distancing.__file__)").startswith(installed)
    output = run(bin_folder / "distancing", "train", "experiment=smoke", "model.width=2")
    assert "run directory  runs/" in output
    result = next((tmp_path / "runs").glob("*/result.json")).read_text(encoding="utf-8")
    assert '"git_commit": null' in result
    run(bin_folder / "distancing", "init", "mine")
    (tmp_path / "mine/conf/model/tiny.yaml").write_text("defaults: [mlp]\nwidth: 3\n", encoding="utf-8")
    assert "run directory  runs/" in run(python, "train.py", "experiment=smoke", "model=tiny", cwd=tmp_path / "mine")
