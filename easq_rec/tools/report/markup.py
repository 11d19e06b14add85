"""HTML and SVG, escaped by default: whatever is not `Markup` is text, wherever it comes from."""

from __future__ import annotations

import html

WITHOUT_END = frozenset({"meta", "br", "path", "line", "circle", "rect", "polyline"})
"""HTML's void elements, and shapes of SVG that hold no title."""


class Markup(str):
    """Text that is HTML already."""


Child = Markup | str | int | float | None


def escaped(value: Child) -> Markup:
    """A value as HTML; None is nothing."""
    if isinstance(value, Markup):
        return value
    return Markup("" if value is None else html.escape(str(value), quote=True))


def join(*children: Child) -> Markup:
    """The children one after another."""
    return Markup("".join(escaped(child) for child in children))


def tag(name: str, /, *children: Child, **attributes: Child) -> Markup:
    """An element. An underscore at the end of an attribute's name is dropped (`class_`), one within it is a hyphen;
    an attribute that is None is left out."""
    named = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if not children and name in WITHOUT_END:
        return Markup(f"<{name}{named}/>")
    return Markup(f"<{name}{named}>{join(*children)}</{name}>")


def table(
    headings: list[Child], rows: list[list[Child]], *, numeric_from: int = 1, caption: str | None = None
) -> Markup:
    """A table that scrolls within itself where it is wider than the page.

    Args:
        rows: as many cells each as there are headings; the first names the row.
        numeric_from: column from which on cells are figures, set right.
        caption: for those who do not see the page around it.
    """
    head = join(*(tag("th", cell, scope="col", class_=_side(at, numeric_from)) for at, cell in enumerate(headings)))
    body = []
    for row in rows:
        assert len(row) == len(headings), (headings, row)
        first, *others = row
        cells = (tag("td", cell, class_=_side(at, numeric_from)) for at, cell in enumerate(others, 1))
        body.append(tag("tr", tag("th", breakable(first), scope="row"), *cells))
    named = tag("caption", caption) if caption else None
    kind = "text" if numeric_from >= len(headings) else None
    content = tag("table", named, tag("thead", tag("tr", head)), tag("tbody", *body), class_=kind)
    # Focusable, so that it can be scrolled by the keyboard.
    return tag("div", content, class_="scroll", tabindex="0", role="group", aria_label=caption or "table")


def breakable(name: Child) -> Markup:
    """A name that may go on in the next line after an underscore."""
    return Markup(escaped(name).replace("_", "_<wbr>")) if not isinstance(name, Markup) else name


def folded(summary: Child, *content: Child) -> Markup:
    """What is shown on demand."""
    return tag("details", tag("summary", summary), *content)


def _side(at: int, numeric_from: int) -> str | None:
    return "n" if at >= numeric_from else None
