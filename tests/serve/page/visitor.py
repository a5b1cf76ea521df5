"""A browser window that is watched, and what a visitor of the page does in it."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Page, expect


@dataclass
class Visitor:
    """A browser window that is watched: complaints of the console and requests to anywhere but the server."""

    context: BrowserContext
    complaints: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    forgiven: re.Pattern[str] | None = None

    def look(self, url: str) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: self._hear(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(url)
        return page

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not (self.forgiven and self.forgiven.search(text)):
            self.complaints.append(text)

    def _ask(self, url: str) -> None:
        if urlsplit(url).scheme not in ("blob", "data") and urlsplit(url).hostname != "127.0.0.1":
            self.elsewhere.append(url)

    def watch(self) -> None:
        self.context.on("request", lambda request: self._ask(request.url))


def start(page: Page, name: str) -> None:
    """Open a session by the page's own dialog."""
    page.get_by_role("button", name="New session").click()
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.get_by_text("held by this page")).to_be_visible()


def push(page: Page, text: str) -> None:
    page.get_by_role("radio", name="Text").check()
    page.get_by_label("Text for the stream").fill(text)
    page.get_by_role("button", name="Push", exact=True).click()


def ask(page: Page, question: str) -> None:
    page.get_by_role("radio", name="Question").check()
    page.get_by_label("A question at this point").fill(question)
    page.get_by_role("button", name="Ask").click()


def answer(page: Page) -> str:
    """The newest answer so far."""
    return page.locator(".entry.out p").last.inner_text()


def is_narrow(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
