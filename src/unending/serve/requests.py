"""What the HTTP endpoints share: who asks, what is in the body, how an answer looks."""

from collections.abc import Mapping
from typing import Any

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from unending.serve import wire
from unending.serve.access import Account, bearer
from unending.serve.failures import Refusal
from unending.serve.service import Service

__all__ = ["account_of", "json_response", "read_body", "service_of"]

_SLOWEST = 100_000
"""Bytes a second of the slowest client that is waited for."""
_POLITE = 1 << 24
"""Bytes beyond what is accepted that are read and dropped: who is cut off while he sends does not see the answer."""


def service_of(request: Request) -> Service:
    """The service behind the application."""
    service: Service = request.app.state.service
    return service


def account_of(request: Request) -> Account:
    """Who asks; counts the request. `Refusal` without a valid token, or beyond the limits."""
    account = service_of(request).access.account(bearer(request.headers))
    account.spend(_announced(request))
    return account


def _announced(request: Request) -> int:
    """Bytes that the body will have, as its head says; 0 where it does not."""
    size = request.headers.get("content-length", "0")
    return int(size) if size.isdecimal() and len(size) < 16 else 0


async def read_body(request: Request, account: Account, largest: int | None = None) -> bytes:
    """The body, of at most so many bytes, in the time that a slow line needs for them.

    Bytes that `account_of` could not count beforehand are counted now.
    """
    service = service_of(request)
    options = service.options
    largest = options.max_body if largest is None else largest
    parts, total = [], 0
    seconds = options.handshake + largest / _SLOWEST
    with anyio.move_on_after(seconds) as deadline:
        try:
            async for part in request.stream():
                total += len(part)
                if total <= largest:
                    parts.append(part)
                elif total > largest + _POLITE:
                    break
        except ClientDisconnect as error:
            raise Refusal("timeout", "the connection ended within the body") from error
    account.owe(max(0, total - _announced(request)))
    service.metrics.bytes.labels("in").inc(total)
    if total > largest:
        raise Refusal("too_large", f"the body is larger than the accepted {largest} bytes")
    if deadline.cancelled_caught:
        raise Refusal("timeout", f"the body did not come within {seconds:.0f} s")
    return b"".join(parts)


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON body that no cache keeps."""
    content = wire.encode(value)
    return Response(content, status, {"cache-control": "no-store", **(headers or {})}, "application/json")
