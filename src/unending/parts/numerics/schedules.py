"""Step sizes that fall with the number of steps, and floors that keep a learner awake on drifting data."""

from dataclasses import dataclass

from unending.core.errors import InputError

__all__ = ["PowerSchedule"]


@dataclass(frozen=True)
class PowerSchedule:
    """`max(t ** -exponent, floor)` at step `t` = 1, 2, ...

    Parameters
    ----------
    exponent
        how fast the steps fall; 0 keeps them at 1.
    floor
        the least step, in [0, 1]; 0 lets them vanish (stationary data), more of it follows drift.

    Raises
    ------
    InputError
        if the exponent is negative or the floor is outside [0, 1].
    """

    exponent: float
    floor: float = 0.0

    def __post_init__(self) -> None:
        if not self.exponent >= 0:
            raise InputError(f"the exponent of a schedule is {self.exponent}, accepted is 0 or more")
        if not 0 <= self.floor <= 1:
            raise InputError(f"the floor of a schedule is {self.floor}, accepted is 0 to 1")

    def __call__(self, t: int) -> float:
        """The step size at step `t`, which counts from 1."""
        return max(float(t) ** -self.exponent, self.floor)
