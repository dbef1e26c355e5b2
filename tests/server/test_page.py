"""The page in a real browser, before a model that says what each test has written for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.browser import chromium
from tests.fake_session import demo_model
from tests.page_server import BREAK, FACTS, HOLD, PageServer, serve
from tests.patience import wait_for
from tests.serving import ECHO, NAME, served
from tplaunch.coordinator.server.access import Access, digest_of
from tplaunch.coordinator.serving.stats import Health
from tplaunch.coordinator.text.chat.template import KEY

Open = Callable[..., Page]
SECONDS = 60_000  # milliseconds that a slow machine may take for anything


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=SECONDS)
    with chromium() as opened:
        yield opened


@pytest.fixture
def server() -> Iterator[PageServer]:
    with serve(PageServer()) as running:
        yield running


@pytest.fixture
def page_of(browser: Browser, server: PageServer) -> Iterator[Open]:
    """Opens the page in a context of its own. Whatever the browser's console says fails the test."""
    contexts: list[BrowserContext] = []
    said: list[str] = []

    def open_page(url: str = "", key: str | None = None, model: str = FACTS.name, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(SECONDS)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(url or server.url)
        if key is not None:
            page.fill("[name=key]", key)
            page.keyboard.press("Enter")
        expect(page.locator(".welcome h2")).to_have_text(model)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # Where a test takes the server away, the browser itself says so.
    assert [text for text in said if "Failed to load resource" not in text and "net::" not in text] == []


@pytest.fixture
def page(page_of: Open) -> Page:
    return page_of()


def send(page: Page, text: str) -> None:
    page.fill("#input", text)
    page.keyboard.press("Enter")


def answered(page: Page, text: str) -> None:
    """Waits for a complete answer, whose markdown is drawn."""
    expect(page.locator(".turn.assistant").last.locator(".text")).to_contain_text(text)
    expect(page.locator(".streaming")).to_have_count(0)


def test_an_answer_streams_as_markdown(page: Page, server: PageServer) -> None:
    server.script = lambda body: ["Some **bold", "** words.\n\n", "- one\n- tw", HOLD, "o\n"]
    send(page, "Tell me")
    expect(page.locator(".turn.user .body")).to_have_text("Tell me")
    expect(page.locator(".streaming strong")).to_have_text("bold")
    expect(page.locator(".streaming li").last).to_have_text("tw")
    expect(page.locator("#send")).to_have_text("Stop")
    server.go_on.set()
    answered(page, "two")
    expect(page.locator("#send")).to_have_text("Send")
    expect(page.locator(".turn.assistant .facts")).to_contain_text("4 tokens")
    expect(page.locator("#used")).to_have_text("25 of 4,096 tokens")
    expect(page.locator("#live")).to_contain_text("The answer is complete. Some")
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Tell me"}]
    assert server.bodies[0]["stream"] is True


def test_stop_ends_the_request_and_keeps_the_text(page: Page, server: PageServer) -> None:
    server.script = lambda body: ["This far", HOLD, " and further"]
    send(page, "Go")
    expect(page.locator(".streaming")).to_contain_text("This far")
    page.click("#send")
    answered(page, "This far")
    expect(page.locator(".end")).to_have_text("Stopped.")
    assert server.gone.wait(SECONDS / 1000), "the server never heard that the client had left"
    page.reload()
    answered(page, "This far")
    expect(page.locator(".turn.user")).to_contain_text("Go")
    expect(page.locator("#list .open")).to_have_text("Go")


def test_a_reload_amid_an_answer_keeps_what_has_come(page: Page, server: PageServer) -> None:
    server.script = lambda body: ["Half of", HOLD]
    send(page, "Go")
    expect(page.locator(".streaming")).to_contain_text("Half of")
    page.reload()
    answered(page, "Half of")
    expect(page.locator(".end")).to_have_text("This answer is not complete.")
    server.script = lambda body: [" something"]
    page.get_by_role("button", name="go on").click()
    answered(page, "Half of something")
    expect(page.locator(".end")).to_have_count(0)


def test_again_edit_and_resend(page: Page, server: PageServer) -> None:
    numbers = iter(range(9))
    server.script = lambda body: [f"Answer {next(numbers)}"]
    for text in ("first", "second"):
        send(page, text)
        answered(page, "Answer")
    page.locator(".turn.assistant").last.get_by_role("button", name="again").click()
    answered(page, "Answer 2")
    page.locator(".turn.user").first.hover()
    page.locator(".turn.user").first.get_by_role("button", name="edit").click()
    expect(page.locator(".edit")).to_be_focused()
    page.fill(".edit", "other")
    page.keyboard.press("Enter")
    answered(page, "Answer 3")
    expect(page.locator(".turn")).to_have_count(2)
    assert [[one["content"] for one in body["messages"]] for body in server.bodies] == [
        ["first"],
        ["first", "Answer 0", "second"],
        ["first", "Answer 0", "second"],
        ["other"],
    ]


def test_reasoning_is_folded_and_not_sent_back(page: Page, server: PageServer) -> None:
    server.script = lambda body: [{"reasoning_content": "It asks."}, HOLD, "Yes."]
    send(page, "Well?")
    expect(page.locator(".reasoning.running summary")).to_have_text("Reasoning")
    server.go_on.set()
    answered(page, "Yes.")
    expect(page.locator(".reasoning summary")).to_contain_text("Reasoned for")
    expect(page.get_by_text("It asks.")).to_be_hidden()
    page.click(".reasoning summary")
    expect(page.get_by_text("It asks.")).to_be_visible()
    send(page, "And?")
    answered(page, "Yes.")
    assert "It asks." not in json.dumps(server.bodies[1])


def test_settings_are_sent_and_kept(page: Page, server: PageServer) -> None:
    page.keyboard.press("Alt+s")
    page.fill("[name=system]", "Be short.")
    page.fill("[name=temperature]", "0.5")
    page.fill("[name=max_tokens]", "40")
    page.fill("[name=stop]", "END")
    page.select_option("[name=thinking]", "off")
    page.get_by_role("button", name="Done").click()
    send(page, "Hi")
    answered(page, "Hello there.")
    page.reload()
    send(page, "Again")
    expect(page.locator(".turn")).to_have_count(4)
    answered(page, "Hello there.")
    for body in server.bodies:
        assert body["messages"][0] == {"role": "system", "content": "Be short."}
        assert body["temperature"] == 0.5
        assert body["max_tokens"] == 40
        assert body["stop"] == ["END"]
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
        assert "seed" not in body


def width_of(page: Page, selector: str) -> float:
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["width"]


def test_the_bars_move_with_the_ranks(page: Page, server: PageServer) -> None:
    parts = page.locator("#ledger li").first.locator(".parts")
    expect(parts).to_have_attribute("aria-label", "Rank 0 has done no step yet")
    server.work(steps=50, tokens=150, num_running=3, num_waiting=2, num_blocks_used=32, kv_usage=0.25)
    expect(parts).to_have_attribute(
        "aria-label",
        "Rank 0, 20.0 ms a step: computing 60 %, wait 10 %, all-reduce 15 %, submit 5 %, host 3 %,"
        " coordinator 7 %",
    )
    expect(page.locator("#ledger li").nth(1)).to_contain_text("Card B")
    expect(page.locator("#rate")).not_to_have_text("0")
    expect(page.locator("#running")).to_have_text("3")
    expect(page.locator("#waiting")).to_have_text("2")
    expect(page.locator("#kv-note")).to_have_text("KV cache, 32 of 128 blocks")
    # The page asks every so often; older Playwrights can't wait for a function where no text may be run.
    wait_for(lambda: abs(width_of(page, "#ledger i.device") / width_of(page, "#ledger .parts") - 0.6) < 0.03)
    expect(page.locator("#ledger.resting li").first).to_contain_text("idle")  # nothing has been done since


def test_with_the_keyboard_alone(page: Page, server: PageServer) -> None:
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.type("One")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    answered(page, "Hello there.")
    assert server.bodies[0]["messages"][0]["content"] == "One\ntwo"
    page.keyboard.press("Alt+n")
    server.script = lambda body: ["Other", HOLD, " end"]
    page.keyboard.type("Second conversation")
    page.keyboard.press("Enter")
    expect(page.locator(".streaming")).to_contain_text("Other")
    page.keyboard.press("Escape")
    answered(page, "Other")
    page.keyboard.press("Alt+ArrowDown")
    answered(page, "Hello there.")
    page.keyboard.press("Alt+ArrowUp")
    answered(page, "Other")
    expect(page.locator("#send")).to_have_text("Send")
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".edit")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#input")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("#input")).to_be_focused()


