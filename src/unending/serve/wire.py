"""The messages of the protocol, and chunks and events as JSON."""

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from math import prod
from typing import Annotated, Any, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta, Struct

from unending.core import Chunk, Event, Tick, kinds
from unending.core.errors import InputError
from unending.serve.failures import Refusal

__all__ = ["Message", "chunk_from", "chunk_to", "decode", "encode", "output", "read_as"]

Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")]
System = Annotated[str, Meta(max_length=100)]
Number = Annotated[int, Meta(ge=0, le=2**62)]
_DTYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64",
}  # fmt: skip
_DEEPEST = 16


class Auth(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="auth"):
    """The first message of a client that cannot set headers."""

    token: Annotated[str, Meta(max_length=512)]
    id: Annotated[str, Meta(max_length=100)] | int | None = None


class _Named(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", kw_only=True):
    system: System
    session: Name
    id: Annotated[str, Meta(max_length=100)] | int | None = None


class Open(_Named, frozen=True, tag="session.open"):
    """Begin a session."""

    seed: Number = 0


class Resume(_Named, frozen=True, tag="session.resume"):
    """Go on with a session, after the output number `after`."""

    after: Annotated[int, Meta(ge=-1, le=2**62)] | None = None
    take_over: bool = False


class Watch(_Named, frozen=True, tag="session.watch"):
    """See the outputs of a session, and no more."""


class Push(_Named, frozen=True, tag="input.push"):
    """A chunk of input; `seq` numbers it from 1."""

    chunk: dict[str, Any]
    seq: Annotated[int, Meta(ge=1, le=2**62)] | None = None


class Finish(_Named, frozen=True, tag="input.finish"):
    """The input ends here; the end has a number as a chunk has."""

    seq: Annotated[int, Meta(ge=1, le=2**62)] | None = None


class Ack(_Named, frozen=True, tag="output.ack"):
    """Outputs up to number `seq` have arrived."""

    seq: Number


class Interrupt(_Named, frozen=True, tag="session.interrupt"):
    """Stop the answer in the making."""


class Fork(_Named, frozen=True, tag="session.fork"):
    """A second session that goes on from here on its own."""

    to: Name


class Save(_Named, frozen=True, tag="session.save"):
    """Write a snapshot to the store now."""


class Release(_Named, frozen=True, tag="session.release"):
    """Let go of the session; it stays on the server."""


class Delete(_Named, frozen=True, tag="session.delete"):
    """Forget the session for good."""


Message = Open | Resume | Watch | Push | Finish | Ack | Interrupt | Fork | Save | Release | Delete
_messages: msgspec.json.Decoder[Auth | Message] = msgspec.json.Decoder(Auth | Message)


def _plainer(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return _array_to(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no place in JSON")


_encoder = msgspec.json.Encoder(enc_hook=_plainer)


def encode(value: Any) -> bytes:
    """JSON; arrays as dtype, shape and base64."""
    return _encoder.encode(value)


def decode(content: bytes | str) -> Auth | Message:
    """A message of the protocol.

    Raises
    ------
    Refusal
        `bad_message`, with what is wrong with it.
    """
    try:
        return _messages.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Refusal("bad_message", _one_line(error)) from error


def read_as(kind: Any, content: bytes | str) -> Any:
    """JSON of a body or message as a struct; `Refusal` with code `bad_message` if it is not one."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise Refusal("bad_message", _one_line(error)) from error


def _one_line(error: Exception) -> str:
    # What a client sent in place of a known name is not sent back beyond a few words.
    return " ".join(f"this is not a message: {error}".split())[:300]


def output(event: Event) -> dict[str, Any]:
    """An `output` message, less the names of system and session."""
    return {
        "type": "output",
        "seq": event.seq,
        "t_start": event.t_start,
        "t_end": event.t_end,
        "final": event.final,
        "chunk": chunk_to(event.data),
    }


def chunk_to(chunk: Chunk) -> dict[str, Any]:
    """A chunk as plain JSON values and arrays that `encode` knows; a time that is not set is left out."""
    plain, held = chunk.encode()
    told = {**plain, **{name: _array_to(array) for name, array in held.items()}}
    if told.get("t") is None:
        told.pop("t", None)
    return told


def _array_to(array: np.ndarray) -> dict[str, Any]:
    ordered = np.ascontiguousarray(array)
    little = ordered.astype(ordered.dtype.newbyteorder("<"), copy=False)
    text = b2a_base64(little.tobytes(), newline=False).decode()
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": text}


@cache
def _hints(kind: type[Chunk]) -> dict[str, tuple[Any, bool]]:
    """Type and necessity of every field."""
    hints = get_type_hints(kind)
    return {
        each.name: (hints[each.name], each.default is MISSING and each.default_factory is MISSING)
        for each in fields(kind)  # type: ignore[arg-type]
    }


def chunk_from(given: Mapping[str, Any]) -> Chunk:
    """The chunk that a client described.

    Raises
    ------
    InputError
        if it describes none: an unknown kind or field, a missing one, a value of the wrong type or size.
    """
    name = given.get("kind")
    known = {each: kind for each, kind in kinds().items() if kind is not Tick}
    kind = known.get(name) if isinstance(name, str) else None
    if kind is None:
        raise InputError(f"a chunk needs a kind, one of {', '.join(sorted(known))}")
    hints = _hints(kind)  # type: ignore[arg-type]  # a class hashes, whatever its objects do
    if unknown := [each for each in given if each != "kind" and each not in hints]:
        raise InputError(f"{name} has no field {unknown[0][:40]!r}; it has {', '.join(hints)}")
    if missing := [each for each, (_, needed) in hints.items() if needed and each not in given]:
        raise InputError(f"{name} lacks the field {missing[0]}")
    values = {each: _value(value, hints[each][0], each) for each, value in given.items() if each != "kind"}
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            return kind(**values)
    except InputError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} cannot be made of these values") from error


def _value(value: Any, hint: Any, name: str) -> Any:
    if hint is np.ndarray:
        if isinstance(value, list):
            return value
        if not isinstance(value, dict):
            raise InputError(f"{name} is a nested list, or an object with dtype, shape and base64")
        return _array_from(value, name)
    if hint is Any:
        return _plain(value, name, 0)
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise InputError(f"{name}: {error}") from error


def _plain(value: Any, name: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InputError(f"{name} is nested more than {_DEEPEST} deep")
    if isinstance(value, dict):
        if value.keys() == {"dtype", "shape", "base64"}:
            return _array_from(value, name)
        return {key: _plain(each, name, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, name, depth + 1) for each in value]
    return value


def _array_from(given: dict[str, Any], name: str) -> np.ndarray:
    if given.keys() != {"dtype", "shape", "base64"}:
        raise InputError(f"{name} needs dtype, shape and base64, and nothing else")
    dtype, shape, text = given["dtype"], given["shape"], given["base64"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(f"dtype of {name} is not one of {', '.join(sorted(_DTYPES))}")
    sizes_fit = isinstance(shape, list) and len(shape) <= 8
    if not sizes_fit or any(type(size) is not int or not 0 <= size < 2**31 for size in shape):
        raise InputError(f"shape of {name} is a list of at most 8 sizes from 0 to 2^31 - 1")
    if not isinstance(text, str):
        raise InputError(f"base64 of {name} is a string")
    try:
        content = a2b_base64(text, strict_mode=True)
    except (Base64Error, ValueError) as error:
        raise InputError(f"{name} is not base64") from error
    stored = np.dtype("uint8" if dtype == "bool" else dtype).newbyteorder("<")
    if len(content) != prod(shape) * stored.itemsize:
        raise InputError(
            f"{name} has {len(content)} bytes; shape and dtype need {prod(shape) * stored.itemsize}"
        )
    try:
        array = np.frombuffer(bytearray(content), dtype=stored).reshape(shape)
    except ValueError as error:
        raise InputError(f"shape of {name} is not possible") from error
    return array != 0 if dtype == "bool" else array.astype(dtype, copy=False)
