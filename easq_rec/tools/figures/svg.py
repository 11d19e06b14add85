"""Figures as SVG elements within an HTML page.

Matplotlib writes a whole SVG file in fixed colours. For a page, colours become CSS variables, which a dark page sets
differently; text takes the font of the page; and names of elements are removed, because several figures of one page
would use the same ones.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from easq_rec.tools.figures.bars import FILLS
from easq_rec.tools.figures.style import LIGHT, color, house_style, look

VARIABLES = {value: f"var(--{name})" for name, value in LIGHT.items()}
NUMBER = re.compile(r"-?\d+\.\d+")
HREF = "{http://www.w3.org/1999/xlink}href"


@house_style()
def svg(figure: Figure, title: str, description: str) -> str:
    """A figure as an SVG element with a transparent background.

    Args:
        title: its accessible name.
        description: what a screen reader says about its content.
    """
    root = _element(figure)
    root.attrib |= {"role": "img", "class": "plot"}
    for at, (name, text) in enumerate((("title", title), ("desc", description))):
        root.insert(at, ElementTree.Element(name))
        root[at].text = text
    return ElementTree.tostring(root, encoding="unicode")


@house_style()
def line_sample(style: int) -> str:
    """A short piece of a series' line with its marker, for the legend of a page."""
    figure = Figure(figsize=(28 / 72, 12 / 72))
    figure.add_artist(Line2D([0.04, 0.5, 0.96], [0.5] * 3, markevery=[1], **look(style)))
    return _sample(figure)


@house_style()
def bar_sample(group: int) -> str:
    """A short bar of a group, for the legend of a page."""
    figure = Figure(figsize=(28 / 72, 12 / 72))
    fill = (color(group), FILLS[group % len(FILLS)])
    figure.add_artist(Rectangle((0.1, 0.1), 0.8, 0.8, facecolor=fill, edgecolor=color(group)))
    return _sample(figure)


def _sample(figure: Figure) -> str:
    root = _element(figure)
    root.attrib |= {"aria-hidden": "true", "class": "sample"}
    return ElementTree.tostring(root, encoding="unicode")


def _element(figure: Figure) -> ElementTree.Element:
    for background in (figure.patch, *(axes.patch for axes in figure.axes)):
        background.set_visible(False)
    written = io.StringIO()
    with warnings.catch_warnings():
        # Only matplotlib's font lacks the glyph: the browser finds one that has it.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(written, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(written.getvalue())
    drawings = {element.get("id"): element for element in root.iter() if element.tag.endswith("}path")}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "defs"):
                parent.remove(child)
            elif child.tag.endswith("}use"):
                _inline(child, drawings[child.attrib[HREF].removeprefix("#")])
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = (element.text or "").strip() or None, None
        # Figures set the limits of their axes around all that they draw, so nothing needs to be clipped.
        for name in ("id", "clip-path", "width", "height", "version"):
            element.attrib.pop(name, None)
        for name in ("d", "x", "y", "transform"):
            if name in element.attrib:
                element.set(name, NUMBER.sub(_rounded, " ".join(element.attrib[name].split())))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
        if "style" in element.attrib:
            element.set("style", _restyled(element.attrib["style"]))
    return _flat(root)


def _flat(root: ElementTree.Element) -> ElementTree.Element:
    """Without groups that have no attributes."""
    for child in list(root):
        _flat(child)
    root[:] = [leaf for child in root for leaf in (child if child.tag == "g" and not child.attrib else [child])]
    return root


def _inline(use: ElementTree.Element, drawing: ElementTree.Element) -> None:
    """Replaces a reference to a marker by the marker."""
    place = f"translate({use.attrib.pop('x')} {use.attrib.pop('y')})"
    del use.attrib[HREF]
    use.tag = "path"
    use.attrib |= {"d": drawing.attrib["d"], "transform": place}


def _restyled(style: str) -> str:
    kept = []
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name and name != "font-family":
            kept.append(f"{name}:{VARIABLES.get(value, value)}")
    return ";".join(kept)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")
