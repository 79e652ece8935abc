"""Ensembles beyond the test images: on other data sets, and under corruptions."""

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, TINY, launched, only_run, result, start
from scipy import special
from scipy.optimize import minimize_scalar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_calibration_error,
)

from distancing.config.checks import read_config
from distancing.data.datasets import CIFAR10, MNIST, Digits, FashionMNIST
from distancing.data.npz import Npz
from distancing.ensemble import corruptions, off_data, show
from distancing.ensemble.__main__ import main as cli
from distancing.ensemble.calibration import calibrated
from distancing.errors import EnsembleError
from distancing.experiment.main import main
from distancing.runs import RunDirectory, find_sweep
from distancing.stored import evaluation_images, find_checkpoints

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a run with four checkpoints, and one on a fold."""
    settings = {
        "cycles": [],
        "fold0": ["phases=single", "dataset.folds=2", "dataset.fold=0", "dataset.validation_fraction=0"],
    }
    runs = {}
    for name, overrides in settings.items():
        folder = tmp_path_factory.mktemp(name)
        assert start(*TINY, "epochs=8", "optimizer.lr=0.1", *overrides, f"runs={folder}") == 0
        runs[name] = only_run(folder)
    return runs


def test_images_of_another_data_set(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Compared with torchmetrics, from stored checkpoints. Mutual information is a mean divergence, in float64."""
    random = np.random.default_rng(0)
    arrays = {f"{kind}_{part}": values for part, n in (("train", 20), ("test", 50)) for kind, values in
              (("x", random.integers(0, 17, (n, 8, 8), dtype=np.uint8)), ("y", np.arange(n) % 10))}  # fmt: skip
    other, wrong, numbers = tmp_path / "other.npz", tmp_path / "wrong.npz", tmp_path / "numbers.json"
    np.savez(other, **arrays)
    np.savez(wrong, **{k: np.stack([v] * 3, -1) if k.startswith("x") else v for k, v in arrays.items()})
    picture = ["--weights", "4,1,2,1", "--picture", str(tmp_path / "it.png")]
    assert cli([str(runs["cycles"]), "--ood", str(other), "--json", str(numbers), *picture]) == 0
    assert (tmp_path / "it-ood.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    found = json.loads(numbers.read_text())["ood"][str(other)]
    data = evaluation_images(read_config(runs["cycles"] / ".hydra/config.yaml"), CPU)
    images = (data.test.images, torch.from_numpy(arrays["x_test"])[..., None])
    p, q = networks_by_hand(runs["cycles"], torch.cat(images), [4, 1, 2, 1])
    divergences = np.einsum("m,mnc->n", np.array([4, 1, 2, 1]) / 8, special.rel_entr(p, q[None]))
    truth = torch.tensor([0] * len(images[0]) + [1] * len(images[1]))
    assert found["images"] == 50
    for name, values in (("max_probability", 1 - q.max(1)), ("entropy", special.entr(q).sum(1)),
                         ("mutual_information", divergences)):  # fmt: skip
        values = torch.from_numpy(values) / 3  # torchmetrics would take numbers above 1 for logits
        assert found[name]["auroc"] == pytest.approx(float(binary_auroc(values, truth)), abs=1e-5)
        assert found[name]["aupr"] == pytest.approx(float(binary_average_precision(values, truth)), abs=1e-5)
        threshold = values[truth == 1].sort(descending=True).values[47]  # 48 of 50 are more than 95 %
        share = float((values[truth == 0] >= threshold).double().mean())
        assert found[name]["fpr95"] == pytest.approx(share, abs=1e-9)
    members = [float(binary_auroc(torch.from_numpy(special.entr(each).sum(1)) / 3, truth)) for each in p]
    assert [each["auroc"] for each in found["members"]] == pytest.approx(members, abs=1e-5)
    assert f"entropy of one member, mean │ {np.mean(members):.4f}" in out
    for name, message in (("digits", "is the data set that the networks were trained on"),
                          ("mnist", "--ood=mnist has images of 1×28×28"), (str(wrong), "has images of 3×8×8"),
                          ("nothing", "--ood=nothing is none of cifar10"),
                          (f"{other},", "--ood= is none of cifar10")):  # fmt: skip
        assert cli([str(runs["cycles"]), "--ood", name]) == 2
        assert message in capsys.readouterr().err


def test_images_with_a_prediction_that_is_not_a_number() -> None:
    p = torch.softmax(torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).double(), 2)
    broken = p.clone()
    broken[1, 2] = np.nan
    test, ood = (off_data.uncertainties(members, torch.ones(2).double()) for members in (p, broken))
    found = off_data.detection(test, ood)
    assert found.members is not None
    assert np.isnan([found.entropy.auroc, found.members[1].fpr95]).all()
    assert found.members[0].auroc == 0.5  # this member's predictions are numbers
    picture = show.ood_picture(test.measures, {"broken": ood.measures, "same": test.measures})
    assert [len(axes.lines) for axes in picture.axes[3:]] == [2] * 3  # the curve of "same", and the mark of 95 %


