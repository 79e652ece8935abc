"""Components: the classes that a YAML may name with `_target_`, as frozen dataclasses with checked fields."""

import dataclasses
from typing import TypeVar

import pydantic
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that checks the types and ranges of its fields.

    Its constructor raises `pydantic.ValidationError` for a wrong type (only an int is converted, to a float), a value
    out of range, NaN, infinity, or an unknown keyword.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    return dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[return-value]


def names(cls: type) -> list[str]:
    """Return the names of the settings of a class."""
    return [field.name for field in dataclasses.fields(cls) if field.name != "hash"]


def refusal(error: pydantic.ValidationError, cls: type, path: str = "") -> str:
    """Return one line that says which setting of `cls` was refused first, and why. path: where a config has them."""
    first = error.errors(include_url=False)[0]
    key = ".".join([path, *map(str, first["loc"])]).strip(".")
    return {
        "unexpected_keyword_argument": f"{key} is not a setting; allowed here: {', '.join(names(cls))}",
        "missing": f"{key} is missing",
        "value_error": f"{path}: ".lstrip(": ") + str(first.get("ctx", {}).get("error")),
    }.get(first["type"], f"{key}={first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}")
