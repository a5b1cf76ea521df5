"""Whole lives of an engine from a seed; and engines with one thing broken, which the same seeds must find out."""

import pytest

from unending.core import Query, Tokens, replay
from unending.engine import journal_queue, residence, steps
from unending.engine.entry import Entry
from unending.engine.jobs import Loaded
from unending.engine.restoring import restore
from unending.engine.scheduler import Scheduler
from unending.engine.simulation.verdict import unexplained
from unending.engine.simulation.witness import Witness
from unending.engine.simulation.world import simulate

SEEDS = range(120)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_whole_life_breaks_nothing(seed: int) -> None:
    _, wrong = simulate(seed)
    assert wrong == []


def test_the_lives_have_trouble_in_them() -> None:
    total: dict[str, int] = {}
    for seed in range(30):
        counts, _ = simulate(seed)
        total = {name: total.get(name, 0) + value for name, value in counts.items()}
    assert all(total[name] > 10 for name in ("crashes", "faults", "parked", "restored", "shed")), total


def test_a_seed_is_a_life() -> None:
    assert simulate(11) == simulate(11)


def acknowledges_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_queue.JournalQueue, "due", lambda self: _all(self._told))


def _all(told):  # type: ignore[no-untyped-def]
    found = [notice for _, notice in told]
    told.clear()
    return found


def forgets_what_a_replay_must_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(entry: Entry, loaded: Loaded, now: float) -> None:
        restore(entry, loaded, now)
        entry.forced.clear()

    monkeypatch.setattr(residence, "restore", forget)


def saves_decisions_it_has_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    real = residence.Residence.save

    def save(self, entry, *, park=False):  # type: ignore[no-untyped-def]
        forced, entry.forced = entry.forced, type(entry.forced)()
        real(self, entry, park=park)
        entry.forced = forced

    monkeypatch.setattr(residence.Residence, "save", save)


def joins_restored_input_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    def loosen(entry: Entry, loaded: Loaded, now: float) -> None:
        restore(entry, loaded, now)
        for each in entry.queue:
            each.alone = False
        entry.forced.clear()

    monkeypatch.setattr(residence, "restore", loosen)


def interrupts_before_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entry, "replaying", False)


def takes_a_repeat_for_new_input(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Scheduler.push
    monkeypatch.setattr(Scheduler, "push", lambda self, key, chunk, seq=None: real(self, key, chunk))


def gives_a_slot_back_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    real = residence.Seats.leave

    def leave(self, entry):  # type: ignore[no-untyped-def]
        slot = entry.slot
        real(self, entry)
        self.free.append(max(slot, 0))

    monkeypatch.setattr(residence.Seats, "leave", leave)


def drops_outputs_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    real = steps.Steps._emit
    monkeypatch.setattr(steps.Steps, "_emit", lambda self, entry, events: real(self, entry, events[:1]))


@pytest.mark.parametrize(
    "broken",
    [
        acknowledges_before_it_is_durable,
        forgets_what_a_replay_must_repeat,
        saves_decisions_it_has_not_repeated,
        joins_restored_input_as_it_likes,
        interrupts_before_it_has_caught_up,
        takes_a_repeat_for_new_input,
        gives_a_slot_back_twice,
        drops_outputs_nobody_has,
    ],
)
def test_a_broken_engine_is_found_out(broken, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    broken(monkeypatch)
    for seed in range(250):
        try:
            _, wrong = simulate(seed)
        except Exception:  # a defect may also show itself as an error of another part
            return
        if wrong:
            return
    pytest.fail(f"an engine that {broken.__name__.replace('_', ' ')} got through 250 lives")


def test_the_verdict_knows_loss_doubling_and_change() -> None:
    stream = [Tokens([1, 2, 3, 4, 5, 6]), Query("?"), Tokens([7, 8])]
    events = replay(Witness(hop_size=2), stream)
    outputs = dict(enumerate(events))
    whole = [*stream, None]
    assert unexplained(Witness(hop_size=2), 0, whole, outputs) == ""
    assert "missing" in unexplained(
        Witness(hop_size=2), 0, whole, {k: v for k, v in outputs.items() if k != 1}
    )
    assert "never made" in unexplained(Witness(hop_size=2), 0, whole, outputs | {len(outputs): events[-1]})
    assert "a run alone gives" in unexplained(Witness(hop_size=2), 0, whole, outputs | {1: events[2]})
    assert "a run alone gives" in unexplained(Witness(hop_size=2), 0, whole[1:], outputs)
    assert "a run alone gives" in unexplained(Witness(hop_size=2), 1, whole, outputs)
