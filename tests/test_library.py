"""`Hills` in training loops that the user owns, against plain autograd and the runner."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, compose
from torch import Tensor, nn
from torch.nn import functional as F

from distancing import Hills
from distancing.config.checks import check
from distancing.data.batches import Epoch
from distancing.hills.distances import FunctionSpace
from distancing.hills.kernels import Gaussian, InverseQuadratic, Kernel, Laplace
from distancing.training.trainer import Trainer

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 4
SETTINGS = {"strength": 2.0, "sigma": 0.5}


class Tied(nn.Module):
    """Two tied layers, a frozen one, and one that the forward pass does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.frozen, self.unused = (nn.Linear(6, 6) for _ in range(4))
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 4)
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.frozen(torch.tanh(self.second(torch.relu(self.first(x))))))
        return logits


def tied(dtype: torch.dtype = torch.float32) -> Tied:
    torch.manual_seed(0)
    return Tied().to(dtype)


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))


def wander(model: nn.Module, hills: Hills, places: int = 2) -> None:
    """Place hills at random parameters around the model's, and stop near the last one."""
    with torch.no_grad():
        for _ in range(places):
            hills.place()
            for p in model.parameters():
                if p.requires_grad:
                    p += 0.05 * torch.randn_like(p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_push_and_energy_add_the_gradient_and_leave_the_rest_alone(dtype: torch.dtype) -> None:
    """Tied parameters count once, frozen ones do not, and one without a gradient gets the hills' own."""
    model = tied(dtype)
    hills = Hills(model, **SETTINGS)
    before = {name: (p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    starts = [[p.detach().clone() for p in trainable]]
    wander(model, hills, 1)
    starts.append([p.detach().clone() for p in trainable])
    wander(model, hills, 1)
    energy = sum(
        2.0 * torch.exp(-sum((p - c).square().sum() for p, c in zip(trainable, start, strict=True)) / (2 * 0.5**2))
        for start in starts
    )
    exact = torch.autograd.grad(energy, trainable)

    def close(a: Any, b: Any) -> None:
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)

    def gradients() -> list[Tensor | None]:
        return [p.grad for p in trainable]

    x = INPUTS.to(dtype)
    F.cross_entropy(model(x), LABELS).backward()
    data = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trainable]
    assert model.unused.weight.grad is None
    close(hills.push(scale=3.0), energy.detach())
    close(gradients(), [d + 3 * e for d, e in zip(data, exact, strict=True)])
    assert model.frozen.weight.grad is None
    model.zero_grad()
    (F.cross_entropy(model(x), LABELS) + hills.energy()).backward()
    close(gradients(), [d + e for d, e in zip(data, exact, strict=True)])
    assert before == {name: (p.data_ptr(), p.requires_grad) for name, p in model.named_parameters()}


RUNNER = {
    "growing": ["penalty.growth=2", "penalty.temperature=3", "penalty.half_life=2", "penalty.newest=1"],
    "function space": ["penalty=function_space", "penalty.strength=30"],
    "fixed norm": ["penalty=filter_direction", "penalty.fixed_norm=true", "penalty.kernel._target_="
                   "distancing.hills.kernels.Laplace"],
}  # fmt: skip


@pytest.mark.parametrize("settings", RUNNER.values(), ids=RUNNER)
def test_a_loop_of_ones_own_is_the_runner(settings: list[str]) -> None:
    """The same network, batches and hills give the same parameters, with parameter groups and plain SGD."""
    overrides = ["model.width=4", "dataset.train_images=120", "batch_size=32", "optimizer.lr=0.05"]
    config = check(compose("experiment=smoke", "phases=single", "phases.train.penalty=true", *overrides, *settings))
    assert config.penalty is not None
    device = torch.device("cpu")
    runner = Trainer(config, config.dataset.load(device), device)
    torch.manual_seed(config.seed)
    model = config.build_network(device)
    weights, others = ([p for p in model.parameters() if (p.dim() > 1) == big] for big in (True, False))
    optimizer = torch.optim.SGD(
        [{"params": weights}, {"params": others}], momentum=0.9, weight_decay=2 * config.optimizer.l2
    )
    hills = Hills(model, config.penalty, steps_per_epoch=runner.steps, inputs=runner._spread_images)
    energies = []
    for epoch in range(4):
        runner.begin_epoch()
        for images, labels in Epoch(runner.data, config.batch_size, config.seed, epoch).batches():
            for group in optimizer.param_groups:
                group["lr"] = runner._lr(runner.progress.step)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            energies.append(hills.push(images).item())
            optimizer.step()
            hills.keep_norm()
            runner.step()
        runner.end_epoch()
        if epoch < 3:
            runner.add_checkpoint({"name": str(epoch)}, runner.theta.vector)
            hills.place()
    assert runner.hills is not None
    torch.testing.assert_close(hills.strengths, runner.hills.strengths, rtol=1e-4, atol=0.0)
    assert max(energies) > 0.1 * config.penalty.strength
    theirs = runner.theta.named(runner.theta.vector)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), theirs[name], rtol=1e-3, atol=2e-4)


