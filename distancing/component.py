"""What a YAML may name with `_target_`: a frozen, keyword-only dataclass whose fields check themselves."""

from typing import TypeVar, dataclass_transform

import pydantic
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def component(cls: type[T]) -> type[T]:
    """Make `cls` a component: constructed by keywords only, with the types and ranges that its fields declare.

    Raises `pydantic.ValidationError` at construction for a wrong type (nothing is converted but an int to
    a float), a value out of range, NaN, an infinity, or an unknown keyword.
    """
    config = pydantic.ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
    return dataclass(frozen=True, kw_only=True, config=config)(cls)  # type: ignore[return-value]  # cls, made one
