"""Pack the results of a sweep, without weights and pictures, into one small file."""

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from distancing.errors import ReportError
from distancing.report.runs import Run

KEPT = (".hydra/config.yaml", ".hydra/overrides.yaml", "result.json", "metrics.csv", "error.txt")
DATE = (1980, 1, 1, 0, 0, 0)  # the date of every entry, so that the same runs make the same file
MAX_BYTES = 1 << 28  # the limit of an unpacked entry; larger ones are skipped


def pack(runs: Sequence[Run], file: Path) -> None:
    """Write these runs' KEPT files into a ZIP file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for run in sorted(runs, key=lambda run: run.path.name):
            for name in KEPT:
                with contextlib.suppress(FileNotFoundError):
                    text = (run.path / name).read_bytes()
                    entry = zipfile.ZipInfo(f"{run.path.name}/{name}", DATE)
                    archive.writestr(entry, text, zipfile.ZIP_DEFLATED, compresslevel=9)
    temporary.replace(file)


@contextlib.contextmanager
def unpacked(sources: Sequence[str]) -> Iterator[list[str]]:
    """Yield the sources with each packed file replaced by a temporary folder of its runs.

    Raise ReportError for a file that can't be read.
    """
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(_unpacked(Path(source))) if source.endswith(".zip") else source for source in sources
        ]


def as_given(text: str, given: Sequence[str], sources: Sequence[str]) -> str:
    """Return the text with the packed files instead of the temporary folders of `unpacked`."""
    for name, source in zip(given, sources, strict=True):
        text = text.replace(f"{source}/", f"{name}/")
    return text


@contextlib.contextmanager
def _unpacked(file: Path) -> Iterator[str]:
    """Yield a temporary folder with the files that `pack` writes. Others, which could lead elsewhere, are skipped."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    run, _, name = entry.filename.partition("/")
                    if name in KEPT and run not in (".", "..") and entry.file_size <= MAX_BYTES:
                        path = Path(folder, run, name)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(archive.read(entry))
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ReportError(f"{file} can't be read as a packed sweep ({error})") from error
        yield folder
