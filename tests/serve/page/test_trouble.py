"""The page when something is in the way: others, restarts, refusals, floods, tokens."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.serve.page.server import PageServer
from tests.serve.page.visitor import Visitor, answer, ask, push, start

from unending.serve.access import new_token

pytestmark = pytest.mark.debian

UNREACHABLE = re.compile(
    "ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE|Error in connection establishment"
)
UNAUTHORIZED = re.compile("status of 401")
OVER_LIMIT = re.compile("status of 4(01|29)")


def test_an_endless_answer_stays_bounded(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "endless")
    ask(page, "at length 400")
    expect(page.locator(".entry.out").last).to_contain_text("0400 ")
    expect(page.get_by_text(re.compile("older characters are no longer kept"))).to_be_visible()
    assert page.locator(".stream").evaluate("box => box.textContent.length") < 45_000
    assert page.locator(".stream *").count() < 200
    _, *numbers = map(int, answer(page).split())
    assert numbers == list(range(401 - len(numbers), 401))
    assert len(numbers) > 150
    page.wait_for_timeout(500)  # acknowledgements go out five times a second
    view = page.request.get(f"{server.url}v1/sessions/scribe/endless").json()
    assert 100 < view["acknowledged"] < 300, "old outputs are let go, the newest are kept for a reload"


def test_what_is_refused_comes_back_into_the_box(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "refused")
    page.get_by_role("radio", name="Control").check()
    page.get_by_label("A name, then its value").fill("dance")
    page.keyboard.press("Enter")
    expect(page.locator(".entry.note")).to_contain_text("scribe knows no dance")
    page.get_by_role("radio", name="Tokens").check()
    for given, answered in [
        ("1 2 many", "is not a line of numbers"),
        ("1 2 300", "outside the accepted 0 to 255"),
    ]:
        page.get_by_label("Token ids").fill(given)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text=answered)).to_be_visible()
        expect(page.get_by_label("Token ids")).to_have_value(given)
    ask(page, "Fine?")
    expect(page.locator(".entry.out")).to_contain_text("Fine?")


def test_a_session_of_somebody_else_is_watched_and_can_be_taken_over(
    server: PageServer, visit: Callable[..., Visitor]
) -> None:
    holder = visit().look(server.url)
    start(holder, "shared")
    watcher = visit().look(f"{server.url}#/session/scribe/shared")
    expect(watcher.get_by_text("held by another client, watched here")).to_be_visible()
    expect(watcher.locator("textarea")).to_be_disabled()
    ask(holder, "Who is there?")
    expect(watcher.locator(".entry.out")).to_contain_text("Who is there? after 0 characters.")
    watcher.get_by_role("button", name="Take it over").click()
    expect(watcher.get_by_text("held by this page")).to_be_visible()
    expect(holder.get_by_text("Another client took this session over.")).to_be_visible()
    ask(watcher, "And now?")
    expect(holder.locator(".entry.out").last).to_contain_text("And now? after 0 characters.")
    expect(watcher.locator(".entry.out").last).to_contain_text("And now? after 0 characters.")
    assert answer(watcher).count("after") == 1


def test_a_reload_goes_on_with_the_session(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "reloaded")
    ask(page, "First?")
    expect(page.locator(".entry.out")).to_contain_text("First? after 0 characters.")
    page.reload()
    expect(page.get_by_text("held by this page")).to_be_visible()
    expect(page.locator(".entry.out")).to_contain_text("First? after 0 characters.")
    ask(page, "Second?")
    expect(page.locator(".entry.out").last).to_contain_text("Second? after 0 characters.")


def test_a_session_that_is_not_there(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(f"{server.url}#/session/scribe/nobody")
    expect(page.get_by_text("not on the server")).to_be_visible()
    expect(page.locator("textarea")).to_be_disabled()


def test_a_restart_of_the_server_is_survived(
    serve: Callable[..., PageServer], visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    server = serve("--store", str(tmp_path / "store"))
    page = visit(forgiven=UNREACHABLE).look(server.url)
    start(page, "survivor")
    push(page, "before")
    ask(page, "slowly 300")
    expect(page.locator(".entry.out")).to_contain_text("100")
    server.kill()
    expect(page.get_by_text("connection lost, trying again").first).to_be_visible()
    push(page, "while it was away")
    ask(page, "And?")
    server.start()
    expect(page.locator(".entry.out").last).to_contain_text("And? after 23 characters.", timeout=30_000)
    said = " ".join(page.locator(".entry.out p").all_inner_texts()).split()
    assert said == [*map(str, range(1, 301)), "And?", "after", "23", "characters."]


def test_a_token_is_asked_for_and_kept_in_the_tab_alone(
    serve: Callable[..., PageServer], visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(f"{line}\n")
    server = serve("--token-file", str(tmp_path / "tokens"))
    page = visit(forgiven=UNAUTHORIZED).look(server.url)
    page.get_by_role("textbox", name="Token").fill("guessed")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The token was not accepted.")).to_be_visible()
    page.get_by_role("textbox", name="Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator(".system-card")).to_contain_text("scribe")
    start(page, "guarded")
    ask(page, "Who?")
    expect(page.locator(".entry.out")).to_contain_text("Who? after 0 characters.")
    assert page.evaluate("JSON.stringify([{...localStorage}, document.cookie])").count(token) == 0
    assert page.evaluate("Object.values({...sessionStorage})") == [token]


def test_a_busy_server_is_waited_for(serve: Callable[..., PageServer], visit: Callable[..., Visitor]) -> None:
    server = serve("--late", "refuse")
    page = visit().look(server.url)
    start(page, "flood")
    ask(page, "slowly 1000000")
    book = {"name": "book.txt", "mimeType": "text/plain", "buffer": b"0123456789abcde\n" * 72_000}
    page.locator("input[type=file]").set_input_files([book])
    expect(page.get_by_role("alert").filter(has_text="The server is busy")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Try now").click()
    page.get_by_role("button", name="Interrupt").click()
    expect(page.get_by_text("book.txt")).to_have_count(0, timeout=30_000)
    ask(page, "How much?")
    expect(page.locator(".entry.out").last).to_contain_text("How much? after 1152000 characters.")


def test_what_is_beyond_the_limits_of_a_token_is_sent_again(
    serve: Callable[..., PageServer], visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    token, line = new_token("ann")
    (tmp_path / "tokens").write_text(f"{line} bytes=40000\n")
    server = serve("--token-file", str(tmp_path / "tokens"))
    page = visit(forgiven=OVER_LIMIT).look(server.url)
    page.get_by_role("textbox", name="Token").fill(token)
    page.keyboard.press("Enter")
    expect(page.locator(".system-card")).to_contain_text("scribe")
    start(page, "limited")
    book = {"name": "book.txt", "mimeType": "text/plain", "buffer": b"0123456789abcde\n" * 12_000}
    page.locator("input[type=file]").set_input_files([book])
    expect(page.get_by_role("alert").filter(has_text="The server is busy")).to_be_visible()
    expect(page.get_by_text("book.txt")).to_have_count(0, timeout=30_000)
    page.wait_for_timeout(1_000)  # the bucket fills again
    ask(page, "How much?")
    expect(page.locator(".entry.out").last).to_contain_text("How much? after 192000 characters.")
