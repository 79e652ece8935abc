"""Every YAML in conf/ is composed, built and stepped once; bad input is refused with a clear message."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NEED_MORE, ROOT, TINY, compose, one_epoch, start
from omegaconf import OmegaConf

from distancing.config.checks import check, hyperparameters
from distancing.data.batches import Data, Split
from distancing.errors import ConfigError
from distancing.hills.theta import Theta
from distancing.runs import RunDirectory
from distancing.training.trainer import Trainer

GROUPS = ("dataset", "model", "optimizer", "scheduler", "penalty", "phases", "speed", "experiment")
FILES = [(group, file.stem) for group in GROUPS for file in sorted((ROOT / "conf" / group).glob("*.yaml"))]
CHOICES = [f"{group}={choice}" for group, choice in FILES if choice not in NEED_MORE]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_yaml_builds_and_steps(choice: str) -> None:
    """The step uses random images of the data set's shape, and a hill if the choice has hills."""
    quick = ["batch_size=4", "compile=false"]
    config = check(compose(choice, *quick, "dataset.validation_fraction=0.2"))
    channels, height, width = config.dataset.image_shape
    images = torch.randint(0, 256, (4, height, width, channels), dtype=torch.uint8)
    split = Split(images, torch.randint(0, config.dataset.classes, (4,)))
    mean, std = torch.full((channels,), 128.0), torch.full((channels,), 74.0)
    trainer = Trainer(config, Data(split, split, split, mean, std, padding=4, flip=True), torch.device("cpu"))
    trainer.add_checkpoint({"name": "here"}, trainer.theta.vector + 1e-3)
    trainer.progress.phase = len(trainer.plan) - 1
    before = trainer.theta.vector.clone()
    one_epoch(trainer)
    trainer.end_epoch()
    assert not torch.equal(before, trainer.theta.vector)
    assert np.isfinite(trainer.rows[0]["train/loss"])
    assert (trainer.rows[0]["train/penalty"] > 0) == trainer.hills_act


def test_shipped_experiments_are_those_of_the_thesis() -> None:
    for name in ("thesis_mnist", "thesis_cifar10", "thesis_cifar10_mobilenetv2"):
        cfg = compose(f"experiment={name}")
        config = check(cfg)
        assert (config.epochs, config.batch_size, cfg.optimizer.lr, cfg.optimizer.momentum) == (900, 128, 1e-2, 0.9)
        assert (config.optimizer.l2, config.label_smoothing) == (1e-3, 0)
        (group,) = config.optimizer.build(Theta(torch.nn.Linear(2, 2))).param_groups
        assert (group["weight_decay"], group["momentum"]) == (2e-3, 0.9)


