"""What a run tells while it trains: metrics.csv, TensorBoard events with the same names, a progress bar."""

import csv
import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from distancing.flat import flat
from distancing.runs import RunDirectory, write

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

T = TypeVar("T")
Row = Mapping[str, Any]
QUIET = 10.0  # seconds between progress lines where the output is no terminal


class Metrics:
    """One row per epoch, to metrics.csv and TensorBoard. None stays empty.

    `rows` are those of the epochs before: both are written anew from them, whatever a stopped process had
    written after its last saved state. (TensorBoard's own purging goes by the event files' names, which are in
    the wrong order if two processes began within a second.)
    """

    def __init__(self, directory: RunDirectory, columns: Sequence[str], rows: Sequence[Row]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, columns, lineterminator="\n").writeheader()
        write(directory.metrics, text.getvalue().encode())
        directory.clear_events()
        self._file = open(directory.metrics, "a", newline="")  # noqa: SIM115 (closed in close)
        self._csv = csv.DictWriter(self._file, columns, lineterminator="\n")
        self._events = _events(directory)
        self._events.add_custom_scalars(_layout(columns))
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        self._csv.writerow(row)
        self._file.flush()
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._events.add_scalar(name, value, row["epoch"])

    def add_result(self, scalars: Mapping[str, Sequence[float]], pictures: Mapping[str, NDArray[Any]]) -> None:
        """What is known at the end; the values of one name are at the steps 1, 2, …; pictures [H, W, 3 or 4]."""
        _add(self._events, scalars, pictures)

    def add_hparams(self, settings: Mapping[str, Any], final: Mapping[str, Any] | None, epoch: int) -> None:
        """For TensorBoard's table of hyperparameters: the run's settings by their dotted names, and the metrics of its
        `final` network, as scalars `final/SPLIT/…`; None of a run that diverged.

        SummaryWriter's own add_hparams would make a second run of them. Nor does this say which columns the table has:
        TensorBoard would take the word of one run for all, and a run without a penalty has no σ.
        """
        from torch.utils.tensorboard.summary import hparams

        for name, value in flat((final or {}).get("metrics", {})).items():
            if isinstance(value, (int, float)):
                self._events.add_scalar(f"final/{name.replace('.', '/')}", value, epoch)
        said = {name: str(value) if value is None or isinstance(value, bool) else value
                for name, value in settings.items()}  # fmt: skip
        _, start, end = hparams(said, {})
        for summary in (start, end):
            self._events._get_file_writer().add_summary(summary)

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._file.close()
        self._events.close()


def add_to_events(
    directory: RunDirectory, name: str, scalars: Mapping[str, Sequence[float]], pictures: Mapping[str, NDArray[Any]]
) -> None:
    """What is found out about a run after its end, in a file of this name, instead of what an earlier process wrote."""
    for file in directory.path.glob(f"events.out.tfevents.*.{name}"):
        file.unlink()
    events = _events(directory, f".{name}")
    _add(events, scalars, pictures)
    events.close()


def _events(directory: RunDirectory, suffix: str = "") -> "SummaryWriter":
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and not needed for a finished run

    return SummaryWriter(str(directory.path), filename_suffix=suffix)


def _add(events: "SummaryWriter", scalars: Mapping[str, Sequence[float]], pictures: Mapping[str, NDArray[Any]]) -> None:
    for name, values in scalars.items():
        for step, value in enumerate(values, 1):
            events.add_scalar(name, value, step)
    for name, picture in pictures.items():
        events.add_image(name, picture, dataformats="HWC")


@contextmanager
def tracking(console: Console) -> Iterator[Callable[[Iterable[T], str, int], Iterable[T]]]:
    """For what takes long: pass an iterable on, with a bar that says what it is and how much of the total is done."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        yield lambda each, what, total: bar.track(each, total=total, description=what)


def _layout(columns: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """What TensorBoard shows together, under "custom scalars"."""
    parts = ("train/cross_entropy", "train/l2", "train/penalty", "train/loss")
    charts = {
        "loss": {
            "of each split": [each for each in columns if each in (parts[0], "validation/loss", "test/loss")],
            "its parts in training": [each for each in columns if each in parts],
        },
        "accuracy": {"of each split": [each for each in columns if each.endswith("/accuracy")]},
        "distances": {
            "to the checkpoints": [each for each in columns if each.startswith("distance/")],
            "norm": [each for each in columns if each == "parameter_norm"],
        },
        "hills": {
            "heights": [each for each in columns if each.startswith("hill/")],
            "strengths": [each for each in columns if each.startswith("strength/")],
            "gradients": [each for each in columns if each.startswith("gradient_")],
        },
    }
    return {
        category: {
            title: ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]] for title, tags in several.items() if tags
        }
        for category, several in charts.items()
    }


class ProgressBar:
    """A live bar over the run's epochs on a terminal; elsewhere a line now and then."""

    def __init__(self, console: Console, epochs: int, done: int) -> None:
        self._console, self._epochs, self._last, self._said = console, epochs, "", 0.0
        self._bar = Progress(
            TextColumn("[bold]{task.fields[phase]}"),
            BarColumn(),
            TextColumn("epoch {task.fields[epoch]}/" + str(epochs)),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._bar.add_task("", total=epochs, completed=done, phase="", epoch=1, metrics="")

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, done: float, phase: str) -> None:
        """`done`: epochs of the run, a fraction within an epoch. Nothing is asked of the device."""
        self._bar.update(self._task, completed=done, phase=phase, epoch=min(int(done) + 1, self._epochs))

    def epoch(self, row: Row) -> None:
        metrics = f"loss {row['train/cross_entropy']:.4f}  train {row['train/accuracy']:.2%}"
        for split in ("validation", "test"):
            if row.get(f"{split}/accuracy") is not None:
                metrics += f"  {split} {row[f'{split}/accuracy']:.2%}"
        self._bar.update(self._task, metrics=metrics)
        if not self._console.is_terminal and time.monotonic() > self._said + QUIET:
            self._said = time.monotonic()
            self._console.print(f"{row['phase']}  epoch {row['epoch']}/{self._epochs}  {metrics}", highlight=False)
