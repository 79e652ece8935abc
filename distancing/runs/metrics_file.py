"""metrics.csv: one row for each epoch. `training/metrics.py` names the columns."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distancing.runs.files import named_in_errors, write

Row = Mapping[str, float | str | None]  # column → value

# PUSHED is the share of an epoch's images in whose steps the hills pushed. GRADIENTS are, over these steps, the mean
# cosine between the data's gradient and the hills', the median ratio of their norms, and the median angle by which the
# hills turn the gradient, each with its first and last decile.
PUSHED = "gradient_pushed"
GRADIENTS = [f"gradient_{name}{part}" for name in ("cosine", "ratio", "angle") for part in ("", "_p10", "_p90")]


@dataclass(frozen=True)
class MetricsTable:
    """The whole rows of a metrics.csv.

    columns: the names in the header.
    rows: column → text, "" where the row has no value. They end before the first damaged row.
    damage: what is wrong with that row; None if all rows are whole.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    damage: str | None


class MetricsWriter:
    """Replace metrics.csv by a header, then append rows. A value of None leaves its cell empty."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        write(path, to_text(columns, []).encode())
        self._path = path
        self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 (closed in close)
        self._csv = csv.DictWriter(self._file, columns, lineterminator="\n")

    def add(self, row: Row) -> None:
        with named_in_errors(self._path):
            self._csv.writerow(row)
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def to_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return the file that a MetricsWriter writes for these rows."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def read(path: Path, tail: int | None = None) -> MetricsTable:
    """Read a metrics.csv, or only its header and the whole rows within its last `tail` bytes.

    Raise OSError, and ValueError if the file is not UTF-8 or its header is damaged.
    """
    with open(path, "rb") as file:
        header = file.readline()
        start = len(header) if tail is None else max(len(header), file.seek(0, io.SEEK_END) - tail)
        file.seek(max(0, start - 1))  # at the end of a line, or within a row that is then skipped
        _, _, body = file.read().partition(b"\n")
    return parse((header + body).decode())


def parse(text: str) -> MetricsTable:
    """Return the table in the text of a metrics.csv. Raise ValueError if its header is damaged."""
    *lines, unfinished = text.split("\n")
    damage = "the last row is half-written" if unfinished else None
    if not lines:
        raise ValueError("its header is half-written" if text else "it is empty")
    try:
        columns, *cells = csv.reader(lines)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    rows = []
    for values in cells:
        if len(values) != len(columns):
            damage = f"a row has {len(values)} values instead of {len(columns)}"
            break
        rows.append(dict(zip(columns, values, strict=True)))
    return MetricsTable(columns, rows, damage)
