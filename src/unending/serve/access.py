"""Who may do what, and how much: bearer tokens, limits, origins."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from unending.core.errors import InputError, StorageError
from unending.serve.failures import Refusal

__all__ = ["Access", "Account", "Bucket", "Limits", "Token", "new_token", "read_tokens"]

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_HASH = re.compile(r"sha256:([0-9a-f]{64})\Z")


@dataclass(frozen=True)
class Limits:
    """What one owner may use.

    Parameters
    ----------
    sessions
        sessions that exist at a time, parked ones included.
    connections
        connections at a time.
    rate
        requests and messages a second; 0 is no limit.
    bytes
        bytes of requests and messages a second; 0 is no limit.
    imports
        whether snapshots may be brought in.
    """

    sessions: int = 1000
    connections: int = 200
    rate: float = 0.0
    bytes: float = 0.0
    imports: bool = False

    @classmethod
    def of(cls, words: Iterable[str], base: "Limits | None" = None) -> "Limits":
        """The limits that words such as `sessions=8 rate=50 imports` describe.

        Raises
        ------
        InputError
            at a word that is none of them.
        """
        limits = base or cls()
        known = {each.name: each.type for each in fields(cls)}
        for word in words:
            name, _, value = word.partition("=")
            if word == "imports":
                limits = replace(limits, imports=True)
                continue
            try:
                number = int(value) if known.get(name) is int else float(value)
            except ValueError:
                number = -1
            if name not in known or name == "imports" or not 0 <= number < 2**53:
                raise InputError(
                    f"{word!r} is no limit; there are sessions=, connections=, rate=, bytes= and imports"
                )
            limits = replace(limits, **{name: number})  # type: ignore[arg-type]
        return limits


@dataclass(frozen=True)
class Token:
    """One line of a token file: whose it is, the hash of the token, the limits."""

    owner: str
    hashed: bytes
    limits: Limits


def _hash(token: str) -> bytes:
    # A token is 256 random bits, so that one round of a fast hash is enough: there is nothing to guess.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def new_token(owner: str) -> tuple[str, str]:
    """A fresh token, and the line for the token file that lets it in.

    Raises
    ------
    InputError
        if the owner is not letters, digits, `_` and `-`.
    """
    if not _OWNER.match(owner):
        raise InputError(f"{owner!r} is no name for an owner: letters, digits, _ and -, at most 64")
    token = f"unending-{secrets.token_urlsafe(32)}"
    return token, f"{owner} sha256:{_hash(token).hex()}"


def read_tokens(path: str | Path, base: Limits | None = None) -> list[Token]:
    """The tokens of a file: lines `owner sha256:<hex> [limits]`, and comments after `#`.

    Raises
    ------
    StorageError
        if the file cannot be read.
    InputError
        at a line that is none of these, or when one owner is given two sets of limits.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    tokens: list[Token] = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        hashed = _HASH.match(words[1]) if len(words) > 1 else None
        if not hashed or not _OWNER.match(words[0]):
            raise InputError(f"{path}, line {number}: expected `owner sha256:<64 hex digits> [limits]`")
        try:
            limits = Limits.of(words[2:], base)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        tokens.append(Token(words[0], bytes.fromhex(hashed[1]), limits))
    by_owner: dict[str, Limits] = {}
    for token in tokens:
        if by_owner.setdefault(token.owner, token.limits) != token.limits:
            raise InputError(f"{path}: the lines of {token.owner} give different limits")
    if not tokens:
        raise InputError(f"{path} holds no token; unending serve --new-token NAME makes one")
    return tokens


