"""What the page shows, to whom, on what screen, and that hostile text stays text."""

from collections.abc import Callable

import pytest
from playwright.sync_api import expect
from tests.serve.page.server import PageServer
from tests.serve.page.visitor import Visitor, ask, is_narrow, push, start

pytestmark = pytest.mark.debian

HOSTILE = "<img src=x onerror=window.hurt=1><script>window.hurt=1</script><a href=javascript:hurt=1>a</a>"


def test_catalogue_says_what_is_served_and_greys_the_rest(
    server: PageServer, visit: Callable[..., Visitor]
) -> None:
    page = visit().look(server.url)
    card = page.locator(".system-card", has_text="scribe")
    for fact in ("writes down what it is told", "Text", "Query", "Rows", "288 B a session", "bitwise"):
        expect(card).to_contain_text(fact)
    paper = card.get_by_role("link", name="On Writing Down")
    expect(paper).to_have_attribute("href", "https://arxiv.org/abs/3101.00001")
    expect(page.locator(".others")).to_contain_text("streaming-llm")
    expect(page.locator(".system-card")).to_have_count(1)


def test_hostile_text_is_inert(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "hostile")
    push(page, HOSTILE)
    ask(page, HOSTILE)
    expect(page.locator(".entry.out")).to_contain_text(HOSTILE)
    expect(page.locator(".entry.question")).to_contain_text(HOSTILE)
    expect(page.locator(".entry.in")).to_contain_text(HOSTILE)
    assert page.locator(".stream :is(img, script, a)").count() == 0
    assert page.evaluate("window.hurt") is None


def test_everything_can_be_done_by_keyboard(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    expect(page.get_by_role("button", name="New session")).to_be_enabled()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="New session")).to_be_focused()
    ring = "element => getComputedStyle(element).outlineStyle"
    assert page.get_by_role("button", name="New session").evaluate(ring) == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_label("System", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="New session")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+a")
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    expect(page.get_by_text("held by this page")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    for _ in range(12):
        if page.evaluate("document.activeElement.name") == "kind":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Tab")
    page.keyboard.type("slowly 1000000")
    page.keyboard.press("Enter")
    expect(page.locator(".entry.out")).to_contain_text("3")
    page.keyboard.press("Escape")
    expect(page.locator(".entry.note")).to_contain_text("Interrupted")
    page.keyboard.press("Tab")
    expect(page.locator("textarea")).not_to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(server: PageServer, visit: Callable[..., Visitor], scheme: str) -> None:
    page = visit(viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True).look(server.url)
    start(page, f"a-name-as-long-as-a-name-can-be-{'x' * 60}-{scheme}")
    push(page, "unbroken" * 200)
    expect(page.get_by_label("Rows out").get_by_text("1,600 rows")).to_be_visible()
    assert is_narrow(page)
    page.get_by_role("button", name="Fork").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert is_narrow(page)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="All sessions").click()
    expect(page.locator(".session-card").first).to_be_visible()
    assert is_narrow(page)


def test_dark_and_light(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit(color_scheme="dark").look(server.url)
    light = "() => Number(getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/)[0]) > 127"
    assert page.evaluate(light) is False
    toggle = page.get_by_role("button", name="Theme")
    toggle.click()
    expect(toggle).to_have_accessible_name("Theme: light")
    assert page.evaluate(light) is True
    page.reload()
    assert page.evaluate(light) is True
    toggle.click()
    assert page.evaluate(light) is False
