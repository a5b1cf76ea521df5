"""Snapshots: one safetensors file whose single metadata entry `unending` is a JSON header. No pickle."""

import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialise

from unending.core import arrays
from unending.core.errors import SnapshotCorruptError, SnapshotForeignError, StorageError
from unending.core.operator import Operator
from unending.core.state import canonical, leaves, restore

__all__ = ["FORMAT", "decode", "encode", "read", "write"]

S = TypeVar("S")
FORMAT = 1
_STATE = "state."


def _runtime() -> dict[str, Any]:
    """What the bits of a continuation depend on besides operator and weights."""
    torch = sys.modules.get("torch")
    return {"threads": torch.get_num_threads(), "torch": torch.__version__.split("+")[0]} if torch else {}


def _apply_runtime(runtime: dict[str, Any]) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and runtime.get("threads"):
        torch.set_num_threads(int(runtime["threads"]))


def _checksum(header: dict[str, Any], held: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    described = {name: value for name, value in header.items() if name != "checksum"}
    digest.update(json.dumps(described, sort_keys=True).encode())
    for name in sorted(held):
        digest.update(f"{name} {held[name].dtype.name} {held[name].shape}".encode())
        digest.update(held[name].tobytes())
    return digest.hexdigest()


def _plain(array: np.ndarray) -> np.ndarray:
    """In C order and this machine's byte order: safetensors writes an array's memory as it lies."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("="), order="C")


def encode(
    operator: Operator[S],
    state: S,
    session: dict[str, Any] | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> bytes:
    """The bytes of a snapshot; equal states give equal bytes.

    Parameters
    ----------
    operator
        whose state it is.
    state
        alive; it is not consumed.
    session
        plain JSON values of the caller (sequence numbers and the like).
    extra
        arrays of the caller, under names that do not begin with `state.`.
    """
    held = {name: _plain(array) for name, array in (extra or {}).items()}
    bits: dict[str, str] = {}
    for name, leaf in leaves(canonical(state)).items():
        array, dtype = arrays.to_numpy(leaf)
        held[_STATE + name] = _plain(array)
        if dtype != array.dtype.name:
            bits[_STATE + name] = dtype
    header = {
        "format": FORMAT,
        "operator": operator.spec.name,
        "version": operator.spec.version,
        "digest": operator.digest(),
        "settings": {name: str(value) for name, value in operator.settings().items()},
        "weights": operator.weights_digest(),
        "runtime": _runtime(),
        "bits": bits,
        "session": session or {},
    }
    header["checksum"] = _checksum(header, held)
    return bytes(serialise(held, metadata={"unending": json.dumps(header, sort_keys=True)}))


def _parse(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        length = int.from_bytes(content[:8], "little")
        text = json.loads(content[8 : 8 + length])["__metadata__"]["unending"]
        header = json.loads(text)
        held = parse(content)
        intact = isinstance(header, dict) and header.get("checksum") == _checksum(header, held)
        intact = intact and text == json.dumps(header, sort_keys=True)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise SnapshotCorruptError(f"{name} is not an intact snapshot ({type(error).__name__})") from error
    if not intact:
        raise SnapshotCorruptError(f"{name} is damaged: its checksum does not fit its content")
    return header, held


def _require_ours(operator: Operator[Any], header: dict[str, Any], name: str) -> None:
    if header.get("format") != FORMAT:
        raise SnapshotForeignError(
            f"{name} has format {header.get('format')}; this version reads format {FORMAT}"
        )
    if (found := header["operator"]) != operator.spec.name:
        raise SnapshotForeignError(f"{name} is of {found}, not of {operator.spec.name}")
    if (found := header["version"]) != operator.spec.version:
        raise SnapshotForeignError(
            f"{name} is of version {found} of {operator.spec.name}, now {operator.spec.version}"
        )
    if header["digest"] != operator.digest():
        now = {field: str(value) for field, value in operator.settings().items()}
        then = header["settings"]
        differ = [
            f"{field}={then.get(field)} (now {now.get(field)})"
            for field in now
            if now[field] != then.get(field)
        ]
        raise SnapshotForeignError(f"{name} was made with other settings: {', '.join(differ) or 'unknown'}")
    if header["weights"] != operator.weights_digest():
        raise SnapshotForeignError(f"{name} was made with other weights than {operator.spec.name} has now")


def decode(
    operator: Operator[S], content: bytes, name: str = "the snapshot"
) -> tuple[S, dict[str, Any], dict[str, np.ndarray]]:
    """State, the caller's session values and the caller's arrays.

    The thread count of the run that was cut is set again, since the bits of a continuation depend on it.

    Raises
    ------
    SnapshotCorruptError
        if the bytes are truncated or altered.
    SnapshotForeignError
        if they are of another format, operator, version, configuration or model.
    """
    header, held = _parse(content, name)
    _require_ours(operator, header, name)
    template = operator.init()
    _apply_runtime(header["runtime"])
    named = {}
    for path, leaf in leaves(template).items():
        found = held.pop(_STATE + path, None)
        wanted, dtype = arrays.to_numpy(leaf)
        if found is None or found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise SnapshotForeignError(f"{name} lacks leaf {path} as {dtype}{list(wanted.shape)}")
        named[path] = arrays.from_numpy(leaf, found)
    if left := [path for path in held if path.startswith(_STATE)]:
        raise SnapshotForeignError(f"{name} has a leaf that {operator.spec.name} does not know: {left[0]}")
    return restore(template, named), header["session"], held


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write so that after a crash at any instant the old file or the new one is there, whole.

    Raises
    ------
    StorageError
        if the disk is full, read-only, or the folder is missing; the old file is untouched.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"cannot write {target}: {reason}; the session itself is unharmed") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a snapshot file; `StorageError` if they cannot be had."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