def test_tab_goes_through_everything_in_order_and_is_seen(page: Page) -> None:
    send(page, "Hi")
    answered(page, "Hello there.")
    page.locator(".skip").focus()
    seen = []
    for _ in range(16):
        seen.append(
            page.evaluate(
                """() => {
                  const { id, textContent, ariaLabel } = document.activeElement;
                  const { outlineStyle } = getComputedStyle(document.activeElement);
                  return [id || ariaLabel || textContent.trim(), outlineStyle];
                }"""
            )
        )
        page.keyboard.press("Tab")
    assert [name for name, _ in seen] == [
        "Skip to the message",
        "settings-open",
        "theme",
        "new",
        "Hi",
        "Save “Hi” as markdown",
        "Delete “Hi”",
        "export",
        "delete-all",
        "help-open",
        "copy",
        "edit",
        "copy",
        "again",
        "input",
        "send",
    ]
    unseen = [name for name, outline in seen if outline == "none" and name != "input"]
    assert unseen == [], "the focus is not seen; the message's own is drawn around its frame"


LONG = "# " + "heading " * 30 + "\n\n" + "word" * 200 + "\n\n```text\n" + "x" * 400 + "\n```\n\n"
TABLE = "|" + " column |" * 12 + "\n|" + "---|" * 12 + "\n|" + " `" + "y" * 60 + "` |" * 12 + "\n"


