"""Structured logs: what happened and how long it took; never what was in a stream, never a token."""

import json
import logging
import sys
from typing import Any

__all__ = ["configure"]

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def _more(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


class _Lines(logging.Formatter):
    """One line of text an entry."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        more = " ".join(f"{name}={value}" for name, value in _more(record).items())
        record.exc_info = record.exc_text = None  # the text of an exception may hold a part of a stream
        return f"{super().format(record)} {more}".rstrip()


class _Json(logging.Formatter):
    """One JSON object an entry."""

    def format(self, record: logging.LogRecord) -> str:
        kind = {"exception": record.exc_info[0].__name__} if record.exc_info and record.exc_info[0] else {}
        told = {"time": self.formatTime(record), "level": record.levelname, "logger": record.name}
        return json.dumps({**told, "event": record.getMessage(), **_more(record), **kind}, default=str)


def configure(kind: str = "text", level: str = "warning") -> None:
    """Log to standard error as `text` or `json`, ours from `level` upwards, those of the libraries from warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if kind == "json" else _Lines())
    others = [(name, "WARNING") for name in ("asyncio", "uvicorn", "websockets")]
    for name, lowest in (("unending", level.upper()), *others):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(lowest)
    for name in ("uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logging.getLogger(name).handlers, logging.getLogger(name).propagate = [], True
