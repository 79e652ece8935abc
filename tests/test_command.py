"""One entry point for all commands: its names, its configs, its exit codes, and terminals without θ."""

import argparse
import io
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra

from distancing.__main__ import MODULES, main
from distancing.errors import ConfigError, GradientError, StorageError
from distancing.process.command import check_writable, command


def distancing(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `distancing ARGUMENTS` in this process; return its exit code."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["distancing", *arguments])
    try:
        return main()
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "train"])
def test_every_command_explains_itself(name: str, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert distancing(monkeypatch, name, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: distancing {name} ")


@pytest.mark.parametrize("arguments", [["report", str(ROOT / "results/escape.zip"), "--command"], ["train", "--help"]])
def test_a_reader_that_has_seen_enough(arguments: list[str], tmp_path: Path) -> None:
    """A command whose output is cut off, as by head, ends without a message."""
    command = [sys.executable, "-um", "distancing", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "argument command: invalid choice: 'trian'"),
        (["ensemble"], "the following arguments are required: RUN; --help lists the arguments"),
        (["report", "it", "--metrics", "a"], "unrecognized arguments: --metrics a; --help lists"),
        (["report", "it", "--best", "0"], "argument --best: expected a whole number from 1, not '0'; --help lists"),
        (["sweep", "status", "--foo"], "the following arguments are required: SWEEP"),
        *(
            ([name, "it", "--device", "cuda"], "--device=cuda is not on this machine, which has cpu")
            for name in ("ensemble", "landscape")
            if not torch.cuda.is_available()
        ),
        (["train", "--foo"], "unrecognized arguments: --foo; --help lists"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert distancing(monkeypatch, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert distancing(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"distancing {version('distancing')}\n"


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="needs /proc, where root can't write either")
def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    for path, place, folder in (
        ("/proc/a/it.csv", "/proc", False),
        ("/proc/version", "/proc/version", False),
        ("/proc", "/proc", True),
    ):
        with pytest.raises(StorageError, match=f"--csv={path}: {place} can't be written to: name another place"):
            check_writable("csv", Path(path), folder)
    (tmp_path / "it.csv").write_text("old")
    for name in ("it.csv", "a/new.csv"):
        check_writable("csv", tmp_path / name)
    check_writable("csv", Path("/dev/null"))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("it.csv", "old")]


def test_train_prefers_the_configs_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                         capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for seed in (0, 7):
        assert distancing(monkeypatch, "train", "model=mlp", "--cfg", "job") == 0
        shown = capsys.readouterr().out
        assert f"\nseed: {seed}\n" in shown
        assert "_target_: distancing.models.MLP" in shown
        shutil.copytree(ROOT / "conf", tmp_path / "conf", dirs_exist_ok=True)
        config = tmp_path / "conf/config.yaml"
        config.write_text(config.read_text(encoding="utf-8").replace("seed: 0 ", "seed: 7 "), encoding="utf-8")
    assert distancing(monkeypatch, "train", "sead=1") == 2
    assert capsys.readouterr().err.startswith("error: sead is not a setting; allowed here: ")
    config.write_text("defaults:\n  - model: unet\nlr: 0.1\n", encoding="utf-8")
    assert distancing(monkeypatch, "train") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {config} is not a config of distancing, because it has no phases: run the")


def test_train_on_python_3_14(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                              capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    """There argparse looks into the help as soon as an option is added, and Hydra 1.3 gives it one that is no text."""
    original = argparse._ActionsContainer.add_argument

    def add_argument(container: argparse._ActionsContainer, *names: str, **settings: Any) -> argparse.Action:
        action = original(container, *names, **settings)
        assert action.help is None or "%" not in action.help or action.help % {"prog": "", "default": ""}
        return action

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", add_argument)
    monkeypatch.chdir(tmp_path)
    assert distancing(monkeypatch, "train", "--cfg", "job") == 0
    assert distancing(monkeypatch, "train", "--help") == 0
    assert "Powered by Hydra" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a\nb\x07"), 2, "error: a b\\x07\n"),
        (FileNotFoundError("c"), 2, "error: c\n"),
        (GradientError("d"), 5, "error: d\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def fail() -> int:
        raise error

    assert fail() == code
    assert capsys.readouterr().err == line


def test_a_bug_is_not_hidden() -> None:
    @command
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_terminal_without_theta(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = io.BytesIO(), io.BytesIO()
    for name, output in zip(("stdout", "stderr"), outputs, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(output, encoding, write_through=True))

    @command
    def show() -> int:
        print("‖θ‖")
        raise ConfigError("θ")

    assert show() == 2
    assert [output.getvalue() for output in outputs] == [b"???\n", b"error: ?\n"]