def train(model: nn.Module, step: Callable[[torch.optim.Optimizer, Hills], None], **settings: Any) -> list[Tensor]:
    """Take six steps near a hill; return the parameters."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    hills = Hills(model, **{**SETTINGS, **settings})
    torch.manual_seed(1)
    wander(model, hills)
    for _ in range(6):
        optimizer.zero_grad()
        step(optimizer, hills)
    return [p.detach() for p in model.parameters()]


def test_mixed_precision_and_gradient_accumulation() -> None:
    """A scaler, autocast and micro-batches change nothing about what the hills add."""
    parameters = {}
    for way in ("plain", "unscaled", "scaled", "energy"):
        model, scaler = perceptron(), torch.amp.GradScaler("cpu", init_scale=64.0, enabled=way != "plain")

        def step(optimizer: torch.optim.Optimizer, hills: Hills, way: str = way, scaler: Any = scaler,
                 model: nn.Module = model) -> None:  # fmt: skip
            parts = 1 if way == "plain" else 4
            for x, y in zip(INPUTS.chunk(parts), LABELS.chunk(parts), strict=True):
                loss = F.cross_entropy(model(x), y) / parts
                with torch.autocast("cpu", torch.bfloat16):
                    energy = hills.energy() / parts if way == "energy" else 0.0
                scaler.scale(loss + energy).backward()
            if way == "unscaled":
                scaler.unscale_(optimizer)
            if way != "energy":
                with torch.autocast("cpu", torch.bfloat16):
                    hills.push(scale=scaler.get_scale() if way == "scaled" else 1.0)
            scaler.step(optimizer)
            scaler.update()

        parameters[way] = train(model, step)
    for way in ("unscaled", "scaled", "energy"):
        torch.testing.assert_close(parameters[way], parameters["plain"], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_model_and_a_compiled_step() -> None:
    def step(model: nn.Module) -> Callable[[torch.optim.Optimizer, Hills], None]:
        def once(optimizer: torch.optim.Optimizer, hills: Hills) -> None:
            F.cross_entropy(model(INPUTS), LABELS).backward()
            hills.push()
            optimizer.step()

        return once

    plain = perceptron()
    expected = train(plain, step(plain))
    compiled = perceptron()
    compiled.compile(backend="aot_eager")
    torch.testing.assert_close(train(compiled, step(compiled)), expected)
    wrapped = torch.compile(perceptron(), backend="aot_eager")
    assert list(Hills(wrapped, **SETTINGS).theta) == list(Hills(plain, **SETTINGS).theta)
    model = perceptron()

    @torch.compile(backend="aot_eager")
    def loss(hills: Hills) -> Tensor:
        return F.cross_entropy(model(INPUTS), LABELS) + hills.energy()

    def with_energy(optimizer: torch.optim.Optimizer, hills: Hills) -> None:
        loss(hills).backward()
        optimizer.step()

    torch.testing.assert_close(train(model, with_energy), expected, rtol=1e-4, atol=1e-6)


def process(rank: int, file: str, function_space: bool) -> None:
    """One of two processes, each with half of the batch; save the parameters and the strengths."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.save(distributed(rank, 2, function_space), f"{file}-{rank}")
    torch.distributed.destroy_process_group()


