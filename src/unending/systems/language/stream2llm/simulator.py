"""Replays of traces: in simulated time by cost curves, or in real time on a real model; and what is read off them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from unending.core.errors import InputError
from unending.parts.simulation import Timeline, percentiles
from unending.systems.language.stream2llm.costs import CostModel
from unending.systems.language.stream2llm.engine import StreamingEngine
from unending.systems.language.stream2llm.ledger import BlockLedger
from unending.systems.language.stream2llm.request import Request
from unending.systems.language.stream2llm.scheduler import Plan, Scheduler
from unending.systems.language.stream2llm.serving import Serving
from unending.systems.language.stream2llm.traces import TraceEvent, delayed, waiting

__all__ = ["Metrics", "RequestMetrics", "replay", "simulate"]

MODES = ("stream", "wait")


@dataclass(frozen=True)
class RequestMetrics:
    """One request of a replay; times in seconds."""

    name: str
    ttft: float
    """From when it opened to its first token."""
    after_close: float
    """From when its input ended to its first token."""
    queue_time: float
    """With something to compute that was not being computed."""
    prompt: int
    """Tokens at the end."""
    computed: int
    """Tokens that went through the model: `prompt + invalidated + recomputed`."""
    invalidated: int
    recomputed: int
    preempted_recompute: int
    preempted_swap: int


@dataclass(frozen=True)
class Metrics:
    """A replay as a whole."""

    requests: tuple[RequestMetrics, ...]
    """Those with a first token, in the order of these."""
    unfinished: int
    """Requests without one at the end."""
    ttft: dict[str, float]
    """`p50`, `p95`, `p99` of `RequestMetrics.ttft`."""
    after_close: dict[str, float]
    """The same of `RequestMetrics.after_close`."""
    completion_time: float
    """Seconds from the start of the trace to the last first token."""
    occupancy: float
    """Share of the device's blocks in use, on average over time."""
    peak_occupancy: float
    steps: int

    def total(self, name: str) -> float:
        """The sum of a field of `RequestMetrics` over all requests."""
        return sum(getattr(each, name) for each in self.requests)


@dataclass
class _Replay:
    """Hands the events of a trace to a server and keeps the books."""

    serving: Serving
    opened: dict[str, float] = field(default_factory=dict)
    closed: dict[str, float] = field(default_factory=dict)
    live: dict[str, Request] = field(default_factory=dict)
    done: list[RequestMetrics] = field(default_factory=list)
    busy: float = 0.0
    peak: float = 0.0
    steps: int = 0

    def deliver(self, event: TraceEvent, late: bool, now: float) -> None:
        """One event; with `late`, a request reaches the server only as it closes."""
        if event.op == "open":
            self.opened[event.req] = event.t
            if not late:
                self.live[event.req] = self.serving.submit(event.ids(0), False, now, event.req)
        elif late:
            self.live[event.req] = self.serving.submit(event.ids(0), True, now, event.req)
        elif event.op == "update":
            self.serving.update(self.live[event.req], event.ids(0), False, now)
        else:
            request = self.live[event.req]
            self.serving.append(request, event.ids(len(request)), event.op == "close", now)
        if event.op == "close":
            self.closed[event.req] = event.t

    def note(self, seconds: float) -> None:
        """So much time has passed with the blocks as they are."""
        used = 1 - self.serving.blocks.free / self.serving.blocks.total
        self.busy += used * seconds
        self.peak = max(self.peak, used)

    def finish(self, request: Request, began: float = 0.0) -> None:
        """A request has its first token."""
        assert request.first_token_time is not None
        at, name = request.first_token_time - began, request.name
        self.done.append(
            RequestMetrics(
                name,
                at - self.opened[name],
                at - self.closed[name],
                request.queue_time,
                len(request),
                request.computed_total,
                request.invalidated,
                request.recomputed,
                request.preempted_recompute,
                request.preempted_swap,
            )
        )

    def metrics(self, seconds: float) -> Metrics:
        return Metrics(
            tuple(self.done),
            len(self.opened) - len(self.done),
            percentiles([each.ttft for each in self.done]),
            percentiles([each.after_close for each in self.done]),
            max((each.ttft + self.opened[each.name] for each in self.done), default=0.0),
            self.busy / seconds if seconds else 0.0,
            self.peak,
            self.steps,
        )


