"""Draw the pictures and the short tables of RESULTS.md from the full tables: `python docs/figures/results.py`.

A full table is a CSV file in results/, which the report writes (the commands are in RESULTS.md). A short table is a
selection of it. It stands in RESULTS.md below the comment `<!-- table: NAME -->`, which is replaced here.
"""

import contextlib
import csv
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from distancing.colours import GREY, OKABE_ITO
from distancing.ensemble.compare import chosen
from distancing.ensemble.row import read_csv
from distancing.report.figures import LINES, MARKS, STYLE

ROOT = Path(__file__).parents[2]
PAGE, RESULTS, PICTURES = ROOT / "RESULTS.md", ROOT / "results", ROOT / "docs"
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n\n)((?:\|[^\n]*\n)*)")
EIGHT = (*OKABE_ITO, "#000000", "#8C6D1F")  # colours
Row = Mapping[str, str]
Settings = Mapping[str, str]  # column of a full table → its value; a key without dots may be the end of one with dots


@dataclass(frozen=True)
class Column:
    """A column of a short table: a metric of the full one, `p` for its p-value after Holm, or a difference."""

    head: str
    metric: str
    where: Settings = field(default_factory=dict)
    source: str = ""  # of a picture


@dataclass(frozen=True)
class Short:
    """A short table. source: the full one. kinds: label → the settings of its row."""

    source: str
    kinds: Mapping[str, Settings]
    columns: Sequence[Column]


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
        f"{name}, {s} nat{'s' * (s != 1)}, σ {sigma}": hill(penalty, s, sigma)
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
    "restarts only": NONE,
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
IN_SHORT = ("one network", "plain hills", "filter directions", "random jumps", "snapshots", "FGE", "cSGHMC",
            "independent networks")  # fmt: skip

