"""Measure the cost of a training step beside a hand-written step, a tutorial's script, and the thesis's Algorithm 5.

For each network, one process times these pieces on the same resident random images, cropped and mirrored:

bare         a hand-written loop: separate parameters, torch.optim.SGD, cross entropy; no records, no hills
script       the loop of a tutorial: PIL images through torchvision's transforms in a DataLoader with two workers,
             contiguous tensors, and the loss and the accuracy read after each step
epoch        the steps of an epoch as a run takes them (`reproducible()` too), without hills and with K of them
algorithm 5  the bare loop with K hills as in the thesis: a checkpoint is a list of clones, its distance is a
             Python loop over them, and the sum of the hills is added to the loss, for autograd
push         `Stepper.push`: all that hills add to a step here
energy       `Hills.evaluate`: the part of the push without the cosine
5 alone      the forward and backward pass of Algorithm 5, onto old gradients

After a warm-up, every round times all pieces, alternately forwards and backwards in their order, so that a drift of
the machine hits all alike. Pieces shorter than REPEAT seconds are repeated, so that hills alone find a warmer cache
than in a step. Ratios are taken within a round. The tables have the median and the quartiles over the rounds. The
defaults suit two CPU cores; on CUDA, where the clock waits for the device, use `--steps 100`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from distancing.data.batches import Data, Split, mean_std
from distancing.data.datasets import CIFAR10
from distancing.hills.distances import Euclidean
from distancing.hills.hills import Hills
from distancing.hills.kernels import Gaussian
from distancing.hills.penalty import Penalty
from distancing.models import MobileNetV2, Model, ResNet
from distancing.training.checkpoints import Info
from distancing.training.optimizers import SGD
from distancing.training.plan import Phase
from distancing.training.schedules import Constant
from distancing.training.settings import Config
from distancing.training.setup import reproducible
from distancing.training.trainer import Trainer

BATCH, HILLS, REPEAT = 128, (1, 4, 16), 0.3
# The hills are so wide and low that training stays on their slopes, where it begins, while it is timed.
STRENGTH, SIGMA, AWAY = 1e-2, 0.3, 0.1  # nats; in units of ‖θ_c‖; in units of ‖θ‖

Piece = tuple[str, int]  # the name of the timed piece, and the number of hills
Runs = dict[Piece, tuple[Callable[[], object], int]]  # the function to time, and the number of its steps
Times = dict[Piece, list[float]]  # seconds per step in each round
BARE, SCRIPT = ("bare", 0), ("script", 0)
NETWORKS = {  # the network, and for a CPU the number of rounds and the steps of an epoch
    "resnet20": (ResNet(depth=20), 7, 6),
    "resnet18": (ResNet(depth=18, stages=4, width=64), 4, 2),
    "mobilenetv2": (MobileNetV2(), 4, 2),
}


def config_of(model: Model, device: Literal["auto", "cpu", "cuda"]) -> Config:
    hill: dict[str, Any] = {"strength": STRENGTH, "sigma": SIGMA, "sigma_unit": "norm"}
    return Config(
        dataset=CIFAR10(augment=True), model=model, optimizer=SGD(lr=1e-2, momentum=0.9, l2=1e-3),
        scheduler=Constant(), penalty=Penalty(distance=Euclidean(), kernel=Gaussian(), **hill),
        phases={"escape": Phase(penalty=True)}, analysis={}, seed=0, epochs=1, batch_size=BATCH, label_smoothing=0.0,
        device=device, precision="fp32", channels_last=True, compile=False, evaluate_every=1,
        save_every=1, name="step", runs="runs", overwrite=False, hash="",
    )  # fmt: skip


def random_data(n: int, device: torch.device) -> Data:
    images, labels = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8), torch.randint(0, 10, (n,))
    mean, std = (values.to(device) for values in mean_std(images))
    split = Split(images.to(device), labels.to(device))
    channels_last = torch.channels_last  # as `speed=default` has it
    return Data(split, split, None, mean, std, padding=4, flip=True, memory_format=channels_last)


class Bare:
    """A fast hand-written loop that does nothing else."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.network = config.model.build(config.dataset.image_shape, config.dataset.classes).to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-2, momentum=0.9, weight_decay=2e-3)
        self.labels = data.train.labels
        self.mean, self.std = data.mean[:, None, None], data.std[:, None, None]
        self.network = self.network.to(memory_format=torch.channels_last)
        padded = F.pad(data.train.images.permute(0, 3, 1, 2).contiguous(), (4, 4, 4, 4))
        self.crops = padded.unfold(2, 32, 1).unfold(3, 32, 1)  # a view of all crops [N, C, 9, 9, 32, 32]

    def epoch(self, checkpoints: Sequence[Sequence[Tensor]] = (), sigmas: Sequence[float] = ()) -> None:
        torch.use_deterministic_algorithms(False)
        n, device = len(self.labels), self.labels.device
        order, shifts = torch.randperm(n, device=device), torch.randint(0, 9, (2, n), device=device)
        flips = torch.rand(n, 1, 1, 1, device=device) < 0.5
        for batch in (slice(start, start + BATCH) for start in range(0, n, BATCH)):
            index = order[batch]
            pixels = self.crops[index, :, shifts[0, batch], shifts[1, batch]]
            pixels = torch.where(flips[batch], pixels.flip(3), pixels)
            images = pixels.to(torch.float32, memory_format=torch.channels_last).sub_(self.mean).div_(self.std)
            self.optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self.network(images), self.labels[index])
            if checkpoints:
                loss = loss + algorithm_5(self.network, checkpoints, sigmas)
            loss.backward()
            self.optimizer.step()