def _prepared(trace: Sequence[TraceEvent], mode: str, delay_multiplier: float) -> list[TraceEvent]:
    if mode not in MODES:
        raise InputError(f"a trace is replayed in mode {' or '.join(MODES)}, got {mode!r}")
    events = delayed(trace, delay_multiplier) if delay_multiplier != 1 else list(trace)
    return waiting(events) if mode == "wait" else events


def simulate(
    trace: Sequence[TraceEvent],
    scheduler: Scheduler,
    costs: CostModel,
    *,
    kv_blocks: int,
    block_size: int = 16,
    host_blocks: int | None = None,
    mode: str = "stream",
    delay_multiplier: float = 1.0,
) -> Metrics:
    """Replay a trace in simulated time: a discrete-event simulation of the engine with the same scheduler.

    A step takes what `costs.step` says of its batch, and one way of a swap for each request that is moved.

    Parameters
    ----------
    trace
        see `unending.systems.language.stream2llm.traces`.
    scheduler, costs
        who decides, and what work takes; the costs also decide how requests are preempted.
    kv_blocks, block_size, host_blocks
        as in `StreamingEngine`.
    mode
        `"stream"`: as the trace says; `"wait"`: each prompt is submitted as a whole when it closes.
    delay_multiplier
        on the gaps inside each request.

    Raises
    ------
    CapacityError
        if a prompt is larger than the memory.
    """
    events = _prepared(trace, mode, delay_multiplier)
    host = 2 * kv_blocks if host_blocks is None else host_blocks
    serving = Serving(scheduler, BlockLedger(kv_blocks, host, block_size), costs)
    book, line = _Replay(serving), Timeline((event.t, event) for event in events)
    late, step = mode == "wait", costs.step

    def pass_until(end: float) -> None:
        book.note(end - line.now)
        for t, event in line.until(end):
            book.deliver(event, late, t)

    while True:
        plan = serving.plan(line.now)
        if not plan.work:
            if not line:
                return book.metrics(line.now)
            pass_until(line.next_time)
            continue
        book.steps += 1
        batch = [(work.tokens, work.start) for work in plan.work]
        # Input that comes while a step is under way reaches the requests before the step is over.
        pass_until(line.now + step(batch) + _moved(plan, costs))
        for work in serving.complete(plan, line.now):
            book.finish(work.request)


def _moved(plan: Plan, costs: CostModel) -> float:
    """Seconds of the swaps of a step."""
    out = sum(costs.transfer(tokens) for _, kind, tokens in plan.preempted if kind == "swap")
    return out + sum(costs.transfer(tokens) for _, tokens in plan.swapped_in)


def replay(
    engine: StreamingEngine,
    trace: Sequence[TraceEvent],
    *,
    mode: str = "stream",
    delay_multiplier: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Metrics:
    """Replay a trace on a real model, in the time of the engine's clock.

    Parameters
    ----------
    engine
        without requests.
    trace, mode, delay_multiplier
        as in `simulate`.
    sleep
        waits so many seconds of that clock.
    """
    events = _prepared(trace, mode, delay_multiplier)
    book, began, next_event = _Replay(engine.serving), engine.clock(), 0
    seen = 0.0
    while True:
        now = engine.clock() - began
        book.note(now - seen)
        seen = now
        while next_event < len(events) and events[next_event].t <= now:
            book.deliver(events[next_event], mode == "wait", began + now)
            next_event += 1
        happened = engine.step()
        book.steps += any(each.kind == "compute" for each in happened)
        for each in happened:
            if each.kind == "first-token":
                book.finish(each.request, began)
        if not happened:
            if next_event == len(events):
                return book.metrics(seen)
            sleep(max(0.0, events[next_event].t - (engine.clock() - began)))
