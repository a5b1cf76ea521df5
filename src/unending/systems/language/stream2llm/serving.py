"""The core of a server: requests, a scheduler and blocks; no model, no clock."""

from collections.abc import Iterable
from itertools import count

import numpy as np

from unending.core.errors import CapacityError, InputError
from unending.systems.language.stream2llm.costs import CostModel
from unending.systems.language.stream2llm.ledger import Blocks
from unending.systems.language.stream2llm.request import Request, Status
from unending.systems.language.stream2llm.scheduler import Plan, Scheduler, Work

__all__ = ["Ids", "Serving"]

Ids = np.ndarray | Iterable[int]
"""Token ids: integers `[n]`."""


class Serving:
    """What the engine and the simulator share; `now` is the caller's clock, in seconds.

    A step is `plan`, the forward pass, `complete`. Input may come between the two.

    Parameters
    ----------
    scheduler, blocks
        who decides, and what there is to hand out.
    costs
        of preemption; without them victims are recomputed.
    """

    def __init__(self, scheduler: Scheduler, blocks: Blocks, costs: CostModel | None = None) -> None:
        self.scheduler, self.blocks, self.costs = scheduler, blocks, costs
        self.live: dict[str, Request] = {}
        """Requests without a first token, by name."""
        self._names = count()

    def submit(self, tokens: Ids, finished: bool, now: float, name: str = "") -> Request:
        """A new request.

        Raises
        ------
        InputError
            if one of that name is there already, or the input would end without any token.
        CapacityError
            if it is larger than the memory.
        """
        name = name or next(found for index in self._names if (found := f"request-{index}") not in self.live)
        if name in self.live:
            raise InputError(f"there is a request {name} already")
        request = Request(name, now)
        self._require_room(request, ids := _ids(tokens))
        request.append(ids, finished, now)
        self.live[name] = request
        request.note_ready(now)
        return request

    def append(self, request: Request, tokens: Ids, finished: bool, now: float) -> None:
        """See `Request.append`; `CapacityError` if the prompt becomes larger than the memory."""
        self._require_room(request, ids := _ids(tokens), len(request))
        request.append(ids, finished, now)
        self._settle(request, now)

    def update(self, request: Request, tokens: Ids, finished: bool, now: float) -> int:
        """See `Request.update`; the blocks of what became invalid are taken back."""
        self._require_room(request, ids := _ids(tokens))
        lost = request.update(ids, finished, now)
        if lost:
            self._truncate(request)
        self._settle(request, now)
        return lost

    def abort(self, request: Request) -> None:
        """Give the request up; it has no first token and never will."""
        if self.live.pop(request.name, None) is request:
            request.status, request.in_flight = Status.FINISHED, 0
            self.blocks.release(request)

    def plan(self, now: float) -> Plan:
        """The next step; see `Scheduler.plan`. Without work in it there is nothing to do."""
        requests = list(self.live.values())
        plan = self.scheduler.plan(requests, self.blocks, self.costs)
        for work in plan.work:
            work.request.start(work.tokens, now)
        for request in requests:
            request.note_ready(now)
        return plan

    def complete(self, plan: Plan, now: float) -> list[Work]:
        """The forward pass of a plan is done; gives the work whose last logits are a first token."""
        due = []
        for work in plan.work:
            request = work.request
            request.computed_total += work.tokens
            if request.status is Status.FINISHED:
                continue
            request.computed, request.in_flight = request.computed + request.in_flight, 0
            if work.finished and request.idle:
                request.status, request.first_token_time = Status.FINISHED, now
                del self.live[request.name]
                self.blocks.release(request)
                due.append(work)
            else:
                self._settle(request, now)
        self.blocks.commit()
        return due

    def undo(self, plan: Plan, now: float) -> None:
        """The forward pass of a plan failed: nothing in it is computed."""
        for work in plan.work:
            if work.request.status is not Status.FINISHED:
                work.request.in_flight = 0
                self._truncate(work.request)
                work.request.note_ready(now)
        self.blocks.commit()

    def check(self) -> None:
        """Raise `StateError` if a block is lost or held twice."""
        self.blocks.check(list(self.live.values()))

    def _settle(self, request: Request, now: float) -> None:
        if request.leave_one():
            self._truncate(request)
        request.note_ready(now)

    def _truncate(self, request: Request) -> None:
        self.blocks.truncate(request)
        if request.status is Status.PREEMPTED_SWAP and not request.computed:
            request.status = Status.PREEMPTED_RECOMPUTE

    def _require_room(self, request: Request, tokens: np.ndarray, before: int = 0) -> None:
        room = self.blocks.total * self.blocks.block_size
        if before + len(tokens) > room:
            raise CapacityError(
                f"request {request.name} would have {before + len(tokens):,} tokens; the memory holds {room:,}"
            )


def _ids(tokens: Ids) -> np.ndarray:
    ids = np.array(tokens if isinstance(tokens, np.ndarray) else list(tokens))
    if ids.size == 0:
        return np.zeros(0, dtype=np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.min() < 0:
        raise InputError("token ids are integers [n] of 0 or more")
    return ids.astype(np.int64)