def test_a_threshold_that_exactly_95_per_cent_reach() -> None:
    """19 of 20 images are at 1.5 or above, as are two of four test images."""
    test, ood = torch.tensor([0.0, 1.0, 1.5, 30.0]), torch.arange(20) + 0.5
    assert off_data._detection(test, ood).fpr95 == 0.5


def test_the_own_images_are_refused_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "it.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnsembleError, match="is the data set that the networks were trained on"):
        off_data.images_of([str(tmp_path / "it.npz")], Npz(path="it.npz"))


def test_other_images_are_in_the_folder_of_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever data set the networks were trained on."""
    monkeypatch.setenv("DISTANCING_DATA", str(tmp_path / "datasets"))
    x, y = np.zeros((4, 28, 28), np.uint8), np.arange(4) % 2
    np.savez(tmp_path / "it.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for own in (Npz(path=str(tmp_path / "it.npz")), FashionMNIST(root="elsewhere", download=False)):
        dataset = off_data._dataset("mnist", own, "--ood=mnist")
        assert isinstance(dataset, MNIST)
        assert dataset.root == str(tmp_path / "datasets")
        assert dataset.download == isinstance(own, Npz)


def networks_by_hand(run: Path, images: torch.Tensor, weights: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of a run's checkpoints [M, N, C] and their weighted average, computed in float64."""
    config = read_config(run / ".hydra/config.yaml")
    data = evaluation_images(config, CPU)
    inputs = (images.permute(0, 3, 1, 2).double() - data.mean[:, None, None]) / data.std[:, None, None]
    logits = [member.network(CPU).eval().double()(inputs).detach().numpy() for member in find_checkpoints([run])]
    p = special.softmax(np.stack(logits), 2)
    return p, np.einsum("m,mnc->nc", np.array(weights) / sum(weights), p)


