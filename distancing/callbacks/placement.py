"""The epochs after which a callback places hills."""

import warnings
from collections.abc import Collection


def checked(place_after: Collection[int]) -> frozenset[int]:
    """Return the epochs. Raise ValueError unless they are integers from 1."""
    if isinstance(place_after, str) or any(type(epoch) is not int or epoch < 1 for epoch in place_after):
        raise ValueError(f"place_after={place_after!r}: epochs are integers, counted from 1")
    return frozenset(place_after)


def warn_of_missed(place_after: Collection[int], epochs: int) -> None:
    """Warn of epochs after which no hill was placed, because the training ended after `epochs` epochs."""
    if missed := sorted(epoch for epoch in place_after if epoch > epochs):
        warnings.warn(
            f"no hill was placed after epoch {', '.join(map(str, missed))}: the training ended after {epochs}",
            stacklevel=2,
        )
