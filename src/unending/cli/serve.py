"""`unending serve`."""

import re
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints
from urllib.parse import urlsplit

import tyro

from unending.cli.options import operator_class, parse
from unending.core import Operator
from unending.core.errors import InputError, MissingExtraError

__all__ = ["main"]


@dataclass(frozen=True)
class _Options:
    """Serve systems to many clients: OpenAI's protocols, /v1/sessions, /metrics and a live page."""

    systems: tyro.conf.Positional[tuple[str, ...]] = ()
    """names in the catalogue, or module:Operator"""
    host: str = "127.0.0.1"
    """address to listen on; any but this machine's own needs --token-file"""
    port: int = 8000
    """port to listen on; 0 is any that is free"""
    store: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """keep sessions in this folder: nothing acknowledged is lost when the process dies"""
    token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """who may come in: lines `owner sha256:<hex> [limits]`"""
    new_token: Annotated[str, tyro.conf.arg(metavar="OWNER")] = ""
    """print a new token and its line for the token file, and leave"""
    limits: Annotated[str, tyro.conf.arg(metavar="LIMITS")] = ""
    """of every owner who has none of his own: 'sessions=100 connections=50 rate=200 bytes=1e6 imports'"""
    slots: int = 8
    """sessions of one system that are computed at a time"""
    memory: Annotated[str, tyro.conf.arg(metavar="BYTES")] = ""
    """bytes of all states of one system in memory, such as 512M or 4G"""
    late: Literal["block", "shed", "refuse"] = "block"
    """what happens to input that finds its queue full"""
    deadline: Annotated[float | None, tyro.conf.arg(metavar="SECONDS")] = None
    """seconds within which input should be worked off"""
    origin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """a web page besides the server's own whose scripts may call, as https://host"""
    set: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """a setting of a system: FIELD=VALUE, or SYSTEM.FIELD=VALUE where several are served"""
    example: tyro.conf.FlagCreatePairsOff[bool] = False
    """serve the tiny example of each system; needs no download"""
    insecure: tyro.conf.FlagCreatePairsOff[bool] = False
    """let everybody in who reaches --host, without tokens"""
    log: Literal["text", "json"] = "text"
    """form of the log on standard error"""
    log_level: Literal["debug", "info", "warning", "error"] = "warning"
    """least severity that is logged"""


def _bytes(text: str) -> int | None:
    if not text:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise InputError(f"--memory {text}: expected a number of bytes such as 512M or 4G")
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper() or " "))


def _settings(cls: type[Operator[Any]], given: Sequence[str], alone: bool) -> dict[str, Any]:
    """What `--set` says of one system."""
    import msgspec

    name, hints = cls.spec.name, get_type_hints(cls)
    known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for each in given:
        target, _, value = each.partition("=")
        system, _, field = target.rpartition(".")
        if system != name and not (alone and not system):
            continue
        field = field.replace("-", "_")
        if field not in known:
            raise InputError(f"--set {each}: {name} has {', '.join(sorted(known))}")
        try:
            found[field] = msgspec.convert(value, hints[field], strict=False)
        except msgspec.ValidationError:
            try:
                found[field] = msgspec.json.decode(value, type=hints[field])
            except msgspec.MsgspecError as error:
                raise InputError(f"--set {each}: {error}") from error
    return found


def _operators(options: _Options) -> list[Operator[Any]]:
    if not options.systems:
        raise InputError("name a system to serve: unending serve streaming-llm")
    classes = [operator_class(each) for each in options.systems]
    names = [cls.spec.name for cls in classes]
    if len(set(names)) < len(names):
        raise InputError(f"a system is named twice: {', '.join(names)}")
    for each in options.set:
        system, _, field = each.partition("=")[0].rpartition(".")
        if "=" not in each or not field or (system not in names and (system or len(names) > 1)):
            raise InputError(f"--set {each}: expected SYSTEM.FIELD=VALUE, with {' or '.join(names)}")
    if options.example and options.set:
        raise InputError("--example has settings of its own; leave out --set")
    if options.example:
        return [cls.example() for cls in classes]
    return [cls(**_settings(cls, options.set, len(classes) == 1)) for cls in classes]


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
    ):
        raise InputError(f"--origin {text}: expected https://host or https://host:port")
    return f"{parts.scheme}://{parts.netloc.lower()}"


def main(arguments: Sequence[str]) -> int:
    """Serve until a signal comes."""
    options = parse(_Options, arguments, "serve")
    try:
        import anyio

        from unending import engine
        from unending.serve import Access, Address, Limits, Service, logs, new_token, read_tokens, serve
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("unending"):
            raise
        raise MissingExtraError(
            f"serve needs the package {error.name}: pip install 'unending[serve]'"
        ) from error
    if options.new_token:
        token, line = new_token(options.new_token)
        print(f"token (shown this once): {token}\nline for the token file:  {line}")
        return 0
    address = Address(options.host, options.port)
    if not address.loopback and not options.token_file and not options.insecure:
        raise InputError(
            f"--host {options.host} lets other machines in: give --token-file FILE, or say --insecure"
        )
    nameless = Limits(imports=True) if not options.token_file else Limits()
    limits = Limits.of(options.limits.split(), nameless)
    tokens = read_tokens(options.token_file, limits) if options.token_file else []
    origins = [_origin(each) for each in options.origin]
    hosts = address.names | {urlsplit(each).netloc.partition(":")[0] for each in origins}
    access = Access(tokens, limits, origins=origins, hosts=hosts if address.loopback and not tokens else ())
    capacity = engine.Limits(
        slots=options.slots, memory=_bytes(options.memory), late=options.late, deadline=options.deadline
    )
    operators = _operators(options)
    logs.configure(options.log, options.log_level)
    if not address.loopback:
        who = "with a token" if tokens else "WITHOUT A TOKEN"
        print(
            f"unending: warning: other machines can come in {who}, and nothing is encrypted;"
            " put a proxy with TLS in front",
            file=sys.stderr,
        )

    async def run() -> None:
        listener = address.listen()
        async with AsyncExitStack() as stack:
            stack.callback(listener.close)
            engines = {}
            for operator in operators:
                name = operator.spec.name
                running = engine.Engine(
                    operator, capacity, store=options.store / name if options.store else None
                )
                engines[name] = await stack.enter_async_context(running)
            service = Service(engines, access)
            await service.sweep()
            shown = f"[{address.host}]" if ":" in address.host else address.host
            where = f"http://{shown}:{listener.getsockname()[1]}/"
            kept = (
                f"; sessions are kept in {options.store}"
                if options.store
                else "; no --store: sessions end with it"
            )
            await serve(
                service, listener, ready=lambda: print(f"{', '.join(engines)}: {where}{kept}", flush=True)
            )

    anyio.run(run)
    return 0