@pytest.fixture(scope="module")
def corrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in the layout of CIFAR-10-C: 16 corruptions of the test images of the digits."""
    folder, random = tmp_path_factory.mktemp("corrupted"), np.random.default_rng(0)
    _, (images, labels) = Digits().read()
    np.save(folder / "labels.npy", np.tile(labels, 5))
    for name in (*corruptions.COMMON, "spatter"):
        parts = [
            np.clip(images + random.integers(-s, s + 1, images.shape), 0, 16) for s in random.permuted(range(3, 8))
        ]
        np.save(folder / f"{name}.npy", np.concatenate(parts).astype(np.uint8)[..., 0])
    return folder


@pytest.mark.slow
def test_corrupted_images(runs: dict[str, Path], corrupted: Path, tmp_path: Path) -> None:
    """Compared with loops in float64. The temperature is SciPy's for the images of validation, without corruptions."""
    numbers, weights = tmp_path / "numbers.json", [1.0, 2, 3, 1]
    picture = ["--picture", str(tmp_path / "it.png"), "--weights", "1,2,3,1", "--json", str(numbers)]
    assert cli([str(runs["cycles"]), "--corruptions", str(corrupted), *picture]) == 0
    assert (tmp_path / "it-corruptions.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads(numbers.read_text())["corruptions"]
    assert (found["source"], found["temperature_from"]) == (str(corrupted), "validation")
    data = evaluation_images(read_config(runs["cycles"] / ".hydra/config.yaml"), CPU)
    assert data.validation is not None
    _, q = networks_by_hand(runs["cycles"], data.validation.images, weights)
    labels, own = data.test.labels.numpy(), data.validation.labels.numpy()

    def loss(beta: float) -> float:
        log_p = special.log_softmax(beta * np.log(q), 1)
        return float(-log_p[range(len(own)), own].sum() + (beta - 1) ** 2 / 2)

    beta = minimize_scalar(loss, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9}).x
    expected: dict[str, list[dict[str, float]]] = {}
    for name in (*corruptions.COMMON, "spatter"):
        images = torch.from_numpy(np.load(corrupted / f"{name}.npy").reshape(5, -1, 8, 8, 1))
        for part in images:
            _, q_part = networks_by_hand(runs["cycles"], part, weights)
            tempered = special.softmax(beta * np.log(q_part), 1)
            row = {"error": (q_part.argmax(1) != labels).mean()}
            for prefix, values in (("", q_part), ("calibrated_", tempered)):
                row[f"{prefix}nll"] = -np.log(values[range(len(labels)), labels]).mean()
                ece = multiclass_calibration_error(torch.from_numpy(values), torch.from_numpy(labels), 10, n_bins=15)
                row[f"{prefix}ece"] = float(ece)
            expected.setdefault(name, []).append(row)
    assert found["corruptions"].keys() == expected.keys()
    for name, rows in expected.items():
        for row, other in zip(rows, found["corruptions"][name], strict=True):
            assert other == pytest.approx(row, abs=2e-5), name
    for severity in range(1, 6):  # the further corruption is in no mean
        rows = [expected[name][severity - 1] for name in corruptions.COMMON]
        means = {key: np.mean([row[key] for row in rows]) for key in rows[0]}
        assert found["severity"][str(severity)] == pytest.approx(means, abs=2e-5)
    test = json.loads(numbers.read_text())["splits"]["test"]["ensemble"]
    assert found["severity"]["0"]["calibrated_nll"] == pytest.approx(test["calibrated_nll"], rel=1e-6)


def test_no_corrupted_image_is_judged_at_a_temperature_of_the_same_image(
    runs: dict[str, Path], corrupted: Path, tmp_path: Path
) -> None:
    """Without validation images, the temperature for one half is that of the other half without corruptions."""
    numbers = tmp_path / "numbers.json"
    assert cli([str(runs["fold0"]), "--corruptions", str(corrupted), "--json", str(numbers)]) == 0
    found = json.loads(numbers.read_text())["corruptions"]
    assert found["temperature_from"] == "halves"
    data = evaluation_images(read_config(runs["fold0"] / ".hydra/config.yaml"), CPU)
    images = torch.from_numpy(np.load(corrupted / "fog.npy")[:360, ..., None])
    clean, foggy = (torch.from_numpy(networks_by_hand(runs["fold0"], x, [1.0])[1]) for x in (data.test.images, images))
    divide, labels, values = torch.Generator().manual_seed(0), data.test.labels, []
    for _ in range(5):
        order = torch.randperm(360, generator=divide)
        for one, other in ((order[:180], order[180:]), (order[180:], order[:180])):
            scores = calibrated((foggy[other], labels[other]), (clean[one], labels[one]))
            values.append(scores["calibrated_nll"])
    assert found["corruptions"]["fog"][0]["calibrated_nll"] == pytest.approx(np.mean(values), rel=1e-5)


