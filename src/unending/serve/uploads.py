"""Snapshots from the network: nothing in them is believed, whatever their checksum says."""

import json
import sys
from typing import Any

import msgspec
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.numpy import load

from unending.core import Chunk, Tick
from unending.core.errors import InputError, SnapshotCorruptError, SnapshotForeignError
from unending.serve.wire import Number

__all__ = ["require_sound"]


class _Output(Struct, frozen=True, forbid_unknown_fields=True):
    data: dict[str, Any]
    t: tuple[float, float]
    final: bool
    seq: Number


class _Session(Struct, frozen=True, forbid_unknown_fields=True):
    in_seq: Number
    out_seq: Number
    ticks: Number
    time: float
    finished: bool
    outbox: list[_Output]
    taken: int = 0


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    operator: str
    version: int | str
    digest: str
    settings: dict[str, str]
    weights: str
    runtime: dict[str, int | str]
    bits: dict[str, str]
    session: _Session
    checksum: str


def require_sound(content: bytes) -> None:
    """Refuse a snapshot whose header, numbers or outputs are not as a session writes them.

    What its state means to its operator cannot be told from outside; that is why bringing in snapshots needs leave.

    Raises
    ------
    SnapshotCorruptError
        if something is of the wrong type, out of range, or does not fit together.
    SnapshotForeignError
        if it asks for another number of threads: they belong to all sessions of the process.
    """
    try:
        length = int.from_bytes(content[:8], "little")
        text = json.loads(content[8 : 8 + length])["__metadata__"]["unending"]
        header = msgspec.json.decode(text, type=_Header)
        held = load(content)
    except (msgspec.MsgspecError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotCorruptError(f"this is not an intact snapshot ({type(error).__name__})") from error
    session = header.session
    numbers = [output.seq for output in session.outbox]
    if session.taken or numbers != list(range(session.out_seq - len(numbers), session.out_seq)):
        raise SnapshotCorruptError("the numbers in the snapshot do not fit together")
    try:
        for index, output in enumerate(session.outbox):
            prefix = f"outbox.{index}."
            arrays = {name.removeprefix(prefix): held[name] for name in held if name.startswith(prefix)}
            if type(Chunk.decode(output.data, arrays)) is Tick:
                raise InputError("a tick is no output")
    except (InputError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnapshotCorruptError(
            f"an output in the snapshot cannot be read ({type(error).__name__})"
        ) from error
    torch, wanted = sys.modules.get("torch"), header.runtime.get("threads")
    if torch is not None and wanted not in (None, torch.get_num_threads()):
        raise SnapshotForeignError(
            f"the snapshot was made with {wanted} threads, this server runs with {torch.get_num_threads()};"
            " its bits depend on them"
        )
