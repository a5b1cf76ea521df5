"""How far a simultaneous translation lags behind its source, in source words."""

from collections.abc import Sequence

from unending.core.errors import InputError

__all__ = ["average_lagging", "average_proportion", "differentiable_average_lagging", "laal"]


def average_lagging(delays: Sequence[float], source: int, target: int | None = None) -> float:
    """Average lagging, AL (Ma et al. 2019, STACL, arXiv 1810.08398).

    ``1/tau * sum_{i < tau} (d_i - i / gamma)`` with ``gamma = target / source`` and tau the number of words up to
    the first one that was written with the whole source read. If the first word came after more than the whole
    source, its delay is the result.

    Parameters
    ----------
    delays
        source words that were read when each target word was written.
    source
        words of the source.
    target
        words of the reference; the number of words that were written where there is none.

    Raises
    ------
    InputError
        if nothing was written, or a length is not positive.
    """
    _require(delays, source, target)
    return _lagging(delays, source, len(delays) if target is None else target)


def laal(delays: Sequence[float], source: int, target: int | None = None) -> float:
    """Length-adaptive average lagging, LAAL (Papi et al. 2022, arXiv 2206.05807).

    As `average_lagging`, with the longer of output and reference as target length: writing too much gains nothing.
    """
    _require(delays, source, target)
    return _lagging(delays, source, max(len(delays), target or 0))


def _lagging(delays: Sequence[float], source: int, target: int) -> float:
    if delays[0] > source:
        return float(delays[0])
    step, total, tau = source / target, 0.0, 0
    for index, delay in enumerate(delays):
        total += delay - index * step
        tau = index + 1
        if delay >= source:
            break
    return total / tau


def average_proportion(delays: Sequence[float], source: int, target: int | None = None) -> float:
    """Average proportion, AP: the mean share of the source that was read (Cho and Esipova 2016, arXiv 1606.02012)."""
    _require(delays, source, target)
    return sum(delays) / (source * (len(delays) if target is None else target))


def differentiable_average_lagging(delays: Sequence[float], source: int) -> float:
    """Differentiable average lagging, DAL: a write takes its share of the time (Cherry and Foster 2019, 1906.00048).

    The target length is the number of words that were written, as in `simuleval`.
    """
    _require(delays, source, None)
    step = source / len(delays)
    total, before = 0.0, 0.0
    for index, delay in enumerate(delays):
        before = delay if index == 0 else max(delay, before + step)
        total += before - index * step
    return total / len(delays)


def _require(delays: Sequence[float], source: int, target: int | None) -> None:
    if not len(delays):
        raise InputError("nothing was written: there is no lag to measure")
    if source < 1 or (target is not None and target < 1):
        raise InputError(f"source {source} and target {target} words: accepted is 1 or more")