def test_refused_corruptions(runs: dict[str, Path], corrupted: Path, tmp_path: Path,
                             monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    folder = shutil.copytree(corrupted, tmp_path / "c")
    labels = np.load(folder / "labels.npy")

    def replace(name: str, array: Any) -> None:
        shutil.rmtree(folder)
        shutil.copytree(corrupted, folder)
        np.save(folder / f"{name}.npy", array)

    for name, array, message in (
        ("labels", labels[::-1], "labels.npy has other labels than the test images in their order, five times"),
        ("labels", labels[:-1], "labels.npy is [1799], and [1800] belongs there: five severities of each test image"),
        ("fog", np.zeros((1800, 8, 8)), "fog.npy is float64, and uint8 belongs there"),
        ("spatter", np.zeros((1800, 9, 9), np.uint8), "spatter.npy is [1800, 9, 9], and [1800, 8, 8, 1] belongs there"),
        ("snow", np.array([None]), f"can't read {folder}/snow.npy: "),
    ):
        replace(name, array)
        assert cli([str(runs["cycles"]), "--corruptions", str(folder)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: --corruptions={folder}: ")
        assert message in err
        assert err.count("\n") == 1
    (folder / "snow.npy").unlink()
    assert cli([str(runs["cycles"]), "--corruptions", str(folder)]) == 2
    assert f"can't read {folder}/snow.npy: [Errno 2] No such file" in capsys.readouterr().err
    assert cli([str(runs["cycles"]), "--corruptions"]) == 2
    assert "images of 1×8×8 (channels, height, width) can't be corrupted here" in capsys.readouterr().err
    assert cli([str(runs["cycles"]), "--make-corruptions"]) == 2
    assert "--make-corruptions needs a folder: add --corruptions FOLDER" in capsys.readouterr().err
    assert cli([str(runs["cycles"]), "--corruptions", str(tmp_path / "new"), "--make-corruptions"]) == 2
    assert f"--make-corruptions {tmp_path}/new: images of 1×8×8" in capsys.readouterr().err
    monkeypatch.setattr(corruptions, "make", lambda *_: pytest.fail("made before the other options were checked"))
    new = ["--corruptions", str(tmp_path / "new"), "--make-corruptions"]
    for arguments, message in ((["--ood", "nothing"], "--ood=nothing is none of"), (["--weights", "x"], "--weights=x")):
        assert cli([str(runs["cycles"]), *new, *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_kinds_compared_beyond_the_test_images(
    corrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The chosen trials alone are judged there; the scores are those of the command for one ensemble."""
    monkeypatch.chdir(tmp_path)
    cases = ("+hydra.sweeper.cases={a:{phases:snapshot,phases.cycle.times:2,optimizer.lr:[0.1,0.2]},"
             "b:{phases:jumps,phases.cycle.times:1,phases.cycle.phases.escape.jump:[1,2]}}")  # fmt: skip
    launched(*TINY, "penalty=none", "epochs=4", cases, task=lambda cfg: float(main(cfg)[0]))
    random = np.random.default_rng(0)
    x, y = random.integers(0, 17, (50, 8, 8), dtype=np.uint8), np.arange(50) % 10
    for name, n in (("one", 40), ("two", 50)):
        np.savez(f"{name}.npz", x_train=x[:20], y_train=y[:20], x_test=x[:n], y_test=y[:n])
    beyond = ["--ood", "one.npz,two.npz", "--corruptions", str(corrupted)]
    assert cli(["--compare", "it", "--choose", *beyond, "--json", "it.json", "--csv", "it.csv"]) == 0
    judged = [row for row in json.loads(Path("it.json").read_text()) if row["ood_auroc"] is not None]
    assert sorted(row["kind"] for row in judged) == ["phases=jumps", "phases=snapshot"]
    for row in judged:
        (run,) = (run.path for run in find_sweep("it").runs() if {row["kind"], row["trial"]} <= set(run.overrides))
        assert cli([str(run), *beyond, "--json", "one.json"]) == 0
        alone = json.loads(Path("one.json").read_text())
        of_sets = [alone["ood"][f"{name}.npz"] for name in ("one", "two")]
        for column, measure in (("ood_auroc", "entropy"), ("ood_mutual_information_auroc", "mutual_information")):
            assert row[column] == np.mean([of_set[measure]["auroc"] for of_set in of_sets])
        members = [member["auroc"] for of_set in of_sets for member in of_set["members"]]
        assert row["member_ood_auroc"] == pytest.approx(np.mean(members), rel=1e-12)
        for name in ("error", "calibrated_nll", "calibrated_ece"):
            values = [alone["corruptions"]["severity"][str(severity)][name] for severity in range(1, 6)]
            assert row[f"corrupted_{name}"] == pytest.approx(np.mean(values), rel=1e-12)
    capsys.readouterr()
    assert cli(["--compare", "it.csv", "--choose"]) == 0
    assert "OOD AUROC" in capsys.readouterr().out
    monkeypatch.setattr(corruptions, "source", lambda *_: None)  # as for images that could be made
    for arguments, message in (
        (["it.csv", "--ood", "one.npz"], "--ood and --corruptions need networks, which a CSV file does not have"),
        (["it", "--corruptions"], "ensembles are compared on stored images: add --corruptions FOLDER --make-corr"),
    ):
        assert cli(["--compare", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_made_corruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image's corruption depends on its number alone, and the strengths are those of the paper's code."""
    pytest.importorskip("imagecorruptions")
    clean = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.random.seed(5)
    following = np.random.random()
    for name in (*corruptions.COMMON, *corruptions.FURTHER):
        np.random.seed(5)
        images = corruptions.made(name, 3, clean)
        assert np.random.random() == following  # the global generator is as it was
        assert (corruptions.made(name, 3, clean[:2]) == images[:2]).all()
        assert images.dtype == np.uint8
        assert (images != clean).any(axis=(1, 2, 3)).all()
        assert (images != corruptions.made(name, 5, clean)).any()
    grey = np.full((1, 64, 64, 3), 128, np.uint8)
    assert corruptions.made("gaussian_noise", 1, grey).std() / 255 == pytest.approx(0.08, rel=0.03)
    x = clean / 255
    mean = x.mean((1, 2), keepdims=True)
    contrast = np.clip((x - mean) * 0.4 + mean, 0, 1) * 255
    assert np.abs(corruptions.made("contrast", 1, clean) - contrast).max() <= 1
    small, rim = np.array(clean[:, 2:30, 2:30, :1]), ((0, 0), (2, 2), (2, 2), (0, 0))
    for name in ("contrast", "fog", "shot_noise"):  # of the grey image with its border, repeated in three channels
        bordered = np.repeat(np.pad(small, rim, mode="edge"), 3, axis=3)
        expected = corruptions.made(name, 2, bordered)[:, 2:30, 2:30, :1]
        assert (corruptions.made(name, 2, small) == expected).all()
    dark = corruptions.made("gaussian_noise", 1, np.full((9, 28, 28, 1), 128, np.uint8))
    assert dark.std() / 255 == pytest.approx(0.08, rel=0.03)  # an average of three channels would have 0.046
    dataset = CIFAR10(root=str(tmp_path))
    assert corruptions.source("auto", dataset) is None
    assert corruptions.source("auto", FashionMNIST(root=str(tmp_path))) is None
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)  # an import fails
    with pytest.raises(
        EnsembleError, match=r"imagecorruptions.*: pip install 'distancing\[corruptions\]', or give a folder"
    ):
        corruptions.source("auto", dataset)


def test_files_that_another_process_makes_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.zeros((3, 32, 32, 3), np.uint8), np.arange(3)
    np.savez(tmp_path / "it.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    dataset, folder, began = Npz(path=str(tmp_path / "it.npz")), tmp_path / "made", threading.Event()
    monkeypatch.setattr(corruptions, "_check_made", lambda *_: None)
    monkeypatch.setattr(corruptions, "made", lambda *_: x)
    asked: list[list[str]] = []

    def track(names: list[str], *_: object) -> list[str]:
        asked.append(names)
        if len(asked) == 1:
            other.start()
            began.wait(0.5)  # it doesn't
        else:
            began.set()
        return names

    other = threading.Thread(target=corruptions.make, args=(folder, dataset, track))
    corruptions.make(folder, dataset, track)
    other.join()
    assert [len(names) for names in asked] == [19, 0]
    (folder / corruptions.ORIGIN).unlink()
    for file in folder.glob("*.npy"):
        file.unlink()
    (folder / f".{corruptions.ORIGIN}.tmp").touch()  # of a process that is about to make the files
    corruptions.make(folder, dataset, track)


@pytest.mark.slow
def test_files_of_corruptions_are_made_once(tmp_path: Path) -> None:
    pytest.importorskip("imagecorruptions")
    x, y = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8), np.arange(3)
    np.savez(tmp_path / "it.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    dataset, folder, asked = Npz(path=str(tmp_path / "it.npz")), tmp_path / "made", []

    def make() -> list[str]:
        corruptions.make(folder, dataset, lambda names, *_: asked.append(names) or names)
        assert corruptions.source(str(folder), dataset) == folder
        return asked.pop()

    assert len(make()) == 19
    assert (corruptions.corrupted(folder, "snow", 4, x) == corruptions.made("snow", 4, x)).all()
    (folder / "fog.npy").unlink()
    assert make() == ["fog"]
    assert make() == []
    (folder / corruptions.ORIGIN).unlink()  # as if it were CIFAR-10-C
    for elsewhere in (folder, tmp_path):  # which has other files
        with pytest.raises(EnsembleError, match="the files there were not made by this command: name a new folder"):
            corruptions.make(elsewhere, dataset, lambda names, *_: names)


@pytest.mark.slow
def test_cifar_10_c_is_found_beside_cifar_10(real_data: Path, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").symlink_to(real_data / "cifar-10-batches-py")
    folder, dataset = tmp_path / "CIFAR-10-C", CIFAR10(root=str(tmp_path), download=False)
    folder.mkdir()
    with pytest.raises(EnsembleError, match=r"^--corruptions=auto: can't read .*CIFAR-10-C/labels\.npy"):
        corruptions.source("auto", dataset)
    np.save(folder / "labels.npy", np.tile(dataset.read()[1][1], 5).astype(np.uint8))
    shape = (50_000, 32, 32, 3)
    np.lib.format.open_memmap(folder / "fog.npy", "w+", np.uint8, shape).flush()  # a hole of 150 MB in the file
    for name in corruptions.COMMON:
        if name != "fog":
            (folder / f"{name}.npy").hardlink_to(folder / "fog.npy")
    assert corruptions.source("auto", dataset) == folder
    assert corruptions.corrupted(folder, "snow", 5, dataset.read()[1][0]).shape == (10_000, 32, 32, 3)


@pytest.mark.slow
def test_a_run_evaluates_its_ensemble(corrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its end, or later without training. The numbers are those of the command."""
    random = np.random.default_rng(0)
    x, y = random.integers(0, 17, (50, 8, 8), dtype=np.uint8), np.arange(50) % 10
    np.savez(tmp_path / "other.npz", x_train=x[:20], y_train=y[:20], x_test=x, y_test=y)
    tiny, numbers = [*TINY, f"runs={tmp_path}/runs"], tmp_path / "numbers.json"
    evaluation = [f"evaluate.ood=[{tmp_path}/other.npz]", f"evaluate.corruptions={corrupted}"]
    assert start(*tiny) == 0
    run = only_run(tmp_path / "runs")
    before = result(run)["ensemble"]
    assert (before["ood"], before["corruptions"]) == (None, None)
    with monkeypatch.context() as patch:
        patch.setattr("distancing.experiment.main.train_run", lambda *_: pytest.fail("trained again"))
        assert start(*tiny, *evaluation) == 0  # the same directory
    after = result(run)
    assert after["ensemble"] == before | {key: after["ensemble"][key] for key in ("ood", "corruptions")}
    assert (
        cli([str(run), "--ood", f"{tmp_path}/other.npz", "--corruptions", str(corrupted), "--json", str(numbers)]) == 0
    )
    command = json.loads(numbers.read_text())
    assert all(command[key] == after["ensemble"][key] for key in ("ood", "corruptions"))
    events = EventAccumulator(str(run)).Reload()
    assert [event.step for event in events.Scalars("ensemble/corruptions/error")] == [1, 2, 3, 4, 5]
    assert {"ensemble/ood", "ensemble/corruptions"} <= set(events.Tags()["images"])
    with monkeypatch.context() as patch:
        patch.setattr("distancing.experiment.main.evaluate_run", lambda *_: pytest.fail("evaluated again"))
        assert start(*tiny, *evaluation) == 0
    known = result(run)["ensemble"]["ood"]
    np.savez(tmp_path / "other.npz", x_train=x[:20], y_train=y[:20], x_test=16 - x[:40], y_test=y[:40])
    assert start(*tiny, *evaluation) == 0  # the images have changed
    assert result(run)["ensemble"]["ood"][f"{tmp_path}/other.npz"]["images"] == 40
    assert result(run)["ensemble"]["ood"] != known
    older = result(run)
    del older["checksum"]
    del older["ensemble"]["ood"][f"{tmp_path}/other.npz"]["fingerprint"]
    RunDirectory(run).write_result(older)
    (tmp_path / "other.npz").unlink()
    assert start(*tiny, *evaluation) == 0  # the stored numbers need no images
    np.savez(tmp_path / "other.npz", x_train=x[:20], y_train=y[:20], x_test=x, y_test=y)
    assert start(*tiny, *evaluation, f"runs={tmp_path}/at_once") == 0
    assert result(only_run(tmp_path / "at_once"))["ensemble"]["corruptions"] == after["ensemble"]["corruptions"]


@pytest.mark.parametrize(("overrides", "message"), [
    (["evaluate.ood=[digits]"], "evaluate.ood=digits is the data set that the networks were trained on"),
    (["evaluate.ood=[svhn]"], "evaluate.ood=svhn has images of 3×32×32 (channels, height, width)"),
    (["evaluate.ood=[nothing]"], "evaluate.ood=nothing is none of cifar10"),
    (["evaluate.ood=[missing.npz]"], "dataset.path=missing.npz: [Errno 2] No such file"),
    (["evaluate.ood=digits"], "evaluate.ood='digits': input should be a valid list"),
    (["evaluate.corruptions=missing"], "evaluate.corruptions=missing: can't read missing/labels.npy"),
    (["evaluate.corruptions=auto"], "evaluate.corruptions: images of 1×8×8 (channels, height, width) can't be corr"),
    (["evaluate.corruptions=auto", "phases=single"], "evaluate needs an ensemble, but these phases store one network"),
    (["evaluate.odd=1"], "evaluate.odd is not a setting; allowed here: ood, corruptions"),
])  # fmt: skip
def test_an_evaluation_is_refused_before_the_training(
    overrides: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(*TINY, *overrides, f"runs={tmp_path}/runs") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "runs").exists()


def test_the_names_of_data_sets_are_those_of_the_configs() -> None:
    targets = {name: f"{cls.__module__}.{cls.__qualname__}" for name, cls in off_data.SETS.items()}
    files = {file.stem: yaml.safe_load(file.read_text())["_target_"] for file in (ROOT / "conf/dataset").glob("*.yaml")}
    assert targets == {name: target for name, target in files.items() if name not in ("npz", "folder")}
