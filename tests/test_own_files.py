"""Images of a user's own, in an .npz file or in folders of classes."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import compose, one_epoch, only_run, start
from PIL import Image

from distancing.config.checks import check
from distancing.data import folder as folder_module
from distancing.data.folder import Folder
from distancing.data.npz import Npz
from distancing.ensemble.__main__ import main as ensemble
from distancing.errors import ConfigError, DatasetError, StorageError
from distancing.landscape.__main__ import main as landscape
from distancing.landscape.subject import shortened
from distancing.runs import RunDirectory
from distancing.training.trainer import Trainer

TINY = ["phases=single", "epochs=1", "batch_size=8", "device=cpu"]
CPU = torch.device("cpu")


def arrays(images: int = 24, classes: int = 3, shape: tuple[int, ...] = (12, 10)) -> dict[str, Any]:
    draw = np.random.default_rng(0).integers(0, 256, (images, *shape)).astype(np.uint8)
    return {
        "x_train": draw,
        "y_train": np.arange(images) % classes,
        "x_test": draw[:6],
        "y_test": np.arange(6) % classes,
    }


@pytest.mark.parametrize("shape", [(12, 10), (12, 10, 3)])
def test_arrays_in_a_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = arrays(shape=shape)
    np.savez(tmp_path / "mine.npz", **content)
    config = check(compose(*TINY, "dataset=npz", f"dataset.path={tmp_path}/mine.npz", "model=mlp", "model.width=4"))
    assert config.dataset.image_shape == (shape[2] if len(shape) > 2 else 1, 12, 10)
    assert (config.dataset.classes, config.dataset.available) == (3, 24)
    data = config.dataset.load(CPU)
    np.testing.assert_array_equal(data.train.images.numpy().reshape(24, *shape), content["x_train"])
    np.testing.assert_array_equal(data.test.labels, content["y_test"])
    trainer = Trainer(config, data, CPU)
    one_epoch(trainer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((24, 12, 10))}, r"x_train is float64 \[24, 12, 10\]; uint8"),
        ({"y_train": np.arange(23)}, r"y_train is int64 \[23\]; 24 integers"),
        ({"y_test": np.arange(6)}, "y_test has the class 5, but y_train ends with 2"),
        (
            {"x_test": np.zeros((6, 9, 9), np.uint8)},
            r"training images are \(12, 10, 1\), but test images are \(9, 9, 1\)",
        ),
        ({"x_test": np.array([{}], dtype=object)}, r"x_test is object \[1\]; uint8"),
        ({"y_test": np.array([{}], dtype=object)}, r"y_test is object \[1\]; 6 integers from 0 are needed"),
        ({"y_train": np.arange(24) % 3 + 1}, "y_train has no image of class 0, but of 3: number the classes from 0"),
        ({"y_train": np.arange(24) % 3 - 1}, "y_train has the class -1; classes are integers from 0"),
        ({"y_train": np.r_[np.arange(23) % 3, 10**13]}, "y_train has the class 10000000000000 for 24 images: number"),
        ({"x_train": np.zeros((24, 1, 12, 10), np.uint8)}, r"channels come last: store x.transpose\(0, 2, 3, 1\)"),
        (None, "the file has x, but no x_train"),
    ],
)
def test_wrong_arrays(tmp_path: Path, change: dict[str, Any] | None, message: str) -> None:
    np.savez(tmp_path / "mine.npz", **({**arrays(), **change} if change else {"x": np.zeros(3)}))
    with pytest.raises(DatasetError, match=message):
        Npz(path=str(tmp_path / "mine.npz")).read()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "this is a folder, which dataset=folder reads"),
        ("it.npy", "this is no .npz file; numpy.s"),
        ("cut.npz", "the file is damaged: its end is missing; write or copy it again"),
    ],
)
def test_what_is_no_npz_file(tmp_path: Path, path: str, message: str) -> None:
    np.save(tmp_path / "it.npy", np.zeros(3))
    np.savez(tmp_path / "cut.npz", **arrays())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:3000])
    with pytest.raises(DatasetError, match=f"dataset.path={tmp_path / path}: {message}"):
        Npz(path=str(tmp_path / path)).read()


def test_one_class(tmp_path: Path) -> None:
    """Its images may be detected as those of another data set, but no network can be trained on them."""
    np.savez(tmp_path / "it.npz", **arrays(classes=1))
    chosen = ["dataset=npz", f"dataset.path={tmp_path}/it.npz", "model=mlp", "label_smoothing=0.1"]
    with pytest.raises(ConfigError, match="dataset: Npz has one class only, and training needs two or more"):
        check(compose(*TINY, *chosen))
    assert len(Npz(path=f"{tmp_path}/it.npz").read()[0][0]) == 24


@pytest.mark.parametrize("chosen", ["npz", "folder"])
def test_a_relative_path_from_another_folder(chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    np.savez(tmp_path / "npz", **arrays())
    for part in ("train", "test"):
        for i in range(16):
            picture(tmp_path / "folder" / part / f"class{i % 2}" / f"{i}.png", i)
    path = {"npz": "npz.npz", "folder": "folder"}[chosen]
    monkeypatch.chdir(tmp_path)
    assert start(*TINY, f"dataset={chosen}", f"dataset.path={path}", "dataset.train_images=null", "model=mlp",
                 "model.width=4", "runs=runs") == 0  # fmt: skip
    run = only_run(tmp_path / "runs")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    folder_module._files.cache_clear()
    capsys.readouterr()
    assert ensemble([str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run}/.hydra/config.yaml: dataset.path={path}")
    assert line.endswith(f"; the path is relative to the current folder, {tmp_path}/elsewhere")


def test_other_images_under_the_same_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run neither resumes on them nor is it scored on them."""
    file, content = tmp_path / "it.npz", arrays()
    np.savez(file, **content)
    run = [*TINY, "dataset=npz", f"dataset.path={file}", "dataset.train_images=null", "model=mlp", "model.width=4"]
    run += ["phases=snapshot", "phases.cycle.times=2", "epochs=2", f"runs={tmp_path}/runs"]
    assert start(*run) == 0
    config = check(compose(*run))
    state = Trainer(config, config.dataset.load(CPU), CPU).state_dict()
    np.savez(file, **{**content, "x_train": 255 - content["x_train"], "x_test": 255 - content["x_test"]})
    other = Trainer(config, config.dataset.load(CPU), CPU)
    with RunDirectory(tmp_path / "run") as directory, pytest.raises(StorageError, match="began with other training im"):
        other.load_state_dict(state, directory)
    (folder,) = (tmp_path / "runs").iterdir()
    capsys.readouterr()
    assert ensemble([str(folder)]) == 2
    assert "was scored on other images: restore them, or" in capsys.readouterr().err
    assert landscape([str(folder), "--only=barrier", "--set=barrier.points=3"]) == 2
    assert "was scored on other images: restore them, or" in capsys.readouterr().err
    np.savez(file, **{**content, "x_train": content["x_train"] // 4})  # whose mean and variance normalise the others
    assert ensemble([str(folder)]) == 2
    assert "was scored on other images: restore them, or" in capsys.readouterr().err
    shutil.rmtree(folder / "checkpoints/logits")
    assert ensemble([str(folder)]) == 0


def test_images_in_class_folders(tmp_path: Path) -> None:
    """Images of several sizes, formats and modes become one array; labels follow the names of the folders."""
    colours = {"blue": (0, 0, 255), "red": (255, 0, 0)}
    for part, n in (("train", 8), ("test", 2)):
        for name, colour in colours.items():
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                image = Image.new("RGB", (20 + i, 30), colour)
                kind, mode = ("gif", "P") if i == 0 else ("png", "RGB")
                image.convert(mode).save(tmp_path / part / name / f"{i}.{kind}")
    (tmp_path / "train/red/notes.txt").write_text("not an image")
    (tmp_path / "train/red/._0.png").write_text("what macOS leaves behind")
    (tmp_path / "train/.ipynb_checkpoints").mkdir()
    path = f"dataset.path={tmp_path}"
    config = check(compose(*TINY, "dataset=folder", path, "dataset.image_size=8", "model=mlp", "model.width=4"))
    data = config.dataset.load(CPU)
    assert data.train.images.shape == (16, 8, 8, 3)
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8
    assert shortened(data, 4).train.labels.tolist() == [0, 0, 1, 1]  # for the analyses
    probe = Trainer(config, data, CPU)._spread_images(4)  # for hills in function space
    assert torch.equal(probe, data.normalise(data.train.images[::4]))
    for image, label in zip(data.test.images, data.test.labels, strict=True):
        assert (image == torch.tensor(list(colours.values())[label], dtype=torch.uint8)).all()
    one_epoch(Trainer(config, data, CPU))
    (tmp_path / "test/red/0.gif").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"can't read the image .*red/0\.gif"):
        config.dataset.load(CPU)
    with pytest.raises(DatasetError, match=r"needs two or more class folders .* but has none"):
        assert Folder(path=str(tmp_path / "train")).classes
    for path, what in (("nowhere", "does not exist"), ("test/red/0.gif", "is a file")):
        with pytest.raises(DatasetError, match=f"dataset.path=.*{path} {what}; a folder with train/CLASS"):
            assert Folder(path=str(tmp_path / path)).classes


def picture(file: Path, shade: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (9, 9), shade).save(file)


def test_one_folder_is_divided_by_the_seed(tmp_path: Path) -> None:
    """The draw is stratified and depends on the seed alone; no image is in both parts, and none is lost."""
    for label in range(2):
        for i in range(10):
            picture(tmp_path / f"class{label}" / f"{i}.png", 100 * label + i)
    settings: dict[str, Any] = {"path": str(tmp_path), "image_size": 9, "colours": "grey"}
    shades = []
    for seed in (0, 0, 1):
        dataset = Folder(test_fraction=0.3, seed=seed, **settings)
        parts = dataset.read()
        assert (dataset.classes, dataset.available, dataset.test_images) == (2, 14, 6)
        assert [np.bincount(labels).tolist() for _, labels in parts] == [[7, 7], [3, 3]]
        train, test = ([int(image.max()) for image in images] for images, _ in parts)
        assert sorted(train + test) == [*range(10), *range(100, 110)]
        for images, labels in parts:
            np.testing.assert_array_equal(images[:, 0, 0, 0] // 100, labels)
        shades.append(test)
    assert shades[0] == shades[1] != shades[2]
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(tmp_path / "class1/0.png")
    with pytest.raises(DatasetError, match=r"can't read the image .*class1/0.png: it has more than 8 bits a channel"):
        dataset.read()
    with pytest.raises(DatasetError, match=r"test_fraction=0.05 divides the images in .* into 19 and 1: fewer than"):
        assert Folder(test_fraction=0.05, **settings).classes
    with pytest.raises(DatasetError, match=r"train needs two or more class folders .*; dataset.test_fraction=0.2"):
        assert Folder(**settings).classes
    for file in ("train/0.png", "train/1.png", "test/0.png", "test/1.png"):
        picture(tmp_path / "both" / file, 0)
    with pytest.raises(DatasetError, match="has train/ and test/ already: leave it out"):
        assert Folder(path=str(tmp_path / "both"), test_fraction=0.3).classes


def test_images_that_would_lose_content(tmp_path: Path) -> None:
    """An image is turned as EXIF says. Varying transparency, and a folder below that of the class, are refused."""
    for part in ("train", "test"):
        for name in "ab":
            picture(tmp_path / part / name / "0.png", 0)
            picture(tmp_path / part / name / "1.png", 0)
    turned, tags = Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9)), Image.Exif()
    tags[0x112] = 6  # the first row is the right side
    turned.save(tmp_path / "train/a/0.png", exif=tags)
    opaque = Image.merge("LA", (turned, Image.new("L", (9, 9), 255)))
    opaque.save(tmp_path / "train/a/1.png")
    folder = Folder(path=str(tmp_path), image_size=9, colours="grey")
    images = folder.read()[0][0][..., 0]
    np.testing.assert_array_equal(images[0], np.rot90(np.arange(81).reshape(9, 9), -1))
    np.testing.assert_array_equal(images[1], np.arange(81).reshape(9, 9))
    palette, white = Image.new("P", (9, 9)), Image.new("L", (9, 9), 255)
    palette.putpixel((0, 0), 1)
    for image, colour in ((Image.merge("LA", (white, turned)), None), (palette, 0)):
        image.save(tmp_path / "test/b/1.png", transparency=colour)
        with pytest.raises(DatasetError, match=r"can't read the image .*test/b/1.png: its transparency varies: lay it"):
            folder.read()
    picture(tmp_path / "train/b/more/deep/2.png", 0)
    with pytest.raises(DatasetError, match=r"train/b/more/deep/2\.png is in a folder below its class: move it to .*b$"):
        assert Folder(path=f"{tmp_path}/").classes


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_a_small_class_is_in_both_parts(tmp_path: Path, fraction: float) -> None:
    for label, n in enumerate((40, 40, 2)):
        for i in range(n):
            picture(tmp_path / f"class{label}" / f"{i}.png", 100 * label + i)
    dataset = Folder(path=str(tmp_path), image_size=9, colours="grey", test_fraction=fraction)
    (train, labels), (test, test_labels) = dataset.read()
    assert np.bincount(labels)[2] == np.bincount(test_labels)[2] == 1
    assert sorted([*train[:, 0, 0, 0], *test[:, 0, 0, 0]]) == [*range(40), *range(100, 140), 200, 201]


def test_a_class_without_training_images(tmp_path: Path) -> None:
    """A division is refused if it makes validation images of all of them."""
    path = f"{tmp_path}/it.npz"
    np.savez(path, **{**arrays(82), "y_train": [0] * 40 + [1] * 40 + [2] * 2})
    with pytest.raises(DatasetError, match=r"^dataset.validation_fraction=0.8 leaves no training image of class 2, "):
        Npz(path=path, validation_fraction=0.8).load(CPU)
    np.savez(path, **{**arrays(82), "y_train": [0] * 41 + [1] * 40 + [2]})
    with pytest.raises(DatasetError, match=r"^dataset.fold=1 leaves no training image of class 2, which has 1: "):
        Npz(path=path, folds=2, fold=1).load(CPU)
