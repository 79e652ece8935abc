"""Components: the classes that a YAML may name with `_target_`, as frozen dataclasses with checked fields."""

from typing import TypeVar, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that checks the types and ranges of its fields.

    Its constructor raises `pydantic.ValidationError` for a wrong type (only an int is converted, to a float), a value
    out of range, NaN, infinity, or an unknown keyword.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    return dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[return-value]
