"""Systems, sessions and snapshots over HTTP, and what the operator of the server looks at."""

from dataclasses import asdict
from pathlib import PurePath
from typing import Any

import anyio
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from unending import catalogue
from unending.core import Operator
from unending.engine import SessionView
from unending.serve import wire
from unending.serve.failures import Refusal
from unending.serve.requests import account_of, json_response, read_body, service_of
from unending.serve.uploads import require_sound

__all__ = ["fork", "health", "metrics", "session", "sessions", "snapshot", "systems"]


class _Fork(Struct, frozen=True, forbid_unknown_fields=True):
    to: wire.Name


def _setting(value: Any) -> Any:
    """A setting as it is shown: of the path to a model, its name."""
    return PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value


def _described(operator: Operator[Any]) -> dict[str, Any]:
    spec = operator.spec
    return {
        "name": spec.name,
        "family": spec.family,
        "title": spec.title,
        "paper": str(spec.paper) if spec.paper else "",
        "arxiv": spec.paper.arxiv if spec.paper else "",
        "takes": [kind.__name__ for kind in spec.takes],
        "gives": [kind.__name__ for kind in spec.gives],
        "exactness": str(spec.exactness),
        "unit": spec.unit,
        "bound": operator.bound().resident,
        "settings": {name: _setting(value) for name, value in operator.settings().items()},
        "served": True,
    }


async def systems(request: Request) -> Response:
    """The systems that are served, then the rest of the catalogue."""
    account_of(request)
    engines = service_of(request).engines
    served = [
        _described(engine.operator) | {"slots": engine.scheduler.residence.seats.total}
        for engine in engines.values()
    ]
    rest = [each | {"served": False} for each in catalogue.stored() if each["name"] not in engines]
    return json_response({"systems": served + rest})


def _shown(system: str, name: str, view: SessionView, *, history: bool) -> dict[str, Any]:
    told = asdict(view) | {"system": system, "session": name}
    del told["key"]
    if not history:
        del told["history"]
    return told


async def sessions(request: Request) -> Response:
    """The sessions of who asks."""
    account = account_of(request)
    found = service_of(request).views(account)
    return json_response({"sessions": [_shown(*each, history=False) for each in found]})


def _named(request: Request) -> tuple[str, str]:
    """System and session of the path, checked."""
    system, name = request.path_params["system"], request.path_params["session"]
    try:
        wire.read_as(wire.Name, wire.encode(name))
    except Refusal as error:
        raise Refusal("not_found", "a session is named by letters, digits, . _ and -, at most 100") from error
    service_of(request).engine(system)
    return system, name


async def session(request: Request) -> Response:
    """`GET` one session with its history; `DELETE` it."""
    account, service = account_of(request), service_of(request)
    system, name = _named(request)
    if request.method == "DELETE":
        service.require_open()
        await service.engine(system).delete(service.key(account, name))
        return json_response({"system": system, "session": name, "deleted": True})
    return json_response(_shown(system, name, service.view(account, system, name), history=True))


async def fork(request: Request) -> Response:
    """A second session that goes on from here."""
    account, service = account_of(request), service_of(request)
    system, name = _named(request)
    to = wire.read_as(_Fork, await read_body(request, account)).to
    async with service.room(account):
        await service.engine(system).fork(service.key(account, name), service.key(account, to))
    return json_response({"system": system, "session": name, "to": to}, 201)


async def snapshot(request: Request) -> Response:
    """`GET` a session as one file; `PUT` a file as a session."""
    account, service = account_of(request), service_of(request)
    system, name = _named(request)
    engine, key = service.engine(system), service.key(account, name)
    if request.method == "PUT":
        if not account.limits.imports:
            raise Refusal("forbidden", "you may not bring in snapshots; see `imports` among the limits")
        largest = 2 * engine.operator.bound().resident + (1 << 20)
        content = await read_body(request, account, largest)
        await anyio.to_thread.run_sync(require_sound, content)
        async with service.room(account):
            stream = await engine.import_snapshot(key, content)
            await stream.release()
        told = {"system": system, "session": name, "in_seq": stream.in_seq, "out_seq": stream.out_seq}
        return json_response(told, 201)
    content = await engine.snapshot(key)
    service.metrics.bytes.labels("out").inc(len(content))
    headers = {
        "content-disposition": f'attachment; filename="{system}.{name}.snapshot"',
        "cache-control": "no-store",
    }
    return Response(content, 200, headers, "application/octet-stream")


async def health(request: Request) -> Response:
    """Whether the server takes new work; for machines, so without a token."""
    service = service_of(request)
    status = "draining" if service.draining else "ok"
    return json_response({"status": status}, 503 if service.draining else 200)


async def metrics(request: Request) -> Response:
    """All figures in the format of Prometheus."""
    account_of(request)
    return Response(
        service_of(request).metrics.page(), 200, {"cache-control": "no-store"},
        "text/plain; version=0.0.4; charset=utf-8",
    )  # fmt: skip
