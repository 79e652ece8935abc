"""The short tables of RESULTS.md, made from the full tables in results/."""

import csv
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from selections import DETECTORS, ENSEMBLES, ONE_RATE, RIVALS, SHORT, Column, Settings, Short

from distancing.ensemble.compare import chosen
from distancing.ensemble.row import Row as Ensemble
from distancing.ensemble.row import read_csv

RESULTS = Path(__file__).parents[2] / "results"
TABLE = re.compile(r"(<!-- table: ([\w-]+) -->\n\n)((?:\|[^\n]*\n)*)")
Row = Mapping[str, str]
UNKNOWN = math.nan, math.nan
NAMES = {
    "calibrated_nll": "calibrated NLL",
    "accuracy": "accuracy, %",
    "ood_auroc": "entropy: AUROC, MNIST, %",
    "ood_mutual_information_auroc": "mutual information: AUROC, MNIST, %",
    "member_ood_auroc": "one member: AUROC, MNIST, %",
    "corrupted_error": "corrupted: error, %",
    "corrupted_calibrated_nll": "corrupted: calibrated NLL",
    "corrupted_calibrated_ece": "corrupted: calibrated ECE, %",
}
EIGHT = "calibrated_nll", "accuracy", "ood_auroc", "ood_mutual_information_auroc", "corrupted_calibrated_nll"
CORRUPTED = "corrupted_calibrated_nll", "corrupted_error", "corrupted_calibrated_ece", "ood_auroc"
OTHERS = {  # of networks that were trained on another set than Fashion-MNIST: the full table for each set they detect
    "ood-of-mnist": {"Fashion-MNIST": "ensembles-of-mnist-ood-fashion", "CIFAR-10": "ensembles-of-mnist-ood-cifar10"},
    "ood-of-cifar10": {"Fashion-MNIST": "ensembles-of-cifar10-ood-fashion", "MNIST": "ensembles-of-cifar10-ood-mnist"},
}
# the short tables of DETECTORS: the full table, the score and the head of each column
BEYOND = {
    "ensembles-eight": [("ensembles-eight", score, NAMES[score]) for score in EIGHT],
    "ensembles-eight-cifar10": [
        *(("ensembles-eight-cifar10", score, NAMES[score]) for score in ("calibrated_nll", "accuracy")),
        ("ensembles-eight-cifar10", "ood_auroc", "entropy: AUROC, Fashion-MNIST, %"),
    ],
    "ensembles-ood-corrupted": [("ensembles-ood-corrupted", score, NAMES[score]) for score in CORRUPTED],
    **{
        table: [
            *((name, "ood_auroc", f"entropy: AUROC, {other}, %") for other, name in sets.items()),
            *(
                (name, "ood_mutual_information_auroc", f"mutual information: {other}, %")
                for other, name in sets.items()
            ),
            (next(iter(sets.values())), "calibrated_nll", NAMES["calibrated_nll"]),
        ]
        for table, sets in OTHERS.items()
    },
}
WHOLE = "ensembles-whole-mnist", "ensembles-whole-fashion-mnist", "ensembles-whole-cifar10"


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
    return number(*mean_sd(row, column.metric), most=column.most)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown. heads: those of all columns but the first, which names the rows."""
    lines = [["", *heads], ["---", *["---:"] * len(heads)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def table(short: Short) -> str:
    """Return the short table in Markdown."""
    rows = full(short.source)
    lines = [[name, *(cell(rows, kind, column) for column in short.columns)] for name, kind in short.kinds.items()]
    return markdown([column.head for column in short.columns], lines)


def ensembles(name: str, members: int) -> str:
    """Return the short table of the ensembles of so many members, by the epochs of each member.

    It has the NLL at the optimal temperature, and for the most epochs also the raw one and the accuracy.
    """
    rows = [row for row in full(name) if int(row["members"]) == members]
    budgets = sorted({float(row["epochs_each"]) for row in rows})
    most = f"{budgets[-1]:g} epochs"
    heads = [*(f"{budget:g} epochs: calibrated NLL" for budget in budgets), f"{most}: raw NLL", f"{most}: accuracy, %"]
    lines = []
    for label, kind in ENSEMBLES.items():
        own = [row for row in rows if row["kind"] == kind]
        if own:
            by_budget = [[row for row in own if float(row["epochs_each"]) == budget] for budget in budgets]
            cells = [number(*mean_error([float(row["calibrated_nll"]) for row in group])) for group in by_budget]
            cells.append(number(*mean_error([float(row["nll"]) for row in by_budget[-1]])))
            cells.append(number(*mean_error([100 * float(row["accuracy"]) for row in by_budget[-1]])))
            lines.append([label, *cells])
    return markdown(heads, lines)


Scores = dict[int, dict[str, tuple[float, float]]]  # epochs in all → kind → mean and standard error


def tuned(name: str, score: str) -> Scores:
    """Return a score of each of RIVALS, of its best trial."""
    return _scores(chosen(read_csv(RESULTS / f"{name}.csv")), RIVALS, score)


def detected(name: str, score: str) -> Scores:
    """Return a score of each of DETECTORS, or of ONE_RATE."""
    rows = read_csv(RESULTS / f"{name}.csv")
    return _scores(rows, DETECTORS if rows[0].kind.startswith("lr=") else ONE_RATE, score)


def _scores(rows: Sequence[Ensemble], kinds: Mapping[str, str], score: str) -> Scores:
    """Return a score of the kinds: label → `Row.kind`."""
    by_epochs: Scores = {}
    for epochs in sorted({row.epochs for row in rows}):
        for label, kind in kinds.items():
            known = (getattr(row, score) for row in rows if (row.epochs, row.kind) == (epochs, kind))
            if scores := [value for value in known if value is not None]:
                by_epochs.setdefault(epochs, {})[label] = mean_error(scores)
    return by_epochs


def rivals(name: str) -> str:
    """Return the short table of ensembles whose settings were chosen on the validation images."""
    nll = tuned(name, "calibrated_nll")
    most = max(nll)
    shares = {"accuracy": tuned(name, "accuracy"), "OOD AUROC": tuned(name, "ood_auroc")}
    at_most = {head: by_epochs[most] for head, by_epochs in shares.items() if most in by_epochs}
    heads = [
        *(f"{epochs} epochs in all: calibrated NLL" for epochs in nll),
        *(f"{most} epochs: {head}, %" for head in at_most),
    ]
    lines = []
    for label in RIVALS:
        if any(label in by_label for by_label in nll.values()):
            cells = [number(*by_label.get(label, UNKNOWN), most=4) for by_label in nll.values()]
            known = (by_label.get(label, UNKNOWN) for by_label in at_most.values())
            cells += [number(100 * mean, 100 * error) for mean, error in known]
            lines.append([label, *cells])
    return markdown(heads, lines)


def detectors(score: str, last: str) -> str:
    """Return the short table of how well ensembles detect images of another data set, and of a last score."""
    mnist, cifar = detected("ensembles-ood-mnist", score), detected("ensembles-ood-cifar10", score)
    most = max(mnist)
    heads = [*(f"{epochs} epochs: AUROC, MNIST, %" for epochs in mnist), f"{most} epochs: AUROC, CIFAR-10, %"]
    heads.append(f"{most} epochs: {NAMES[last]}")
    scale, of_last = 100 if "%" in NAMES[last] else 1, detected("ensembles-ood-mnist", last)[most]
    lines = []
    for label in DETECTORS:
        shares = [*(by_label[label] for by_label in mnist.values()), cifar[most][label]]
        cells = [number(100 * mean, 100 * error) for mean, error in shares]
        mean, error = of_last[label]
        lines.append([label, *cells, number(scale * mean, scale * error, most=4)])
    return markdown(heads, lines)


def of_detectors(columns: Sequence[tuple[str, str, str]]) -> str:
    """Return the short table of scores of DETECTORS, all of whose ensembles have one budget. columns: as in BEYOND."""
    lines = []
    by_column = [(head, next(iter(detected(name, score).values()))) for name, score, head in columns]
    for label in by_column[0][1]:
        cells = []
        for head, by_label in by_column:
            scale = 100 if "%" in head else 1
            mean, error = by_label[label]
            cells.append(number(scale * mean, scale * error, most=4))
        lines.append([label, *cells])
    return markdown([head for *_, head in columns], lines)


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error."""
    if not values:
        return math.nan, math.nan
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return statistics.fmean(values), error


def tables() -> dict[str, str]:
    """Return all short tables by name."""
    made = {name: table(short) for name, short in SHORT.items()}
    made |= {name: ensembles(name, 16) for name in ("ensembles-resnet8", "ensembles-mlp")}
    made |= {name: rivals(name) for name in WHOLE} | {
        "ood": detectors("ood_auroc", "calibrated_nll"),
        "ood-information": detectors("ood_mutual_information_auroc", "member_ood_auroc"),
    }
    return made | {name: of_detectors(columns) for name, columns in BEYOND.items()}


def updated(text: str) -> str:
    """Return the page with every short table replaced."""
    made = tables()
    return TABLE.sub(lambda match: match[1] + made[match[2]], text)
