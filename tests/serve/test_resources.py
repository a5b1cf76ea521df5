"""Systems, sessions, snapshots, metrics, health over HTTP."""

import logging
import re

import pytest
from tests.serve.conftest import said, serving
from tests.serve.toys import Echo

from unending.serve import logs
from unending.serve.app import PAGE

pytestmark = pytest.mark.anyio


async def test_systems_served_and_others():
    async with serving() as server, server.http() as http:
        systems = {each["name"]: each for each in (await http.get("/v1/systems")).json()["systems"]}
        assert systems["echo"]["served"]
        assert systems["echo"]["slots"] == 8
        assert systems["echo"]["bound"] == 792
        assert systems["echo"]["takes"] == ["Text", "Query", "Control"]
        assert systems["sum"]["settings"] == {"width": 2}
        assert not systems["streaming-llm"]["served"]


async def test_no_path_of_the_server_is_shown(tmp_path):
    from unending.serve.resources import _setting

    assert _setting(str(tmp_path / "model")) == "model"
    assert _setting("org/model") == "org/model"


async def test_sessions_one_and_all():
    async with serving() as server, server.http() as http, server.sessions() as talk:
        await talk.open("a.b")
        await talk.ask("why?", "a.b")
        (listed,) = (await http.get("/v1/sessions")).json()["sessions"]
        assert (listed["system"], listed["session"], listed["status"]) == ("echo", "a.b", "idle")
        assert "history" not in listed
        assert "key" not in listed
        one = (await http.get("/v1/sessions/echo/a.b")).json()
        assert one["history"]
        assert one["in_seq"] == 1
        forked = await http.post("/v1/sessions/echo/a.b/fork", json={"to": "c"})
        assert (forked.status_code, forked.json()["to"]) == (201, "c")
        assert (await http.post("/v1/sessions/echo/a.b/fork", json={"to": "c"})).status_code == 409
        assert (await http.post("/v1/sessions/echo/a.b/fork", json={"to": "../c"})).status_code == 400
        assert (await http.post("/v1/sessions/echo/a.b/fork", content=b"{")).status_code == 400
        assert (await http.delete("/v1/sessions/echo/c")).json()["deleted"]
        assert (await http.delete("/v1/sessions/echo/c")).status_code == 404
        assert len((await http.get("/v1/sessions")).json()["sessions"]) == 1
        await http.delete("/v1/sessions/echo/a.b")
        await talk.expect("session.deleted")


async def test_a_snapshot_is_a_file_and_a_session_again():
    async with serving() as server, server.http() as http, server.sessions() as talk:
        await talk.open()
        await talk.send("input.push", chunk={"kind": "Text", "text": "blue"})
        await talk.until("session.idle")
        got = await http.get("/v1/sessions/echo/a/snapshot")
        assert got.headers["content-disposition"] == 'attachment; filename="echo.a.snapshot"'
        put = await http.put("/v1/sessions/echo/b/snapshot", content=got.content)
        assert (put.status_code, put.json()["in_seq"]) == (201, 1)
        await talk.send("session.resume", "b")
        await talk.until("session.idle")
        assert said(await talk.ask("what?", "b")) == "what?|blue"


async def test_paths_that_do_not_exist():
    async with serving() as server, server.http() as http:
        for method, path, status in (
            ("GET", "/nothing", 404),
            ("GET", "/v1/sessions/echo/a", 404),
            ("GET", "/v1/sessions/nothing/a", 404),
            ("GET", "/v1/sessions/echo/..%2F..%2Fetc", 404),
            ("GET", "/page/../app.py", 404),
            ("GET", "/page/..%2fapp.py", 404),
            ("GET", "/page/%2e%2e/app.py", 404),
            ("GET", "/page//etc/passwd", 404),
            ("PATCH", "/v1/sessions", 405),
            ("GET", "/v1/chat/completions", 405),
            ("GET", "/health/", 404),
        ):
            answer = await http.request(method, path)
            assert answer.status_code == status, path
            assert answer.json()["error"]["code"] in ("not_found", "unknown_system")


