"""A server on a real model: prompts stream in, are prefilled as they come, and end in their first token."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import nn

from unending.core.errors import CapacityError, InputError, NumericalError
from unending.parts.backbones import position_limit
from unending.parts.prefix import Piece, forward_pieces
from unending.systems.language.stream2llm.costs import CostModel
from unending.systems.language.stream2llm.memory import PoolBlocks, pool_of
from unending.systems.language.stream2llm.request import Request
from unending.systems.language.stream2llm.scheduler import Plan, Scheduler, TwoPhase, Work
from unending.systems.language.stream2llm.serving import Ids, Serving

__all__ = ["EngineEvent", "StreamingEngine"]


@dataclass(frozen=True, eq=False)
class EngineEvent:
    """Something that happened to a request."""

    time: float
    """Seconds of the engine's clock."""
    request: Request
    kind: str
    """`"open"`, `"append"`, `"update"`, `"recompute"` and `"swap"` (preempted), `"swap-in"`, `"deferred"`,
    `"compute"`, `"first-token"`."""
    tokens: int = 0
    """How many it concerned: new, invalidated (update), given up, moved, computed; the token id of a first token."""
    logits: torch.Tensor | None = None
    """float32 `[vocabulary]` of a first token."""


class StreamingEngine:
    """Stream2LLM (Bachkaniwala, Luo, So, Mahajan, Rong 2026, arXiv 2604.16395) on a model of transformers.

    A prefill instance: a request ends with its first token, the likeliest one. `submit`, `append` and `update` take
    input at any time between two steps; `step` runs one forward pass over what the scheduler picks.

    Parameters
    ----------
    model
        a causal language model with rotary positions.
    kv_blocks, block_size
        KV memory: blocks, and tokens of one.
    scheduler
        who is served; `TwoPhase(FCFS())` without it.
    costs
        of preemption, from `CostModel.measure(model)`; without them victims are recomputed.
    host_blocks
        of the swap area; twice `kv_blocks` without it, 0 for none.
    clock
        seconds; what arrival and events are stamped with.

    Raises
    ------
    ModelUnsupportedError
        at the first step, if the attention of the model is out of reach.
    """

    def __init__(
        self,
        model: nn.Module,
        kv_blocks: int,
        block_size: int = 16,
        scheduler: Scheduler | None = None,
        costs: CostModel | None = None,
        *,
        host_blocks: int | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.model, self.clock = model, clock
        host = 2 * kv_blocks if host_blocks is None else host_blocks
        self.pool = pool_of(model, kv_blocks, block_size, host)
        self.serving = Serving(scheduler or TwoPhase(), PoolBlocks(self.pool), costs)
        self._limit = position_limit(model)
        self._tables: dict[str, np.ndarray] = {}
        self._news: list[EngineEvent] = []

    def submit(self, tokens: Ids = (), finished: bool = False, name: str = "") -> Request:
        """Open a request with the first tokens of its prompt, if there are any yet.

        Raises
        ------
        InputError
            if it would end without any token, or there is one of that name.
        CapacityError
            if it is larger than the memory, or than what the model attends over.
        """
        tokens = self._fit(tokens)
        request = self.serving.submit(tokens, finished, self.clock(), name)
        self._note(request, "open", len(request))
        return request

    def append(self, request: Request, tokens: Ids, finished: bool = False) -> None:
        """More of the prompt has come (append mode); errors as in `submit`, and `InputError` after its end."""
        tokens = self._fit(tokens, len(request))
        self.serving.append(request, tokens, finished, self.clock())
        self._note(request, "append", len(tokens))

    def update(self, request: Request, tokens: Ids, finished: bool = False) -> int:
        """The prompt is another one now (update mode); gives how many computed tokens are invalid.

        What is computed of the longest common prefix stays. Errors as in `append`.
        """
        lost = self.serving.update(request, self._fit(tokens), finished, self.clock())
        self._note(request, "update", lost)
        return lost

    def abort(self, request: Request) -> None:
        """Give a request up and free what it holds."""
        self.serving.abort(request)
        self._tables.pop(request.name, None)

    @property
    def requests(self) -> list[Request]:
        """Those without a first token."""
        return list(self.serving.live.values())

    def step(self) -> list[EngineEvent]:
        """One forward pass; what has happened since the last step, in order.

        Raises
        ------
        NumericalError
            if the logits of a first token are not finite.
        """
        plan = self.serving.plan(self.clock())
        for victim, kind, tokens in plan.preempted:
            self._note(victim, kind, tokens)
        for request, tokens in plan.swapped_in:
            self._note(request, "swap-in", tokens)
        for request in plan.deferred:
            self._note(request, "deferred", request.remaining)
        if plan.work:
            self._run(plan)
        news, self._news = self._news, []
        return news

    def run(self) -> list[EngineEvent]:
        """Step until there is nothing to compute."""
        events = self.step()
        while any(not each.idle for each in self.requests):
            events += self.step()
        return events

    def _run(self, plan: Plan) -> None:
        last = [
            index
            for index, work in enumerate(plan.work)
            if work.finished and work.start + work.tokens == len(work.request)
        ]
        try:
            pieces = [self._piece(work) for work in plan.work]
            logits = forward_pieces(self.model, self.pool, pieces, last)
        except BaseException:
            self.serving.undo(plan, self.clock())
            raise
        due = self.serving.complete(plan, now := self.clock())
        for work in plan.work:
            self._note(work.request, "compute", work.tokens)
        rows = {id(plan.work[index]): row for row, index in enumerate(last)}
        for work in due:
            row = logits[rows[id(work)]]
            if not torch.isfinite(row).all():
                raise NumericalError(f"the model gave NaN or infinite logits for request {work.request.name}")
            del self._tables[work.request.name]
            self._news.append(EngineEvent(now, work.request, "first-token", int(row.argmax()), row))

    def _piece(self, work: Work) -> Piece:
        """What one request has in the pass, by the block table as the runner knows it."""
        request, stop = work.request, work.start + work.tokens
        known = self._tables.get(request.name)
        if known is None or work.resend:
            table = request.blocks
        else:  # a table that has only grown is sent as what is new of it
            table = np.concatenate([known, request.blocks[len(known) :]])
        self._tables[request.name] = table
        self.pool.extend(table, work.start, work.tokens)
        return Piece(request.tokens[work.start : stop], self.pool.rows(table, 0, stop))

    def _fit(self, tokens: Ids, before: int = 0) -> np.ndarray:
        ids = np.asarray(tokens if isinstance(tokens, np.ndarray) else list(tokens))
        if before + len(ids) > self._limit:
            raise CapacityError(
                f"a prompt of {before + len(ids):,} tokens; the model attends over {self._limit:,} at most"
            )
        vocabulary = self.model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
        if ids.size and ids.dtype.kind in "iu" and int(ids.max()) >= vocabulary:
            raise InputError(f"token id {ids.max()} is outside the accepted 0 to {vocabulary - 1}")
        return ids

    def _note(self, request: Request, kind: str, tokens: int) -> None:
        self._news.append(EngineEvent(self.clock(), request, kind, tokens))