class Bucket:
    """A token bucket: `rate` a second on the average, two seconds' worth at once."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._level, self._then = 2 * rate, clock()

    def take(self, amount: float) -> float:
        """0 if there is room, which is then used; otherwise the seconds until there is.

        Something larger than the bucket is let in when the bucket is not empty, and paid off afterwards.
        """
        if not self._rate:
            return 0.0
        now = self._clock()
        self._level = min(2 * self._rate, self._level + (now - self._then) * self._rate)
        self._then = now
        if self._level <= 0:
            return (1e-3 - self._level) / self._rate
        self._level -= amount
        return 0.0

    def owe(self, amount: float) -> None:
        """Use so much whether there is room or not; it is paid off afterwards."""
        self._level -= amount


class Account:
    """One owner at work: what is used of the limits."""

    def __init__(self, owner: str, limits: Limits, clock: Callable[[], float] = perf_counter) -> None:
        self.owner, self.limits = owner, limits
        self.connections = 0
        self._messages, self._bytes = Bucket(limits.rate, clock), Bucket(limits.bytes, clock)

    def spend(self, size: int) -> None:
        """Count one request or message of so many bytes; `Refusal` with code `limit` if it is too much."""
        for bucket, amount, what in ((self._messages, 1, "messages"), (self._bytes, size, "bytes")):
            if wait := bucket.take(amount):
                raise Refusal("limit", f"more {what} a second than your limit", retry_after=wait)

    def owe(self, size: int) -> None:
        """Count bytes that came without being announced."""
        self._bytes.owe(size)

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Count one connection while it lasts; `Refusal` with code `limit` if it is one too many."""
        if self.connections >= self.limits.connections:
            raise Refusal(
                "limit", f"you have {self.connections} connections, which is your limit", retry_after=1.0
            )
        self.connections += 1
        try:
            yield
        finally:
            self.connections -= 1


class Access:
    """The door: who comes in, from which page.

    Parameters
    ----------
    tokens
        who may come in; none: everybody is the same nameless owner.
    limits
        of the nameless owner.
    origins
        web pages besides the server's own whose scripts may call, as `https://host[:port]`.
    hosts
        names under which the server may be addressed; empty: any. Without tokens this is what keeps a web page
        whose name was rebound to this machine from being taken for the server's own.
    """

    def __init__(
        self,
        tokens: Iterable[Token] = (),
        limits: Limits | None = None,
        *,
        origins: Iterable[str] = (),
        hosts: Iterable[str] = (),
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._tokens = list(tokens)
        self.origins = frozenset(origins)
        self._hosts = frozenset(host.lower() for host in hosts)
        nameless = {"": limits or Limits(imports=True)} if not self._tokens else {}
        owners = nameless | {token.owner: token.limits for token in self._tokens}
        self.accounts = {owner: Account(owner, limits, clock) for owner, limits in owners.items()}

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return not self._tokens

    def account(self, token: str | None) -> Account:
        """The owner of a token; `Refusal` with code `unauthorized` if it is nobody's."""
        if self.open:
            return self.accounts[""]
        if not token:
            raise Refusal("unauthorized", "a bearer token is needed")
        given, found = _hash(token), None
        for each in self._tokens:  # all of them, whichever fits: the time tells nothing
            if hmac.compare_digest(each.hashed, given):
                found = each
        if found is None:
            raise Refusal("unauthorized", "this token is not known here")
        return self.accounts[found.owner]

    def check_origin(self, headers: Mapping[str, str], secure: bool) -> None:
        """`Refusal` with code `origin` for the script of a foreign web page, or a host name that is not ours.

        Clients that are not browsers send no `Origin`.
        """
        host = headers.get("host", "")
        if self._hosts and _name_of(host) not in self._hosts:
            raise Refusal("origin", "this server does not answer under that host name")
        origin = headers.get("origin")
        if origin is None or origin in self.origins:
            return
        parts = urlsplit(origin) if _is_plain(origin) else None
        schemes = ("https", "wss") if secure else ("http", "ws")
        if parts is None or parts.scheme not in schemes or parts.netloc.lower() != host.lower():
            raise Refusal("origin", "scripts of that web page may not call this server; see --origin")


def _is_plain(origin: str) -> bool:
    try:
        urlsplit(origin)
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """The name in a `Host` header, without the port, in lower case."""
    bracketed = re.match(r"(\[[^\]]*\])(:\d+)?\Z", host)
    return (bracketed[1] if bracketed else host.rpartition(":")[0] or host).lower()


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of an `Authorization: Bearer` header, if there is one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None