def test_nothing_is_wider_than_a_phone(page_of: Open, server: PageServer) -> None:
    page = page_of(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    server.script = lambda body: [LONG + TABLE]
    send(page, "w" * 300)
    answered(page, "column")

    def width() -> int:
        return int(page.evaluate("Math.max(document.documentElement.scrollWidth, scroll.scrollWidth)"))

    page.evaluate("window.scroll = document.getElementById('scroll')")
    assert width() == 360
    expect(page.locator("#new")).to_be_hidden()
    page.click("#menu")
    expect(page.locator("#new")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#menu")).to_be_focused()
    expect(page.locator("#rate")).to_be_hidden()
    page.click("#ranks-toggle")
    expect(page.locator("#rate")).to_be_visible()
    assert width() == 360
    page.click("#ranks-toggle")
    page.click("#settings-open")
    box = page.locator("#settings").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360


def test_dark_as_the_system_is_or_as_chosen(page_of: Open) -> None:
    page = page_of(color_scheme="dark")

    def brightness() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").rstrip(")").split(","))

    assert brightness() < 150
    page.click("#theme")
    expect(page.locator("#theme-name")).to_have_text("Theme: light")
    assert brightness() > 600
    page.reload()
    assert brightness() > 600
    page.click("#theme")
    expect(page.locator("#theme-name")).to_have_text("Theme: dark")
    assert brightness() < 150


ATTACKS = """<script>window.hit = 1</script>
<img src=x onerror="window.hit = 2">

[a link](javascript:window.hit=3) ![](javascript:window.hit=4) <javascript:window.hit=5>
[data](data:text/html,<script>window.hit=6</script>) [entity](java&#115;cript:window.hit=7)
[break](https://example.com/"onmouseover="window.hit=8) ![alt" onerror="window.hit=9](https://example.com/x.png)

<svg onload="window.hit = 10"></svg><iframe srcdoc="<script>parent.hit = 11</script>"></iframe>

```"><script>window.hit=12</script>
</code></pre><script>window.hit = 13</script>
```

```html
<script>window.hit = 14</script>
```
"""


def test_a_model_that_attacks_the_page_only_writes(page: Page, server: PageServer) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    server.script = lambda body: [{"reasoning_content": ATTACKS}, *ATTACKS, "The end"]
    send(page, ATTACKS)
    answered(page, "The end")
    page.reload()
    answered(page, "The end")
    expect(page.locator(".turn a").first).to_be_visible()
    assert page.evaluate("window.hit") is None
    inside = page.locator(".turn")
    assert (
        inside.locator("script, img, svg, iframe, [onerror], [onmouseover], [onload], [style]").count() == 0
    )
    links = page.locator(".turn a").evaluate_all(
        "all => all.map((one) => [one.protocol, one.rel, one.target])"
    )
    assert all(link == ["https:", "noopener noreferrer", "_blank"] for link in links)
    assert all(url.startswith(server.url) for url in asked)


def test_what_the_policy_forbids_does_not_run(browser: Browser, server: PageServer) -> None:
    """Even if HTML of a model's came into the page, nothing in it would run."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    for attempt in (
        "document.body.innerHTML = '<b>'",
        "document.body.setAttribute('onclick', 'window.hit = 1')",
    ):
        assert page.evaluate(f"(() => {{ try {{ {attempt}; return false }} catch {{ return true }} }})()"), (
            attempt
        )
    assert page.evaluate("window.hit") is None
    context.close()


def test_a_lost_connection_is_told_and_tried_again(page: Page, server: PageServer) -> None:
    server.script = lambda body: ["Half", HOLD, BREAK]
    send(page, "Go")
    expect(page.locator(".streaming")).to_contain_text("Half")
    server.go_on.set()
    expect(page.locator(".wrong")).to_contain_text("The connection was lost before the answer was complete.")
    expect(page.locator(".turn.assistant")).to_contain_text("Half")
    server.script = lambda body: ["Whole"]
    page.get_by_role("button", name="Try again").click()
    answered(page, "Whole")
    expect(page.locator(".wrong")).to_have_count(0)


def test_an_error_is_a_sentence(page: Page, server: PageServer) -> None:
    server.script = lambda body: ["Half", {"error": "rank 1 ended; its log: nowhere"}]
    send(page, "Go")
    expect(page.locator(".wrong")).to_contain_text("rank 1 ended; its log: nowhere")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".wrong")).to_contain_text("The server can't be reached.")


def test_an_answer_that_was_cut_goes_on(page: Page, server: PageServer) -> None:
    server.script = lambda body: ["One two", {"finish_reason": "length"}]
    send(page, "Count")
    answered(page, "One two")
    expect(page.locator(".end")).to_contain_text("as many tokens as it may have")
    server.script = lambda body: [" three"]
    page.get_by_role("button", name="go on").click()
    answered(page, "One two three")
    assert server.bodies[1]["messages"][-1] == {"role": "assistant", "content": "One two"}
    assert server.bodies[1]["continue_final_message"] is True


def test_a_model_without_a_template_continues_texts(page_of: Open) -> None:
    facts = replace(FACTS, has_template=False)
    with serve(PageServer(facts=facts, script=lambda body: [" there was", " a *fox*."])) as server:
        page = page_of(server.url)
        expect(page.locator(".told")).to_contain_text("has no chat template")
        send(page, "Once upon a time")
        expect(page.locator(".turn.assistant")).to_contain_text("there was a *fox*.")
        expect(page.locator("#send")).to_have_text("Go on")
        send(page, "")
        expect(page.locator(".turn")).to_have_count(3)
        expect(page.locator("#send")).to_have_text("Go on")
        assert [body["prompt"] for body in server.bodies] == [
            "Once upon a time",
            "Once upon a time there was a *fox*.",
        ]


def test_an_old_conversation_says_that_this_model_answers_none(page_of: Open, server: PageServer) -> None:
    page = page_of()
    send(page, "Hi")
    answered(page, "Hello there.")

    def without_template(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "chat": False})

    page.route("**/page/status", without_template)
    page.reload()
    expect(page.locator("#notice")).to_contain_text("This model has no chat template")
    page.keyboard.press("Alt+n")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#input")).to_have_attribute("placeholder", "A text to continue")
    page.unroute_all(behavior="wait")


def test_the_key_is_asked_for_once(page_of: Open) -> None:
    with serve(PageServer(key="open sesame")) as server:
        page = page_of(server.url, key="open sesame")
        send(page, "Hi")
        answered(page, "Hello there.")
        page.reload()
        answered(page, "Hello there.")


def test_a_wrong_key_is_told_and_no_key_asks_once(browser: Browser) -> None:
    with serve(PageServer(key="open sesame")) as server:
        page = browser.new_page()
        page.goto(server.url)
        page.fill("[name=key]", "open barley")
        page.keyboard.press("Enter")
        expect(page.locator("#key-wrong")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#notice")).to_have_text("the key is wrong")
        with page.expect_response("**/page/status"):
            pass  # it goes on asking the server, and asks nobody for a key
        expect(page.locator("#key")).to_be_hidden()
        send(page, "Hi")
        page.fill("[name=key]", "open sesame")
        page.keyboard.press("Enter")
        answered(page, "Hello there.")
        page.close()


def test_conversations_are_exported_and_deleted(page: Page) -> None:
    for text in ("First <b>one</b>", "Second"):
        page.keyboard.press("Alt+n")
        send(page, text)
        answered(page, "Hello there.")
    with page.expect_download() as waiting:
        page.click("#export")
    exported = json.loads(waiting.value.path().read_text())
    assert [one["title"] for one in exported["conversations"]] == ["Second", "First <b>one</b>"]
    assert exported["conversations"][0]["messages"][1]["content"] == "Hello there."
    page.hover("#list li >> nth=0")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save “Second” as markdown").click()
    assert waiting.value.path().read_text() == "# Second\n\n## You\n\nSecond\n\n## Model\n\nHello there.\n"
    page.get_by_role("button", name="Delete “Second”").click()
    page.locator("#ask").get_by_role("button", name="Delete").click()
    expect(page.locator("#list li")).to_have_count(1)
    expect(page.locator(".turn")).to_have_count(0)
    page.click("#delete-all")
    page.locator("#ask").get_by_role("button", name="Delete").click()
    expect(page.locator("#list li")).to_have_count(0)
    assert page.evaluate("Object.keys(localStorage).filter((key) => key.includes('conversation'))") == []


def test_the_oldest_conversations_make_room(page: Page) -> None:
    kept, told = page.evaluate(
        """async () => {
          const store = await import("./page/store.js");
          let told = "";
          for (let at = 0; at < 6; at += 1) {
            const one = store.make("chat");
            one.updated = at;
            one.messages.push({ role: "user", content: `${at} ${"x".repeat(900_000)}` });
            told = store.put(one);
          }
          return [store.all().map(({ title }) => title[0]), told];
        }"""
    )
    assert kept == ["5", "4", "3", "2"]
    assert told == "The oldest conversation made room for this one."


def test_code_is_copied(page_of: Open, server: PageServer) -> None:
    page = page_of(permissions=["clipboard-read", "clipboard-write"])
    server.script = lambda body: ["```python\nx = '<b>'  # y\n```\n"]
    send(page, "Code")
    answered(page, "x =")
    expect(page.locator(".code .s1")).to_have_text("'<b>'")
    page.click(".code button")
    expect(page.locator(".code button")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == "x = '<b>'  # y\n"


def test_the_page_over_the_application(page_of: Open) -> None:
    """A story goes on, a conversation is answered, and what is refused is told in the server's words."""
    access = Access(keys=(digest_of("open sesame"),))
    with served(metadata={**demo_model().metadata, KEY: ECHO}, access=access) as running:
        page = page_of(running.url + "/", key="open sesame", model=NAME)
        page.keyboard.press("Alt+s")
        page.fill("[name=temperature]", "0")
        page.fill("[name=max_tokens]", "12")
        page.get_by_role("button", name="Done").click()
        send(page, "Once upon a time")
        expect(page.locator(".turn.assistant .facts")).to_contain_text("tokens")
        assert page.evaluate("document.querySelectorAll('.wrong').length") == 0
        expect(page.locator("#ledger li").first).to_contain_text("fake device 0")
        expect(page.locator("#step-time")).not_to_have_text("–")
        expect(page.locator("#list .running")).to_have_count(0)
        text = page.locator(".turn.assistant .body")
        begun = text.text_content() or ""
        page.get_by_role("button", name="go on").click()
        expect(page.locator("#used")).to_contain_text("of 64 tokens")
        expect(text).to_have_text(re.compile(re.escape(begun.strip()[:10]) + r".{20}", re.DOTALL))
        send(page, "there was a fox, " * 40)
        expect(page.locator(".wrong")).to_contain_text("tokens")


def test_a_model_that_has_ended_is_told(page: Page, server: PageServer) -> None:
    server.health = Health("ended", "rank 1 ended with signal 11")
    expect(page.locator("#notice")).to_have_text("rank 1 ended with signal 11.")
    server.health = Health()
    expect(page.locator("#notice")).to_be_hidden()


def test_a_very_long_answer_is_drawn_in_parts(page: Page, server: PageServer) -> None:
    block = "- *one* \U0001f98a " + "word " * 600 + "\n- two\n\n```python\nx = 1\n```\n\n"
    server.script = lambda body: [block * 12] * 3
    send(page, "Much")
    answered(page, "two")
    expect(page.locator(".turn em")).to_have_count(36)
    page.reload()
    expect(page.locator(".turn em")).to_have_count(36)
    expect(page.locator(".text .plain")).to_have_count(0)


def test_the_end_is_followed_unless_one_reads_above(page: Page, server: PageServer) -> None:
    lines = "a line\n\n" * 80
    server.script = lambda body: [lines, HOLD, lines + "the end"]
    send(page, "Go")
    expect(page.locator(".streaming .text p")).to_have_count(80)
    page.evaluate("document.getElementById('scroll').scrollTop = 100")
    expect(page.locator("#to-end")).to_be_visible()
    server.go_on.set()
    answered(page, "the end")
    assert page.evaluate("document.getElementById('scroll').scrollTop") == 100
    page.click("#to-end")
    expect(page.locator("#to-end")).to_be_hidden()
    expect(page.get_by_text("the end", exact=True)).to_be_in_viewport()


def test_another_conversation_is_read_while_one_is_answered(page: Page, server: PageServer) -> None:
    send(page, "First")
    answered(page, "Hello there.")
    page.keyboard.press("Alt+n")
    server.script = lambda body: ["Slow", HOLD, " answer"]
    send(page, "Second")
    expect(page.locator(".streaming")).to_contain_text("Slow")
    page.keyboard.press("Alt+ArrowDown")
    answered(page, "Hello there.")
    expect(page.locator("#list li.running")).to_contain_text("Second")
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator(".streaming")).to_contain_text("Slow")
    page.keyboard.press("Alt+ArrowDown")
    server.go_on.set()
    expect(page.locator("#list li.running")).to_have_count(0)
    page.keyboard.press("Alt+ArrowUp")
    answered(page, "Slow answer")


