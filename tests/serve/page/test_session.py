"""One session on the page: what goes in, what comes out, what can be done with it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect
from tests.serve.page.server import PageServer
from tests.serve.page.visitor import Visitor, ask, push, start

pytestmark = pytest.mark.debian


def test_text_goes_in_and_rows_and_meters_come_out(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "rows")
    push(page, "It was the best of times. " * 40)
    push(page, "It was the worst of times. " * 40)
    expect(page.locator(".entry.in")).to_contain_text("worst of times")
    expect(page.get_by_label("Rows out").get_by_text("2,120 rows")).to_be_visible()
    meters = page.get_by_label("Meters")
    expect(meters).to_contain_text("2,120")
    expect(meters).to_contain_text("288 B of 288 B")
    expect(meters.get_by_role("img", name=re.compile("^State from stream position"))).to_be_visible()
    page.get_by_role("link", name="All sessions").click()
    card = page.locator(".session-card", has_text="rows")
    expect(card).to_contain_text("2,120")
    expect(card.locator("polyline")).to_have_count(3)


def test_a_question_is_answered(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "asking")
    push(page, "four")
    ask(page, "What did you hear?")
    expect(page.locator(".entry.question")).to_have_text("questionWhat did you hear?")
    expect(page.locator(".entry.out p")).to_have_text(
        "What did you hear? after 4 characters. ", use_inner_text=True
    )
    expect(page.get_by_role("status").filter(has_text="after 4 characters")).to_have_count(1)


def test_a_question_is_put_first_and_thought_about_while_the_text_comes(
    serve: Callable[..., PageServer], visit: Callable[..., Visitor]
) -> None:
    server = serve(system="tests.serve.page.muser:Muser")
    page = visit().look(server.url)
    start(page, "musing")
    ask(page, "How many sentences?")
    thoughts, answer = page.locator(".entry.thought"), page.locator(".entry.out")
    push(page, "It was the best of times. ")
    expect(thoughts).to_have_text(["thoughtThat was number 1."])
    push(page, "It was the worst of times. It was the age of ")
    expect(thoughts).to_have_count(2)
    push(page, "wisdom. It was the age of foolishness.")
    expect(thoughts).to_have_text([f"thoughtThat was number {number}." for number in (1, 2, 3, 4)])
    expect(answer).to_have_count(0)
    page.get_by_role("radio", name="Control").check()
    page.get_by_label("A name, then its value").fill("end")
    page.keyboard.press("Enter")
    expect(answer).to_have_text(["answerI heard 4 sentences."])
    expect(thoughts.last).to_have_text("deepLet us see. ")
    order = [
        "question",
        "in",
        "thought",
        "in",
        "thought",
        "in",
        "thought",
        "thought",
        "in-data",
        "thought",
        "out",
    ]
    kinds = page.locator(".entry").evaluate_all("entries => entries.map(entry => entry.classList[1])")
    assert kinds == order
    style = "line => [getComputedStyle(line).fontStyle, getComputedStyle(line).color]"
    thought_style, answer_style = (each.locator("p").last.evaluate(style) for each in (thoughts, answer))
    assert thought_style[0] == "italic" != answer_style[0]
    assert thought_style[1] != answer_style[1]
    expect(page.get_by_role("status").filter(has_text="I heard 4 sentences.")).to_have_count(1)
    expect(page.get_by_role("status").filter(has_text="number 4")).to_have_count(0)
    page.reload()
    expect(answer).to_have_text(["answerI heard 4 sentences."])
    expect(thoughts).to_have_count(5)


def test_an_answer_is_interrupted(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "interrupted")
    ask(page, "slowly 1000000")
    expect(page.locator(".entry.out")).to_contain_text("20")
    page.get_by_role("button", name="Interrupt").click()
    expect(page.locator(".entry.note")).to_contain_text("Interrupted")
    ask(page, "Still there?")
    expect(page.locator(".entry.out").last).to_contain_text("Still there? after 0 characters.")


def test_a_fork_goes_its_own_way(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "trunk")
    push(page, "12345")
    ask(page, "And?")
    expect(page.locator(".entry.out")).to_contain_text("after 5 characters")
    page.get_by_role("button", name="Fork").click()
    page.get_by_label("Name of the fork").fill("branch")
    page.get_by_role("dialog").get_by_role("button", name="Fork").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("branch")
    push(page, "678")
    ask(page, "And now?")
    expect(page.locator(".entry.out").last).to_contain_text("And now? after 8 characters.")


def test_a_snapshot_goes_on_as_another_session(
    server: PageServer, visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    page = visit().look(server.url)
    start(page, "kept")
    push(page, "1234567")
    expect(page.get_by_label("Meters")).to_contain_text("7")
    with page.expect_download() as found:
        page.get_by_role("button", name="Download snapshot").click()
    file = tmp_path / found.value.suggested_filename
    found.value.save_as(file)
    assert file.name == "scribe.kept.snapshot"
    page.get_by_role("link", name="All sessions").click()
    page.get_by_role("button", name="New session").click()
    page.get_by_label("Name").fill("unpacked")
    page.get_by_label("Snapshot").set_input_files(file)
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.get_by_text("held by this page")).to_be_visible()
    ask(page, "How much?")
    expect(page.locator(".entry.out")).to_contain_text("How much? after 7 characters.")


def test_finish_and_delete_ask_first(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    start(page, "short")
    page.get_by_role("button", name="Finish").click()
    page.get_by_role("dialog").get_by_role("button", name="Finish").click()
    expect(page.get_by_text("The session is finished.").first).to_be_visible()
    expect(page.locator("textarea")).to_be_disabled()
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog", name="Delete short?")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Live sessions")).to_be_visible()
    expect(page.locator(".session-card", has_text="short")).to_have_count(0)


def test_a_learner_draws_its_metric_and_shows_what_it_learned(
    serve: Callable[..., PageServer], visit: Callable[..., Visitor]
) -> None:
    server = serve(system="tests.serve.page.learner:Follower")
    page = visit().look(server.url)
    start(page, "learning")
    page.get_by_label("Symbol numbers, apart by spaces").fill("0 1 2 3 " * 40)
    page.get_by_role("button", name="Push").click()
    rows = page.get_by_label("Rows out")
    expect(rows.get_by_text("160 rows")).to_be_visible()
    expect(rows.get_by_role("img", name=re.compile("^bits from stream position"))).to_be_visible()
    expect(rows.get_by_role("img", name=re.compile("^pairs from stream position"))).to_be_visible()
    graph, learned = (
        page.get_by_label("Graph learned"),
        'digraph { label="a -> b" 0 -> 0; 0 -> 1; 1 -> 2; 2 -> 3; 3 -> 0 }',
    )
    expect(graph.get_by_role("img", name="4 nodes, 5 edges")).to_be_visible()
    expect(graph.locator("path.graph-way")).to_have_count(5)
    expect(graph.locator("text.graph-node")).to_have_text(["0", "1", "2", "3"])
    graph.get_by_text("As text").click()
    expect(graph.locator("pre")).to_have_text(learned)
    with page.expect_download() as download:
        graph.get_by_role("link", name="Keep as learned.dot").click()
    assert Path(download.value.path()).read_text() == learned
    expect(page.locator(".entry.thought")).to_have_count(0)


READ = """async (text) => {
  const { readDot } = await import("./page/app/dot.js");
  const graph = readDot(text);
  return graph && { nodes: Object.fromEntries(graph.nodes), edges: graph.edges };
}"""


def test_graphs_are_read_as_systems_write_them(server: PageServer, visit: Callable[..., Visitor]) -> None:
    page = visit().look(server.url)
    written = r"""digraph "a \"graph\"" {
  rankdir=LR; node [shape=ellipse, margin=0.03];
  start [shape=point, label=""]; start -> q0;
  q0 [peripheries=2, label="0\n7 visits"];
  q0->"rare one" [label="GET /a -> b &amp; \"c\" 50%", style=dashed];
}"""
    assert page.evaluate(READ, written) == {
        "nodes": {
            "start": {"shape": "point", "label": ""},
            "q0": {"peripheries": "2", "label": "0\n7 visits"},
            "rare one": {"label": "rare one"},
        },
        "edges": [
            {"from": "start", "to": "q0"},
            {"from": "q0", "to": "rare one", "label": 'GET /a -> b & "c" 50%', "style": "dashed"},
        ],
    }
    for other in ("", "digraph {", "no graph", "digraph { subgraph x { a } }", "{" * 9, "digraph { a -> }"):
        page.evaluate(READ, other)  # whatever it is taken for, it ends
    assert page.evaluate(READ, "digraph { subgraph x { a } }") is None
