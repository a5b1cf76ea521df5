"""What the server is fuzzed with: valid messages of every endpoint, and what becomes of them."""

import base64
import json
import logging
import traceback
from collections import Counter
from typing import Any

import numpy as np

from unending.core import snapshot

__all__ = ["Log", "Maker", "Seen"]

SYSTEMS = ("echo", "echo", "sum", "streaming-llm")
NAMES = ("a", "b", "c", "d", "e.f", "g-h")
STRANGE = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e308, 1e-320, "", " ", "\x00", "\n",
    "a" * 3000, "\ud7ff\U0001f600", "../../etc/passwd", "%2e%2e", "${x}", "{}", "1", "true", "~x", "constructor",
    [], [[]], [None], [1, "a"], [[1], [1, 2]], {}, {"kind": "Text"}, {"dtype": "float64"}, {"a": {"b": {"c": []}}},
)  # fmt: skip
BROKEN = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\\ud800",
    b'"',
    b"{",
    b"[" * 2000,
    b"NaN",
    b"1e999",
    b"\xed\xa0\x80",
    b",",
)
METHODS = ("GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "get", "G\x00T")
PATHS = (
    "/", "/health", "/metrics", "/v1/systems", "/v1/models", "/v1/models/echo", "/v1/sessions", "/v1/sessions/echo/a",
    "/v1/sessions/sum/b/fork", "/v1/sessions/echo/a/snapshot", "/v1/chat/completions", "/v1/realtime", "/page/x",
    "/page/../app.py", "/page/%2e%2e/app.py", "//", "/v1/sessions/echo/..%2f", "/v1/sessions//", "*", "http://x/y",
)  # fmt: skip


class Maker:
    """Everything of one trial, from one generator.

    Parameters
    ----------
    generator
        the only source of chance.
    snapshots
        intact snapshots by system.
    """

    def __init__(self, generator: np.random.Generator, snapshots: dict[str, bytes]) -> None:
        self._random, self._snapshots = generator, snapshots

    def pick(self, choices: Any) -> Any:
        """One of them."""
        return choices[int(self._random.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        """True in this share of cases."""
        return bool(self._random.random() < share)

    def word(self) -> str:
        """A few characters of several scripts."""
        return "".join(self.pick("abc xyz.?äß漢\U0001f600") for _ in range(int(self._random.integers(1, 12))))

    def array(self) -> Any:
        """Rows as a list or packed."""
        rows = self._random.normal(size=(int(self._random.integers(1, 5)), 2))
        if self.chance(0.5):
            return rows.tolist()
        packed = base64.b64encode(rows.tobytes()).decode()
        return {"dtype": "float64", "shape": list(rows.shape), "base64": packed}

    def chunk(self, system: str) -> dict[str, Any]:
        """A chunk that the system takes, mostly."""
        if system == "sum" or self.chance(0.05):
            return {"kind": "Rows", "values": self.array()}
        kind = self.pick(("Text", "Text", "Query", "Control", "Tokens"))
        return {
            "Text": {"kind": "Text", "text": self.word()},
            "Query": {"kind": "Query", "text": self.word()[:5] + "?"},
            "Control": {"kind": "Control", "name": "interrupt"},
            "Tokens": {"kind": "Tokens", "ids": self._random.integers(0, 200, 5).tolist()},
        }[kind]

    def message(self) -> dict[str, Any]:
        """A valid message of /v1/sessions."""
        kind, held = self.pick(_KINDS), int(self._random.integers(len(SYSTEMS)))
        system, name = SYSTEMS[held], NAMES[held]
        if self.chance(0.2):
            system, name = self.pick(SYSTEMS), self.pick(NAMES)
        told: dict[str, Any] = {"type": kind, "system": system, "session": name}
        if kind == "input.push":
            told["chunk"] = self.chunk(system)
        if kind in ("input.push", "output.ack") and (kind == "output.ack" or self.chance(0.3)):
            told["seq"] = int(self._random.integers(1, 6))
        if kind == "session.resume":
            told |= {"after": int(self._random.integers(-1, 4))} if self.chance(0.3) else {}
            told |= {"take_over": True} if self.chance(0.5) else {}
        if kind == "session.fork":
            told["to"] = self.pick(NAMES)
        return told | ({"id": int(self._random.integers(9))} if self.chance(0.3) else {})

    def opened(self) -> list[dict[str, Any]]:
        """Messages that open a session of every system."""
        return [
            {"type": "session.open", "system": system, "session": name}
            for system, name in zip(SYSTEMS, NAMES, strict=False)
        ]

    def event(self) -> dict[str, Any]:
        """A valid event of /v1/realtime."""
        kind = self.pick(("session.update", "conversation.item.create", "response.create", "response.cancel"))
        role = self.pick(("user", "system", "assistant"))
        content = [{"type": "input_text", "text": self.word() + "x"}]
        more: dict[str, Any] = {
            "session.update": {"session": {"type": "realtime", "instructions": self.word()}},
            "conversation.item.create": {"item": {"type": "message", "role": role, "content": content}},
            "response.create": {"response": {"max_output_tokens": 3}},
            "response.cancel": {},
        }[kind]
        return {"type": kind, **more}

    def body(self) -> dict[str, Any]:
        """A valid body of /v1/chat/completions."""
        messages = [{"role": self.pick(("system", "user", "assistant")), "content": self.word()}]
        messages.append({"role": "user", "content": [{"type": "text", "text": self.word()[:4] + "?"}]})
        body: dict[str, Any] = {"model": self.pick(("echo", "echo", "streaming-llm")), "messages": messages}
        for name, value in (
            ("stream", True), ("max_tokens", 3), ("stop", ["b"]), ("session", self.pick(("chat-a", "chat-b"))),
            ("seed", 1), ("n", 1), ("stream_options", {"include_usage": True}),
        ):  # fmt: skip
            if self.chance(0.25):
                body[name] = value
        return body

    def mutated(self, value: Any) -> Any:
        """A value with something changed at a place of it."""
        if isinstance(value, dict) and value and self.chance(0.8):
            value, name = dict(value), self.pick(list(value))
            what = self._random.random()
            if what < 0.15:
                del value[name]
            elif what < 0.3:
                value[self.pick(("x", "path", "model", "__class__", name.upper(), ""))] = self.pick(STRANGE)
            else:
                value[name] = self.mutated(value[name])
            return value
        if isinstance(value, list) and value and self.chance(0.7):
            value, place = list(value), int(self._random.integers(len(value)))
            return [*value[:place], self.mutated(value[place]), *value[place + self.chance(0.8) :]]
        if isinstance(value, str) and value and self.chance(0.3):
            return self.mangled(value.encode()).decode("utf-8", "replace")
        if isinstance(value, int) and self.chance(0.4):
            return value + self.pick((-1, 1, -100, 2**32))
        return self.pick(STRANGE)

    def mangled(self, content: bytes) -> bytes:
        """Bytes that are cut, flipped, doubled or mixed with others."""
        place = int(self._random.integers(len(content) + 1))
        what = int(self._random.integers(4))
        if what == 0:
            return content[:place]
        if what == 1 and content:
            flipped = bytearray(content)
            flipped[place % len(content)] ^= 1 << int(self._random.integers(8))
            return bytes(flipped)
        if what == 2:
            return content[:place] + content[place // 2 :]
        return content[:place] + self.pick(BROKEN) + content[place:]

    def text(self, value: Any) -> bytes:
        """JSON of a value: as it is, changed in its structure, in its bytes, or both; or bytes of chance alone."""
        what = self._random.random()
        if what < 0.03:
            return self._random.bytes(int(self._random.integers(1, 200)))
        if what > 0.35:
            inner = [name for name, each in value.items() if isinstance(each, dict)]
            for _ in range(int(self.pick((1, 1, 1, 2, 3)))):
                if inner and self.chance(0.7):  # the envelope stays whole, so that it is opened
                    value = {**value, inner[0]: self.mutated(value[inner[0]])}
                    value[inner[0]] = value[inner[0]] if isinstance(value[inner[0]], dict) else {}
                else:
                    value = self.mutated(value)
                    break
        content = json.dumps(value, ensure_ascii=self.chance(0.5)).encode("utf-8", "surrogatepass")
        return self.mangled(content) if what > 0.85 else content

    def snapshot(self) -> bytes:
        """A snapshot that is damaged; or whose session values are changed, under a checksum that fits."""
        content = self._snapshots[self.pick(sorted(self._snapshots))]
        if self.chance(0.4):
            return self.mangled(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["unending"])
        held = snapshot.parse(content)
        name = self.pick(("session", "session", "session", *header))
        header[name] = self.mutated(header[name])
        if self.chance(0.2) and held:
            held.pop(self.pick(sorted(held)))
        header["checksum"] = snapshot._checksum(header, held)
        told = {"unending": json.dumps(header, sort_keys=True)}
        return bytes(snapshot.serialise(held, metadata=told))

    def request(self) -> bytes:
        """An HTTP request that may be anything."""
        path = self.pick(PATHS) + (f"?{self.word()}" if self.chance(0.1) else "")
        body = self.text(self.body()) if self.chance(0.5) else b""
        headers = {"host": "127.0.0.1", "connection": "close", "content-length": str(len(body))}
        for name, value in (
            ("content-length", self.pick(("-1", "1e3", "99999999999999999999", "0", "x"))),
            ("transfer-encoding", self.pick(("chunked", "gzip", "chunked, chunked"))),
            ("expect", "100-continue"), ("upgrade", self.pick(("websocket", "h2c"))), ("connection", "upgrade"),
            ("authorization", self.pick(("Bearer", "Bearer \xff", "Basic eA==", "Bearer " + "x" * 2000))),
            ("origin", self.pick(("null", "http://[", "http://127.0.0.1", "https://evil.example"))),
            ("sec-websocket-key", "x"), ("sec-websocket-version", "99"), ("range", "bytes=0-,1-"),
            ("content-type", "multipart/form-data"), ("cookie", "a=b"), (self.word(), self.word()),
        ):  # fmt: skip
            if self.chance(0.08):
                headers[name] = value
        lines = [
            f"{self.pick(METHODS)} {path} HTTP/1.{self.pick('110')}",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        content = "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body
        return self.mangled(content) if self.chance(0.3) else content

    def frames(self) -> bytes:
        """Bytes on a WebSocket: frames with strange opcodes, flags, masks and lengths."""
        content = self.text(self.message())[:2000]
        first = self.pick((0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0x83, 0xC1, 0xFF, 0x08))
        length = self.pick((len(content), len(content), len(content) + 5, 0, 125))
        mask = 0x80 if self.chance(0.9) else 0
        if self.chance(0.1):
            head = bytes([first, mask | 127]) + self.pick((2**62, 2**63 + 1, 2**21, length)).to_bytes(
                8, "big"
            )
        elif length < 126:
            head = bytes([first, mask | length])
        else:
            head = bytes([first, mask | 126]) + length.to_bytes(2, "big")
        frame = head + (b"\x00" * 4 if mask else b"") + content
        return self.mangled(frame) if self.chance(0.2) else frame


_KINDS = (
    "session.open", "session.open", "session.open", "session.resume", "session.resume", "session.watch",
    "input.push", "input.push", "input.push", "input.push", "input.push", "input.push", "input.finish", "output.ack",
    "input.push", "input.push", "input.push", "input.push", "input.push", "output.ack", "session.interrupt",
    "session.interrupt", "session.fork", "session.save", "session.release", "session.delete", "auth",
)  # fmt: skip


class Seen:
    """What went wrong, and what was answered."""

    def __init__(self) -> None:
        self.codes: Counter[str] = Counter()
        self.wrong: list[str] = []

    def message(self, text: str | bytes, where: str) -> None:
        told = json.loads(text)
        code = told.get("code") or (told.get("error") or {}).get("code") if told["type"] == "error" else "ok"
        self.codes[str(code)] += 1
        if code == "internal":
            self.wrong.append(f"crash: {where}: {text!r}")

    def status(self, status: int, where: str) -> None:
        self.codes[str(status)] += 1
        if status == 500:
            self.wrong.append(f"crash: {where}: status 500")


class Log(logging.Handler):
    """Errors that the server logs."""

    def __init__(self, seen: Seen) -> None:
        super().__init__(logging.ERROR)
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        said = f"{record.getMessage()} {record.__dict__.get('places', '')} {trace}"
        self._seen.wrong.append(f"crash: logged: {said}")
