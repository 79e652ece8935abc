"""Writing that leaves either the old file or the new, and reading that notices damage."""

import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distancing.errors import StorageError

if TYPE_CHECKING:  # slow to import, and not needed to look at hundreds of runs
    import torch


DIGEST = 64  # hexadecimal digits


def write(path: Path, content: bytes | memoryview, flush: bool = True) -> None:
    """Write to a temporary file, flush to disk, rename: a reader never sees a part of `content`.

    flush: off for what can be made again, so that a machine's crash may lose it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # the directory's lock makes us the only writer
    try:
        with open(temporary, "wb") as file:
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


def save(path: Path, content: Any) -> None:
    """Tensors, numbers, strings, lists and dicts, for `load`."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(path, sealed(buffer.getvalue()))


def load(path: Path, device: "torch.device | str" = "cpu") -> Any:
    """What `save` wrote. Raises StorageError, naming the file, if a single byte of it has changed."""
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from error
    if sealed(content[:-DIGEST]) != content:
        raise StorageError(f"{path} is damaged: its checksum is wrong")
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # the reader raises anything for what it doesn't know
        raise StorageError(f"{path} is damaged: {repr(error)[:80]}") from error


def seal(path: Path) -> str:
    """The checksum that `save` has put at the end of a file."""
    with open(path, "rb") as file:
        file.seek(-DIGEST, os.SEEK_END)
        return file.read().decode(errors="replace")


def sealed(archive: bytes) -> bytes:
    """The zip archive with a checksum of all of it for a comment, which any reader of such archives passes over.

    torch's reader does not compare the checksums that its writer writes, and no reader all fields of the headers.
    """
    archive = archive[:-2] + DIGEST.to_bytes(2, "little")  # the last field: the comment's length
    return archive + hashlib.sha256(archive).hexdigest().encode()
