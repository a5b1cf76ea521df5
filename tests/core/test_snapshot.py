import importlib.util
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from toys import TOYS, Average, Babble, Delay

from unending.core import (
    Bound,
    Event,
    Exactness,
    Operator,
    Query,
    Rows,
    Session,
    Spec,
    Tokens,
    fork,
    leaves,
    nbytes,
    snapshot,
    state,
)
from unending.core.errors import SnapshotCorruptError, SnapshotForeignError, StateError
from unending.laws.equality import same_events, state_difference
from unending.laws.restore import go_on
from unending.laws.streams import Source

FIXTURES = Path(__file__).parent / "fixtures"


def archived() -> Any:
    spec = importlib.util.spec_from_file_location("archived", FIXTURES / "archived.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["archived"] = module
    spec.loader.exec_module(module)
    return module


def babbling() -> Session:
    """A session with outputs that wait and work that is pending."""
    session = Session(Babble(), seed=5)
    session.push(Tokens([1, 2, 3]))
    session.push(Query("why?"))
    session.poll()
    session.push(Query("and why not?"))
    return session


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
def test_resumed_session_is_as_it_was(toy: type[Operator]) -> None:
    operator = toy.example()
    stream = Source(operator).typical(1)
    session = Session(operator, seed=4)
    for chunk in stream:
        session.push(chunk)
    content = session.snapshot()
    again = Session.resume(operator, content)
    assert state_difference(again.state, session.state) is None
    assert (again.in_seq, again.out_seq, again.time) == (session.in_seq, session.out_seq, session.time)
    assert again.snapshot() == content == session.fork().snapshot()
    one, two = go_on(session, stream), go_on(again, stream)
    assert same_events(one, two) is None
    assert [event.seq for event in one] == [event.seq for event in two] == list(range(len(one)))


def test_outputs_that_wait_are_in_the_snapshot_with_their_numbers() -> None:
    session = babbling()
    again = Session.resume(Babble(), session.snapshot())
    waiting = again.poll()
    assert [event.seq for event in waiting] == [1, 2, 3, 4, 5]
    assert same_events(waiting, session.poll()) is None
    assert again.pending
    assert [event.seq for event in again.poll()] == [6]


def test_a_finished_session_stays_finished() -> None:
    session = Session(Average())
    session.push(Rows(np.ones((3, 2))))
    session.finish()
    again = Session.resume(Average(), session.snapshot())
    assert again.finished
    assert len(again.poll()) == 1
    again.finish()
    assert again.poll() == []


def test_spare_room_leaves_no_trace() -> None:
    operator = Delay()
    one, two = Session(operator), Session(operator)
    for session in (one, two):
        session.push(Tokens([1, 2, 3, 4, 5]))
    operator.advance(one.state, Tokens([900, 901]))
    assert one.snapshot() == two.snapshot()


@pytest.mark.parametrize("format", [1])
def test_archived_formats_still_load_and_go_on(format: int) -> None:
    module = archived()
    session = Session.resume(module.Archived(), FIXTURES / f"snapshot_v{format}.safetensors")
    assert session.in_seq == 3
    recorded = json.loads((FIXTURES / f"snapshot_v{format}.json").read_text())
    assert module.describe(module.remaining(session)) == recorded


def test_the_archive_is_what_this_version_writes() -> None:
    module = archived()
    path = FIXTURES / f"snapshot_v{snapshot.FORMAT}.safetensors"
    held = load(Session.resume(module.Archived(), path).snapshot())
    stored = load(path.read_bytes())
    assert held.keys() == stored.keys()
    assert {array.dtype.name for array in stored.values()} >= {"float16", "float32", "uint8", "bool", "int64"}


def refused(operator: Operator, content: bytes) -> str:
    with pytest.raises((SnapshotCorruptError, SnapshotForeignError)) as caught:
        Session.resume(operator, content)
    assert "\n" not in str(caught.value)
    return f"{caught.type.__name__}: {caught.value}"


@pytest.mark.parametrize("source", ["babble", "archive"])
def test_no_damaged_snapshot_is_accepted(source: str) -> None:
    operator = Babble() if source == "babble" else archived().Archived()
    path = FIXTURES / "snapshot_v1.safetensors"
    content = babbling().snapshot() if source == "babble" else path.read_bytes()
    for part in range(50):
        assert refused(operator, content[: len(content) * part // 50]).startswith("SnapshotCorruptError")
    assert refused(operator, content + b"\0").startswith("SnapshotCorruptError")
    rng = np.random.default_rng(7)
    for at in rng.choice(len(content), min(len(content), 1500), replace=False):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        assert refused(operator, bytes(damaged)).startswith("SnapshotCorruptError"), at


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        b"not a snapshot at all, but a text of some length",
        (10).to_bytes(8, "little") + b"[1,2,3]   ",
        save({"a": np.zeros(3)}),
        save({"a": np.zeros(3)}, metadata={"unending": "3"}),
        save({"a": np.zeros(3)}, metadata={"unending": "{}"}),
        save({"a": np.zeros(3)}, metadata={"unending": "["}),
    ],
)
def test_what_is_no_snapshot_is_refused(content: bytes) -> None:
    assert refused(Babble(), content).startswith("SnapshotCorruptError")


def altered(content: bytes, **changes: object) -> bytes:
    """An intact snapshot with another header (and other arrays where `held` is given)."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["unending"])
    held = changes.pop("held", lambda arrays: arrays)(dict(load(content)))
    header |= changes
    header["checksum"] = snapshot._checksum(header, held)
    return save(held, metadata={"unending": json.dumps(header, sort_keys=True)})


def test_foreign_snapshots_say_what_is_foreign() -> None:
    content = babbling().snapshot()
    assert "is of babble, not of average" in refused(Average(), content)
    assert "length=6 (now 7)" in refused(Babble(length=7), content)
    newer = type("Newer", (Babble,), {"spec": replace(Babble.spec, version=2)})
    assert "version 1 of babble, now 2" in refused(newer(), content)
    trained = type("Trained", (Babble,), {"weights_digest": lambda self: "abc"})
    assert "other weights" in refused(trained(), content)
    assert "format 2" in refused(Babble(), altered(content, format=2))


def test_leaves_must_fit() -> None:
    content = babbling().snapshot()

    def without(arrays: dict) -> dict:
        return {name: array for name, array in arrays.items() if name != "state.left"}

    def wider(arrays: dict) -> dict:
        return arrays | {"state.left": np.zeros(2, np.int64)}

    def other(arrays: dict) -> dict:
        return arrays | {"state.left": np.zeros((), np.int32)}

    def more(arrays: dict) -> dict:
        return arrays | {"state.right": np.zeros((), np.int64)}

    for held in (without, wider, other):
        assert "lacks leaf left as int64[]" in refused(Babble(), altered(content, held=held))
    assert "leaf that babble does not know: state.right" in refused(Babble(), altered(content, held=more))


@state
class TorchState:
    brain: Any
    half: Any
    mask: Any
    none: Any
    seen: int


@dataclass(frozen=True)
class TorchToy(Operator[TorchState]):
    spec = Spec("torch-toy", "tests", "torch leaves", (Tokens,), (Rows,), Exactness.bitwise())

    @classmethod
    def example(cls):
        return cls()

    def init(self, seed=0):
        import torch

        return TorchState(
            torch.zeros(2, 3, dtype=torch.bfloat16),
            torch.zeros(3, dtype=torch.float16),
            torch.zeros(4, dtype=torch.bool),
            torch.zeros(0, 5),
            0,
        )

    def bound(self):
        return Bound(nbytes(self.init()))

    def _step(self, state, chunk):
        brain = state.brain + 0.1 * int(chunk.ids.sum())
        new = replace(state, brain=brain, half=state.half - 1, mask=~state.mask, seen=state.seen + len(chunk))
        return new, [Event(Rows(brain.float().numpy()), state.seen, new.seen)]


def test_torch_leaves_of_all_types_and_the_thread_count() -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    session = Session(TorchToy())
    session.push(Tokens([1, 2, 3]))
    try:
        torch.set_num_threads(2)
        content = session.snapshot()
        torch.set_num_threads(1)
        again = Session.resume(TorchToy(), content)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert again.state.brain.dtype == torch.bfloat16
    assert state_difference(again.state, session.state) is None
    assert same_events(again.poll(), session.poll()) is None
    for damaged in (content[:-1], content[:200] + b"x" + content[201:]):
        assert refused(TorchToy(), damaged).startswith("SnapshotCorruptError")


def test_state_and_arrays_of_the_caller_come_back() -> None:
    operator = Average()
    before = operator.init()
    content = snapshot.encode(operator, before, {"place": 3}, {"mine": np.arange(3)})
    after, kept, extra = snapshot.decode(operator, content)
    assert kept == {"place": 3}
    assert extra["mine"].tolist() == [0, 1, 2]
    assert leaves(after).keys() == leaves(fork(before)).keys()


def test_an_integer_beyond_64_bits_is_a_typed_error() -> None:
    session = Session(Babble(), seed=2**63)
    with pytest.raises(StateError, match="64 bits"):
        session.snapshot()


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.arange(6.0)[::2], np.arange(3, dtype=">f8")],
    ids=["F", "step", "endian"],
)
def test_arrays_come_back_however_they_lie_in_memory(array: np.ndarray) -> None:
    operator = TOYS[0].example()
    content = snapshot.encode(operator, operator.init(), extra={"given": array})
    _, _, held = snapshot.decode(operator, content)
    assert np.array_equal(held["given"], array)
