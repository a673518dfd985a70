"""Pieces of HTML, and the whole page of them: one file, whose policy forbids everything else."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from capsjax import __version__

ASSETS = Path(__file__).parent
STYLE = "page.css"
# In the order in which they run.
SCRIPTS = ("tables.js", "curves.js", "decoder.js", "poses.js", "page.js")
# Spaces of a cell that is no number any more.
SENTENCE = 5


class Markup(str):
    """Text that is HTML already; any other text is escaped where it becomes a part of the page."""


class Section(NamedTuple):
    """A section of a page.

    Attributes:
      name: its place in the address, such as "curves".
      heading: its heading.
      body: what follows.
    """

    name: str
    heading: str
    body: Markup


def element(name: str, *content: str | int, **attributes: str | int | bool | None) -> Markup:
    """Make an element.

    Args:
      name: name of the element.
      *content: what is in it; all but `Markup` is escaped.
      **attributes: its attributes, escaped. Underscores become hyphens but for one at the end,
        which a name may need (`class_`); True has no value, None and False are left out.

    >>> element("td", "<b>", class_="number")
    '<td class="number">&lt;b&gt;</td>'
    """
    inside = "".join(_escape(each) for each in content)
    return Markup(f"<{name}{_attributes(attributes)}>{inside}</{name}>")


def image(source: str, alternative: str, **attributes: str | int | bool | None) -> Markup:
    """Make an image, with the text for those who do not see it."""
    return Markup(f"<img{_attributes({'src': source, 'alt': alternative, **attributes})}>")


def join(parts: Iterable[str]) -> Markup:
    """Put parts one after the other; all but `Markup` is escaped."""
    return Markup("".join(map(_escape, parts)))


def paragraph(text: str, **attributes: str) -> Markup:
    """Make a paragraph of a text, in which `code` and **bold** are marked as in Markdown."""
    return element("p", marked(text), **attributes)


def marked(text: str) -> Markup:
    """Escape a text, and turn its Markdown marks for code and bold into elements.

    >>> marked("`a<b` is **new**")
    '<code>a&lt;b</code> is <strong>new</strong>'
    """
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text))


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", sortable: bool = True
) -> Markup:
    """Make a table, which readers can sort by each of its columns.

    Args:
      header: names of the columns.
      rows: cells; all but `Markup` is escaped.
      caption: what the table shows, for those who do not see it.
      sortable: whether to sort it by a click on a header.
    """
    cells = element("tr", *(element("th", each, scope="col") for each in header))
    lines = [element("tr", *map(_cell, row)) for row in rows]
    parts = [element("caption", caption)] if caption else []
    parts += [element("thead", cells), element("tbody", *lines)]
    inner = element("table", *parts, class_="sortable" if sortable else None)
    return element("div", inner, class_="wide", tabindex=0)


def _cell(content: str) -> Markup:
    # Sentences are broken into lines, and numbers are not.
    is_sentence = content.count(" ") >= SENTENCE and not isinstance(content, Markup)
    return element("td", content, class_="long" if is_sentence else None)


def facts(rows: Mapping[str, str]) -> Markup:
    """Make a list of facts by their names; those that are empty are left out."""
    pairs = ((name, value) for name, value in rows.items() if value)
    return element(
        "dl", *(join([element("dt", name), element("dd", value)]) for name, value in pairs)
    )


def details(summary: str, *content: str, is_open: bool = False) -> Markup:
    """Make a part that readers open and close."""
    return element("details", element("summary", summary), *content, open=is_open)


def page(title: str, result: str, sections: Sequence[Section], data: Mapping[str, Any]) -> str:
    """Make the whole page.

    Args:
      title: its title.
      result: the result in one line, in which `code` and **bold** are marked.
      sections: what is on it, in order.
      data: what the scripts draw, for JSON.
    """
    style = _asset(STYLE)
    script = "\n".join(map(_asset, SCRIPTS))
    links = [element("a", each.heading, href=f"#{each.name}") for each in sections]
    bodies = [
        element("section", element("h2", each.heading), each.body, id=each.name)
        for each in sections
    ]
    head = [
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_policy(style, script)}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<link rel="icon" href="data:,">'),
        element("title", title),
        element("style", Markup(style)),
    ]
    body = [
        element("header", element("h1", title), paragraph(result, class_="result")),
        element("nav", *links, aria_label="Sections"),
        element("main", *bodies),
        element("footer", f"Written by capsjax {__version__}."),
        element("noscript", "Curves, sliders and the order of tables need JavaScript."),
        element("script", _json(data), type="application/json", id="page-data"),
        element("script", Markup(script)),
    ]
    parts = [element("head", *head), element("body", *body)]
    return f"<!DOCTYPE html>\n{element('html', *parts, lang='en')}\n"


def _policy(style: str, script: str) -> str:
    """Allow the page its own script, style and pictures, and nothing else, from nowhere else."""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _json(data: Mapping[str, Any]) -> Markup:
    # Within a script nothing is unescaped but its end, which text must not contain.
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _escape(content: str | int) -> str:
    return content if isinstance(content, Markup) else html.escape(str(content))


def _attributes(attributes: Mapping[str, str | int | bool | None]) -> str:
    parts = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        parts.append(f" {name}" if value is True else f' {name}="{html.escape(str(value))}"')
    return "".join(parts)
