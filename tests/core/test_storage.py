"""Disks that refuse, and what they leave alone."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from toys import Babble

from unending.core import Query, Session, Tokens
from unending.core.errors import StorageError


def babbling() -> Session:
    """A session with outputs that wait and work that is pending."""
    session = Session(Babble(), seed=5)
    session.push(Tokens([1, 2, 3]))
    session.push(Query("why?"))
    session.poll()
    session.push(Query("and why not?"))
    return session


def saved(path: Path) -> tuple[Session, bytes]:
    session = babbling()
    session.save(path)
    return session, path.read_bytes()


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize(
    ("target", "refuse"),
    [("os.fsync", full), ("os.replace", full), ("os.replace", read_only), ("builtins.open", read_only)],
)
def test_a_disk_that_refuses_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, refuse: Any
) -> None:
    path = tmp_path / "session.snapshot"
    session, older = saved(path)
    session.poll()
    before = session.snapshot()
    with monkeypatch.context() as patch:
        patch.setattr(target, refuse)
        with pytest.raises(
            StorageError, match=r"cannot write .*session\.snapshot: .*; the session itself is unharmed"
        ) as caught:
            session.save(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == older
    assert os.listdir(tmp_path) == ["session.snapshot"]
    assert session.snapshot() == before
    session.save(path)
    assert path.read_bytes() == before


def test_a_write_that_is_interrupted_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "session.snapshot"
    session, older = saved(path)
    session.poll()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            session.save(path)
    assert path.read_bytes() == older
    assert os.listdir(tmp_path) == ["session.snapshot"]


def test_paths_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    session, _ = saved(tmp_path / "file")
    for path in (tmp_path / "missing" / "x", tmp_path / "file" / "x", tmp_path):
        with pytest.raises(StorageError, match="cannot write"):
            session.save(path)
        with pytest.raises(StorageError, match="cannot read"):
            Session.resume(Babble(), path)
    assert os.listdir(tmp_path) == ["file"]
