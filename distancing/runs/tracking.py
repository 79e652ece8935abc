"""The records of a training run: metrics.csv, TensorBoard events under the same names, and a progress bar."""

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from distancing.runs import RunDirectory
from distancing.runs.flat import Leaf
from distancing.runs.metrics_file import MetricsWriter, Row
from distancing.runs.result import Metrics as Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

T = TypeVar("T")
QUIET = 10.0  # seconds between progress lines where the output is not a terminal


class Metrics:
    """Write one row per epoch to metrics.csv and to TensorBoard. A value of None leaves its cell empty.

    rows: the rows of the epochs before a resume. Both files are rewritten from them, so that nothing stays that a
    stopped process wrote after its last saved state. (TensorBoard's own purging relies on the names of the event
    files, which sort wrongly if two processes start within a second.)
    """

    def __init__(self, directory: RunDirectory, columns: Sequence[str], rows: Sequence[Row]) -> None:
        self._directory = directory
        self._file = MetricsWriter(directory.metrics, columns)
        directory.clear_events()
        self._events = _events(directory)
        self._events.add_custom_scalars(_layout(columns))
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Add the row of an epoch to both files."""
        self._file.add(row)
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "epoch":
                self._events.add_scalar(name, value, row["epoch"])

    def add_result(self, scalars: Mapping[str, Sequence[float]], pictures: Mapping[str, NDArray[Any]]) -> None:
        """Add results of the whole run. The values of a name become steps 1, 2, …; pictures are [H, W, 3 or 4]."""
        _add(self._events, scalars, pictures)

    def add_hparams(self, settings: Mapping[str, Leaf], final: Scores | None, epoch: int) -> None:
        """Add the run to TensorBoard's table of hyperparameters.

        settings: the settings by their dotted names.
        final: the metrics of the final network, which become the scalars `final/SPLIT/…`; None if the run diverged.

        SummaryWriter.add_hparams is not used, because it would create a second run. The table's columns are not
        declared here, because TensorBoard would apply one run's columns to all, and a run without a penalty has no σ.
        """
        from torch.utils.tensorboard.summary import hparams

        for split, scores in (final or {}).items():
            for name, value in scores.items():
                self._events.add_scalar(f"final/{split}/{name}", value, epoch)
        values = {
            name: str(value) if value is None or isinstance(value, bool) else value for name, value in settings.items()
        }
        _, start, end = hparams(values, {})
        for summary in (start, end):
            self._events._get_file_writer().add_summary(summary)

    def flush(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._file.close()
        if not self._directory.gone:  # else TensorBoard's thread would print a traceback
            self._events.close()


@contextmanager
def quiet_writer() -> Iterator[None]:
    """Print no traceback of TensorBoard's thread: the next call of its writer raises the thread's error here."""
    original = threading.excepthook

    def excepthook(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            original(arguments)

    threading.excepthook = excepthook
    try:
        yield
    finally:
        threading.excepthook = original


def add_to_events(
    directory: RunDirectory, name: str, scalars: Mapping[str, Sequence[float]], pictures: Mapping[str, NDArray[Any]]
) -> None:
    """Write results of an ended run to an event file of their own, with the suffix `name`, replacing an earlier one."""
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
    """Yield a function (iterable, description, total) that returns the iterable and shows a progress bar over it."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        yield lambda items, description, total: bar.track(items, total=total, description=description)


def _layout(columns: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """Return the charts of TensorBoard's "custom scalars": category → title → tags."""
    parts = ("train/cross_entropy", "train/l2", "train/penalty", "train/loss")
    charts = {
        "loss": {
            "of each split": [name for name in columns if name in (parts[0], "validation/loss", "test/loss")],
            "its parts in training": [name for name in columns if name in parts],
        },
        "accuracy": {"of each split": [name for name in columns if name.endswith("/accuracy")]},
        "distances": {
            "to the checkpoints": [name for name in columns if name.startswith("distance/")],
            "norm": [name for name in columns if name == "parameter_norm"],
        },
        "hills": {
            "heights": [name for name in columns if name.startswith("hill/")],
            "strengths": [name for name in columns if name.startswith("strength/")],
            "gradients": [name for name in columns if name.startswith("gradient_")],
        },
    }
    return {
        category: {
            title: ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]] for title, tags in titles.items() if tags
        }
        for category, titles in charts.items()
    }


class ProgressBar:
    """Show a live bar over the run's epochs on a terminal; elsewhere print a line at most every QUIET seconds."""

    def __init__(self, console: Console, epochs: int, done: int) -> None:
        self._console, self._epochs, self._printed = console, epochs, 0.0
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
        """Show that `done` epochs, a fraction within an epoch, are done. This does not wait for the device."""
        self._bar.update(self._task, completed=done, phase=phase, epoch=min(int(done) + 1, self._epochs))

    def epoch(self, row: Row) -> None:
        """Show the metrics of an epoch that has ended."""
        metrics = f"loss {row['train/cross_entropy']:.4f}  train {row['train/accuracy']:.2%}"
        for split in ("validation", "test"):
            if row.get(f"{split}/accuracy") is not None:
                metrics += f"  {split} {row[f'{split}/accuracy']:.2%}"
        self._bar.update(self._task, metrics=metrics)
        if not self._console.is_terminal and time.monotonic() > self._printed + QUIET:
            self._printed = time.monotonic()
            self._console.print(f"{row['phase']}  epoch {row['epoch']}/{self._epochs}  {metrics}", highlight=False)
