"""What a toy can hold."""

from unending.core import Bound, Operator, nbytes


def held(operator: Operator) -> Bound:
    """The bound of an operator whose state has its full size from the start."""
    return Bound(nbytes(operator.init()))
