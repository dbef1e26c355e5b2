"""Makes HTML of markdown, as the page shows answers. A model wrote it: nothing of it becomes HTML as it is.

It knows no HTTP. Pygments and markdown-it-py are loaded with the first text.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_CHARACTERS = 100_000  # of a text; the page shows longer ones as they are
# Of code that is coloured: a lexer's patterns may take long for longer lines, and a block that is still
# written is coloured anew each time.
MAX_COLOURED, MAX_COLOURED_OPEN, MAX_COLOURED_LINE = 50_000, 8_000, 2_000
MAX_NESTING = 20
SCHEMES = ("http:", "https:", "mailto:")


@dataclass(frozen=True)
class Rendered:
    """A text that may grow, in two parts."""

    settled: str  # HTML that stays as it is, whatever follows
    num_lines: int  # of the text, that are in it
    rest: str  # HTML of the lines behind, which may still become something else


class Renderer:
    """Makes HTML. Any thread may use it."""

    def __init__(self) -> None:
        self._markdown: MarkdownIt | None = None

    def whole(self, text: str) -> str:
        """Returns the HTML of a text that is complete."""
        markdown = self._made()
        environment: dict[str, Any] = {}
        return _html(markdown, markdown.parse(text, environment), environment)

    def growing(self, text: str) -> Rendered:
        """Returns the HTML of a text that still grows.

        A block at the top is settled once another one begins behind it with a whole line: an unfinished line
        such as `2` may turn out to belong to the list before it. A link whose target stands further down than
        its block is made only by `whole`.
        """
        markdown = self._made()
        environment: dict[str, Any] = {}
        tokens = markdown.parse(text, environment)
        num_whole = text.count("\n")
        starts = [
            (index, token.map[0])
            for index, token in enumerate(tokens)
            if token.level == 0 and token.nesting >= 0 and token.map and token.map[0] < num_whole
        ]
        index, line = starts[-1] if starts else (0, 0)
        settled = _html(markdown, tokens[:index], environment)
        return Rendered(
            settled,
            line if index else 0,
            _html(markdown, tokens[index:], {**environment, "is_growing": True}),
        )

    def _made(self) -> MarkdownIt:
        if self._markdown is None:
            self._markdown = _make_markdown()
        return self._markdown


def _make_markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False, "maxNesting": MAX_NESTING})
    markdown.enable(["table", "strikethrough"])
    markdown.disable(["html_block", "html_inline"])
    markdown.validateLink = _is_safe  # type: ignore[method-assign]
    for name in ("fence", "code_block"):
        markdown.add_render_rule(name, _code)
    markdown.add_render_rule("image", _image)
    markdown.add_render_rule("link_open", _link_open)
    markdown.add_render_rule("th_open", _cell_open)
    markdown.add_render_rule("td_open", _cell_open)
    markdown.add_render_rule("table_open", _table_open)
    markdown.add_render_rule("table_close", _table_close)
    return markdown


def _html(markdown: MarkdownIt, tokens: Sequence[Token], environment: MutableMapping[str, Any]) -> str:
    return str(markdown.renderer.render(tokens, markdown.options, environment))


def _is_safe(url: str) -> bool:
    """Says if a link may lead there: schemes that run nothing, and no paths of this server's own."""
    return url.strip().lower().startswith(SCHEMES)


# Rules of markdown-it-py's renderer; it calls them with itself first.


def _code(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: MutableMapping[str, Any]
) -> str:
    token = tokens[index]
    name = token.info.split()[0] if token.info.split() else ""
    is_open = "is_growing" in environment and index == len(tokens) - 1
    limit = MAX_COLOURED_OPEN if is_open else MAX_COLOURED
    coloured = _coloured(token.content, name) if len(token.content) <= limit else None
    code = escape(token.content) if coloured is None else coloured
    button = '<button type="button" data-copy="code">copy</button>'
    caption = f"<figcaption><span>{escape(name[:40])}</span>{button}</figcaption>"
    return f'<figure class="code">{caption}<pre tabindex="0"><code>{code}</code></pre></figure>\n'


def _coloured(code: str, name: str) -> str | None:
    """Returns code in spans; None for a language that nobody named or knows: it is never guessed."""
    if not name or max(map(len, code.split("\n"))) > MAX_COLOURED_LINE:
        return None
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(name, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True)))


def _image(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: MutableMapping[str, Any]
) -> str:
    """Writes a link in place of an image: what the page would fetch tells somebody that it was read."""
    token = tokens[index]
    alt = renderer.renderInlineAsText(token.children or [], options, environment)
    return f"{_anchor(str(token.attrs.get('src', '')))}{escape(alt or 'image')}</a>"


def _link_open(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: MutableMapping[str, Any]
) -> str:
    return _anchor(str(tokens[index].attrs.get("href", "")))


def _anchor(url: str) -> str:
    return f'<a href="{escape(url)}" rel="noopener noreferrer" target="_blank">'


def _cell_open(
    renderer: Any, tokens: Sequence[Token], index: int, options: Any, environment: MutableMapping[str, Any]
) -> str:
    """Gives a column's side as a class: the page allows no style in HTML."""
    side = str(tokens[index].attrs.get("style", "")).removeprefix("text-align:")
    return f'<{tokens[index].tag} class="{side}">' if side else f"<{tokens[index].tag}>"


def _table_open(*_: Any) -> str:
    return '<div class="table" tabindex="0"><table>\n'


def _table_close(*_: Any) -> str:
    return "</table></div>\n"