class Script:
    """The loop of a tutorial."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        self.device = device
        self.network = config.model.build(config.dataset.image_shape, config.dataset.classes).to(device)
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-2, momentum=0.9, weight_decay=2e-3)
        images, labels = data.train.images.cpu().numpy(), data.train.labels.cpu().tolist()
        mean, std = (data.mean / 255).tolist(), (data.std / 255).tolist()
        transform = transforms.Compose([transforms.RandomCrop(32, 4), transforms.RandomHorizontalFlip(),
                                        transforms.ToTensor(), transforms.Normalize(mean, std)])  # fmt: skip
        pictures = [(Image.fromarray(image), label) for image, label in zip(images, labels, strict=True)]
        self.loader = DataLoader(Transformed(pictures, transform), BATCH, shuffle=True, num_workers=2,
                                 persistent_workers=True, pin_memory=device.type == "cuda")  # fmt: skip

    def epoch(self) -> None:
        torch.use_deterministic_algorithms(False)
        total, correct = 0.0, 0
        for pixels, labels in self.loader:
            pixels, labels = pixels.to(self.device), labels.to(self.device)
            self.optimizer.zero_grad()
            logits = self.network(pixels)
            loss = F.cross_entropy(logits, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item()
            correct += (logits.argmax(1) == labels).sum().item()


class Transformed(Dataset[tuple[Tensor, int]]):
    def __init__(self, pictures: Sequence[tuple[Image.Image, int]], transform: Callable[[Image.Image], Tensor]) -> None:
        self.pictures, self.transform = pictures, transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        picture, label = self.pictures[i]
        return self.transform(picture), label


def algorithm_5(network: nn.Module, checkpoints: Sequence[Sequence[Tensor]], sigmas: Sequence[float]) -> Tensor:
    """Return the sum of the hills on these checkpoints, each a list of the network's tensors, as in the thesis."""
    penalty = torch.zeros((), device=checkpoints[0][0].device)
    for checkpoint, sigma in zip(checkpoints, sigmas, strict=True):
        distance = torch.zeros_like(penalty)
        for c, p in zip(checkpoint, network.parameters(), strict=True):
            difference = torch.add(-p, c)
            distance = distance + torch.sum(torch.mul(difference, difference))
        penalty = penalty + STRENGTH * torch.exp(-distance / (2 * sigma**2))
    return penalty


def trainer_epoch(trainer: Trainer, hills: Hills) -> None:
    reproducible()
    trainer.stepper.hills = hills
    trainer.progress.epoch, trainer.progress.step = trainer.progress.epoch + 1, 0
    trainer.replay.forget()
    trainer.begin_epoch()
    for _ in range(trainer.steps):
        trainer.step()
    trainer.check_finite()


@torch.no_grad()
def push(trainer: Trainer, hills: Hills, images: Tensor) -> None:
    trainer.stepper.hills = hills
    trainer.stepper.push(images)


def pieces(trainer: Trainer, bare: Bare, script: Script) -> Runs:
    """Return all pieces. Raise AssertionError if Algorithm 5 and the hills disagree."""
    theta, penalty, lists = trainer.theta, trainer.config.penalty, []
    assert penalty is not None
    for i in range(HILLS[-1]):
        away = torch.randn_like(theta.vector)
        checkpoint = theta.vector + AWAY * theta.vector.norm() * away / away.norm()
        info = Info(name=f"hill-{i}", phase="", epoch=0, initial_seed=0, forward=0, backward=0, metrics={})
        trainer.add_checkpoint(info, checkpoint)
        named = theta.named(checkpoint)
        lists.append([named[name].clone() for name, _ in bare.network.named_parameters()])
    assert trainer.hills is not None
    sigmas = trainer.hills.widths.tolist()

    def alone_5(k: int) -> Tensor:
        energy = algorithm_5(bare.network, lists[:k], sigmas[:k])
        energy.backward()
        return energy.detach()

    hills = {k: Hills(trainer.network, penalty, theta=theta) for k in (0, *HILLS)}
    for k in HILLS:
        hills[k].put(trainer.checkpoints.parameters[:k])
    energy = {k: torch.no_grad()(hills[k].evaluate) for k in HILLS}
    theirs = alone_5(HILLS[-1])  # this leaves gradients, onto which the timed passes add
    ours, our_gradient, _ = energy[HILLS[-1]](theta.vector)
    gradients = {name: p.grad for name, p in bare.network.named_parameters() if p.grad is not None}
    gradient = theta.flatten(gradients)
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=0.0)
    assert (gradient - our_gradient).norm() < 1e-4 * gradient.norm()

    n, images = trainer.steps, trainer.data.normalise(trainer.data.train.images[:BATCH])
    runs: Runs = {BARE: (bare.epoch, n), SCRIPT: (script.epoch, n)}
    runs |= {("epoch", k): (partial(trainer_epoch, trainer, hills[k]), n) for k in hills}
    runs |= {("algorithm 5", k): (partial(bare.epoch, lists[:k], sigmas[:k]), n) for k in HILLS}
    runs |= {("push", k): (partial(push, trainer, hills[k], images), 1) for k in HILLS}
    runs |= {("energy", k): (partial(energy[k], theta.vector), 1) for k in HILLS}
    runs |= {("5 alone", k): (partial(alone_5, k), 1) for k in HILLS}
    return runs