BAD = {
    "optimizer.lr=abc": "optimizer.lr='abc': input should be a valid number",
    "optimizer.lr=-1": "optimizer.lr=-1: input should be greater than 0",
    "optimizer.lr=nan": "optimizer.lr=nan: input should be a finite number",
    "optimizer.lr=null": "optimizer.lr=None: input should be a valid number",
    "optimizer.lrr=1": "optimizer.lrr is not a setting; allowed here: lr, l2, decay, momentum, nesterov",
    "optimizer.momentum=1": "optimizer.momentum=1: input should be less than 1",
    "optimizer=sgd optimizer.nesterov=true": "optimizer: nesterov=true needs momentum > 0",
    "batch_size=1.5": "batch_size=1.5: input should be a valid integer",
    "batch_size=true": "batch_size=True: input should be a valid integer",
    "phases=distancing phases.descend.until_loss=0.05 label_smoothing=0.1": "phases.descend.until_loss=0.05 can't be "
    "reached: with label_smoothing=0.1, no cross entropy is below 0.5448",
    "batch_size=1436": "batch_size=1436 leaves a last batch of one of the 1437 training images",
    "epochs=0": "epochs=0: input should be greater than 0",
    "epochs=1": "epochs=1: the 7 phases need at least 7 epochs; phases.cycle.times=3 repeats 2",
    "seed=-1": "seed=-1: input should be greater than or equal to 0",
    "precision=fp16": "precision='fp16': input should be 'fp32', 'tf32' or 'bf16'",
    "label_smoothing=0.95": "label_smoothing=0.95 is above 1 − 1/classes = 0.9",
    "name=a/b": "name='a/b' may have",
    "+foo=1": "foo is not a setting; allowed here: dataset, model,",
    "+hash=12345678": "hash is not a setting: it follows from the others",
    "model.depth=21": "model: depth=21 is not 6n + 2, as 3 stages need",
    "model.shortcut=none": "model.shortcut='none': input should be 'conv' or 'pad'",
    "dataset.train_images=5": "dataset: train_images=5 is not between 10 (one for each class) and 1437 (all)",
    "dataset.validation_fraction=1": "dataset.validation_fraction=1: input should be less than 1",
    "dataset.validation_fraction=0.001": "dataset: validation_fraction=0.001 divides the training images into 1436",
    "dataset.folds=1 dataset.fold=0": "dataset.folds=1: input should be greater than or equal to 2",
    "dataset.folds=5": "dataset: folds=5 needs a fold from 0 to 4, not fold=None",
    "dataset.folds=5 dataset.fold=5": "dataset: folds=5 needs a fold from 0 to 4, not fold=5",
    "dataset.folds=5 dataset.fold=-1": "dataset.fold=-1: input should be greater than or equal to 0",
    "dataset.fold=2": "dataset: fold=2 needs folds, 2 or more",
    "dataset.folds=5 dataset.fold=0 dataset.validation_fraction=0.2": "folds=5 needs validation_fraction=0, not 0.2",
    "dataset.folds=150 dataset.fold=149": "dataset: folds=150 divides the training images into 1428 and 9: fewer",
    "dataset.bootstrap=1": "dataset.bootstrap=1: input should be a valid boolean",
    "dataset.bootstrap_seed=-1": "dataset.bootstrap_seed=-1: input should be greater than or equal to 0",
    "dataset.folds=5 dataset.fold=4 batch_size=1149": "a last batch of one of the 1150 training images",
    "penalty.sigma=0": "penalty.sigma=0: input should be greater than 0",
    "penalty.sigma=1e-23": "penalty: sigma=1e-23 is below 1e-15, too small for float32",
    "penalty.sigma_unit=inch": "penalty.sigma_unit='inch': input should be 'absolute', 'norm' or 'travelled'",
    "penalty.strength=-1": "penalty.strength=-1: input should be greater than or equal to 0",
    "penalty.kernel=null": "penalty.kernel=None: expected a component with a _target_",
    "phases.escape=3": "phases.escape=3: expected a phase's settings",
    "phases.escape.epochs=39.5": "phases.escape.epochs=39.5: input should be a valid integer",
    "phases=distancing phases.escape.epochs=90": "epochs=70: the 2 phases need at least 91 epochs; phases=single needs",
    "phases=distancing phases.escape.epochs=5 phases.descend.epochs=5": "epochs=70, but the phases' own epochs are 10",
    "phases.escape.checkpiont=true": "phases.escape.checkpiont is not a setting; allowed here: epochs, penalty,",
    "phases.descend.patience=3": "phases.descend.patience=3 needs dataset.validation_fraction > 0",
    "phases=cycles phases.cycle.phases.settle.patience=3": "phases.cycle.phases.settle.patience=3 needs dataset.valid",
    "phases.escape.jump=0": "phases.escape.jump=0: input should be greater than 0",
    "phases.x.times=2": "phases.x.phases is missing",
    "phases=cycles phases.cycle.times=1000000000": "the 2000000001 phases need at least 2000000001 epochs",
    "phases.final.epochs=3": "phases.final: a phase's name may",
    f"phases.{'x' * 51}.epochs=3": "a phase's name may",
    "device=cuda": None if torch.cuda.is_available() else "device=cuda is not on this machine, which has cpu",
    "dataset=mnist dataset.download=false dataset.root=/nowhere": "dataset.root=/nowhere: can't read MNIST:",
    "dataset=npz": "dataset.path is missing: add dataset.path=VALUE",
    "model._target_=os.system": "model._target_=os.system: only a Model of this package may be constructed here",
    "model._target_=distancing.runs.RunDirectory": "only a Model of this package",
    "model._target_=distancing.nothing.Here": "only a Model of this package",
    "model._target_=torch.nn.Identity": "only a Model of this package",
    "penalty=function_space penalty.distance.parameters=weights": "penalty.distance.parameters='weights': input should",
    "penalty=filter_direction penalty.distance.parameters=weights": "penalty.distance.parameters='weights': input",
    "penalty.kernel._target_=distancing.runs.os.system": "only a Kernel of this package",
    "+dataset.seeds._target_=os.abort": "dataset.seeds is not a setting",
    "penalty=function_space penalty.distance.probe=2000": "penalty.distance.probe=2000 is above the 1437 training",
    "phases=single penalty.strength=3": "penalty.strength=3 would have no effect, because no hill acts in these phases",
    "phases=independent +phases.cycle.phases.descend.penalty=true": "penalty.sigma_unit=travelled is the distance",
    "phases=snapshot penalty=filter_direction": "penalty=filter_direction would have no effect, because no hill acts",
    "analysis=[barrier] phases=single": "analysis.barrier needs at least 2 checkpoints, but these phases store 1",
    "analysis=[barrier,gradients] penalty=none": "analysis.gradients needs hills, but none act in this run",
    "analysis=[gradients] phases=snapshot": "analysis.gradients needs hills, but none act in this run",
    "analysis=[plane] analysis.plane.through=[descend,settle-1,final]": "analysis.plane goes through final, but these",
    "dataset.seed={_target_: os.abort}": "dataset.seed={'_target_': 'os.abort'}: input should be a valid integer",
}  # fmt: skip


