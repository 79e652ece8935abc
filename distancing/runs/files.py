"""Write files atomically, and detect damage when reading them."""

import hashlib
import io
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distancing.errors import StorageError

if TYPE_CHECKING:  # torch is slow to import, and a report does not need it
    import torch


DIGEST = 64  # hexadecimal digits
Json = dict[str, Any]  # the content of a JSON file, which may be of another version or damaged


def write(path: Path, content: bytes | memoryview, flush: bool = True) -> None:
    """Replace a file by `content`, via a temporary file and a rename: a reader sees the old file or the new one.

    Several processes may write the same file at the same time, such as a command and a run that trains. Each has a
    temporary file of its own, and the last one wins.

    flush: wait until the content is on disk. False for files that can be made again, which a system crash may lose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with named_in_errors(path), open(temporary, "wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if not flush:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def export(path: Path, content: str | bytes) -> None:
    """Write a file that an option of a command asks for. It may be a pipe, which can't be renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_in_errors(path):
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Name the file or folder in an OSError that names none, as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = str(path)
        raise


def save(path: Path, content: Any) -> None:
    """Save tensors, numbers, strings, lists and dicts, for `load`."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, sealed(buffer.getvalue()))


def load(path: Path, device: "torch.device | str" = "cpu") -> Any:
    """Return what `save` saved. Raise StorageError, naming the file, if it is missing or a byte of it has changed."""
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    if sealed(content[:-DIGEST]) != content:
        raise StorageError(f"{path} is damaged: its checksum is wrong")
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch.load raises all kinds of errors
        raise StorageError(f"{path} is damaged: {repr(error)[:80]}") from error


def seal(path: Path) -> str:
    """Return the checksum at the end of a file that `save` wrote. Files with the same checksum are copies."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - DIGEST))
        return file.read().decode(errors="replace")


def sealed(archive: bytes) -> bytes:
    """Return a zip archive with its SHA-256 appended as the archive's comment, which zip readers ignore.

    The checksums inside the archive do not suffice: torch's reader ignores them, and they do not cover the headers.
    """
    archive = archive[:-2] + DIGEST.to_bytes(2, "little")  # the last field of a zip file: the length of its comment
    return archive + hashlib.sha256(archive).hexdigest().encode()


def with_nulls(value: Any) -> Any:
    """Return a tree of JSON with null for every number that is not finite, because JSON has none."""
    if isinstance(value, dict):
        return {key: with_nulls(child) for key, child in value.items()}
    if isinstance(value, list):
        return [with_nulls(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
