"""The modules outside of this package whose components a config may name, because the user trusts their code.

Trust is given on a machine, and never by a config. See docs/how-to/own-components.md.
"""

import importlib
import importlib.util
import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

VARIABLE = "DISTANCING_COMPONENTS"  # module names and paths, separated like those in PATH
GROUP = "distancing.components"  # the entry points of installed packages, each of which names a module


def settings_file() -> Path:
    """Return the user's file of trusted modules, one name or path a line. It need not exist."""
    folder = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(folder) / "distancing/components"


def trusted() -> dict[str, Path | None]:
    """Return the names of the trusted modules, each with the folder to import it from if it was given by its path."""
    lines = settings_file().read_text().splitlines() if settings_file().is_file() else []
    entries = [line.partition("#")[0].strip() for line in lines]
    entries += os.environ.get(VARIABLE, "").split(os.pathsep)
    names: dict[str, Path | None] = {entry.module: None for entry in entry_points(group=GROUP)}
    for entry in filter(None, entries):
        path = Path(entry).expanduser()
        is_path = len(path.parts) > 1 or path.suffix == ".py"
        names[path.stem if is_path else entry] = path.resolve().parent if is_path else None
    return names


def is_trusted(module: str) -> bool:
    """Return whether a module is a trusted one or within a trusted package."""
    return any(module == name or module.startswith(f"{name}.") for name in trusted())


def load(module: str) -> Any:
    """Import a trusted module. Raise ImportError, in one line, if that fails."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        raise ImportError(f"Python's own library has a module {top}, which hides yours: rename yours")
    _extend_path()
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's code raises
        reason = (str(error).splitlines() or ["?"])[0]
        raise ImportError(f"can't import {module}: {type(error).__name__}: {reason}") from error


def how_to_trust(module: str) -> str:
    """Return one line that says how a user lets configs name the components of a module."""
    top = module.partition(".")[0]
    entry = _here(top)
    line = f"set {VARIABLE}={shlex.quote(entry)}, or add the line {entry} to {settings_file()}"
    return f"if you trust the code of {top}, {line}"


def _here(top: str) -> str:
    """Return the path of a module or package in this folder, or in a folder of its name here, or else its name."""
    file = f"{top}.py"
    for module, entry in ((file, file), (f"{top}/__init__.py", top), (f"{top}/{file}", f"{top}/{file}")):
        if Path(module).is_file():
            return str(Path(entry).absolute())
    return top


def own_modules(components: Iterable[Any]) -> tuple[str, ...]:
    """Return the top-level modules outside of this package that define these components, sorted."""
    tops = {module.partition(".")[0] for item in components for module in _modules(item)}
    return tuple(sorted(tops - {"distancing", "builtins"}))


def source_files(module: str) -> Iterator[tuple[str, Path]]:
    """Yield the Python files of a top-level module or package, by names that do not depend on its folder."""
    _extend_path()
    spec = sys.modules[module].__spec__ if module in sys.modules else importlib.util.find_spec(module)
    if spec is None:
        return
    for folder in sorted(spec.submodule_search_locations or []):
        for file in sorted(Path(folder).rglob("*.py")):
            yield f"{module}/{file.relative_to(folder).as_posix()}", file
    if not spec.submodule_search_locations and spec.origin:
        yield f"{module}.py", Path(spec.origin)


def line_of(error: Exception, component: Any) -> str:
    """Return the last line of the component's own modules that an error passed through, as " in parts.py, line 57".

    Return "" if there is none.
    """
    files = {str(path) for module in own_modules([component]) for _, path in source_files(module)}
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    return f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def _modules(item: Any) -> Iterator[str]:
    """Yield the module of a component's class, and that of the function or class that the component wraps."""
    yield type(item).__module__
    if factory := getattr(item, "factory", None):
        yield factory.__module__


def _extend_path() -> None:
    """Append the folders of modules that are trusted by their path to sys.path. Others of their names come first."""
    for folder in filter(None, trusted().values()):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
