"""Data sets of torchvision, networks of other libraries, and Adam, against what they should be."""

import hashlib
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from conftest import compose
from numpy.typing import NDArray
from test_own_files import arrays
from torch import nn

from distancing.config.checks import check
from distancing.data import datasets
from distancing.data.datasets import KMNIST
from distancing.data.npz import Npz
from distancing.errors import ConfigError, DatasetError
from distancing.hills.theta import Theta
from distancing.models import PreActResNet
from distancing.process import memory
from distancing.training.optimizers import SGD, Adam, AdamW

TINY = ["phases=single", "epochs=1", "batch_size=8", "device=cpu"]
CPU = torch.device("cpu")


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