@pytest.mark.parametrize("overrides", [key for key, message in BAD.items() if message])
def test_bad_input_is_refused_in_one_line(overrides: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start(f"runs={tmp_path}/runs", *overrides.replace(": ", ":").split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(BAD[overrides]) in line
    assert not list(tmp_path.iterdir())


COMMAND_LINES = {
    "seeed=3": "seeed is not a setting; allowed here: dataset, model,",
    "model=resnet21": "model=resnet21 is not a choice; the choices are mlp, mobilenetv2, preact_resnet, resnet110",
    "phases=null": "phases=null: expected one of csgmcmc, cycles, distancing, fge, independent,",
    "phases=3": "phases=3: expected one of csgmcmc,",
    "epochs=[1": "'epochs=[1' is not an override: its value is incomplete; write 'epochs=[1]'",
    "penalty=none penalty.strength=3": "penalty.strength is not a setting of the penalty chosen here",
    "analysis=[barriers]": "analysis=barriers is not a choice; the choices are barrier, gradients, plane, sharpness,",
    "seed=0,1": "seed=0,1 has several values: -m seed=0,1 is a sweep over them",
    "-m seed=glob(*)": "seed=glob(*) has no value: seed has no choices, and a glob is for those",
    "-m seed=range(0)": "seed=range(0) has no value",
    "-m penalty=glob(zz*)": "penalty=glob(zz*) has no value: penalty has elementwise, filter_direction,",
    "epochs=2": "the 7 phases need at least 7 epochs; phases.cycle.times=3 repeats 2 of them; phases=single needs one",
    "~penalty": "~penalty would leave a run without its penalty: write penalty=none, for a run without hills",
    "-m ~dataset=digits seed=0,1": "~dataset=digits would leave a run without its dataset: write dataset=NAME, for",
    "~analysis": "~analysis can't be deleted: write analysis=[], for a run without any",
    "-m ~analysis=[barrier] seed=0,1": "~analysis=[barrier] can't be deleted: write analysis=[], for",
    "sweep=escape": "sweep=escape: there is no choice of sweep that it could replace: write +sweep=escape",
    "-m +experiment=smoke": "+experiment=smoke: there is a choice of experiment already: write experiment=smoke to",
    "phases.settle.epochs=3": "phases.settle is not a phase of phases=cycles, which has descend, cycle, cycle.phases.e",
    "-m phases.cycle.phases.esc.jump=1,2": "phases.cycle.phases.esc is not a phase of phases=cycles",
    "phases=single phases.trian={epochs:3}": "which has train; +phases.trian={epochs:3} adds one",
    "+phases.a.epochs=70 phases.a.checkpoint=true phases.descend.penalty=true": "the 8 phases need at least 77 epochs",
    "runs=/proc/nowhere epochs=7": "/proc/nowhere",
}


@pytest.mark.parametrize("overrides", COMMAND_LINES)
def test_the_command_line_shows_no_stack_trace(overrides: str, refused: Callable[..., str]) -> None:
    assert COMMAND_LINES[overrides] in refused(*overrides.split())


@pytest.mark.parametrize("packed", sorted((ROOT / "results").glob("*.zip")), ids=lambda path: path.stem)
def test_frozen_configs_of_earlier_versions(packed: Path) -> None:
    """They name modules and settings as these were called; their hashes, which name the runs, stay the same."""
    with zipfile.ZipFile(packed) as archive:
        names = [name for name in archive.namelist() if name.endswith("/.hydra/config.yaml")]
        for name in names[:: max(1, len(names) // 12)]:
            config = check(OmegaConf.create(archive.read(name).decode()))
            assert name.partition("/")[0].endswith(f"-{config.hash}")
            assert config.save_every in (5, 50)  # once checkpoint_every


def test_a_run_is_named_by_what_can_change_its_numbers() -> None:
    name = check(compose(*TINY)).hash
    for same in ("runs=elsewhere", "save_every=1", "overwrite=true", "name=mine", "penalty.strength=1"):
        assert check(compose(*TINY, same)).hash == name  # the last: 1 is 1.0
    others = ["seed=1", "penalty.strength=1.1", "dataset.seed=1", "optimizer=sgd", "precision=bf16", "penalty=none"]
    assert len({name, *(check(compose(*TINY, other)).hash for other in others)}) == 1 + len(others)
    root = [check(compose("dataset=mnist", f"dataset.root={r}", f"dataset.download={d}")).hash for r, d in
            (("a", "true"), ("b", "false"))]  # fmt: skip
    assert root[0] == root[1]


def test_the_order_of_the_phases_is_part_of_the_name() -> None:
    orders = ["a.epochs=1 b.epochs=69", "b.epochs=69 a.epochs=1"]
    cfgs = [compose("phases=single", "~phases.train", *(f"+phases.{o}" for o in order.split())) for order in orders]
    assert len({check(cfg).hash for cfg in cfgs}) == 2
    inner = "{settle: {checkpoint: true}, escape: {penalty: true, restart_schedule: true}}"
    other = compose("~phases.cycle.phases", f"+phases.cycle.phases={inner}")
    assert check(other).hash != check(compose()).hash == "bf2f0823"  # that of the first run in README.md


def test_what_needs_no_batch_norm_and_no_smoothing_is_not_refused() -> None:
    assert check(compose("model=mlp", "batch_size=1436")).batch_size == 1436
    assert check(compose("phases=distancing", "phases.descend.until_loss=0.05"))


def test_what_is_told_to_tensorboard(tmp_path: Path) -> None:
    """The settings and choices of a frozen run, whose overrides may refer to settings."""
    directory = RunDirectory(tmp_path)
    directory.freeze("seed: 3\nname: it3\npenalty: null\n", "- name=it${seed}\n- penalty=none\n")
    assert hyperparameters(directory) == {"seed": 3, "penalty": "none"}
    directory.overrides.write_bytes(b"- '\n")
    with pytest.raises(ConfigError, match=r"overrides\.yaml can't be read: "):
        hyperparameters(directory)


def test_a_missing_component_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"optimizer=\{\}: expected a component with a _target_"):
        check(compose("~optimizer"))
