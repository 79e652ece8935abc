"""Networks of other packages, as functions or classes that return a module."""

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from distancing.component import component
from distancing.models.base import Model


@component
class Factory(Model):
    """A network that a class or a function outside of this package makes, with its own initialisation.

    factory: receives the settings, and `image_shape` (C, H, W) and `classes` if these are among its parameters.
    settings: its other keyword arguments.
    """

    factory: Callable[..., nn.Module]
    settings: Mapping[str, Any]

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"{self.factory.__module__}.{self.factory.__qualname__}({settings.removeprefix(', ')})"

    def __hash__(self) -> int:  # the settings may hold lists
        return hash(repr(self))

    def network(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        known = {"image_shape": image_shape, "classes": classes}
        passed = {name: known[name] for name in known.keys() & inspect.signature(self.factory).parameters}
        try:
            return self.factory(**passed, **self.settings)
        except TypeError as error:
            if any(f"'{name}'" in str(error) for name in known.keys() - passed.keys()):
                hint = f"give the signature of {self.factory.__name__} parameters of these names, which receive them"
                raise TypeError(f"{error}; {hint}") from error
            raise

    def build(self, image_shape: tuple[int, int, int], classes: int) -> nn.Module:
        return self.network(image_shape, classes)


def is_factory(item: Any) -> bool:
    """Return whether `item` is a class of modules, or a function whose annotation says that it returns one."""
    if not inspect.isfunction(item):
        return inspect.isclass(item) and issubclass(item, nn.Module)
    try:
        returned = typing.get_type_hints(item).get("return")
    except Exception:  # annotations that cannot be evaluated
        return False
    return inspect.isclass(returned) and issubclass(returned, nn.Module)
