"""What a process commits until it is killed: every batch follows from its number, so that each can be told whole."""

import sys

from unending.engine.store import Row, Store

KEYS = [f"session-{number}" for number in range(6)]


def length(batch: int, place: int) -> int:
    return 1 + (3 * batch + place) % 4


def rows(batch: int, place: int) -> list[Row]:
    """Of one session in one batch."""
    first = sum(length(earlier, place) for earlier in range(batch))
    content = f"{batch} {place} ".encode() * (1 + 400 * (batch % 5 == place))
    return [
        Row(KEYS[place], index, "step" if index else "open", 0, batch, content)
        for index in range(first, first + length(batch, place))
    ]


def work(store: Store, batch: int) -> None:
    """Commit batch after batch, and say so after each; a snapshot of some session now and then."""
    print("open", flush=True)
    while True:
        store.commit([row for place in range(len(KEYS)) for row in rows(batch, place)])
        batch += 1
        sys.stdout.write(f"{batch}\n")
        sys.stdout.flush()
        if batch % 3 == 0:
            place = batch // 3 % len(KEYS)
            index = rows(batch, place)[0].index
            store.save(KEYS[place], index, 0, f"{place} {index}".encode() * 1_000)


def batches(store: Store) -> int:
    """How many batches are there; AssertionError if one is there in part, or anything differs."""
    entries = store.keys()
    if not entries:
        return 0
    assert [entry.key for entry in entries] == KEYS
    numbers = set()
    for place, key in enumerate(KEYS):
        stored = store.load(key)
        assert stored.faults == []
        batch = stored.rows[-1].ticks
        wanted = [row for number in range(batch + 1) for row in rows(number, place)]
        base = stored.snapshots[-1][0] if len(stored.snapshots) == 2 else 0
        assert stored.rows == wanted[base:]
        for index, _, content in stored.snapshots:
            assert content == f"{place} {index}".encode() * 1_000
        numbers.add(batch + 1)
    assert len(numbers) == 1
    return numbers.pop()
