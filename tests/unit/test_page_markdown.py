"""The page's markdown: what it becomes, what it never becomes, and that a text may come in pieces."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tplaunch.coordinator.server.page.markdown import MAX_COLOURED_OPEN, Renderer

RENDERER = Renderer()
TAGS = {
    *(
        "p",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "blockquote",
        "hr",
        "br",
        "em",
        "strong",
        "s",
    ),
    *("a", "code", "pre", "figure", "figcaption", "span", "button", "div"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
ATTRIBUTES = {"href", "rel", "target", "class", "start", "type", "data-copy", "tabindex", "title"}


class Checker(HTMLParser):
    """Notes what the page may not hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.found.append(f"<{tag}>")
        self.open.append(tag)
        for name, value in attrs:
            if name not in ATTRIBUTES:
                self.found.append(f"{name} of <{tag}>")
            if name == "href" and not (value or "").lower().startswith(("https:", "http:", "mailto:")):
                self.found.append(f"a link to {value}")
        if tag == "a" and dict(attrs).get("rel") != "noopener noreferrer":
            self.found.append("a link that tells where it comes from")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.found.append(f"</{tag}> that closes nothing")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a *b* **c** ~~d~~ `e`", "<p>a <em>b</em> <strong>c</strong> <s>d</s> <code>e</code></p>\n"),
        ("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>\n"),
        ("<script>\nx\n</script>", "<p>&lt;script&gt;\nx\n&lt;/script&gt;</p>\n"),
        ("[x](javascript:y)", "<p>[x](javascript:y)</p>\n"),
        ("[x](JaVaScRiPt:y)", "<p>[x](JaVaScRiPt:y)</p>\n"),
        ("[x](/v1/models)", "<p>[x](/v1/models)</p>\n"),
        ("[x](//elsewhere.example)", "<p>[x](//elsewhere.example)</p>\n"),
        ("[x](data:text/html,y)", "<p>[x](data:text/html,y)</p>\n"),
        (
            '[x](https://a.example "t")',
            '<p><a href="https://a.example" rel="noopener noreferrer" target="_blank">x</a></p>\n',
        ),
        (
            "![a *b* <c>](http://a.example/d.png)",
            '<p><a href="http://a.example/d.png" rel="noopener noreferrer" target="_blank">'
            "a b &lt;c&gt;</a></p>\n",
        ),
        ("|a|\n|-:|\n|1|", None),
    ],
)
def test_markdown_becomes_html(text: str, html: str | None) -> None:
    made = RENDERER.whole(text)
    assert Checker(made).found == []
    if html is not None:
        assert made == html
    else:
        assert '<th class="right">a</th>' in made


def test_code_is_coloured_by_the_language_that_it_names() -> None:
    assert '<span class="k">def</span>' in RENDERER.whole("```python\ndef f(): pass\n```")
    for fence in ("```", "```no-such-language", '```"><script>'):
        made = RENDERER.whole(f"{fence}\ndef f(): <b>\n```")
        assert "def f(): &lt;b&gt;\n</code>" in made
        assert Checker(made).found == []


def test_long_code_and_long_lines_stay_plain() -> None:
    assert "<span class=" not in RENDERER.whole("```python\n" + "x = 1\n" * 20_000 + "```")
    assert "<span class=" not in RENDERER.whole("```python\nx = " + "1" * 5000 + "\n```")
    code = "```python\n" + "x = 1\n" * (MAX_COLOURED_OPEN // 6 + 10)
    assert "<span class=" not in RENDERER.growing(code).rest
    assert "<span class=" in RENDERER.growing(code + "```\n\nNext\n").settled


@given(st.text(alphabet="ab [](){}<>!\"'`*_~#|-+>.1:/\\&;\n\tjavscripthe", max_size=300))
def test_no_text_becomes_a_tag_of_its_own(text: str) -> None:
    assert Checker(RENDERER.whole(text)).found == []


BLOCKS = st.sampled_from(
    [
        *("Some *text* and `code`.", "# Heading", "Setext\n===", "- a\n- b\n  - c", "1. a\n2. b", "10. z"),
        *(
            "> quoted\n> more",
            "```python\nx = 1\n\ny = 2\n```",
            "    indented",
            "---",
            "| a | b |\n|---|---|\n| 1 | 2 |",
        ),
        *("- loose\n\n- list", "~~~\nopen", "**bold\nover lines**", "<b>raw</b>", "", "* * *", "-", "2"),
    ]
)


@given(st.lists(BLOCKS, max_size=8), st.sampled_from(["\n", "\n\n"]), st.integers(1, 40))
def test_a_text_in_pieces_is_the_text_at_once(blocks: list[str], between: str, size: int) -> None:
    """As the page does it: what is settled stays, and the next piece begins behind it."""
    text = between.join(blocks)
    settled, begin = "", 0
    for end in [*range(size, len(text), size), len(text)]:
        made = RENDERER.growing(text[begin:end])
        settled += made.settled
        for _ in range(made.num_lines):
            begin = text.index("\n", begin) + 1
    assert settled + made.rest == RENDERER.whole(text)


@pytest.mark.parametrize(
    "piece", ["[", "![", "[a](b", "*a **b ", "`a``b", "> ", "- ", "<a ", "&", "|a", "_a*", "\\"]
)
def test_hostile_texts_take_work_by_their_length(piece: str) -> None:
    """A text of four times the length takes about four times the work; sixteen times would be quadratic."""
    short, long = (lines_run((piece * length)[:length]) for length in (1000, 4000))
    assert long < 6 * short


def lines_run(text: str) -> int:
    """Returns the number of Python's lines that rendering a text runs, which no load changes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        RENDERER.growing(text)
    finally:
        sys.settrace(before)
    return count
