"""Settings by their dotted names, from nested configs and results and from typed overrides."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

# settings that cannot change a run's numbers (threads only change the last digits) and are not part of its hash
NOT_HASHED = (
    "name",
    "analysis",
    "evaluate",
    "threads",
    "graph",
    "verify",
    "runs",
    "overwrite",
    "save_every",
    "checkpoint_every",  # the name of save_every in earlier versions
    "dataset.root",
    "dataset.download",
)

Leaf = str | int | float | bool | None


def flat(tree: Mapping[str, Any]) -> dict[str, Leaf]:
    """Return the leaves by their dotted names: {"penalty": {"sigma": 1}} → {"penalty.sigma": 1}.

    A list of plain values is a leaf, too, as text such as [0.05,0.1]. The entries of other lists that are dicts with a
    "name" go by this name; other entries, and empty dicts, are left out.
    """
    return dict(_leaves(tree, ""))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list) and all(entry is None or isinstance(entry, (str, int, float)) for entry in node):
        yield path, json.dumps(node, separators=(",", ":"))
    elif isinstance(node, list):
        for entry in node:
            if isinstance(entry, Mapping) and "name" in entry:
                yield from _leaves(entry, f"{path}.{entry['name']}")
    elif node is None or isinstance(node, (str, int, float, bool)):
        yield path, node


def typed(override: str) -> tuple[str, str]:
    """Return the name and the value of an override.

    `+penalty.sigma=1` gives penalty.sigma and 1; `~phases.x` gives phases.x and deleted.
    """
    key, equals, value = override.partition("=")
    value = value if equals else "deleted" if override.startswith("~") else ""
    return key.lstrip("+~").partition("@")[0], value.strip("'\"")
