"""The report on invented runs: numbers calculated by hand, damaged files, figures by their data, and the page."""

import csv
import io
import itertools
import json
import logging
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import yaml
from conftest import ROOT
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from scipy.stats import ttest_rel

from distancing.report import figures, metrics
from distancing.report.__main__ import main as cli
from distancing.report.commands import command
from distancing.report.gallery import gallery
from distancing.report.metrics import higher_is_better, result_numbers
from distancing.report.overview import Overview, summarise
from distancing.report.page import page
from distancing.report.runs import collect
from distancing.report.significance import holm, mean_sd, paired, unpaired
from distancing.report.tables import latex, markdown
from distancing.runs import Listed, SweepDirectory

logging.getLogger("fontTools").setLevel("WARNING")  # it logs every table of every font
GAUSSIAN = {"_target_": "distancing.hills.penalty.Penalty", "strength": 1.0, "sigma": 0.3, "sigma_unit": "travelled"}


class Folder:
    """Hand-written runs and a sweep of them."""

    def __init__(self, path: Path) -> None:
        self.path, self.sweep = path, SweepDirectory(path / "sweeps/it")

    def add(self, name: str, *overrides: str, accuracy: float | None = None, rows: Sequence[Sequence[Any]] = (),
            **settings: Any) -> Path:  # fmt: skip
        """Write a run, finished if it has an accuracy. rows: epoch, phase, test/accuracy, distance."""
        run, typed = self.path / name, dict(override.split("=", 1) for override in overrides)
        penalty: dict[str, Any] | None = {**GAUSSIAN, "sigma": float(typed.get("penalty.sigma", 0.3))}
        config = {"seed": int(typed["seed"]), "penalty": None if typed.get("penalty") == "none" else penalty,
                  "dataset": {"bootstrap_seed": 0}, "runs": "runs", "name": name, **settings}  # fmt: skip
        self.sweep.add([Listed(run, overrides, 4)])
        (run / ".hydra").mkdir(parents=True)
        (run / ".hydra/config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        (run / ".hydra/overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
        if accuracy is not None:
            content = {"status": "finished", "seed": config["seed"], "seconds": 10 * accuracy, "device": "cpu",
                     "metrics": {"test": {"accuracy": accuracy, "loss": 1 - accuracy}}}  # fmt: skip
            (run / "result.json").write_text(json.dumps(content))
        head = ["epoch", "phase", "test/accuracy", "distance/descend", "hill/descend"]
        if rows:
            lines = [head, *([*row, "" if row[3] == "" else math.exp(-row[3])] for row in rows)]
            (run / "metrics.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
        return run


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Write two complete groups, and one with a run in every state."""
    folder = Folder(tmp_path / "runs")
    for seed, accuracy in enumerate((0.90, 0.92, 0.94)):
        rows = [(1, "descend", 0.5 + 0.1 * seed, ""), (2, "descend", 0.6, ""), (3, "escape", accuracy, 1.0 + seed)]
        folder.add(f"a{seed}", f"seed={seed}", "penalty=gaussian", "penalty.sigma=0.1", accuracy=accuracy, rows=rows)
    for seed, accuracy in enumerate((0.88, 0.91, 0.92)):
        folder.add(f"none{seed}", f"seed={seed}", "penalty=none", accuracy=accuracy)
    wide = ("penalty=gaussian", "penalty.sigma=3")
    folder.add("b0", "seed=0", *wide, accuracy=0.5)
    (folder.add("b1", "seed=1", *wide) / "result.json").write_text('{"status": "diverged", "metrics": null}')
    (folder.add("b2", "seed=2", *wide) / "error.txt").write_text("no memory\n")
    (folder.add("b3", "seed=3", *wide, accuracy=0.6) / "result.json").write_text('{"status": "fini')
    folder.add("b4", "seed=4", *wide)  # frozen, and not started
    folder.sweep.add([Listed(folder.path / "b5", ("seed=5", *wide), 4)])  # not even that
    return folder


def table(*arguments: str, tmp: Path) -> list[dict[str, str]]:
    assert cli([*arguments, "--csv", str(tmp / "table.csv")]) == 0
    return list(csv.DictReader(io.StringIO((tmp / "table.csv").read_text())))


def test_the_table_equals_a_calculation_by_hand(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = str(folder.sweep.path)
    a, b, none = table(sweep, "--metric", "test.accuracy", "--baseline", "penalty=none", tmp=tmp_path)
    assert (a["penalty"], a["penalty.sigma"], none["penalty"], none["penalty.sigma"]) == ("gaussian", "0.1", "none", "")
    assert float(a["test.accuracy mean [%]"]) == pytest.approx(92)
    assert float(a["test.accuracy sd [%]"]) == pytest.approx(2)  # the sample's: √((4 + 0 + 4) / 2)
    assert a["test.accuracy n"] == "3"
    # differences of 2, 1 and 2 points: mean 5/3, sd √(1/3), t = 5 with 2 degrees of freedom, p = 1 − 5/√27
    assert float(a["test.accuracy difference [%]"]) == pytest.approx(5 / 3)
    assert float(a["test.accuracy difference sd [%]"]) == pytest.approx(math.sqrt(1 / 3))
    assert float(a["test.accuracy p (scipy.stats.ttest_rel)"]) == pytest.approx(1 - 5 / math.sqrt(27))
    assert float(a["test.accuracy p (scipy.stats.ttest_rel)"]) == pytest.approx(
        ttest_rel([90, 92, 94], [88, 91, 92]).pvalue
    )
    states = ("finished", "diverged", "failed", "damaged", "unfinished", "missing")
    assert [b[state] for state in states] == ["1"] * 6
    assert [a[state] for state in states] == ["3", *["0"] * 5]
    assert (b["test.accuracy sd [%]"], b["test.accuracy pairs"], b["test.accuracy p (Holm)"]) == ("", "1", "")
    output = capsys.readouterr().out
    assert "12 runs in 3 groups: 7 finished, 1 diverged, 1 failed, 1 damaged, 1 unfinished, 1 missing" in output
    assert re.search(r"gaussian +0\.1 +3 .* 92\.00 ± 2\.00 +\+1\.67 +0\.038\n", output)
    assert "paired t-test by seed, two-sided (scipy.stats.ttest_rel)" in output
    assert "1 damaged files:" in output
    assert f"{folder.path}/b3/result.json is damaged" in output


def test_some_seeds_of_a_baseline_that_is_shown(folder: Folder, tmp_path: Path) -> None:
    """Its runs count once."""
    where = ["--where", "seed=0,1", "--where", "penalty.sigma=0.1,3", "--baseline", "penalty.sigma=0.1"]
    baseline, b = table(str(folder.sweep.path), "--metric", "test.accuracy", *where, tmp=tmp_path)
    assert [(row["penalty.sigma"], row["finished"], row["test.accuracy n"]) for row in (baseline, b)] == [
        ("0.1", "2", "2"), ("3", "1", "1"),
    ]  # fmt: skip


def test_a_packed_run_keeps_its_state(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = str(tmp_path / "it.zip")
    states = [table(source, "--where", "penalty.sigma=3", *more, tmp=tmp_path) for source, *more in (
        (str(folder.sweep.path), "--pack", packed), (packed,),
    )]  # fmt: skip
    assert [rows[0]["failed"] for rows in states] == ["1", "1"]
    capsys.readouterr()
    assert cli([packed, "--command"]) == 0
    assert capsys.readouterr().out.startswith(f"# {packed}/b0: finished\n")
    assert cli([packed, "--where", "penalty.sigma=3"]) == 0
    assert f"\n  {packed}/b3/result.json is damaged" in capsys.readouterr().out
    with ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert cli([f"{tmp_path}/empty.zip"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/empty.zip is not a run, a sweep, or a folder of runs")


def test_a_column_that_every_second_run_has(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs")
    for seed in range(42):
        rows = [(1, "descend", 0.5, 0.0)] if seed % 2 else []
        folder.add(f"a{seed}", f"seed={seed}", "penalty=gaussian", accuracy=0.5, rows=rows)
    overview = summarise([str(folder.sweep.path)], ["hill/descend"])
    assert overview.mean_sd(overview.groups[0], "hill/descend") == (1, 0, 21)


def test_a_column_that_ends_before_the_last_row(tmp_path: Path) -> None:
    """Its last value counts, also if that is far from the end of the file."""
    folder = Folder(tmp_path / "runs")
    for seed, rest in enumerate((1, 5000)):
        rows = [(1, "escape", 0.5, 0.0), (2, "escape", 0.5, 1.0), *[(3, "settle", 0.5, "")] * rest]
        folder.add(f"a{seed}", f"seed={seed}", "penalty=gaussian", accuracy=0.5, rows=rows)
    overview = summarise([str(folder.sweep.path)], ["distance/descend"])
    assert overview.mean_sd(overview.groups[0], "distance/descend") == (1, 0, 2)


def test_significance() -> None:
    assert holm([0.01, 0.04, 0.03, None]) == [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06), None]
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    nan, inf = math.nan, math.inf
    corrected = holm([0.001, nan, 0.04, 0.5])
    assert corrected == [pytest.approx(0.003), pytest.approx(nan, nan_ok=True), pytest.approx(0.08), 0.5]
    assert mean_sd([1.0, inf]) == (inf, None)
    assert math.isnan(mean_sd([inf, -inf])[0])
    assert math.isnan(mean_sd([1.0, nan, 2.0])[0])
    assert mean_sd([1.0, 3.0]) == (2, pytest.approx(2**0.5))
    assert unpaired([0.9, 0.9], [0.8, 0.8]) == (pytest.approx(0.1), None)  # as for pairs without variance
    assert [higher_is_better(f"ensemble.ood.it.npz.entropy.{name}") for name in ("auroc", "aupr", "fpr95")] == [1, 1, 0]
    lost = paired({0: nan, 1: 1.0}, {0: 2.0, 1: 2.0})
    assert lost is not None
    assert math.isnan(lost.difference)
    assert (lost.n, lost.sd, lost.p) == (2, None, None)


def test_numbers_that_are_not_finite_and_seeds_without_a_partner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table shows both, and says of which seeds a difference is the mean."""
    folder = Folder(tmp_path)
    for seed, accuracy in enumerate((0.95, 0.96, 0.97, 0.98)):
        folder.add(f"none{seed}", f"seed={seed}", "penalty=none", accuracy=accuracy)
    for seed, accuracy in ((2, 0.96), (3, 0.97), (4, 0.99), (5, 0.99)):
        folder.add(f"hill{seed}", f"seed={seed}", "penalty=gaussian", accuracy=accuracy)
    for seed in (0, 1):
        folder.add(f"lost{seed}", f"seed={seed}", "penalty=gaussian", "penalty.sigma=1", accuracy=(0.9, math.inf)[seed])
    assert cli([str(folder.sweep.path), "--baseline", "penalty=none", "--metric", "test.accuracy"]) == 0
    output = capsys.readouterr().out
    assert "97.75 ± 1.50" in output  # higher than 96.50, the baseline's mean
    assert "−1.00 (2 pairs)" in output
    assert "Δ with a number of pairs is the mean over these seeds alone" in output
    assert "∞" in output


def test_many_comparisons_are_corrected_whether_or_not_they_are_shown(folder: Folder, tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.5, 0.99, 0.6)):
        folder.add(f"c{seed}", f"seed={seed}", "penalty=gaussian", "penalty.sigma=1", accuracy=accuracy)
    select = ("--metric", "test.accuracy", "--baseline", "penalty=none", "--where", "penalty=gaussian", "--best", "1")
    none, a = table(str(folder.sweep.path), *select, tmp=tmp_path)  # the baseline stays
    assert (none["penalty"], a["penalty.sigma"]) == ("none", "0.1")
    assert float(a["test.accuracy p (Holm)"]) == pytest.approx(2 * float(a["test.accuracy p (scipy.stats.ttest_rel)"]))
    (note,) = (n for n in summarise([str(folder.path)], baseline=["penalty=none"]).notes if n.startswith("Δ:"))
    assert note.endswith("Holm's correction for 2 comparisons")


def test_runs_and_groups_are_selected(folder: Folder, tmp_path: Path) -> None:
    runs = str(folder.path)  # a folder of runs, which cannot know of missing ones
    assert len(table(runs, tmp=tmp_path)) == 3
    assert [r["penalty.sigma"] for r in table(runs, "--by", "penalty.sigma", tmp=tmp_path)] == ["", "0.1", "3"]
    for value in ("3", "3.0", "3,7"):
        (row,) = table(runs, "--where", f"penalty.sigma={value}", tmp=tmp_path)
        assert row["missing"] == "0"
    assert len(table(runs, "--where", "penalty.sigma=0.1,3", tmp=tmp_path)) == 2
    assert len(table(runs, "--where", "penalty.sigma=none", tmp=tmp_path)) == 1
    assert [r["finished"] for r in table(runs, "--where", "seed=1", tmp=tmp_path)] == ["1", "0", "1"]
    (row,) = table(runs, "--where", "penalty.sigma=3", "--where", "seed=0", "--by", "penalty.strength", tmp=tmp_path)
    assert (row["penalty.strength"], row["finished"]) == ("1", "1")
    (best,) = table(runs, "--best", "1", "--metric", "test.loss", tmp=tmp_path)  # the lowest
    assert best["test.loss mean [nats]"].startswith("0.08")
    (one,) = table(f"{runs}/a*", "--metric", "distance/descend", "--metric", "seconds", tmp=tmp_path)  # a column's last
    assert (float(one["distance/descend mean"]), float(one["seconds mean [s]"])) == (2, pytest.approx(9.2))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_table_that_does_not_fit_on_the_disk(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the file, and no part of a packed file stays."""
    assert cli([str(folder.path), "--csv=/dev/full"]) == 2
    assert "No space left on device: '/dev/full'" in capsys.readouterr().err

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ZipFile, "writestr", full)
    assert cli([str(folder.path), f"--pack={tmp_path}/it.zip"]) == 2
    assert f"No space left on device: '{tmp_path}/it.zip'" in capsys.readouterr().err
    assert not [*tmp_path.glob("it.zip*")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing*"], "nothing* matches nothing"),
        (["--where", "penalty.sigma=5"], "selects none of the 11 runs: penalty.sigma is 0.1, 3, –"),
        (["--where", "penalty.sigma"], "expected KEY=VALUE"),
        (
            ["--where", "penalty.size=5"],
            "no run has a setting penalty.size; the settings typed are penalty, penalty.sigma",
        ),
        (["--by", "sigma"], "--by sigma: no run has this setting; those that vary are penalty, penalty.sigma"),
        (["--by", "seed"], "--by seed: the runs of a group differ in it; those that vary are penalty, penalty.sigma"),
        (["--baseline", "penalty=gaussian"], "selects 2 groups instead of one: penalty=gaussian, penalty.sigma=0.1; "),
        (["--baseline", "penalty=elementwise"], "--baseline penalty=elementwise selects no groups instead of one"),
        (
            ["--metric", "test.acc"],
            "--metric test.acc: no run has this metric; there are seconds, test.accuracy, test.loss, distance/descend",
        ),
        (["--csv", str(ROOT)], f"--csv={ROOT}: this is a folder: name a file in it"),
        (["--pack", "it.txt"], "--pack=it.txt: only a file named .zip can be a source later: name one"),
        (["--figures", str(ROOT / "train.py")], f"--figures={ROOT}/train.py: {ROOT}/train.py is a file: name a folder"),
        (["--html", str(ROOT / "train.py/x/it.html")], f"{ROOT}/train.py is a file: name a folder"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(
    folder: Folder, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [] if arguments[0] == "nothing*" else [str(folder.path)]
    assert cli([*sources, *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_report_without_finished_runs(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs of which none has finished make a report; an empty folder is refused."""
    (tmp_path / "empty").mkdir()
    assert cli([str(tmp_path / "empty")]) == 2
    assert f"{tmp_path}/empty is not a run, a sweep, or a folder of runs" in capsys.readouterr().err
    for name in ("b4", "b2"):
        assert cli([str(folder.path / name), "--all", str(tmp_path / name)]) == 0
        assert (tmp_path / name / "index.html").exists()
        assert capsys.readouterr().out.startswith("1 run in 1 group: 1 ")


def test_groups(tmp_path: Path) -> None:
    """Runs are grouped by their resolved settings, and groups are named by the typed ones."""
    folder = Folder(tmp_path / "runs")
    bag = {"bootstrap": True, "bootstrap_seed": 0}
    for seed in (0, 1, 2):
        folder.add(f"default{seed}", f"seed={seed}", accuracy=0.5)
        folder.add(f"typed{seed}", f"seed={seed}", "penalty=none", accuracy=0.5, epochs=7)
        folder.add(f"bag{seed}", f"seed={seed}", "penalty=none", accuracy=0.5, dataset={**bag, "bootstrap_seed": seed})
        folder.add(f"one{seed}", f"seed={seed}", "penalty=none", accuracy=0.5, dataset={**bag, "bootstrap_seed": 9})
        folder.add(f"plain{seed}", f"seed={seed}", "penalty=none", accuracy=0.5, dataset={**bag, "bootstrap": False})
    folder.add("again", "seed=0", "penalty=gaussian", accuracy=0.7)  # default0's settings, typed
    folder.sweep.add([Listed(folder.path / "gone", ("+sweep=it", "seed=3", "penalty=gaussian"), 4)])
    overview = summarise([str(folder.sweep.path)])
    names = {group.name: [run.path.name for run in group.runs] for group in overview.groups}
    assert sorted(names.values()) == [
        *([f"{name}{seed}" for seed in range(3)] for name in ("bag",)),
        ["default0", "default1", "default2", "gone"],
        *([f"{name}{seed}" for seed in range(3)] for name in ("one", "plain", "typed")),
    ]
    assert "penalty=gaussian, dataset.bootstrap_seed=0" in names  # nobody typed it in default0
    assert "penalty=none, dataset.bootstrap_seed=0, epochs=7" in names
    assert "left out: 1 runs with the settings and the seed of another one" in overview.notes
    assert not {"penalty._target_", "penalty.strength", "name", "seed"} & set(overview.keys)
    for name in ("resnet8", "resnet14"):  # in the order of their first use, not of the alphabet
        folder.add(
            name, "seed=0", f"model={name}", model={"_target_": "distancing.models.ResNet", "depth": int(name[6:])}
        )
    models = [group.settings["model"] for group in summarise([str(folder.sweep.path)]).groups]
    assert [model for model in models if model] == ["resnet8", "resnet14"]


def test_equal_runs_that_were_typed_differently(tmp_path: Path) -> None:
    """An experiment is no column where the settings that it chooses tell the groups apart."""
    folder = Folder(tmp_path / "runs")
    folder.add("a0", "seed=0", "experiment=smoke", accuracy=0.5, epochs=2)
    folder.add("a1", "seed=1", "epochs=2", accuracy=0.5, epochs=2)
    folder.add("b0", "seed=0", "epochs=3", accuracy=0.5, epochs=3)
    assert [group.name for group in summarise([str(folder.path)]).groups] == ["epochs=2", "epochs=3"]
    folder.add("c0", "seed=0", "experiment=digits", "epochs=2", accuracy=0.5, epochs=2, batch_size=7)
    names = [group.name for group in summarise([str(folder.path)]).groups]
    assert names == ["epochs=2, experiment=smoke", "epochs=2, experiment=digits", "epochs=3"]


def test_runs_that_differ_in_a_list(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs")
    for rates, accuracy in (([0.05, 0.05], 0.9), ([0.1, 0.1], 0.5)):
        phases = {"swa": {"lr": rates}}
        typed = f"phases.swa.lr={rates}".replace(" ", "")
        for seed in (0, 1):
            folder.add(f"{typed[-4:]}{seed}", f"seed={seed}", typed, accuracy=accuracy, phases=phases)
    overview = summarise([str(folder.sweep.path)])
    assert [group.name for group in overview.groups] == ["phases.swa.lr=[0.05,0.05]", "phases.swa.lr=[0.1,0.1]"]
    assert len(table(str(folder.path), "--where", "phases.swa.lr=[0.1,0.1]", tmp=tmp_path)) == 1


def test_an_ensemble_with_a_disagreement_that_is_not_a_number(tmp_path: Path) -> None:
    """It is missing from the metrics of this run, and costs no other one."""
    folder, numbers = Folder(tmp_path), []
    for seed, apart in enumerate((0.25, None)):
        run = folder.add(f"r{seed}", f"seed={seed}", accuracy=0.5)
        content = json.loads((run / "result.json").read_text())
        content["ensemble"] = {"splits": {"test": {"disagreement": [[0.0, apart], [apart, 0.0]]}}}
        (run / "result.json").write_text(json.dumps(content))
        numbers.append(result_numbers(collect([str(run)])[0][0]))
    assert numbers[0]["ensemble.test.disagreement"] == 0.25
    assert "ensemble.test.disagreement" not in numbers[1]


def test_the_names_of_metrics(tmp_path: Path) -> None:
    """The number in a name stays whole, and a seed is no metric."""
    assert metrics.label("sharpness.settle-1/rise_random_0.1") == "sharpness settle-1 rise_random_0.1"
    assert metrics.label("checkpoints.settle-1.test.loss") == "checkpoints settle-1 test loss, nats"
    run = Folder(tmp_path).add("it", "seed=0", accuracy=0.5)
    checkpoint = {"name": "descend", "file": "checkpoints/descend.pt", "epoch": 2, "initial_seed": 7, "forward": 2.0}
    content = json.loads((run / "result.json").read_text()) | {"checkpoints": [checkpoint]}
    (run / "result.json").write_text(json.dumps(content))
    names = result_numbers(collect([str(run)])[0][0])
    assert [name for name in names if name.startswith("checkpoints")] == ["checkpoints.descend.forward"]


ODD = r"a&b_c%d$e#f{g}h~i^j\k<b>l</b>\"m'|n,o*é θ"


def test_odd_characters(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs")
    for seed in (0, 1):
        folder.add(f"odd [{seed}] & <i>", f"seed={seed}", f"label={ODD}", accuracy=0.5 + seed / 10, label=ODD)
        folder.add(f"even{seed}", f"seed={seed}", "label=x", accuracy=0.5, label="x")
    overview = summarise([str(folder.sweep.path)])
    assert ODD in [row["label"] for row in table(str(folder.sweep.path), tmp=tmp_path)]
    written = latex(overview)
    escaped = (r"a\&b\_c\%d\$e\#f\{g\}h\textasciitilde{}i\textasciicircum{}j\textbackslash{}k\textless{}b\textgreater{}"
               r'l\textless{}/b\textgreater{}\textbackslash{}"m' + "'|n,o*é " + r"\ensuremath{\theta}")  # fmt: skip
    assert rf"{escaped} & 2 & 55.00 \ensuremath{{\pm}} 7.07" in written
    assert [written.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    body = [line for line in written.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {3}
    lines = [line for line in markdown(overview).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {5}
    html = check_page(page(overview, list(gallery(overview)), "<title>"))
    assert f"label={ODD}" in html
    (run,) = collect([str(folder.path / "odd [1] & <i>")])[0]  # this path is a glob, too
    assert shlex.split(command(run)) == ["python", "train.py", "seed=1", f"label={ODD}"]
    assert cli([str(folder.sweep.path), "--tensorboard", str(tmp_path / "links")]) == 0
    links = [path for path in (tmp_path / "links").iterdir() if path.is_symlink()]
    assert len({path.resolve() for path in links}) == 4
    assert all(re.fullmatch(r"[\w.+=,()\[\]{}-]+", path.name) for path in links)


@pytest.mark.slow
def test_damaged_files_are_named(folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder.path / "a0/metrics.csv").write_bytes((folder.path / "a0/metrics.csv").read_bytes()[:-9])
    (folder.path / "a1/metrics.csv").write_text("epoch,phase\n1,\xff")
    (folder.path / "a2/.hydra/config.yaml").write_text("penalty: {")
    (folder.path / "none0/result.json").write_text("[]")
    (folder.path / "none1/result.json").write_bytes(b"\xff\xfe{")
    with open(folder.sweep.path / "runs.jsonl", "a") as file:
        file.write('{"run": "../..')
    arguments = [str(folder.sweep.path), "--metric", "hill/descend", "--metric", "test.accuracy"]
    assert cli([*arguments, "--all", str(tmp_path / "all")]) == 0
    output = capsys.readouterr().out
    for name in ("a0/metrics.csv", "a2/.hydra/config.yaml", "none0/result.json", "none1/result.json", "b3/result.json"):
        assert len(re.findall(f"^  {folder.path}/{name}", output, re.MULTILINE)) >= 1, name
    assert output.count("a0/metrics.csv: the last row is half-written") == 1
    assert cli([str(folder.sweep.path), "--figures", str(tmp_path / "all")]) == 0  # read for these alone
    assert capsys.readouterr().out.count("a0/metrics.csv: the last row is half-written") == 1
    assert "a1/metrics.csv: the last row is half-written" in output
    assert "runs.jsonl: 1 of 13 lines can't be read" in output
    assert "a0/metrics.csv" in check_page((tmp_path / "all/index.html").read_text())


# figures, by their data


def data(figure: Figure, panel: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Return label → points of the lines in a panel."""
    lines = {str(line.get_label()): line for line in figure.axes[panel].lines}
    for container in figure.axes[panel].containers:
        lines[str(container.get_label())] = container.lines[0]
    return {label: [tuple(map(float, point)) for point in line.get_xydata()] for label, line in lines.items()}


def pictures(overview: Overview) -> dict[str, Figure]:
    drawn = {picture.name: picture for picture in gallery(overview)}
    assert all(picture.png.startswith(b"\x89PNG") and picture.pdf.startswith(b"%PDF") for picture in drawn.values())
    return {name: picture.figure for name, picture in drawn.items()}


@pytest.mark.slow
def test_figures(folder: Folder) -> None:
    for sigma, strength, accuracy in ((0.1, 5.0, 0.8), (3, 5.0, 0.7)):
        for seed in (0, 1):
            overrides = (f"seed={seed}", "penalty=gaussian", f"penalty.sigma={sigma}", f"penalty.strength={strength}")
            penalty = {**GAUSSIAN, "sigma": sigma, "strength": strength}
            folder.add(f"s{sigma}{seed}", *overrides, accuracy=accuracy + seed / 10, penalty=penalty)
    overview = summarise([str(folder.path)], ["test.accuracy"], baseline=["penalty=none"])
    drawn = pictures(overview)
    assert set(drawn) == {
        "learning_curves", "distances", "heat_map-test.accuracy-penalty.sigma-penalty.strength",
        "against-test.accuracy-penalty.sigma", "against-test.accuracy-penalty.strength", "cost",
    }  # fmt: skip

    curves = figures.Curve({"test/accuracy": np.array([1.0, 3.0])}, {"test/accuracy": np.array([0.5, np.nan])}, ())
    figure = figures.learning_curves({"a": curves}, {"test/accuracy": "test accuracy, %"})
    assert data(figure)["a"] == [(1, 1), (2, 3)]
    (band,) = (area for area in figure.axes[0].collections if isinstance(area, FillBetweenPolyCollection))
    assert band.get_datalim(figure.axes[0].transData).ymin == 0.5

    (line,) = data(drawn["learning_curves"]).values()  # of the one group with a metrics.csv
    assert [x for x, _ in line] == [1, 2, 3]
    assert [y for _, y in line] == pytest.approx([60, 60, 92])
    bands = list(drawn["learning_curves"].axes[0].collections)
    assert bands[0].get_paths()[0].vertices[:, 1].min() == pytest.approx(50)  # 50, 60, 70: sd 10
    words = [text.get_text() for text in drawn["learning_curves"].axes[0].texts]
    assert words == ["descend", "escape"]
    shades = [(p.get_x(), p.get_width()) for p in drawn["learning_curves"].axes[0].patches]
    assert shades == [(0.5, 2), (2.5, 1)]
    assert drawn["learning_curves"].axes[0].get_ylabel() == "test accuracy, %"

    assert data(drawn["distances"], 0)["descend"] == [(3, 2)]
    heights = np.exp([-1.0, -2.0, -3.0])
    assert data(drawn["distances"], 1)["descend"] == [(3, pytest.approx(heights.mean()))]

    against = data(drawn["against-test.accuracy-penalty.sigma"])
    assert against["strength=1"] == [(0.1, pytest.approx(92)), (3, pytest.approx(50))]
    assert against["strength=5"] == [(0.1, pytest.approx(85)), (3, pytest.approx(75))]
    assert against["baseline"][0][1] == pytest.approx(90 + 1 / 3)
    bars = drawn["against-test.accuracy-penalty.sigma"].axes[0].containers[0].lines[2][0].get_segments()
    assert bars[0][:, 1].tolist() == pytest.approx([90, 94])
    assert drawn["against-test.accuracy-penalty.sigma"].axes[0].get_xlabel() == "penalty.sigma, ‖θ$_c$ − θ$_0$‖"

    heat = drawn["heat_map-test.accuracy-penalty.sigma-penalty.strength"].axes[0]
    assert heat.images[0].get_array().tolist() == [pytest.approx([92, 50]), pytest.approx([85, 75])]
    assert {text.get_text() for text in heat.texts} == {"92.0\n±2.0", "50.0", "85.0\n±7.1", "75.0\n±7.1"}
    cost = data(drawn["cost"])
    assert cost["penalty=none"] == [(pytest.approx(9.0333, rel=1e-4), pytest.approx(90.333, rel=1e-4))]


def test_a_heat_map_fixes_the_other_settings_at_the_best_group(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs")
    for i, (sigma, batch, label) in enumerate(itertools.product((1, 2), (3, 4), "xy")):
        overrides = ("seed=0", f"penalty.sigma={sigma}", f"batch_size={batch}", f"label={label}")
        folder.add(f"run{i}", *overrides, accuracy=0.5 if label == "x" else 0.6, batch_size=batch, label=label)
    (heat,) = (
        picture for picture in gallery(summarise([str(folder.path)], ["test.accuracy"])) if "heat" in picture.name
    )
    assert "at label=y, where the best group is" in heat.caption
    assert heat.figure.axes[0].images[0].get_array().tolist() == [pytest.approx([60, 60])] * 2


def test_a_figure_shows_the_best_groups(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs")
    for i in range(12):
        folder.add(f"run{i}", "seed=0", f"penalty.sigma={i + 1}", accuracy=i / 20, rows=[(1, "train", i / 20, "")])
    overview = summarise([str(folder.path)])
    (curves,) = (picture for picture in gallery(overview) if picture.name == "learning_curves")
    assert "The 8 groups with the highest test.accuracy of 12." in curves.caption
    assert set(data(curves.figure)) == {f"sigma={i}" for i in range(5, 13)}
    lines = curves.figure.axes[0].lines
    looks = {(line.get_color(), line.get_marker(), str(line._dash_pattern)) for line in lines}  # type: ignore[attr-defined]
    assert len({marker for _, marker, _ in looks}) == len({dashes for _, _, dashes in looks}) == 8  # told apart in grey


# the page


class Parser(HTMLParser):
    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(html: str) -> str:
    """Check that the HTML is well-formed, loads nothing and has no dead links. Return its text."""
    parser = Parser()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert html.startswith("<!DOCTYPE html>")
    assert {tag for tag, *_ in parser.attributes}.isdisjoint({"script", "link", "iframe"})
    ids = [value for _, name, value in parser.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for _, name, value in parser.attributes:
        if name == "href":
            assert value
            assert value[0] == "#"
            assert value[1:] in ids
        if name == "src":
            assert value
            assert value.startswith("data:image/png;base64,")
    assert "url(" not in html
    assert "@import" not in html
    return parser.text


@pytest.mark.slow
def test_the_page_and_the_other_files(folder: Folder, tmp_path: Path) -> None:
    """All files are written from any folder, without importing torch or Hydra."""
    script = ("import sys; from distancing.report.__main__ import main; code = main(sys.argv[1:]); "
              "print(sorted({'torch', 'hydra', 'omegaconf'} & set(sys.modules))); sys.exit(code)")  # fmt: skip
    arguments = [str(folder.sweep.path), "--baseline", "penalty=none", "--all", "all"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    ended = subprocess.run([sys.executable, "-c", script, *arguments], cwd=tmp_path, env=environment,
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert ended.stdout.splitlines()[-1] == "[]"
    assert ended.stderr == ""
    files = {path.relative_to(tmp_path / "all").as_posix() for path in (tmp_path / "all").rglob("*.*")}
    assert {"table.csv", "table.md", "table.tex", "index.html", "figures/cost.png", "figures/cost.pdf"} <= files
    text = check_page((tmp_path / "all/index.html").read_text())
    for run in folder.sweep.runs():
        assert f"{run.path}: " in text
        assert f"python train.py {' '.join(run.overrides)}" in text
    assert "92.00 ± 2.00" in text
    assert "b3/result.json is damaged" in text
