"""Named features as the columns of fixed-width rows: features may appear and vanish, what is missing is 0."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from unending.core.errors import CapacityError, InputError

__all__ = ["Columns"]


class Columns:
    """Feature -> column, in the order first seen; new ones of one row are put in the order of their names.

    Parameters
    ----------
    on_new_feature
        what happens to a feature that the first row did not have: `grow` gives it a column, `ignore` leaves it out,
        `raise` refuses the row.
    limit
        most columns.

    Raises
    ------
    InputError
        for another `on_new_feature`, or a limit below 1.
    """

    def __init__(self, on_new_feature: str = "grow", limit: int = 1024) -> None:
        if on_new_feature not in ("grow", "ignore", "raise") or limit < 1:
            raise InputError("on_new_feature is grow, ignore or raise; the limit of columns is 1 or more")
        self.on_new_feature, self.limit = on_new_feature, limit
        self.places: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self.places)

    def admitted(self, row: Mapping[Hashable, Any]) -> "Columns":
        """These columns and those that the row adds, as a new object: the caller keeps the old one if it then fails.

        Raises
        ------
        InputError
            if the row has a feature without a column and `on_new_feature` is `raise`.
        CapacityError
            if there would be more columns than the limit.
        """
        new = sorted((name for name in row if name not in self.places), key=repr)
        if not new or (self.places and self.on_new_feature == "ignore"):
            return self
        if self.places and self.on_new_feature == "raise":
            raise InputError(f"the feature {new[0]!r} is new; accepted are the {len(self)} of the first row")
        if len(self) + len(new) > self.limit:
            raise CapacityError(
                f"the feature {new[0]!r} does not fit: there is room for {self.limit} columns"
            )
        wider = Columns(self.on_new_feature, self.limit)
        wider.places = self.places | {name: len(self) + k for k, name in enumerate(new)}
        return wider

    def vector(self, row: Mapping[Hashable, Any]) -> np.ndarray:
        """The row as float64 `[columns]`; features without a column are left out.

        Raises
        ------
        InputError
            if a value is no finite real number.
        """
        vector = np.zeros(len(self))
        for name, value in row.items():
            place = self.places.get(name)
            if place is None:
                continue
            try:
                if isinstance(value, str | bytes):
                    raise TypeError("numpy would read a number out of it")
                vector[place] = value
            except (TypeError, ValueError, OverflowError) as error:
                shown = repr(value)
                shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
                raise InputError(f"the feature {name!r} is {shown}, accepted are real numbers") from error
        if not np.isfinite(vector).all():
            names = [name for name, place in self.places.items() if not np.isfinite(vector[place])]
            raise InputError(f"the feature {names[0]!r} is NaN or infinite, accepted are finite numbers")
        return vector
