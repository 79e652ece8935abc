"""Data sets in files, networks of other libraries, and Adam, against what they should be."""

import hashlib
import math
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from conftest import compose, one_epoch, only_run, start
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from distancing.config.checks import check
from distancing.data import datasets
from distancing.data import folder as folder_module
from distancing.data.datasets import KMNIST
from distancing.data.folder import Folder
from distancing.data.npz import Npz
from distancing.ensemble.__main__ import main as ensemble
from distancing.errors import ConfigError, DatasetError, StorageError
from distancing.hills.theta import Theta
from distancing.landscape.__main__ import main as landscape
from distancing.landscape.subject import shortened
from distancing.models import PreActResNet
from distancing.process import memory
from distancing.runs import RunDirectory
from distancing.training.optimizers import SGD, Adam, AdamW
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


def test_kmnist(tmp_path: Path) -> None:
    """Files in the format of MNIST are read; others are refused."""
    raw = tmp_path / "KMNIST/raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, n, 28, 28) + bytes(n * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + bytes(range(10)) * (n // 10))
    (images, labels), test = KMNIST(root=str(tmp_path), download=False).read()
    assert images.shape == (60_000, 28, 28, 1)
    assert (labels[:11].tolist(), len(test[1])) == ([*range(10), 0], 10_000)


def images_and_labels(n: int, shape: tuple[int, ...], labels: range) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    draw = np.random.default_rng(n).integers(0, 256, (n, *shape)).astype(np.uint8)
    return draw, np.resize(np.asarray(labels, dtype=np.uint8), n)


def write_svhn(root: Path, part: str, n: int) -> list[tuple[str, str]]:
    """Write a part of SVHN as Matlab does, [H, W, C, N]. The digit 0 has the label 10."""
    images, labels = images_and_labels(n, (32, 32, 3), range(1, 11))
    file = f"{part}_32x32.mat"
    scipy.io.savemat(root / file, {"X": images.transpose(1, 2, 3, 0), "y": labels[:, None]}, do_compression=True)
    return [(file, hashlib.md5((root / file).read_bytes()).hexdigest())]


def write_stl10(root: Path, part: str, n: int) -> list[tuple[str, str]]:
    """Write a part of STL-10: [N, C, W, H], and labels from 1."""
    images, labels = images_and_labels(n, (96, 96, 3), range(1, 11))
    folder = root / "stl10_binary"
    folder.mkdir(exist_ok=True)
    contents = {f"{part}_X.bin": images.transpose(0, 3, 2, 1).tobytes(), f"{part}_y.bin": labels.tobytes()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [(name, hashlib.md5(content).hexdigest()) for name, content in contents.items()]


@pytest.mark.parametrize("name", ["SVHN", "STL10"])
def test_colour_images_of_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files in the real format, whose checksums torchvision is told, are read as torchvision reads them."""
    dataset, reader = getattr(datasets, name), getattr(torchvision.datasets, name)
    settings: dict[str, Any] = {"root": str(tmp_path), "download": False}
    with pytest.raises(DatasetError, match=f"can't read {name}: Dataset not found or corrupted.*download=true"):
        dataset(**settings).read()
    write = write_svhn if name == "SVHN" else write_stl10
    train, test = (write(tmp_path, part, n) for part, n in (("train", 23), ("test", 11)))
    if name == "SVHN":
        files = {part: ["nowhere", *entry] for part, (entry,) in {"train": train, "test": test}.items()}
        monkeypatch.setattr(reader, "split_list", files)
    else:
        monkeypatch.setattr(reader, "train_list", train)
        monkeypatch.setattr(reader, "test_list", test)
    with pytest.raises(DatasetError, match=rf"images \(23, .*\) and labels \(23,\) instead of \({dataset.available}, "):
        dataset(**settings).read()
    monkeypatch.setattr(dataset, "available", 23)
    monkeypatch.setattr(dataset, "test_images", 11)
    for part, (images, labels) in zip(("train", "test"), dataset(**settings).read(), strict=True):
        theirs = reader(tmp_path, split=part)
        assert images.flags.c_contiguous
        assert len(labels) == len(theirs)
        for image, label, (expected, target) in zip(images, labels, theirs, strict=True):
            np.testing.assert_array_equal(image, np.asarray(expected))
            assert label == target
        assert labels.tolist() == [(i + (name == "SVHN")) % 10 for i in range(len(labels))]
    data = dataset(**settings, augment=True).load(CPU)
    assert data.train.images.dtype == torch.uint8
    assert data.padding == dataset.image_shape[1] // 8


@pytest.mark.parametrize("split", list(datasets.EMNIST.sizes))
def test_emnist(split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each split has as many classes as torchvision names, and labels from 0."""
    *_, classes = datasets.EMNIST.sizes[split]
    names = torchvision.datasets.EMNIST.classes_split_dict[split]
    assert classes == len(set(names) - {"N/A"})
    first = int(split == "letters")
    raw = tmp_path / "EMNIST/raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 70), ("test", 65)):
        images, labels = images_and_labels(n, (28, 28), range(first, first + classes))
        prefix = f"emnist-{split}-{part}"
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, n, 28, 28) + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + labels.tobytes())
    monkeypatch.setitem(datasets.EMNIST.sizes, split, (70, 65, classes))
    config = check(compose(*TINY, "dataset=emnist", f"dataset.split={split}", f"dataset.root={tmp_path}"))
    for part, (images, labels) in zip((True, False), config.dataset.read(), strict=True):
        theirs = torchvision.datasets.EMNIST(tmp_path, split, train=part)
        np.testing.assert_array_equal(images[..., 0], theirs.data)
        np.testing.assert_array_equal(labels, theirs.targets - first)
        assert set(labels) == set(range(classes))
    monkeypatch.setitem(datasets.EMNIST.sizes, split, (70, 65, classes - 1))
    with pytest.raises(DatasetError, match=f"labels from 0 to {classes - 1} for {classes - 1} classes"):
        config.dataset.read()