def seconds(run: Callable[[], object], times: int, device: torch.device) -> float:
    """Return the mean duration of a call."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begun = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return (time.perf_counter() - begun) / times


def measure(runs: Runs, rounds: int, device: torch.device) -> Times:
    for run, _ in runs.values():  # the warm-up
        run()
    repeats = {piece: max(1, round(REPEAT / seconds(run, 1, device))) for piece, (run, _) in runs.items()}
    times: Times = {piece: [] for piece in runs}
    for i in range(rounds):
        for piece in list(runs)[:: -1 if i % 2 else 1]:
            run, steps = runs[piece]
            times[piece].append(seconds(run, repeats[piece], device) / steps)
    return times


def ratios(times: Times, piece: Piece, to: Piece) -> list[float]:
    return [a / b for a, b in zip(times[piece], times[to], strict=True)]


def median_and_quartiles(values: Sequence[float], digits: int) -> tuple[str, str]:
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{digits}f}", f"{first:.{digits}f} – {third:.{digits}f}"


def table(title: str, times: Times) -> Table:
    shown = Table("", "hills", "ms a step", "quartiles", "% of bare", "quartiles", title=title)
    for piece, durations in times.items():
        row = [piece[0], str(piece[1])]
        for values in ([1e3 * t for t in durations], [100 * r for r in ratios(times, piece, BARE)]):
            row += median_and_quartiles(values, 2)
        shown.add_row(*row, end_section=piece == SCRIPT or piece[1] == HILLS[-1])
    return shown


def goals(name: str, times: Times) -> Table:
    """Return a table of the aims beside the measured values. The median decides."""
    most = HILLS[-1]
    push, energy, theirs = ("push", most), ("energy", most), ("5 alone", most)
    epoch, alone = ratios(times, ("epoch", 0), BARE), [100 * r for r in ratios(times, push, BARE)]
    shown = Table(name, "median", "quartiles", "aim", "", box=None)
    for label, values, sign, aim in (
        ("epoch without hills / bare", epoch, "≤", 1.05),
        ("script / epoch without hills", ratios(times, SCRIPT, ("epoch", 0)), "≥", 2),
        (f"push of {most} hills, % of bare", alone, "<", 0.5),
        (f"algorithm 5 / push, {most} hills", ratios(times, theirs, push), "≥", 10),
        (f"algorithm 5 / energy, {most} hills", ratios(times, theirs, energy), "≥", 10),
    ):
        median = statistics.median(values)
        met = {"≤": median <= aim, "<": median < aim, "≥": median >= aim}[sign]
        shown.add_row(label, *median_and_quartiles(values, 3), f"{sign} {aim}", "met" if met else "not met")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description="What a training step costs; see this file's docstring.")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, help="time each piece so often")
    parser.add_argument("--steps", type=int, help="of an epoch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    if args.rounds is not None and args.rounds < 2:
        parser.error("--rounds: quartiles need two at least")
    torch.set_num_threads(args.threads)
    reproducible()  # CUDA reads the environment when it begins
    console, aims = Console(highlight=False, width=110), []
    for name in args.networks:
        model, rounds, steps = NETWORKS[name]
        rounds, steps = args.rounds or rounds, args.steps or steps
        config = config_of(model, args.device)
        device = config.torch_device
        data = random_data(steps * BATCH, device)
        trainer = Trainer(config, data, device)
        bare, script = Bare(config, data, device), Script(config, data, device)
        times = measure(pieces(trainer, bare, script), rounds, device)
        size = f"{len(trainer.theta):,} parameters, batches of {BATCH}, {rounds} rounds of {steps} steps"
        console.print(table(f"{name}: {size}, {device}, {args.threads} threads", times))
        aims.append(goals(name, times))
    console.print(*aims)


if __name__ == "__main__":
    main()
