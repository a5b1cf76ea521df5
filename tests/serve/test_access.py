"""Tokens, limits, origins."""

import hashlib

import pytest

from unending.core.errors import InputError, StorageError
from unending.serve.access import Access, Account, Limits, bearer, new_token, read_tokens
from unending.serve.failures import Refusal


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_token_is_kept_as_its_hash_alone(tmp_path):
    token, line = new_token("ann")
    assert token not in line
    assert hashlib.sha256(token.encode()).hexdigest() in line
    assert new_token("ann")[0] != token
    (tmp_path / "tokens").write_text(f"# who\n\n{line} sessions=3 rate=1.5 imports  # the first\n")
    (held,) = read_tokens(tmp_path / "tokens")
    assert (held.owner, held.limits) == ("ann", Limits(sessions=3, rate=1.5, imports=True))
    assert Access([held]).account(token).owner == "ann"
    for wrong in (None, "", token[:-1], token + "x", token.upper(), "\ud800"):
        with pytest.raises(Refusal, match="token"):
            Access([held]).account(wrong)


def test_every_token_is_compared(monkeypatch, tmp_path):
    """Whether and where a token fits shows in no time: each is compared, in constant time."""
    import hmac

    tokens = [new_token(f"owner{number}") for number in range(5)]
    (tmp_path / "tokens").write_text("\n".join(line for _, line in tokens))
    access = Access(read_tokens(tmp_path / "tokens"))
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(1) or compare(*pair))
    assert access.account(tokens[0][0]).owner == "owner0"
    assert len(compared) == 5


def test_two_tokens_of_one_owner(tmp_path):
    (old, first), (new, second) = new_token("ann"), new_token("ann")
    (tmp_path / "tokens").write_text(f"{first}\n{second}")
    access = Access(read_tokens(tmp_path / "tokens"))
    assert access.account(old) is access.account(new)
    (tmp_path / "tokens").write_text(f"{first}\n{second} sessions=1")
    with pytest.raises(InputError, match="different limits"):
        read_tokens(tmp_path / "tokens")


@pytest.mark.parametrize(
    "line",
    [
        "ann",
        "ann md5:00",
        "ann sha256:00",
        "../x sha256:" + "0" * 64,
        "ann sha256:" + "0" * 64 + " sessions",
        "ann sha256:" + "0" * 64 + " sessions=-1",
        "ann sha256:" + "0" * 64 + " sessions=1.5",
        "ann sha256:" + "0" * 64 + " rate=nan",
        "ann sha256:" + "0" * 64 + " rate=inf",
        "ann sha256:" + "0" * 64 + " speed=1",
        "ann sha256:" + "0" * 64 + " imports=1",
    ],
)
def test_a_bad_line_is_named(tmp_path, line):
    (tmp_path / "tokens").write_text(f"# who\n{line}\n")
    with pytest.raises(InputError, match="line 2"):
        read_tokens(tmp_path / "tokens")


def test_files_that_are_none(tmp_path):
    with pytest.raises(StorageError):
        read_tokens(tmp_path / "nowhere")
    (tmp_path / "empty").write_text("# nobody\n")
    with pytest.raises(InputError, match="no token"):
        read_tokens(tmp_path / "empty")
    for owner in ("", "a/b", "a b", "~", "x" * 65):
        with pytest.raises(InputError):
            new_token(owner)


def test_rates():
    clock = Clock()
    account = Account("ann", Limits(rate=2, bytes=100), clock)
    for _ in range(4):  # two seconds' worth at once
        account.spend(10)
    with pytest.raises(Refusal, match="messages") as caught:
        account.spend(10)
    assert caught.value.code == "limit"
    assert 0 < caught.value.retry_after < 1
    clock.now += 1.0
    account.spend(5000)  # larger than the bucket: let in, and paid off
    with pytest.raises(Refusal, match="bytes") as caught:
        account.spend(1)
    assert 40 < caught.value.retry_after < 60
    clock.now += caught.value.retry_after + 0.01
    account.spend(1)


def test_connections_are_given_back():
    account = Account("ann", Limits(connections=1))
    for _ in range(2):
        with account.connected():
            with pytest.raises(Refusal, match="1 connections"), account.connected():
                pass
            assert account.connections == 1
    assert account.connections == 0


@pytest.mark.parametrize(
    ("host", "accepted"),
    [("localhost:80", True), ("LOCALHOST", True), ("[::1]:80", True), ("evil.example", False), ("", False)],
)
def test_hosts(host, accepted):
    access = Access(hosts=["localhost", "[::1]"])
    if accepted:
        access.check_origin({"host": host}, False)
        return
    with pytest.raises(Refusal):
        access.check_origin({"host": host}, False)


def test_bearer():
    assert bearer({"authorization": "Bearer x"}) == bearer({"authorization": "bearer  x "}) == "x"
    for none in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer"}, {"authorization": "Bearer "}):
        assert bearer(none) is None