SHORT = {
    "push": Short(
        "strength_sigma",
        {
            "no hill": NONE,
            **{
                f"{s:g} nat{'s' * (s != 1)}, σ {sigma:g}": hill("gaussian", s, sigma)
                for s, sigma in ((1, 0.3), (3, 0.01), (3, 0.3), (3, 1), (3, 3), (30, 0.3), (30, 1))
            },
        },
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
        [Column(f"{name}", "distance", where) for name, where in NETWORKS.items()],
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
        {name: kind for name, kind in IMAGE_KINDS.items() if name not in ("random jump, length 10",)},
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
        {
            f"{s:g} nat{'s' * (s != 1)}, σ {sigma:g}": hill("gaussian", s, sigma)
            for s, sigma in ((1, 0.3), (3, 0.1), (3, 0.3), (3, 1), (30, 0.1), (30, 0.3), (30, 1))
        },
        [
            Column("cosine", "gradients.cosine_mean"),
            Column("share of steps within ±0.1", "gradients.orthogonal_share"),
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
    "whole_cifar10": Short(
        "whole_cifar10",
        {
            "plain hills, 1 nat": hill("gaussian", 1),
            "filter directions, 10 nats": hill("filter_direction", 10),
            "random jumps, length 5": {"phases": "jumps"},
            "snapshots": {"phases": "snapshot"},
            "independent networks": {"phases": "independent"},
        },
        [
            Column("barrier, nats", BARRIER),
            Column("units matched", "barrier.test_height_matched_max"),
            Column("distance", "distance"),
            Column("last member's accuracy, %", "test.accuracy"),
        ],
    ),
}


def full(name: str) -> list[Row]:
    """Return the rows of results/NAME.csv."""
    with (RESULTS / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def selected(rows: Sequence[Row], settings: Settings) -> Row | None:
    """Return the row with these settings, or None. Raise LookupError if there are several."""
    matching = [row for row in rows if all(_value(row, key) in (value, None) for key, value in settings.items())]
    if len(matching) > 1:
        raise LookupError(f"{len(matching)} rows have {dict(settings)}")
    return matching[0] if matching else None


def _value(row: Row, key: str) -> str | None:
    """Return the setting's value; None if the full table has no such column, because all its runs share one value."""
    return next((value for name, value in row.items() if name == key or name.endswith(f".{key}")), None)


def mean_sd(row: Row, metric: str) -> tuple[float, float]:
    """Return the mean and the standard deviation of a metric (NaN where the row has none)."""
    values = []
    for what in ("mean", "sd"):
        text = next((v for name, v in row.items() if re.fullmatch(rf"{re.escape(metric)} {what}( \[.*\])?", name)), "")
        values.append(float(text) if text else math.nan)
    return values[0], values[1]


def number(mean: float, sd: float, most: int = 3) -> str:
    """Format mean ± standard deviation, to two digits of the latter and at most so many decimals."""
    if math.isnan(mean):
        return "–"
    decimals = most if not sd or math.isnan(sd) else min(most, max(0, 1 - math.floor(math.log10(sd))))
    spread = "" if math.isnan(sd) else f" ± {sd:.{decimals}f}"
    return f"{mean:.{decimals}f}{spread}".replace("-", "−")


def cell(rows: Sequence[Row], kind: Settings, column: Column) -> str:
    row = selected(rows, {**kind, **column.where})
    if row is None:
        return "–"
    if column.metric in row:  # a p-value
        text = row[column.metric]
        return "" if not text else "< 0.001" if float(text) < 0.001 else f"{float(text):.2g}"
    return number(*mean_sd(row, column.metric))


def table(short: Short) -> str:
    """Return the short table in Markdown."""
    rows = full(short.source)
    lines = [["", *(column.head for column in short.columns)], ["---", *["---:"] * len(short.columns)]]
    for name, kind in short.kinds.items():
        lines.append([name, *(cell(rows, kind, column) for column in short.columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def ensembles(name: str, members: int) -> str:
    """Return the short table of the ensembles of so many members, by the epochs of each member.

    It has the NLL at the optimal temperature, and for the most epochs also the raw one and the accuracy.
    """
    rows = [row for row in full(name) if int(row["members"]) == members]
    budgets = sorted({float(row["epochs_each"]) for row in rows})
    most = f"{budgets[-1]:g} epochs"
    heads = [*(f"{budget:g} epochs: calibrated NLL" for budget in budgets), f"{most}: raw NLL", f"{most}: accuracy, %"]
    lines = [["", *heads], ["---", *["---:"] * len(heads)]]
    for label, kind in ENSEMBLES.items():
        own = [row for row in rows if row["kind"] == kind]
        if own:
            by_budget = [[row for row in own if float(row["epochs_each"]) == budget] for budget in budgets]
            cells = [number(*_mean_error([float(row["calibrated_nll"]) for row in group])) for group in by_budget]
            cells.append(number(*_mean_error([float(row["nll"]) for row in by_budget[-1]])))
            cells.append(number(*_mean_error([100 * float(row["accuracy"]) for row in by_budget[-1]])))
            lines.append([label, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def tuned(name: str, score: str) -> dict[int, dict[str, tuple[float, float]]]:
    """Return epochs in all → kind of RIVALS → the mean and the standard error of its best trial's score."""
    rows = chosen(read_csv(RESULTS / f"{name}.csv"))
    found: dict[int, dict[str, tuple[float, float]]] = {}
    for epochs in sorted({row.epochs for row in rows}):
        for label, kind in RIVALS.items():
            if scores := [getattr(row, score) for row in rows if (row.epochs, row.kind) == (epochs, kind)]:
                found.setdefault(epochs, {})[label] = _mean_error(scores)
    return found


def rivals(name: str) -> str:
    """Return the short table of ensembles whose settings were chosen on the validation images."""
    nll, accuracy = tuned(name, "calibrated_nll"), tuned(name, "accuracy")
    heads = [*(f"{epochs} epochs in all: calibrated NLL" for epochs in nll), f"{max(nll)} epochs: accuracy, %"]
    lines = [["", *heads], ["---", *["---:"] * len(heads)]]
    for label in IN_SHORT:
        if not any(label in by_label for by_label in nll.values()):
            continue
        mean, error = accuracy[max(nll)][label]
        cells = [number(*by_label[label], most=4) for by_label in nll.values()]
        lines.append([label, *cells, number(100 * mean, 100 * error)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    if not values:
        return math.nan, math.nan
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def tables() -> dict[str, str]:
    """Return all short tables by name."""
    made = {name: table(short) for name, short in SHORT.items()}
    made |= {name: ensembles(name, 16) for name in ("ensembles-resnet8", "ensembles-mlp")}
    return made | {name: rivals(name) for name in ("ensembles-whole-mnist", "ensembles-whole-cifar10")}


def updated(text: str) -> str:
    """Return the page with every short table replaced."""
    made = tables()
    return TABLE.sub(lambda match: match[1] + made[match[2]], text)


# pictures


def dots(axes: Axes, rows: Sequence[Row], kinds: Mapping[str, Settings], metric: str, where: Settings) -> None:
    """Draw a row for each kind: mean ± standard deviation of the metric."""
    for y, (_, kind) in enumerate(kinds.items()):
        row = selected(rows, {**kind, **where})
        if row is not None:
            mean, sd = mean_sd(row, metric)
            control = kind.get("penalty") == "none" or "jump" in kind
            axes.errorbar(mean, y, xerr=sd, marker="s" if control else "o", ms=4, lw=0.9, capsize=2,
                          color=GREY if control else OKABE_ITO[0])  # fmt: skip
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.set_ylim(len(kinds) - 0.4, -0.6)
    axes.grid(axis="y", color="#E8E8E8", lw=0.5)
    axes.set_axisbelow(True)


def dot_picture(
    name: str, kinds: Mapping[str, Settings], panels: Sequence[tuple[str, Column]], width: float = 7.0
) -> None:
    """Draw one panel of dots beside the other. panels: (title, column), whose head is the label of the axis."""
    figure = Figure(figsize=(width, 0.9 + 0.185 * len(kinds)), layout="constrained")
    for i, (axes, (title, column)) in enumerate(
        zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True)
    ):
        dots(axes, full(column.source), kinds, column.metric, column.where)
        axes.set(xlabel=column.head, title=title)
        axes.tick_params(axis="y", length=0, labelleft=not i)
    save(figure, name)


def lines_picture(name: str, panels: Mapping[str, str]) -> None:
    """Draw the barrier over the number of hills, a line for each kind. panels: title → full table."""
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes_row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, source) in zip(axes_row, panels.items(), strict=True):
        rows = full(source)
        for i, (label, kind) in enumerate(CHECKPOINTS.items()):
            points = [(n, row) for n in TIMES if (row := selected(rows, {**kind, "times": n}))]
            values = [mean_sd(row, BARRIER) for _, row in points]
            x = [TIMES.index(n) + 0.03 * (i - 3) for n, _ in points]
            axes.errorbar(x, [mean for mean, _ in values], [sd for _, sd in values], label=label, capsize=2,
                          color=GREY if not i else OKABE_ITO[(i - 1) % 3], marker=MARKS[i],
                          ls="-" if i < 4 else "--")  # fmt: skip
        axes.set_xticks(range(len(TIMES)), TIMES)
        axes.set(xlabel="hills", ylabel="barrier to the first checkpoint, nats", title=title)
    figure.legend(*axes_row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, name)


def ensembles_picture(name: str, sources: Mapping[str, str], members: int) -> None:
    """Draw the calibrated NLL of ensembles of so many members over the epochs in all. sources: title → full table."""
    figure = Figure(figsize=(7, 3.1), layout="constrained")
    axes_row = figure.subplots(1, len(sources), squeeze=False, sharey=True)[0]
    for axes, (title, source) in zip(axes_row, sources.items(), strict=True):
        rows = [row for row in full(source) if int(row["members"]) == members]
        for i, (label, kind) in enumerate(ENSEMBLES.items()):
            by_epochs: dict[float, list[float]] = {}
            for row in rows:
                if row["kind"] == kind:
                    by_epochs.setdefault(float(row["epochs_each"]) * members, []).append(float(row["calibrated_nll"]))
            points = {x: _mean_error(values) for x, values in sorted(by_epochs.items())}
            axes.errorbar(list(points), [mean for mean, _ in points.values()], [e for _, e in points.values()],
                          label=label, capsize=2, marker=MARKS[i], color=EIGHT[i],
                          ls=LINES[i])  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="epochs in all", title=title)
        ticks = sorted({float(row["epochs_each"]) * members for row in rows})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_yticks(nats := [0.03, 0.05, 0.1, 0.2, 0.4], [f"{nll:g}" for nll in nats])
        axes.minorticks_off()
    axes_row[0].set(ylabel="calibrated NLL, nats")
    figure.legend(*axes_row[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, name)


def budgets_picture(name: str, sources: Mapping[str, str]) -> None:
    """Draw the calibrated NLL of each kind of ensemble against the epochs in all, a panel for each data set."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    panels = figure.subplots(1, len(sources), squeeze=False)[0]
    for axes, (title, source) in zip(panels, sources.items(), strict=True):
        by_epochs = tuned(source, "calibrated_nll")
        for i, label in enumerate(IN_SHORT):
            points = [(epochs, *values[label]) for epochs, values in by_epochs.items() if label in values]
            if points:
                x, means, errors = zip(*points, strict=True)
                beside = [value * 1.03 ** (i - len(IN_SHORT) / 2) for value in x]  # so that no point hides another
                axes.errorbar(beside, means, yerr=errors, label=label, marker=MARKS[i], color=EIGHT[i],
                              ls=LINES[i], ms=4, lw=0.9, capsize=2)  # fmt: skip
        axes.set(title=title, xscale="log", xlabel="epochs in all")
        axes.set_xticks(list(by_epochs), [str(epochs) for epochs in by_epochs])
        axes.minorticks_off()
    panels[0].set_ylabel("calibrated NLL, nats")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, name)


def save(figure: Figure, name: str) -> None:
    figure.set_dpi(150)
    FigureCanvasAgg(figure).print_png(PICTURES / f"{name}.png")


def pictures() -> None:
    """Draw all pictures into docs/."""
    with matplotlib.rc_context(STYLE):
        barrier = "barrier, nats"
        dot_picture("results_basin", ESCAPES, [
            ("with L2", Column(barrier, BARRIER, WITH_L2, "escape")),
            ("without L2", Column(barrier, BARRIER, WITHOUT_L2, "escape")),
        ])  # fmt: skip
        dot_picture("results_images", IMAGE_KINDS, [
            ("MNIST", Column(barrier, BARRIER, {"dataset": "mnist"}, "escape_images")),
            ("CIFAR-10", Column(barrier, BARRIER, {"dataset": "cifar10"}, "escape_images")),
        ])  # fmt: skip
        dot_picture("results_mlp", ESCAPES, [
            ("", Column(barrier, BARRIER, {}, "escape-mlp")),
            ("", Column("test accuracy, %", "test.accuracy", {}, "escape-mlp")),
        ])  # fmt: skip
        dot_picture("results_sharpness", ESCAPES, [
            ("", Column("mean rise of the loss, nats", "sharpness.settle-1/rise_random_0.1", WITH_L2, "escape")),
            ("", Column("trace of the Hessian", "sharpness.settle-1/hessian_trace_relative", WITH_L2, "escape")),
        ])  # fmt: skip
        dot_picture("results_generalise", ESCAPES, [
            ("", Column("test accuracy, %", "test.accuracy", {}, "generalise")),
            ("", Column("NLL of checkpoint and end, nats", "ensemble.test.nll", {}, "generalise")),
        ])  # fmt: skip
        dot_picture("results_gradients", SHORT["gradients"].kinds, [
            ("", Column("mean cosine of the two gradients", "gradients.cosine_mean", {}, "gradients")),
            ("", Column("largest angle, degrees", "gradients.angle_max", {}, "gradients")),
        ])  # fmt: skip
        dot_picture("results_interplay", INTERPLAY, [
            (name, Column(barrier, BARRIER, {"penalty": penalty}, "interplay"))
            for name, penalty in PENALTIES.items()
        ])  # fmt: skip
        dot_picture("results_networks", WIDTHS, [
            (name, Column("distance", "distance", where, "networks")) for name, where in NETWORKS.items()
        ])  # fmt: skip
        lines_picture("results_checkpoints", {"ResNet-8": "checkpoints", "perceptron": "checkpoints-mlp"})
        ensembles_picture(
            "results_ensembles", {"ResNet-8": "ensembles-resnet8", "perceptron": "ensembles-mlp"}, members=16
        )
        budgets_picture("results_whole", {"MNIST": "ensembles-whole-mnist", "CIFAR-10": "ensembles-whole-cifar10"})


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        pictures()
