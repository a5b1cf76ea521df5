"""Schedulers: which requests the next forward pass computes, and who gives up blocks for them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from unending.core.errors import CapacityError, InputError
from unending.systems.language.stream2llm.costs import CostModel
from unending.systems.language.stream2llm.ledger import Blocks
from unending.systems.language.stream2llm.policies import FCFS, Policy
from unending.systems.language.stream2llm.request import Request, Status

__all__ = ["DefaultVLLM", "Plan", "Scheduler", "TwoPhase", "Work"]

PREEMPTIONS = ("cost", "recompute", "swap")
EVICT_FOR = ("all", "complete")
COST_ARGUMENTS = ("victim_computed", "incoming_tokens")


@dataclass(frozen=True)
class Work:
    """`tokens` tokens of one request behind its first `start`, in one forward pass."""

    request: Request
    start: int
    tokens: int
    finished: bool
    """Whether the input had ended when this was planned. What is sampled else is discarded, even if it ends
    while the pass runs."""
    resend: bool
    """Whether the block table must be sent as a whole."""


@dataclass
class Plan:
    """One step: what was given up, what came back, what is computed."""

    work: list[Work] = field(default_factory=list)
    preempted: list[tuple[Request, str, int]] = field(default_factory=list)
    """Request, `"recompute"` or `"swap"`, and its computed tokens."""
    swapped_in: list[tuple[Request, int]] = field(default_factory=list)
    """Request, and its computed tokens."""
    deferred: list[Request] = field(default_factory=list)
    """Chosen, but there were `max_num_seqs` running."""


@dataclass(frozen=True, kw_only=True)
class Scheduler(ABC):
    """What all schedulers have: limits, and how a request is preempted.

    A scheduler holds nothing of a run, so that one object can serve an engine and a simulation.

    Parameters
    ----------
    max_batched_tokens
        tokens of one forward pass.
    max_num_seqs
        requests that may be running; a further one that was chosen waits.
    preallocate
        tokens for which blocks are taken ahead when a request grows.
    preemption
        `"cost"`: whichever of the two is cheaper (recompute without costs); `"recompute"`; `"swap"` (recompute where
        the host is full).
    cost_argument
        at what the costs are compared: `"victim_computed"`, what the victim has to lose, or `"incoming_tokens"`, the
        new tokens of the request that is let in, as upstream does it.
    """

    max_batched_tokens: int = 8192
    max_num_seqs: int = 256
    preallocate: int = 64
    preemption: str = "cost"
    cost_argument: str = "victim_computed"

    def __post_init__(self) -> None:
        if self.preemption not in PREEMPTIONS or self.cost_argument not in COST_ARGUMENTS:
            raise InputError(
                f"preemption is one of {', '.join(PREEMPTIONS)} and cost_argument one of"
                f" {', '.join(COST_ARGUMENTS)}; got {self.preemption!r} and {self.cost_argument!r}"
            )
        if self.max_batched_tokens < 1 or self.max_num_seqs < 1 or self.preallocate < 0:
            raise InputError("max_batched_tokens and max_num_seqs are 1 or more, preallocate 0 or more")

    @abstractmethod
    def plan(self, requests: Sequence[Request], blocks: Blocks, costs: CostModel | None) -> Plan:
        """Decide on the next pass over these unfinished requests, and acquire the blocks for it.

        Raises
        ------
        CapacityError
            if a request alone needs more blocks than there are; nothing has changed then.
        """

    def _spare(self, blocks: Blocks) -> int:
        return -(-self.preallocate // blocks.block_size)

    def _preempt(
        self, victim: Request, incoming: int, blocks: Blocks, costs: CostModel | None, plan: Plan
    ) -> None:
        computed = victim.computed
        n = computed if self.cost_argument == "victim_computed" else incoming
        swap = self.preemption == "swap"
        if self.preemption == "cost" and costs is not None:
            swap = not costs.recompute(n) < costs.swap(n)
        if swap and computed and blocks.swap_out(victim):
            victim.status = Status.PREEMPTED_SWAP
            victim.preempted_swap += 1
            plan.preempted.append((victim, "swap", computed))
            return
        blocks.release(victim)
        victim.status = Status.PREEMPTED_RECOMPUTE
        victim.preempted_recompute += 1
        victim.drop_computed()
        plan.preempted.append((victim, "recompute", computed))

    def _take(self, request: Request, tokens: int, plan: Plan) -> None:
        """The blocks are there: the request runs."""
        request.status = Status.RUNNING
        plan.work.append(Work(request, request.computed, tokens, request.finished, request.resend))
        request.resend = False


def _require_room(request: Request, blocks: Blocks) -> None:
    wanted = -(-len(request) // blocks.block_size)
    if wanted > blocks.total:
        raise CapacityError(
            f"request {request.name} has {len(request):,} tokens, which take {wanted:,} blocks of"
            f" {blocks.block_size}; there are {blocks.total:,}"
        )


def _acquire(request: Request, tokens: int, spare: int, blocks: Blocks) -> bool:
    """Bring a request back from the host if it is there, and give it room for `tokens` more."""
    if request.status is Status.PREEMPTED_SWAP and len(request.host_blocks) and not blocks.swap_in(request):
        return False
    return blocks.grow(request, request.computed + tokens, spare)


@dataclass(frozen=True)
class TwoPhase(Scheduler):
    """Decide, then acquire (Stream2LLM, Bachkaniwala et al. 2026, arXiv 2604.16395).

    The first phase ranks all requests and picks those that fit as if every block could be had. Only then are blocks
    acquired, from the requests that were not picked, the last in rank first.

    Parameters
    ----------
    policy
        the rank; see `unending.systems.language.stream2llm.policies`.
    evict_for
        `"all"`, as published: whoever is picked may take blocks from who is not. `"complete"`: only requests whose
        input has ended may; the others make do with free blocks, so that those which wait for input do not drive
        each other out in turn.
    """

    policy: Policy = field(default_factory=FCFS)
    evict_for: str = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evict_for not in EVICT_FOR:
            raise InputError(f"evict_for is one of {', '.join(EVICT_FOR)}; got {self.evict_for!r}")

    def plan(self, requests: Sequence[Request], blocks: Blocks, costs: CostModel | None) -> Plan:
        for request in requests:
            _require_room(request, blocks)
        chosen, rest = self._choose(requests, blocks)
        plan, spare = Plan(), self._spare(blocks)
        running = sum(each.status is Status.RUNNING for each in requests)
        admission = max((each.admission for each in requests), default=0)
        for request, tokens in sorted(chosen, key=lambda pair: pair[0].status is not Status.RUNNING):
            admitted = request.status is not Status.RUNNING
            if admitted and running >= self.max_num_seqs:
                plan.deferred.append(request)
                continue
            swapped = request.computed if request.status is Status.PREEMPTED_SWAP else 0
            while not _acquire(request, tokens, spare, blocks):
                victim = next(each for each in reversed(rest) if len(each.blocks))
                running -= victim.status is Status.RUNNING
                self._preempt(victim, tokens, blocks, costs, plan)
            if swapped:
                plan.swapped_in.append((request, swapped))
            if admitted:
                running, admission = running + 1, admission + 1
                request.admission = admission
            self._take(request, tokens, plan)
        return plan

    def _choose(
        self, requests: Sequence[Request], blocks: Blocks
    ) -> tuple[list[tuple[Request, int]], list[Request]]:
        """Who is computed, with how many tokens, and who is not, both in order of rank."""
        budget, free, spare = self.max_batched_tokens, blocks.total, self._spare(blocks)
        unclaimed = blocks.free
        chosen, rest = [], []
        for request in sorted(requests, key=self.policy.key):
            tokens = min(request.remaining, budget)
            wanted = -(-(request.computed + tokens) // blocks.block_size)
            # Blocks ahead are no reason to keep out a request that would fit without them.
            wanted = max(wanted, min(wanted + spare, blocks.total))
            growth = max(0, wanted - len(request.blocks))
            modest = self.evict_for == "complete" and not request.finished
            if tokens == 0 or wanted > free or (modest and growth > unclaimed):
                rest.append(request)
                continue
            chosen.append((request, tokens))
            budget, free, unclaimed = budget - tokens, free - wanted, unclaimed - growth
        return chosen, rest


@dataclass(frozen=True)
class DefaultVLLM(Scheduler):
    """The baseline, vLLM's own scheduler (Kwon et al. 2023, arXiv 2309.06180).

    Running requests first, in the order in which they started, then waiting ones, first come, first served, up to
    the first that does not fit. Who started last is preempted first, and nobody is let in after a preemption.
    """

    def plan(self, requests: Sequence[Request], blocks: Blocks, costs: CostModel | None) -> Plan:
        for request in requests:
            _require_room(request, blocks)
        plan, spare, budget = Plan(), self._spare(blocks), self.max_batched_tokens
        running = sorted(
            (each for each in requests if each.status is Status.RUNNING), key=lambda each: each.admission
        )
        admission = running[-1].admission if running else 0
        place = 0
        while place < len(running) and budget:
            request = running[place]
            tokens = min(request.remaining, budget)
            while tokens and not blocks.grow(request, request.computed + tokens, spare):
                victim = running.pop()
                self._preempt(victim, tokens, blocks, costs, plan)
                if victim is request:
                    return plan
            if tokens:
                self._take(request, tokens, plan)
                budget -= tokens
            place += 1
        waiting = [each for each in requests if each.status is not Status.RUNNING and not each.idle]
        for request in sorted(waiting, key=_preempted_first):
            if plan.preempted or not budget:
                break
            if len(running) >= self.max_num_seqs:
                plan.deferred.append(request)
                break
            tokens = min(request.remaining, budget)
            if request.status is Status.PREEMPTED_SWAP:
                wanted = -(-(request.computed + tokens) // blocks.block_size)
                if wanted > blocks.free:
                    break
                plan.swapped_in.append((request, request.computed))
            if not _acquire(request, tokens, spare, blocks):
                break
            admission += 1
            request.admission = admission
            running.append(request)
            self._take(request, tokens, plan)
            budget -= tokens
        return plan


def _preempted_first(request: Request) -> tuple[bool, float]:
    return (request.status is Status.WAITING, request.arrival_time)
