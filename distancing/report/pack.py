"""A sweep in one small file: what its runs measured, without weights and pictures. To take home, to send, to keep."""

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from distancing.errors import ReportError
from distancing.report.runs import Run

KEPT = (".hydra/config.yaml", ".hydra/overrides.yaml", "result.json", "metrics.csv")
THEN = (1980, 1, 1, 0, 0, 0)  # the same runs make the same file
MOST = 1 << 28  # bytes of a file within, unpacked


def pack(runs: Sequence[Run], file: Path) -> None:
    """Write these runs' KEPT files into a ZIP file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    making = file.with_name(f"{file.name}.tmp")
    with zipfile.ZipFile(making, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for run in sorted(runs, key=lambda run: run.path.name):
            for name in KEPT:
                with contextlib.suppress(FileNotFoundError):
                    text = (run.path / name).read_bytes()
                    entry = zipfile.ZipInfo(f"{run.path.name}/{name}", THEN)
                    archive.writestr(entry, text, zipfile.ZIP_DEFLATED, compresslevel=9)
    making.replace(file)


@contextlib.contextmanager
def unpacked(what: Sequence[str]) -> Iterator[list[str]]:
    """The same, with a folder of runs in the place of each packed file, as long as it is needed. Raises ReportError."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_unpacked(Path(each))) if each.endswith(".zip") else each for each in what]


@contextlib.contextmanager
def _unpacked(file: Path) -> Iterator[str]:
    """Only the files that `pack` writes are taken, wherever others say that they belong."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    run, _, name = entry.filename.partition("/")
                    if name in KEPT and run not in (".", "..") and entry.file_size <= MOST:
                        path = Path(folder, run, name)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(archive.read(entry))
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ReportError(f"{file} is no packed sweep that can be read ({error})") from error
        yield folder