def test_two_tabs_show_the_same_conversations(page: Page, server: PageServer) -> None:
    other = page.context.new_page()
    other.goto(server.url)
    expect(other.locator(".welcome h2")).to_be_visible()
    send(page, "From the first")
    answered(page, "Hello there.")
    expect(other.locator("#list li")).to_contain_text("From the first")
    other.click("#list .open")
    answered(other, "Hello there.")
    page.keyboard.press("Alt+r")
    expect(other.locator(".turn.assistant .facts")).to_contain_text("2 tokens")
    assert len(server.bodies) == 2


def test_a_server_that_is_away_is_told_until_it_is_back(page: Page, server: PageServer) -> None:
    page.route("**/page/status", lambda route: route.abort())
    expect(page.locator("#model")).to_have_text("the server can’t be reached")
    page.unroute_all(behavior="wait")
    expect(page.locator("#model")).to_have_text(FACTS.name)


def test_a_silent_connection_is_lost(browser: Browser, server: PageServer) -> None:
    page = browser.new_page()
    page.clock.install()
    page.goto(server.url)
    expect(page.locator(".welcome h2")).to_be_visible()
    server.script = lambda body: ["Half", HOLD]
    send(page, "Go")
    assert server.held.wait(15)
    page.clock.run_for(1000)
    expect(page.locator(".streaming")).to_contain_text("Half")
    page.clock.run_for(60_000)
    expect(page.locator(".wrong")).to_contain_text("The connection was lost")
    assert server.gone.wait(15), "the server still computes"
    page.close()


def test_the_focus_stays_in_the_list_while_an_answer_grows(page: Page, server: PageServer) -> None:
    server.script = lambda body: ["Some", HOLD, *["more "] * 50]
    send(page, "Go")
    expect(page.locator(".streaming")).to_contain_text("Some")
    page.focus("#list .open")
    server.go_on.set()
    answered(page, "more")
    expect(page.locator("#list .running")).to_have_count(0)
    expect(page.locator("#list .open")).to_be_focused()
