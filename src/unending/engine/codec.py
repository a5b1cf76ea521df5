"""Chunks as bytes for the journal: a checksum, then a safetensors file whose one metadata entry is JSON. No pickle."""

import json
from hashlib import blake2b
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from unending.core import Chunk
from unending.core.errors import InputError, StoreCorruptError

__all__ = ["decode_chunk", "encode_chunk"]

_CHECKSUM = 16


def encode_chunk(chunk: Chunk) -> bytes:
    """The bytes from which `decode_chunk` makes an equal chunk: same kind, same values, same dtypes, bit for bit.

    Raises
    ------
    InputError
        if the chunk holds what would come back as something else (a `Control` whose value is not plain JSON, an
        array of a dtype that safetensors lacks).
    """
    plain, arrays = chunk.encode()
    kind = type(chunk).__name__
    held = {name: _native(array) for name, array in arrays.items()}
    try:
        if "value" in plain and not _same(json.loads(json.dumps(plain["value"])), plain["value"]):
            raise InputError(f"{kind}: its value is not plain JSON (lists, text keys, numbers), nor an array")
        body = bytes(serialise(held, metadata={"chunk": json.dumps(plain)}))
    except (TypeError, ValueError, RecursionError, SafetensorError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a chunk of kind {kind} cannot be kept: {error}") from error
    return blake2b(body, digest_size=_CHECKSUM).digest() + body


def decode_chunk(content: bytes) -> Chunk:
    """The inverse of `encode_chunk`; the arrays are writable and share no memory with `content`.

    Raises
    ------
    StoreCorruptError
        if the bytes are damaged, or of a kind of chunk that is not known here.
    """
    checksum, body = content[:_CHECKSUM], content[_CHECKSUM:]
    if blake2b(body, digest_size=_CHECKSUM).digest() != checksum:
        raise StoreCorruptError("a stored chunk is damaged: its checksum does not fit its content")
    try:
        length = int.from_bytes(body[:8], "little")
        plain = json.loads(json.loads(body[8 : 8 + length])["__metadata__"]["chunk"])
        return Chunk.decode(plain, {name: array.copy() for name, array in parse(body).items()})
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StoreCorruptError(f"a stored chunk cannot be read here: {error!r}") from error


def _native(array: np.ndarray) -> np.ndarray:
    """In C order and this machine's byte order: safetensors writes an array's memory as it lies."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def _same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right) or left != left
