"""L1 to L3: what an operator gives does not depend on how its stream was cut, and not on what comes later."""

from math import ceil

from hypothesis import strategies as st

from unending.core import Chunk, Event
from unending.core.errors import NoOfflineError
from unending.laws.equality import events_difference, state_difference, tolerance_of
from unending.laws.play import play
from unending.laws.streams import Cutting, Plan, Source, cut_all, cuttings
from unending.laws.trial import NotApplicable, OptedOut, Trial, Violation

__all__ = ["causality", "chunking", "offline"]


def _require_exactness(trial: Trial) -> float:
    exactness = trial.operator.spec.exactness
    if exactness.kind in ("statistical", "none"):
        raise OptedOut(f"exactness is {exactness}")
    return tolerance_of(exactness)


def chunking(trial: Trial) -> str:
    """L1: two ways to cut a stream give equal joined outputs and equal final states."""
    tolerance = _require_exactness(trial)
    operator, source = trial.operator, trial.source
    if not source.item_kinds:
        raise NotApplicable("it takes no kind of chunk that can be cut")
    bitwise = True

    def body(case: tuple[Plan, Cutting, Cutting]) -> None:
        nonlocal bitwise
        plan, *cuttings = case
        stream = source.stream(plan)
        one, two = (play(operator, cut_all(stream, cutting), trial.seed) for cutting in cuttings)
        for allowed in (0.0, tolerance):
            how = events_difference(one.events, two.events, allowed)
            how = how or state_difference(one.state, two.state, allowed)
            if how is None:
                return
            bitwise = False
        raise Violation(f"{plan}; cut {_cuts(cuttings[0])} and {_cuts(cuttings[1])}: {how}")

    cases = st.tuples(source.plans(), cuttings(5), cuttings(5))
    tried = trial.explore(cases, body)
    return f"{tried} streams, {'bitwise' if bitwise else f'within {tolerance:g}'}"


def _cuts(cutting: Cutting) -> str:
    return str([list(places) for places in cutting]).replace("-1", "each") if any(cutting) else "nowhere"


def offline(trial: Trial) -> str:
    """L2: the streaming outputs agree with the reference on the whole stream."""
    tolerance = _require_exactness(trial)
    operator, source = trial.operator, trial.source

    def body(case: tuple[Plan, Cutting]) -> None:
        plan, cutting = case
        stream = source.stream(plan)
        streamed = play(operator, cut_all(stream, cutting)).events
        if how := events_difference(streamed, operator.offline(stream), tolerance):
            raise Violation(f"{plan}; cut {_cuts(cutting)}, against the reference: {how}")

    try:
        tried = trial.explore(st.tuples(source.plans(), cuttings(5)), body)
    except NoOfflineError as error:
        raise Violation(f"no reference, and no opt-out that says why: {error}") from error
    return f"{tried} streams, {operator.spec.exactness}"


def causality(trial: Trial) -> str:
    """L3: other content after a position does not change the events that were settled before it.

    A position counts items of the main kind (the first with items in `spec.takes`). An event is settled once the
    block in which its `t_end` falls has ended and `spec.lookahead` more items have come.
    """
    operator, source = trial.operator, trial.source
    main = source.main
    if main is None:
        raise NotApplicable("it takes no kind of chunk that has a position")
    tolerance = tolerance_of(operator.spec.exactness)

    def body(case: tuple[Plan, Plan, int, Cutting]) -> None:
        before, after, other, cutting = case
        whole = Plan(before.chunks + after.chunks, before.content)
        kept = len(before.chunks)
        one = source.stream(whole)
        # The two halves of the chunk at the seam are one chunk, so that the operator sees both at once.
        elsewhere = source.stream(Plan(whole.chunks, other))
        two = one[:kept] + [
            new if new.items else old for old, new in zip(one[kept:], elsewhere[kept:], strict=True)
        ]
        streams = [_sew(stream, kept) for stream in (one, two)]
        position = sum(len(chunk) for chunk in one[:kept] if type(chunk) is main)
        period = next((chunk.period for chunk in one if type(chunk) is main), 1.0)
        settled = [
            [
                event
                for event in play(operator, cut_all(stream, cutting), trial.seed).events
                if _settled_at(event, period, source) <= position + 1e-6
            ]
            for stream in streams
        ]
        if how := events_difference(settled[0], settled[1], tolerance):
            raise Violation(
                f"{before} and then {after}: what comes after item {position} changes what is before: {how}"
            )

    cases = st.tuples(
        source.plans(least=1, most=3), source.plans(least=1, most=2), st.integers(1000, 1999), cuttings(2)
    ).filter(lambda case: not (case[0].stamped or case[1].stamped))
    return f"{trial.explore(cases, body)} streams, hop {source.hop}, lookahead {source.lookahead}"


def _settled_at(event: Event, period: float, source: Source) -> float:
    blocks = ceil(event.t_end / period / source.hop - 1e-6)
    return blocks * source.hop + source.lookahead


def _sew(stream: list[Chunk], kept: int) -> list[Chunk]:
    left, right = stream[kept - 1], stream[kept]
    if type(left) is not type(right) or not left.items:
        return stream
    return [*stream[: kept - 1], type(left).join([left, right]), *stream[kept + 1 :]]
