"""Settings by their dotted names: of a nested config or result, and as they were typed."""

from collections.abc import Iterator, Mapping
from typing import Any

# settings that can't change a run's numbers (threads: but for their last digits), and so aren't part of its name
NOT_HASHED = (
    "name",
    "analysis",
    "threads",
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
    """{"penalty": {"sigma": 1}} → {"penalty.sigma": 1}. Of a list, those of its entries that are dicts with a "name";
    an empty dict leaves nothing."""
    return dict(_leaves(tree, ""))


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for each in node:
            if isinstance(each, Mapping) and "name" in each:
                yield from _leaves(each, f"{path}.{each['name']}")
    elif node is None or isinstance(node, (str, int, float, bool)):
        yield path, node


def typed(override: str) -> tuple[str, str]:
    """`+penalty.sigma=1` → penalty.sigma, 1; `~phases.settle` → phases.settle, deleted."""
    key, equals, value = override.partition("=")
    value = value if equals else "deleted" if override.startswith("~") else ""
    return key.lstrip("+~").partition("@")[0], value.strip("'\"")
