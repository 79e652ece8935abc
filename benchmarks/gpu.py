"""Check whether the numbers of one GPU are right, and measure how fast it trains. Print a table and write a JSON file.

correct   the gradient against float64; captured steps and a resumed run against plain, uninterrupted steps, whose
          difference should be 0; the test accuracy of bf16 beside fp32's over three seeds of a short run on digits
speed     images/s of each network with `speed=fast`, against a bare loop that is captured and compiled as well, against
          this loop with kernels that are chosen for speed alone, and against a tutorial's script; seconds for an epoch
          of CIFAR-10, and minutes for 900
hills     what K hills add to a step of ResNet-20
together  how many images/s N processes train at a time on this device, with `speed=fast compile=false`

Each part ends with the seconds that it took, compilation included. `--tiny` checks this file on any device. Its times
mean nothing. Random images stand for CIFAR-10: an epoch's time depends on their number and size alone.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from step import AWAY, BATCH, NETWORKS, Bare, Script, config_of, random_data

from distancing.data.datasets import Digits
from distancing.models import MLP, ResNet
from distancing.runs import RunDirectory
from distancing.training.gradient_check import check_gradient
from distancing.training.loop import train
from distancing.training.optimizers import SGD
from distancing.training.plan import Phase
from distancing.training.replay import CudaGraphs
from distancing.training.settings import Config
from distancing.training.setup import reproducible, use_precision
from distancing.training.trainer import Trainer

CIFAR_STEPS, EPOCHS = 391, 900  # steps of an epoch of CIFAR-10; epochs of a long run
Row = tuple[str, float, str]  # what, value, unit


@dataclass(frozen=True)
class Setting:
    """A device, the networks of `speed`, and the numbers of processes of `together`.

    tiny: check this file with a few steps, whose times mean nothing.
    """

    device: Literal["cpu", "cuda"]
    tiny: bool
    networks: Sequence[str]
    processes: Sequence[int]

    @property
    def steps(self) -> int:
        """Return the number of steps in an epoch."""
        return 2 if self.tiny else 98

    @property
    def least(self) -> float:
        """Return for how many seconds, at least, each way to train is measured."""
        return 0.0 if self.tiny else 2.0


def precisions(tiny: bool) -> list[Literal["fp32", "bf16"]]:
    return ["fp32"] if tiny else ["fp32", "bf16"]


def fast(config: Config, tiny: bool) -> Config:
    """Return the config with the settings of `speed=fast`, and graphs.

    A tiny call leaves out compilation, which takes minutes, and bf16, which is slow on many CPUs.
    """
    return replace(config, precision=precisions(tiny)[-1], channels_last=True, compile=not tiny, graph=True)


def small(seed: int, device: Any, tiny: bool) -> Config:
    """Return the config of a short run on digits, whose hill acts in the second phase."""
    config = config_of(MLP(width=16) if tiny else ResNet(depth=8), device)
    phases = {"descend": Phase(checkpoint=True), "escape": Phase(penalty=True)}
    changes: dict[str, Any] = {
        "phases": phases,
        "epochs": 4 if tiny else 30,
        "optimizer": SGD(lr=0.1, momentum=0.9),
        "seed": seed,
        "batch_size": 64,
        "channels_last": True,
    }
    return replace(config, dataset=Digits(train_images=512), **changes)


def trainer_of(config: Config) -> Trainer:
    device = config.torch_device
    use_precision(config, device)
    return Trainer(config, config.dataset.load(device, config.memory_format(device)), device)


def trained(config: Config, stop_at: int | None = None) -> Trainer:
    """Train a run to its end. stop_at: stop after this many epochs and a step, and resume in another trainer."""
    with tempfile.TemporaryDirectory() as folder, RunDirectory(folder) as directory:
        trainer = trainer_of(config)

        def on_step(done: float, phase: str) -> Any:  # noqa: ARG001
            return "stop" if stop_at is not None and done > stop_at else None

        if not train(trainer, directory, on_step, lambda _: None, lambda: None):
            state = directory.load_state(trainer.device, print)
            assert state is not None
            trainer = trainer_of(config)
            trainer.load_state_dict(state, directory)
            train(trainer, directory, lambda *_: None, lambda _: None, lambda: None)
        return trainer


def correctness(setting: Setting) -> Iterator[Row]:
    device, tiny = setting.device, setting.tiny
    for precision in precisions(tiny):
        config = replace(config_of(NETWORKS["resnet20"][0], device), precision=precision)
        use_precision(config, config.torch_device)
        trainer = Trainer(config, random_data(BATCH, config.torch_device), config.torch_device)
        check = check_gradient(config, trainer.data, trainer.network, trainer.network)
        yield f"gradient's largest error, {precision}", check.error, ""
        yield f"the error that rounding explains, {precision}", check.tolerance, ""
    plain, captured = (trained(replace(small(0, device, tiny), graph=graph)) for graph in (False, True))
    resumed = trained(replace(small(0, device, tiny), graph=True), stop_at=1)
    for what, other in (("captured steps", captured), ("a resumed run", resumed)):
        difference = float((other.theta.vector - plain.theta.vector).abs().max())
        yield f"{what} against plain ones: largest difference", difference, ""
    yield "captured", float(captured.replay.graphs is not None and not captured.replay.reason), ""
    for precision in precisions(tiny):
        runs = [trained(replace(small(seed, device, tiny), precision=precision)) for seed in range(3)]
        accuracies = [float(run.rows[-1]["test/accuracy"] or 0) for run in runs]
        yield f"test accuracy on digits, {precision}, mean of 3 seeds", statistics.mean(accuracies), ""


def seconds(epoch: Callable[[], None], device: torch.device, least: float) -> float:
    """Return the mean duration of an epoch, measured for at least so many seconds."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begun, elapsed, epochs = time.perf_counter(), 0.0, 0
    while elapsed < least or not epochs:
        epoch()
        wait()
        elapsed, epochs = time.perf_counter() - begun, epochs + 1
    return elapsed / epochs


