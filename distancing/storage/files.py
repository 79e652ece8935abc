"""Writing that leaves either the old file or the new, and reading that notices damage."""

import io
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # slow to import, and not needed to look at hundreds of runs
    import torch


class StorageError(Exception):
    """The directory can't be used as asked; the message says which file and why."""


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
    write(path, buffer.getbuffer())


def load(path: Path, device: "torch.device | str" = "cpu") -> Any:
    """What `save` wrote. Raises StorageError, naming the file, if a single byte of its content has changed."""
    import torch

    try:
        with zipfile.ZipFile(path) as file:  # torch's reader does not compare the checksums that it writes
            if damaged := file.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a damaged file can make the reader raise anything
        raise StorageError(f"{path} is damaged: {repr(error)[:80]}") from error
