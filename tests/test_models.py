"""Networks against the published parameter counts, and their layers against the formulas."""

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock

from distancing.data.batches import Data, Split, mean_std
from distancing.models import MLP, MobileNetV2, Model, ResNet
from distancing.models.evaluation import refresh_batch_norm
from distancing.models.resnet import Block, ZeroPad

HE = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}  # 0.27, 0.46, 0.66, 0.85, 1.7 M (He)


@pytest.mark.parametrize(
    ("model", "classes", "published"),
    [
        *((ResNet(depth=depth, shortcut="pad"), 10, count) for depth, count in HE.items()),
        (ResNet(depth=18, stages=4, width=64), 10, 11_173_962),
        (MobileNetV2(), 1000, 3_504_872),
        (MLP(depth=2, width=300), 10, 3 * 32 * 32 * 300 + 300 * 300 + 300 * 10 + 300 + 300 + 10),
    ],
)
def test_parameter_counts(model: Model, classes: int, published: int) -> None:
    network = model.build((3, 32, 32), classes)
    assert sum(p.numel() for p in network.parameters()) == published
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, classes)


def test_shapes_on_the_way() -> None:
    """He's stages are 32, 16, 8 pixels wide; MobileNetV2 ends with 4×4."""
    sizes: dict[str, tuple[int, ...]] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, out: sizes.update({name: tuple(out.shape[1:])}))

    resnet, mobilenet = ResNet(depth=8).build((3, 32, 32), 10), MobileNetV2().build((3, 32, 32), 10)
    for name in ("layer1", "layer2", "layer3"):
        keep(name, resnet.get_submodule(name))
    keep("features", mobilenet.get_submodule("features"))
    for network in (resnet, mobilenet):
        network(torch.randn(2, 3, 32, 32))
    assert sizes == {"layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8), "features": (1280, 4, 4)}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_zero_padding_shortcut(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 4, 8, 8).to(memory_format=memory_format)
    out = ZeroPad(channels=4, stride=2)(x)
    assert out.shape == (2, 8, 4, 4)
    assert torch.equal(out[:, :4], x[:, :, ::2, ::2])
    assert not out[:, 4:].any()
    assert out.is_contiguous(memory_format=memory_format)
    counts = [sum(p.numel() for p in ResNet(depth=20, shortcut=s).build((3, 32, 32), 10).parameters())
              for s in ("conv", "pad")]  # type: ignore[arg-type]  # fmt: skip
    assert counts[0] - counts[1] == 16 * 32 + 32 * 64 + 2 * (32 + 64)  # the convolutions and their batch norms


@pytest.mark.parametrize("downsample", [None, nn.Conv2d(4, 4, 1)])
def test_a_block_is_that_of_torchvision(downsample: nn.Module | None) -> None:
    block, theirs = Block(4, 4, 1, downsample), BasicBlock(4, 4, 1, downsample)
    theirs.load_state_dict(block.state_dict())
    images = torch.randn(2, 4, 8, 8)
    assert torch.equal(block(images), theirs(images))
    assert [name for name, _ in block.named_modules()] == [name for name, _ in theirs.named_modules()]


@pytest.mark.parametrize("model", [ResNet(depth=8, shortcut="pad"), MobileNetV2(width=0.1), MLP()])
def test_operations_are_those_that_torch_counts(model: Model) -> None:
    with FlopCounterMode(display=False) as counter:
        model.build((3, 32, 32), 10).eval()(torch.zeros(1, 3, 32, 32))
    assert model.operations((3, 32, 32), 10) == counter.get_total_flops()


@pytest.mark.parametrize("model", [ResNet(depth=8, init="glorot"), MobileNetV2(init="glorot"), MLP(init="glorot")])
def test_glorot(model: Model) -> None:
    """(1.8): uniform within ±√(6/(m+n)), with the window in m and n; biases 0."""
    for module in model.build((3, 32, 32), 10).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            window = math.prod(module.weight.shape[2:])
            bound = math.sqrt(6 / (window * (module.weight.shape[0] + module.weight.shape[1])))
            assert module.weight.abs().max() <= bound
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
            assert module.bias is None or not module.bias.any()


def test_other_initialisations() -> None:
    weights = {}
    for init in ("pytorch", "he"):
        torch.manual_seed(0)
        network = ResNet(depth=20, width=32, init=init).build((3, 32, 32), 10)  # type: ignore[arg-type]
        weights[init] = network.get_submodule("layer3.1.conv1").get_parameter("weight")
    fan_in = 9 * 128
    assert weights["he"].std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    assert weights["pytorch"].abs().max().item() == pytest.approx(1 / math.sqrt(fan_in), rel=0.01)


@pytest.mark.parametrize("n", [1001, 1437])
def test_refreshed_batch_norms_have_the_statistics_of_all_images(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with float64 over all images at once. They are sorted by brightness, and a last batch would be small."""
    monkeypatch.setattr("distancing.models.evaluation.BATCH", 100)
    noise = torch.randint(0, 56, (n, 8, 8, 1), generator=torch.Generator().manual_seed(0))
    images = (torch.arange(n)[:, None, None, None] * 200 // n + noise).to(torch.uint8)
    split, (mean, std) = Split(images, torch.zeros(n, dtype=torch.int64)), mean_std(images)
    data = Data(train=split, test=split, validation=None, mean=mean, std=std)
    network = ResNet(depth=8, width=4).build((1, 8, 8), 10)
    refresh_batch_norm(network, data, torch.autocast("cpu", enabled=False))
    inputs = F.conv2d(data.normalise(images).double(), network.get_parameter("conv1.weight").double(), padding=1)
    norm = network.get_submodule("bn1")
    torch.testing.assert_close(norm.running_mean, inputs.mean((0, 2, 3)).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, inputs.var((0, 2, 3)).float(), rtol=1e-2, atol=0)
    small = dataclasses.replace(data, train=Split(images[:, :4, :4], split.labels))
    narrow = ResNet(depth=8, width=2).build((1, 4, 4), 10)  # whose last feature maps have one pixel
    refresh_batch_norm(narrow, small, torch.autocast("cpu", enabled=False))
