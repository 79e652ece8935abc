"""Pack the results of a sweep, without weights and pictures, into one small file."""

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from distancing.errors import ReportError
from distancing.report.runs import Run
from distancing.runs.files import named_in_errors

KEPT = (".hydra/config.yaml", ".hydra/overrides.yaml", "result.json", "metrics.csv", "error.txt")
DATE = (1980, 1, 1, 0, 0, 0)  # the date of every entry, so that the same runs make the same file
MAX_BYTES = 1 << 28  # the limit of an unpacked entry; larger ones are skipped


def pack(runs: Sequence[Run], file: Path) -> None:
    """Write these runs' KEPT files into a ZIP file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    try:
        with named_in_errors(file), zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for run in sorted(runs, key=lambda run: run.path.name):
                for name in KEPT:
                    with contextlib.suppress(FileNotFoundError):
                        text = (run.path / name).read_bytes()
                        entry = zipfile.ZipInfo(f"{run.path.name}/{name}", DATE)
                        archive.writestr(entry, text, zipfile.ZIP_DEFLATED, compresslevel=9)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def unpacked(sources: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield each source and where it can be read: a packed file is in a temporary folder of its runs.

    Raise ReportError for a file that can't be read.
    """
    with contextlib.ExitStack() as stack:
        yield {
            source: stack.enter_context(_unpacked(Path(source))) if source.endswith(".zip") else source
            for source in sources
        }


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