async def test_every_answer_has_the_headers_of_security():
    async with serving() as server, server.http() as http:
        for path in ("/health", "/nothing", "/v1/sessions", "/"):
            headers = (await http.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert "server" not in headers


@pytest.mark.skipif(not (PAGE / "index.html").is_file(), reason="the page is not built")
async def test_the_page_is_served():
    async with serving() as server, server.http() as http:
        answer = await http.get("/")
        assert answer.headers["content-type"].startswith("text/html")
        for name in re.findall(r'(?:src|href)="/?(page/[^"]+)"', answer.text):
            assert (await http.get(f"/{name}")).status_code == 200, name


async def test_metrics_count_what_happened():
    async with serving() as server, server.http() as http, server.sessions() as talk:
        await talk.open()
        await talk.ask("why?")
        await talk.send("session.resume", "x")
        await talk.expect("error")
        body = {"model": "echo", "messages": [{"role": "user", "content": "hm"}]}
        await http.post("/v1/chat/completions", json=body)
        await http.get("/v1/sessions/echo/" + "secret-name")
        page = (await http.get("/metrics")).text
        figures = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
        assert figures['unending_sessions{status="idle",system="echo"}'] == "1.0"
        assert figures['unending_connections{kind="sessions"}'] == "1.0"
        assert figures['unending_opened_total{system="echo"}'] == "2.0"
        assert figures['unending_errors_total{code="not_found"}'] == "2.0"
        assert figures['unending_time_to_first_token_seconds_count{system="echo"}'] == "1.0"
        assert figures['unending_time_per_output_token_seconds_count{system="echo"}'] == "1.0"
        assert float(figures['unending_step_seconds_count{system="echo"}']) > 0
        assert figures['unending_violations_total{system="echo"}'] == "0.0"
        assert float(figures['unending_bytes_total{direction="in"}']) > 0
        request = 'unending_requests_total{method="GET",route="/v1/sessions/{system}/{session}",status="404"}'
        assert figures[request] == "1.0"
        for name in ("queue_bytes", "outbox_bytes", "state_bytes", "lag_max", "shed_total", "refused_total"):
            assert f'unending_{name}{{system="echo"}}' in figures
        for name in ("snapshots_total", "restored_total", "faults_total"):
            assert f'unending_{name}{{system="echo"}}' in figures
        assert "secret-name" not in page


async def test_a_step_falls_into_its_bucket():
    from unending.core import Histogram
    from unending.serve.metrics import _SECONDS, _buckets

    histogram = Histogram()
    for seconds in (0.0015, 0.015, 0.015, 7.0, 100.0):
        histogram.add(seconds)
    buckets, total = _buckets(histogram)
    counts = dict(buckets)
    assert [counts[str(edge)] for edge in (0.001, 0.002, 0.01, 0.02, 5.0, 10.0, 30.0)] == [
        0,
        1,
        1,
        3,
        3,
        4,
        4,
    ]
    assert (counts["+Inf"], len(buckets)) == (5.0, len(_SECONDS) + 1)
    assert total == pytest.approx(107.0315)


async def test_logs_hold_no_content_and_no_token(capsys, monkeypatch):
    secret = "the-secret-of-the-stream"
    others = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi")
    names = ("unending", "asyncio", "uvicorn", "websockets", *others)
    before = {
        name: (logger.handlers, logger.propagate, logger.level)
        for name in names
        for logger in [logging.getLogger(name)]
    }
    try:
        for kind in ("text", "json"):
            logs.configure(kind, "debug")
            async with serving(Echo()) as server, server.http() as http, server.sessions() as talk:
                await talk.open()
                for text in (secret, f"{secret} \x00", f"{secret} boom"):
                    await talk.send("input.push", chunk={"kind": "Text", "text": text})
                await talk.websocket.send(f'{{"type": "{secret}"}}')
                await talk.until("session.idle")
                await http.get(f"/{secret}?token={secret}", headers={"authorization": f"Bearer {secret}"})
                body = {"model": "echo", "messages": [{"role": "user", "content": f"{secret}"}]}
                await http.post("/v1/chat/completions", json=body)
                logging.getLogger("asyncio").error("a callback failed", exc_info=ValueError(secret))
        said = capsys.readouterr().err
        assert "route=/v1/chat/completions" in said
        assert '"event": "request"' in said
        assert "internal error" in said
        assert "a callback failed" in said
        assert secret not in said
    finally:
        for name, (handlers, propagate, level) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