def distributed(rank: int, processes: int, function_space: bool) -> list[Tensor]:
    plain = perceptron()
    model = nn.parallel.DistributedDataParallel(plain) if processes > 1 else plain
    x, y = (tensor.chunk(processes)[rank] for tensor in (INPUTS, LABELS))
    distance = {"distance": FunctionSpace(), "inputs": INPUTS} if function_space else {}
    found: list[Tensor] = []

    def step(optimizer: torch.optim.Optimizer, hills: Hills) -> None:
        F.cross_entropy(model(x), y).backward()
        hills.push(x)
        optimizer.step()
        found[:] = [hills.strengths]

    parameters = train(model, step, growth=3.0, steps_per_epoch=4, kernel=Laplace(), **distance)
    return [*parameters, *found]


@pytest.mark.slow
@pytest.mark.parametrize("function_space", [False, True])
def test_two_processes_have_the_same_parameters(tmp_path: Path, function_space: bool) -> None:
    """Two processes stay equal, and with hills that do not depend on the batch they are one process with all of it."""
    file = tmp_path / "rendezvous"
    torch.multiprocessing.spawn(process, (str(file), function_space), nprocs=2)
    first, second = (torch.load(f"{file}-{rank}") for rank in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    if not function_space:
        torch.testing.assert_close(first, distributed(0, 1, False), rtol=1e-4, atol=1e-6)


def test_hills_resume_from_their_state(tmp_path: Path) -> None:
    """Six steps are three, a file, and three more in another model, bit for bit; growth and the norm included."""

    def steps(model: nn.Module, hills: Hills, n: int) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(n):
            optimizer.zero_grad()
            F.cross_entropy(model(INPUTS), LABELS).backward()
            hills.push()
            optimizer.step()
            hills.keep_norm()

    settings = {**SETTINGS, "sigma_unit": "travelled", "growth": 2.0, "fixed_norm": True, "steps_per_epoch": 5}
    model = tied()
    hills = Hills(model, **settings)
    with torch.no_grad():
        model.head.weight += 0.2
    wander(model, hills)
    steps(model, hills, 3)
    torch.save({"model": model.state_dict(), "hills": hills.state_dict()}, tmp_path / "state.pt")
    steps(model, hills, 3)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = tied()
    resumed = Hills(other, **settings)
    other.load_state_dict(state["model"])
    resumed.load_state_dict(state["hills"])
    steps(other, resumed, 3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert torch.equal(hills.strengths, resumed.strengths)
    assert len(resumed) == len(hills) == 2
    assert resumed.norm == pytest.approx(resumed.theta.vector.norm().item(), rel=1e-6)
    assert hills.norm == pytest.approx(hills.checkpoints[1].norm().item(), rel=1e-6)
    assert hills.norm != hills.checkpoints[0].norm()
    resumed.load_state_dict(Hills(tied(), **settings).state_dict())
    assert len(resumed) == 0
    assert resumed.push() == 0
    with pytest.raises(ValueError, match=r"another model: 0\.weight is None there and \[16, 6\] here"):
        Hills(perceptron(), **settings).load_state_dict(state["hills"])
    layers = [nn.Linear(6, 6) for _ in range(2)]
    there, here = (nn.ModuleDict(zip(names, layers, strict=True)) for names in ("ab", "ba"))
    with pytest.raises(ValueError, match=r"another model: a\.weight is there where b\.weight is here"):
        Hills(here, **settings).load_state_dict(Hills(there, **settings).state_dict())
    with pytest.raises(ValueError, match="no checkpoints, parameters, start"):
        resumed.load_state_dict({"strengths": 1})


def frozen() -> nn.Module:
    return perceptron().requires_grad_(False)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (frozen, SETTINGS, "no trainable parameters"),
        (lambda: nn.LazyLinear(3), SETTINGS, "weight has no shape yet"),
        (lambda: perceptron().to(torch.complex64), SETTINGS, "real floating-point numbers"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), SETTINGS, "on cpu, meta"),
        (perceptron, {"strength": 1.0, "sigma": -1.0}, r"^sigma=-1\.0: input should be greater than 0$"),
        (perceptron, {"strength": 1.0, "sigma": 1e-23}, "^sigma=1e-23 is below 1e-15, too small for float32$"),
        (perceptron, {"strength": 1.0, "sigma": 1.0, "sigmas": 2.0}, "^sigmas is not a setting; allowed here: .*norm$"),
        (perceptron, {**SETTINGS, "growth": 1.0}, "steps_per_epoch=None: hills that grow or decay need the number"),
        (perceptron, {**SETTINGS, "half_life": 1.0, "steps_per_epoch": -3}, "steps_per_epoch=-3: hills that grow"),
        (perceptron, {**SETTINGS, "growth": 1.0, "steps_per_epoch": True}, "=True: .* in an epoch, an integer from 1$"),
        (perceptron, {**SETTINGS, "steps_per_epoch": 2.5}, r"steps_per_epoch=2\.5: hills that grow or decay need"),
        (perceptron, {**SETTINGS, "distance": FunctionSpace()}, "give Hills a batch of inputs"),
        (perceptron, {**SETTINGS, "inputs": [INPUTS]}, "inputs is a list: give one tensor, or a function"),
        (
            perceptron,
            {**SETTINGS, "distance": FunctionSpace(probe=99), "inputs": INPUTS},
            f"probe=99 is above the number of inputs, {len(INPUTS)}",
        ),
    ],
)
def test_what_cannot_have_hills(model: Callable[[], nn.Module], settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Hills(model(), **settings)


@pytest.mark.parametrize(
    ("last", "shape"),
    [(nn.Linear(16, 1), r"\[64, 1\]"), (nn.Unflatten(1, (4, 4)), r"\[64, 4, 4\]"), (nn.LSTM(16, 4), "tuple")],
)
def test_function_space_needs_a_classifier(last: nn.Module, shape: str) -> None:
    hills = Hills(nn.Sequential(nn.Linear(6, 16), last), **SETTINGS, distance=FunctionSpace(), inputs=INPUTS)
    with pytest.raises(ValueError, match=rf"FunctionSpace compares classifiers with outputs \[N, C\], .* are {shape}"):
        hills.place()


def test_inputs_that_the_model_changes_in_place() -> None:
    """Each call gets a copy of the inputs, so that the hill has its full height at its own checkpoint."""
    model = perceptron()
    model.register_forward_pre_hook(lambda _, arguments: arguments[0].mul_(2))
    hills = Hills(model, **SETTINGS, distance=FunctionSpace(), inputs=INPUTS.clone())
    hills.place()
    assert hills.heights().tolist() == [1.0]


def test_what_a_loop_must_not_forget() -> None:
    model = perceptron()
    hills = Hills(model, **SETTINGS, fixed_norm=True)
    wander(model, hills)
    hills.push()
    with pytest.raises(RuntimeError, match="keep_norm"):
        hills.push()
    moving = Hills(model, **SETTINGS, distance=FunctionSpace(), inputs=INPUTS)
    moving.place()
    with pytest.raises(ValueError, match="pass its inputs"):
        moving.push()
    growing = Hills(model, **SETTINGS, growth=1.0, newest=1, steps_per_epoch=4)
    for _ in range(2):
        growing.place()
        with pytest.raises(RuntimeError, match=r"pass_time\(\): call hills\.energy\(\) before it"):
            growing.pass_time()  # whose height would it be?
        growing.energy()
        growing.pass_time()
    assert growing.strengths.tolist() == [2.25, 2.25]


def test_no_hill_is_placed_at_parameters_that_are_not_finite() -> None:
    model = perceptron()
    hills = Hills(model, **SETTINGS)
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    with pytest.raises(ValueError, match="a parameter is infinite or NaN, and so would be the hill"):
        hills.place()
    assert len(hills) == 0


@pytest.mark.parametrize("kernel", [Gaussian(), InverseQuadratic(), Laplace()])
def test_the_narrowest_hill_is_finite(kernel: Kernel) -> None:
    model = perceptron()
    hills = Hills(model, strength=1.0, sigma=1e-15, kernel=kernel)
    hills.place()
    energy, gradient = hills.gradient()
    assert energy == pytest.approx(1.0, rel=2e-3)
    assert not gradient.any()
    wander(model, hills, 1)
    assert all(value.isfinite().all() for value in hills.gradient())
    travelled = Hills(model, strength=1.0, sigma=1e-15, sigma_unit="travelled", kernel=kernel)
    with torch.no_grad():
        model[0].bias[0] += 1e-3
    with pytest.raises(ValueError, match="the hill would have no width here"):
        travelled.place()


def test_a_loop_that_hills_cannot_follow() -> None:
    """Parameters that are replaced, sparse gradients, and a hill without width are refused, and nothing is changed."""
    with pytest.raises(TypeError, match=r"generator: Hills need the torch.nn.Module itself"):
        Hills(perceptron().parameters(), **SETTINGS)  # type: ignore[arg-type]
    model = perceptron()
    hills = Hills(model, strength=1.0, sigma=0.3, sigma_unit="travelled")
    with pytest.raises(ValueError, match="sigma_unit='travelled': the hill would have no width here; train before"):
        hills.place()
    assert len(hills) == 0
    with torch.no_grad():
        model[0].bias += 1
    hills.place()
    model.load_state_dict(perceptron().state_dict())
    assert hills.push() > 0
    words = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(8, 4))
    hills = Hills(words, **SETTINGS)
    wander(words, hills)
    words(torch.arange(8).view(4, 2)).square().sum().backward()
    with pytest.raises(TypeError, match=r"the gradient of 0\.weight is sparse: add hills\.energy"):
        hills.push()
    words.zero_grad()
    (words(torch.arange(8).view(4, 2)).square().sum() + hills.energy()).backward()
    assert not words[0].weight.grad.is_sparse


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("0.weight", lambda model: model.load_state_dict(perceptron().state_dict(), assign=True)),
        ("2.weight", lambda model: model.__setitem__(2, nn.Linear(16, 4))),
        ("0.weight", lambda model: nn.utils.parametrizations.weight_norm(model[0])),
        ("3.weight", lambda model: model.append(nn.Linear(4, 4))),
    ],
)
def test_other_parameters_than_at_the_start(name: str, change: Callable[[nn.Module], object]) -> None:
    model = perceptron()
    hills = Hills(model, **SETTINGS, fixed_norm=True)
    wander(model, hills)
    model.append(nn.Linear(4, 4).requires_grad_(False))  # frozen ones do not count
    hills.push()
    hills.keep_norm()
    del model[3]
    change(model)
    for act in (hills.push, hills.keep_norm, hills.energy, hills.place, hills.heights):
        with pytest.raises(RuntimeError, match=rf"^{name} is another parameter since the model got its hills"):
            act()


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda file: file.stem)
def test_the_examples_run(example: Path, tmp_path: Path) -> None:
    """They place hills, and end away from the first one."""
    if "lightning" in example.stem:
        pytest.importorskip("lightning")
    done = subprocess.run([sys.executable, example], cwd=tmp_path, capture_output=True, text=True, check=True)
    heights = done.stdout.strip().splitlines()[-1].rpartition(":")[2].split(",")
    assert len(heights) == 2
    assert float(heights[0]) < 0.5


def test_the_library_needs_torch_numpy_and_pydantic_alone() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); from distancing import Hills; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pydantic = {"pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection"}
    imported = {name for name in done.stdout.split() if not name.startswith("_sysconfigdata")}  # Python's own
    assert {"distancing", "pydantic"} <= imported <= {"distancing", "numpy", *pydantic}