def epoch_of(trainer: Trainer) -> None:
    """Take the steps of an epoch, as `loop.train` does."""
    trainer.progress.epoch, trainer.progress.step = trainer.progress.epoch + 1, 0
    trainer.begin_epoch()
    while trainer.progress.step < trainer.steps:
        trainer.step()
    trainer.check_finite()


class Optimal:
    """The bare loop with the settings of `speed=fast`: bf16, compiled, and captured as one CUDA graph.

    any_kernels: let cuDNN try its kernels and take the fastest, even if its sums depend on chance.
    """

    def __init__(self, config: Config, trainer: Trainer, any_kernels: bool = False) -> None:
        if any_kernels:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = True
        self.bare = Bare(config, trainer.data, trainer.device)
        self.network = torch.compile(self.bare.network, dynamic=False) if config.compile else self.bare.network
        self.autocast, self.steps = config.autocast(trainer.device), trainer.steps
        self.images = trainer.data.normalise(trainer.data.train.images[:BATCH])
        self.labels = trainer.data.train.labels[:BATCH].clone()
        self.optimizer = torch.optim.SGD(self.bare.network.parameters(), lr=1e-2, momentum=0.9, weight_decay=2e-3,
                                         fused=True)  # fmt: skip
        self.replay = self.step
        if trainer.device.type == "cuda":
            graphs = CudaGraphs(trainer.device)
            for _ in range(3):
                graphs.run(self.step)
            self.replay = graphs.capture(self.step)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast:
            logits = self.network(self.images)
        torch.nn.functional.cross_entropy(logits.float(), self.labels).backward()
        self.optimizer.step()

    def epoch(self) -> None:
        """Put each batch into place, cropped and mirrored, and replay the step on it."""
        train, order = self.bare.labels, torch.randperm(len(self.bare.labels), device=self.labels.device)
        for start in range(0, self.steps * BATCH, BATCH):
            index = order[start : start + BATCH]
            shifts = torch.randint(0, 9, (2, BATCH), device=index.device)
            pixels = self.bare.crops[index, :, shifts[0], shifts[1]].float()
            flips = torch.rand(BATCH, 1, 1, 1, device=index.device) < 0.5
            pixels = torch.where(flips, pixels.flip(3), pixels)
            self.images.copy_(pixels.sub_(self.bare.mean).div_(self.bare.std))
            self.labels.copy_(train[index])
            self.replay()


def ways(config: Config, trainer: Trainer) -> dict[str, Callable[[], Callable[[], None]]]:
    """Return what makes the epoch of each way to train."""
    return {
        "epoch": lambda: partial(epoch_of, trainer),
        "optimal": lambda: Optimal(config, trainer).epoch,
        "any kernels": lambda: Optimal(config, trainer, any_kernels=True).epoch,
        "script": lambda: Script(config, trainer.data, trainer.device).epoch,
    }