def test_images_that_do_not_fit_into_the_memory_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The need is said from what is known without reading: the sizes of a data set, or the head of a file."""
    np.savez(tmp_path / "mine.npz", **arrays(images=1000, shape=(64, 64, 3)))
    mine = Npz(path=str(tmp_path / "mine.npz"))
    needed = (1000 + 6 + 1000) * 64 * 64 * 3
    monkeypatch.setattr(memory, "free", lambda: needed)
    assert len(mine.load(CPU).train) == 1000
    monkeypatch.setattr(memory, "free", lambda: needed - 1)
    with pytest.raises(DatasetError, match=r"Npz has 1,006 images of 3×64×64, which need 0.023 GiB of memory, but "):
        mine.load(CPU)
    monkeypatch.setattr(memory, "free", lambda: 2**30)
    with pytest.raises(DatasetError, match=r"EMNIST has 814,255 images .* need 1.1 GiB .* this machine has 1 GiB left"):
        datasets.EMNIST(split="byclass", root=str(tmp_path), download=False).load(CPU)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, math.inf),
        ({"proc/meminfo": "MemTotal:  9 kB\nMemAvailable:  7 kB\n"}, 7 * 1024),
        ({"proc/meminfo": "MemAvailable: 7 kB\n", "proc/self/cgroup": "0::/a/b\n",
          "sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "5000\n",
          "sys/fs/cgroup/a/memory.max": "6000\n", "sys/fs/cgroup/a/memory.current": "5000\n",
          "sys/fs/cgroup/a/memory.stat": "anon 3000\ninactive_file 200\nactive_file 100\n"}, 1300),
        ({"proc/self/cgroup": "4:memory:/a\n1:cpu:/b\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "6000",
          "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "7000",
          "sys/fs/cgroup/memory/a/memory.stat": "inactive_file 9\ntotal_inactive_file 1500\n"}, 500),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "5\n", "sys/fs/cgroup/memory.current": "6\n"}, 0),
    ],
)  # fmt: skip
def test_the_memory_that_is_left(files: dict[str, str], left: float, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert memory.free(tmp_path) == left


@pytest.mark.parametrize(
    ("blocks", "widen", "parameters"), [(2, 1, 175_066), (6, 2, 2_243_546), (2, 4, 2_748_890), (4, 10, 36_479_194)]
)
def test_the_sizes_of_wide_residual_networks(blocks: int, widen: int, parameters: int) -> None:
    """WRN-16-1, 40-2, 16-4 and 28-10 on CIFAR-10 have the numbers of parameters of the published ones."""
    model = PreActResNet(blocks=blocks, widen=widen)
    with torch.device("meta"):
        network = model.network((3, 32, 32), 10)
        assert network(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    "model",
    ["wide_resnet model.blocks=1 model.widen=2 model.width=2 model.dropout=0.1", "preact_resnet model.width=2",
     "torchvision", "torchvision model.name=mobilenet_v3_small model.stem=original", "timm",
     "timm model.name=resnet10t "
     "model.stem=original"],
)  # fmt: skip
def test_networks_take_grey_images(model: str) -> None:
    """The small stem keeps their size."""
    if model.startswith("timm"):
        pytest.importorskip("timm")
    config = check(compose(*TINY, *f"model={model}".split()))
    network = config.build_network(CPU)
    logits = network.eval()(torch.randn(2, 1, 32, 32))
    assert logits.shape == (2, 10)
    if model in ("torchvision", "timm"):
        assert (network.conv1.kernel_size, network.conv1.stride) == ((3, 3), (1, 1))
        assert isinstance(network.maxpool, nn.Identity)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("model=torchvision model.name=resnet0", "model: it can't be built .*: Unknown model resnet0"),
        ("model=torchvision model.name=mobilenet_v2", "stem=small needs a network with conv1 and maxpool"),
        ("model=torchvision model.stem=large", "stem='large': expected original or small"),
        ("model=torchvision +model.width=3", "unexpected keyword argument 'width'"),
        ("model=torchvision model._target_=distancing.models.libraries.adapt", "it can't be built"),
        ("optimizer=adamw optimizer.l2=0.1", "AdamW has weight_decay instead"),
        ("optimizer=adam optimizer.beta1=1.0", "optimizer.beta1=1.0"),
        ("optimizer=adam optimizer.decay=biases", "optimizer.decay='biases'"),
    ],
)
def test_wrong_choices(settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(compose(*TINY, *settings.split()))


@pytest.mark.parametrize("decay", ["all", "weights"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_optimizers_on_one_vector_are_torchs_on_separate_tensors(name: str, decay: str) -> None:
    """A decay of the weights alone leaves biases and norms out, as parameter groups do."""
    ours: Any = {
        "sgd": SGD(lr=0.05, l2=0.05, momentum=0.9, decay=decay),
        "adam": Adam(lr=0.05, l2=0.05, beta2=0.9, decay=decay),
        "adamw": AdamW(lr=0.05, weight_decay=0.1, beta2=0.9, decay=decay),
    }[name]
    networks = []
    for _ in range(2):
        torch.manual_seed(0)
        networks.append(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)))
    flat, plain = networks
    theta = Theta(flat)
    weights, others = ([p for p in plain.parameters() if (p.dim() > 1) == is_weight] for is_weight in (True, False))
    groups = [{"params": weights}, {"params": others, **({"weight_decay": 0.0} if decay == "weights" else {})}]
    theirs: Any = {
        "sgd": lambda: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.1),
        "adam": lambda: torch.optim.Adam(groups, lr=0.05, betas=(0.9, 0.9), weight_decay=0.1),
        "adamw": lambda: torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.9), weight_decay=0.1),
    }[name]()
    optimizer = ours.build(theta)
    for step in range(8):
        x = torch.randn(16, 5, generator=torch.Generator().manual_seed(step))
        theirs.zero_grad()
        for network in networks:
            network(x).square().mean().backward()
        theta.collect_gradient()
        optimizer.step()
        theirs.step()
    torch.testing.assert_close(list(flat.parameters()), list(plain.parameters()), rtol=1e-4, atol=1e-5)
    assert len(ours.penalised(theta)) == (len(theta) if decay == "all" else theta.weights)
