"""Data sets in files, networks of other libraries, and Adam, against what they should be."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import compose, one_epoch
from PIL import Image
from torch import nn

from distancing.config import check
from distancing.data.datasets import KMNIST
from distancing.data.folder import Folder
from distancing.data.npz import Npz
from distancing.errors import ConfigError, DatasetError
from distancing.hills.theta import Theta
from distancing.models import PreActResNet
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
        ({"x_test": np.array([{}], dtype=object)}, "allow_pickle"),
        (None, "x_train is not a file in the archive"),
    ],
)
def test_wrong_arrays(tmp_path: Path, change: dict[str, Any] | None, message: str) -> None:
    np.savez(tmp_path / "mine.npz", **({**arrays(), **change} if change else {"x": np.zeros(3)}))
    with pytest.raises(DatasetError, match=message):
        Npz(path=str(tmp_path / "mine.npz")).read()


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
    path = f"dataset.path={tmp_path}"
    config = check(compose(*TINY, "dataset=folder", path, "dataset.image_size=8", "model=mlp", "model.width=4"))
    data = config.dataset.load(CPU)
    assert data.train.images.shape == (16, 8, 8, 3)
    assert data.train.labels.tolist() == [0] * 8 + [1] * 8
    for image, label in zip(data.test.images, data.test.labels, strict=True):
        assert (image == torch.tensor(list(colours.values())[label], dtype=torch.uint8)).all()
    one_epoch(Trainer(config, data, CPU))
    (tmp_path / "test/red/0.gif").write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"can't read the image .*red/0\.gif"):
        config.dataset.load(CPU)
    with pytest.raises(DatasetError, match=r"needs two or more class folders .* but has none"):
        assert Folder(path=str(tmp_path / "train")).classes


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
def test_networks_train(model: str) -> None:
    """Each takes grey images, and a step changes its parameters."""
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
        ("model=torchvision model.stem=large", "stem='large': original or small belongs here"),
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
