"""A real Chromium and a real server for it to look at."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright
from tests.serve.page.server import PageServer, serving
from tests.serve.page.visitor import Visitor

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        report = pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip
        report("chromium is not installed (apt-get install chromium)", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    """The server that tests share which do not harm it."""
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, "--slots", "32", "--store", str(folder / "store")) as server:
        yield server


@pytest.fixture
def serve(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., PageServer]]:
    """Starts a server of one's own."""
    with ExitStack() as stack:
        yield lambda *arguments, **named: stack.enter_context(serving(tmp_path, *arguments, **named))


@pytest.fixture
def visit(browser: Browser, serve: Callable[..., PageServer]) -> Iterator[Callable[..., Visitor]]:
    """Opens windows, and sees in the end that none of them complained or called somebody else."""
    visitors: list[Visitor] = []

    def open_window(forgiven: re.Pattern[str] | None = None, **settings: object) -> Visitor:
        visitor = Visitor(browser.new_context(**settings), forgiven=forgiven)  # type: ignore[arg-type]
        visitor.watch()
        visitors.append(visitor)
        return visitor

    yield open_window
    for visitor in visitors:
        visitor.context.close()
        assert not visitor.complaints
        assert not visitor.elsewhere