def speed(setting: Setting) -> Iterator[Row]:
    steps = setting.steps
    for name in setting.networks:
        config = fast(config_of(NETWORKS[name][0], setting.device), setting.tiny)
        use_precision(config, config.torch_device)
        trainer = Trainer(config, random_data(steps * BATCH, config.torch_device), config.torch_device)
        rates = {}
        for way, make in ways(config, trainer).items():
            reproducible()
            epoch = make()
            epoch()  # compiles and captures
            rates[way] = steps * BATCH / seconds(epoch, trainer.device, setting.least)
            yield f"{name}, {way}", rates[way], "images/s"
        yield f"{name}, share of optimal (aim 0.95)", rates["epoch"] / rates["optimal"], ""
        yield f"{name}, share of any kernels", rates["epoch"] / rates["any kernels"], ""
        yield f"{name}, times the script (aim 5)", rates["epoch"] / rates["script"], ""
        epoch_seconds = CIFAR_STEPS * BATCH / rates["epoch"]
        yield f"{name}, an epoch of CIFAR-10", epoch_seconds, "s"
        yield f"{name}, {EPOCHS} epochs", EPOCHS * epoch_seconds / 60, "min"


def hills(setting: Setting) -> Iterator[Row]:
    steps = setting.steps
    config = fast(config_of(NETWORKS["resnet20"][0], setting.device), setting.tiny)
    use_precision(config, config.torch_device)
    trainer = Trainer(config, random_data(steps * BATCH, config.torch_device), config.torch_device)
    without = 0.0
    for k in (0, 1, 4) if setting.tiny else (0, 1, 4, 16, 64):
        if k and trainer.hills is not None:
            away = torch.randn(k, len(trainer.theta), device=trainer.device)
            theta = trainer.theta.vector
            trainer.hills.put(theta + AWAY * theta.norm() * torch.nn.functional.normalize(away))
            trainer.replay.forget()
        epoch_of(trainer)
        duration = seconds(partial(epoch_of, trainer), trainer.device, setting.least) / steps
        without = without or duration
        yield f"K = {k}: ms a step", 1e3 * duration, "ms"
        yield f"K = {k}: share of a step without hills", duration / without, ""


def _train_for(setting: Setting, barrier: Any, results: Any) -> None:
    """Train in a process of its own, beside the others from `barrier` on; put the images/s into `results`."""
    reproducible()
    images = setting.steps * BATCH
    config = replace(fast(config_of(NETWORKS["resnet20"][0], setting.device), setting.tiny), compile=False)
    use_precision(config, config.torch_device)
    trainer = Trainer(config, random_data(images, config.torch_device), config.torch_device)
    epoch_of(trainer)
    barrier.wait()
    results.put(images / seconds(partial(epoch_of, trainer), trainer.device, setting.least))


def together(setting: Setting) -> Iterator[Row]:
    context, alone = multiprocessing.get_context("spawn"), 0.0
    for number in setting.processes:
        barrier, results = context.Barrier(number), context.Queue()
        arguments = setting, barrier, results
        processes = [context.Process(target=_train_for, args=arguments) for _ in range(number)]
        for process in processes:
            process.start()
        rate = sum(results.get(timeout=200) for _ in processes)
        for process in processes:
            process.join()
        alone = alone or rate
        yield f"{number} at a time", rate, "images/s"
        yield f"{number} at a time, times {setting.processes[0]}", rate / alone, ""


PARTS = {"correct": correctness, "speed": speed, "hills": hills, "together": together}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a few steps of each: checks this file")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="the parts to measure")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="of `speed`")
    parser.add_argument("--processes", nargs="+", type=int, help="of `together`")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the file to write")
    arguments = parser.parse_args()
    device, tiny = arguments.device, arguments.tiny
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: this machine has no CUDA device; --device cpu --tiny checks this file")
    networks = arguments.networks or (["resnet20"] if tiny else list(NETWORKS))
    setting = Setting(device, tiny, networks, arguments.processes or ((1, 2) if tiny else (1, 4, 8, 16)))
    reproducible()
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    machine = {"device": name, "torch": torch.__version__, "tiny": tiny}
    rows: list[tuple[str, str, float, str]] = []
    console = Console(highlight=False, width=110)
    for part in arguments.only:
        for what, value, unit in timed(PARTS[part](setting)):
            rows.append((part, what, value, unit))
            console.print(f"{part}: {what} {value:.6g} {unit}", style="dim")
            # after each row, so that a call that is cut off loses none
            content = json.dumps({**machine, "rows": rows}, indent=1, ensure_ascii=False)
            arguments.json.write_text(content + "\n")
    shown = Table("", "", "value", "unit", title=f"{name}, PyTorch {torch.__version__}")
    for part, what, value, unit in rows:
        shown.add_row(part, what, f"{value:.6g}", unit)
    console.print(shown)


def timed(part: Iterator[Row]) -> Iterator[Row]:
    """Return the rows of a part, and then one with its duration."""
    begun = time.perf_counter()
    yield from part
    yield "duration", time.perf_counter() - begun, "s"


if __name__ == "__main__":
    main()
