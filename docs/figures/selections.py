"""What the short tables and the pictures of RESULTS.md show: rows and columns of the full tables in results/."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Settings = Mapping[str, str]  # column of a full table → its value; a key without dots may be the end of one with dots


@dataclass(frozen=True)
class Column:
    """A column of a short table: a metric of the full one, `p` for its p-value after Holm, or a difference.

    most: the largest number of decimals. source: the full table of a picture.
    """

    head: str
    metric: str
    where: Settings = field(default_factory=dict)
    source: str = ""
    most: int = 3


@dataclass(frozen=True)
class Short:
    """A short table. source: the full one. kinds: label → the settings of its row."""

    source: str
    kinds: Mapping[str, Settings]
    columns: Sequence[Column]


def hills(*sizes: tuple[float, float]) -> dict[str, Settings]:
    """Return label → the settings of plain hills with these strengths and widths."""
    return {size(strength, sigma): hill("gaussian", strength, sigma) for strength, sigma in sizes}


def size(strength: float, sigma: float) -> str:
    return f"{strength:g} nat{'s' * (strength != 1)}, σ {sigma:g}"


def hill(penalty: str, strength: float, sigma: float | None = None) -> Settings:
    settings = {"penalty": penalty, "penalty.strength": f"{strength:g}"}
    return settings if sigma is None else {**settings, "penalty.sigma": f"{sigma:g}"}


NONE = {"penalty": "none"}
RESTART = {**NONE, "phases": "cycles", "restart_schedule": "true", "reinitialise": ""}
CONTROLS = {
    "one cosine, no restart": {**NONE, "phases": "cycles", "restart_schedule": "false"},
    "restart only": RESTART,
    "random jump, length 10": {"phases": "jumps", "jump": "10"},
    "random jump, length 30": {"phases": "jumps", "jump": "30"},
    "independent network": {**NONE, "reinitialise": "true"},
}
HILLS = {
    "plain": "gaussian", "layerwise": "layerwise", "filter directions": "filter_direction",
    "random projection": "random_projection", "function space": "function_space",
}  # fmt: skip
ESCAPES = {
    **{
        f"{name}, {size(s, sigma)}": hill(penalty, s, sigma)
        for name, penalty in HILLS.items()
        for s in ((1, 3, 10, 30) if name == "plain" else (3, 30))
        for sigma in (0.3, 1)
    },
    **CONTROLS,
}
MAIN = {
    name: ESCAPES[name]
    for name in (
        "plain, 1 nat, σ 0.3", "plain, 30 nats, σ 1", "filter directions, 30 nats, σ 1", "function space, 3 nats, σ 1",
        "function space, 30 nats, σ 1", "random jump, length 30", "independent network", "restart only",
    )
}  # fmt: skip
WITH_L2, WITHOUT_L2 = {"optimizer.l2": "0.001"}, {"optimizer.l2": "0"}
BARRIER = "barrier.test_height_max"


IMAGE_KINDS = {
    **{f"{name}, {s} nats": hill(HILLS[name], s) for name in ("plain", "filter directions") for s in (3, 30)},
    **CONTROLS,
}
CHECKPOINTS = {
    "restart only": NONE,
    **{
        f"{name}, {fate}": {"penalty": HILLS[name], "penalty.newest": newest, "penalty.half_life": half_life}
        for name in ("plain", "filter directions")
        for fate, newest, half_life in (("stay", "", ""), ("fade", "", "6"), ("only the newest", "1", ""))
    },
}
TIMES = ("1", "2", "4", "8")
USUAL = {"optimizer.lr": "0.1", "optimizer.l2": "0", "optimizer.momentum": "0.9", "batch_size": "128"}
INTERPLAY = {
    "as usual": USUAL,
    **{f"λ {l2}": {**USUAL, "optimizer.l2": l2} for l2 in ("0.001", "0.01")},
    **{f"momentum {m}": {**USUAL, "optimizer.momentum": m} for m in ("0", "0.97")},
    **{f"learning rate {lr}": {**USUAL, "optimizer.lr": lr} for lr in ("0.01", "0.3")},
    "batches of 32": {**USUAL, "batch_size": "32"},
}
PENALTIES = {"plain hill": "gaussian", "filter directions": "filter_direction", "no hill": "none"}
NETWORKS = {
    "ResNet-8": {"model": "resnet8"}, "ResNet-20": {"model": "resnet20"}, "ResNet-56": {"model": "resnet56"},
    "MobileNetV2": {"model": "mobilenetv2"},
}  # fmt: skip
WIDTHS = {
    "no hill": NONE,
    **{
        f"σ {sigma} of {of}": {"penalty": "gaussian", "penalty.sigma_unit": unit, "penalty.sigma": sigma}
        for unit, of in (("travelled", "‖θ_c − θ_0‖"), ("norm", "‖θ_c‖"))
        for sigma in ("0.1", "0.3", "1")
    },
}
ENSEMBLES = {
    "plain hills": "penalty=gaussian phases=cycles",
    "filter directions": "penalty=filter_direction strength=30 sigma=1 phases=cycles",
    "random jumps, length 5": "penalty=none phases=jumps jump=5",
    "random jumps, length 15": "penalty=none phases=jumps jump=15",
    "snapshots": "penalty=none phases=snapshot",
    "one cosine": "penalty=none phases=cycles restart_schedule=False",
    "independent networks": "penalty=none phases=single",
    "bagging": "penalty=none phases=single bootstrap=True",
}
RIVALS = {
    "one network": "penalty=none phases=single",
    "SWA": "penalty=none phases=swa",
    "plain hills": "penalty=gaussian phases=cycles",
    "filter directions": "penalty=filter_direction phases=cycles",
    "function space": "penalty=function_space phases=cycles",
    "random jumps": "penalty=none phases=jumps",
    "snapshots": "penalty=none phases=snapshot",
    "one cosine": "penalty=none phases=cycles",
    "FGE": "penalty=none phases=fge",
    "SWAG": "penalty=none phases=swag",
    "cSGHMC": "penalty=none phases=csgmcmc",
    "independent networks": "penalty=none phases=independent",
    "bagging": "penalty=none phases=single bootstrap=True",
}
DRAWN = ("one network", "plain hills", "filter directions", "random jumps", "snapshots", "FGE", "cSGHMC",
         "independent networks")  # in the picture  # fmt: skip
DETECTORS = {  # ensembles that tell images of another data set from their own
    "plain hills": "lr=0.05 penalty=gaussian strength=1 phases=cycles",
    "filter directions": "lr=0.05 penalty=filter_direction strength=10 phases=cycles",
    "jumps, length 10": "lr=0.05 penalty=none phases=jumps jump=10",
    "jumps, length 20": "lr=0.05 penalty=none phases=jumps jump=20",
    "jumps, length 40": "lr=0.05 penalty=none phases=jumps jump=40",
    "restart only": "lr=0.05 penalty=none phases=cycles",
    "snapshots": "lr=0.05 penalty=none phases=snapshot",
    "independent networks": "lr=0.1 penalty=none phases=independent",
    "independent, rate 0.05": "lr=0.05 penalty=none phases=independent",
}
# the same where all have one learning rate, which their kinds then do not name
_DETECTORS = {label: kind.partition(" ")[2] for label, kind in DETECTORS.items() if label != "independent, rate 0.05"}
ONE_RATE = {
    "plain hills": _DETECTORS["plain hills"],
    "hills of 3 nats": "penalty=gaussian strength=3 phases=cycles",
    **_DETECTORS,
}

SHORT = {
    "push": Short(
        "strength_sigma",
        {"no hill": NONE, **hills((1, 0.3), (3, 0.01), (3, 0.3), (3, 1), (3, 3), (30, 0.3), (30, 1))},
        [
            Column("distance ‖θ − θ_c‖", "distance"),
            Column("height at the end", "hill/descend"),
            Column("‖θ‖", "parameter_norm"),
            Column("test accuracy, %", "test.accuracy"),
            Column("p of the accuracy", "test.accuracy p (Holm)"),
        ],
    ),
    "networks": Short(
        "networks",
        WIDTHS,
        [Column(name, "distance", where) for name, where in NETWORKS.items()],
    ),
    "escape": Short(
        "escape",
        MAIN,
        [
            Column("barrier, nats", BARRIER, WITH_L2),
            Column("units matched", "barrier.test_height_matched_max", WITH_L2),
            Column("along a curve", "valley.test_height_curve_max", WITH_L2),
            Column("barrier without L2", BARRIER, WITHOUT_L2),
            Column("test accuracy, %", "test.accuracy", WITH_L2),
        ],
    ),
    "escape_images": Short(
        "escape_images",
        {name: kind for name, kind in IMAGE_KINDS.items() if name != "random jump, length 10"},
        [
            Column("MNIST: barrier", BARRIER, {"dataset": "mnist"}),
            Column("accuracy, %", "test.accuracy", {"dataset": "mnist"}),
            Column("CIFAR-10: barrier", BARRIER, {"dataset": "cifar10"}),
            Column("accuracy, %", "test.accuracy", {"dataset": "cifar10"}),
        ],
    ),
    "escape-mlp": Short(
        "escape-mlp",
        MAIN,
        [
            Column("barrier, nats", BARRIER),
            Column("units matched", "barrier.test_height_matched_max"),
            Column("along a curve", "valley.test_height_curve_max"),
            Column("test accuracy, %", "test.accuracy"),
        ],
    ),
    "gradients": Short(
        "gradients",
        hills((1, 0.3), (3, 0.1), (3, 0.3), (3, 1), (30, 0.1), (30, 0.3), (30, 1)),
        [
            Column("cosine", "gradients.cosine_mean"),
            Column("share of epochs within ±0.1", "gradients.orthogonal_share"),
            Column("ratio of the norms", "gradients.ratio_median"),
            Column("angle, degrees", "gradients.angle_median"),
            Column("largest angle", "gradients.angle_max"),
        ],
    ),
    "checkpoints": Short(
        "checkpoints",
        CHECKPOINTS,
        [
            *(Column(f"{n} hill{'s' * (n != '1')}: barrier", BARRIER, {"times": n}) for n in TIMES),
            Column("8 hills: accuracy, %", "test.accuracy", {"times": "8"}),
        ],
    ),
    "sharpness": Short(
        "escape",
        MAIN,
        [
            Column("random rise, nats", "sharpness.settle-1/rise_random_0.1", WITH_L2),
            Column("worst rise, nats", "sharpness.settle-1/rise_worst_0.2", WITH_L2),
            Column("trace", "sharpness.settle-1/hessian_trace_relative", WITH_L2),
        ],
    ),
    "generalise": Short(
        "generalise",
        MAIN,
        [
            Column("test accuracy, %", "test.accuracy"),
            Column("p", "test.accuracy p (Holm)"),
            Column("test loss, nats", "test.loss"),
            Column("ensemble NLL", "ensemble.test.nll"),
            Column("p", "ensemble.test.nll p (Holm)"),
        ],
    ),
    "interplay": Short(
        "interplay",
        INTERPLAY,
        [
            *(Column(f"{name}: barrier", BARRIER, {"penalty": p}) for name, p in PENALTIES.items()),
            Column("plain hill: ‖θ‖", "parameter_norm", {"penalty": "gaussian"}),
            Column("accuracy, %", "test.accuracy", {"penalty": "gaussian"}),
        ],
    ),
    **{
        name: Short(
            name,
            {"with the hill": {"penalty": "gaussian"}, "without": NONE},
            [
                Column("barrier, nats", BARRIER),
                Column("units matched", "barrier.test_height_matched_max"),
                Column("distance", "distance"),
                Column("test accuracy, %", "test.accuracy"),
                Column("NLL of checkpoint and end", "ensemble.test.nll", most=4),
            ],
        )
        for name in ("thesis_mnist", "thesis_cifar10")
    },
    "whole_cifar10": Short(
        "whole_cifar10",
        {
            "plain hills, 1 nat": hill("gaussian", 1),
            "filter directions, 10 nats": hill("filter_direction", 10),
            "random jumps, length 5": {"phases": "jumps"},
            "snapshots": {"phases": "snapshot"},
            "one cosine": {"phases": "cycles", "penalty": "none"},
            "FGE": {"phases": "fge"},
            "cSGHMC": {"phases": "csgmcmc"},
            "independent networks": {"phases": "independent"},
        },
        [
            Column("32 epochs: barrier, nats", BARRIER, {"epochs": "32"}),
            Column("128 epochs: barrier, nats", BARRIER, {"epochs": "128"}),
            Column("units matched", "barrier.test_height_matched_max", {"epochs": "128"}),
            Column("distance", "distance", {"epochs": "128"}),
            Column("last member's accuracy, %", "test.accuracy", {"epochs": "128"}),
        ],
    ),
}
