"""The report's charts, each one SVG element to put into a page. Knows figures and how to draw them
with matplotlib; nothing of runs or files.

Text stays text, and colours that depend on the page's are CSS variables: the page decides about
fonts, light and dark. A chart is drawn for a narrow screen; on a wide one several stand side by
side.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.2  # inches, of 72 units: close to a phone's width, so that text keeps its size there
POINT = 10

INK, MUTED, LINE = "#000001", "#000002", "#000003"
"""Stand for the page's colours until the drawing is done."""
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)"}

# Okabe and Ito's colours, told apart by people who do not see all of them, on white and on black.
BLUE, ORANGE, GREEN, SKY, RED, PINK, YELLOW = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#56b4e9",
    "#d55e00",
    "#cc79a7",
    "#f0e442",
)
GREY = "#8a8f98"
VIOLET = "#7a5cc4"  # a ninth, for lack of one of theirs
COLOUR_MAP = "viridis"

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Chart:
    """A drawing.

    Attributes:
        name: part of the ids in the page.
        title: what is shown, with its unit.
        text: what one sees in it, for who does not.
        svg: the element.
    """

    name: str
    title: str
    text: str
    svg: str


@dataclass(frozen=True)
class Series:
    """One kind of thing in a stacked chart, a value per bar."""

    label: str
    colour: str
    values: Sequence[float]


def stacked_bars(
    name: str, title: str, text: str, bars: Sequence[str], series: Sequence[Series], unit: str
) -> Chart:
    """Upright bars of one total each, made of the series; the x axis counts scales."""
    figure, axes = _figure(2.9)
    places = range(len(bars))
    base = [0.0] * len(bars)
    for one in series:
        drawn = axes.bar(places, one.values, 0.78, base, color=one.colour, label=one.label)
        for place, bar, value in zip(places, drawn, one.values, strict=True):
            _say(bar, name, f"scale {bars[place]}, {one.label}: {value:.4g} {unit}")
        base = [below + value for below, value in zip(base, one.values, strict=True)]
    axes.set_xticks(list(places), bars)
    axes.set_xlabel("scale")
    axes.set_ylabel(unit)
    _legend(axes, len(series))
    return _chart(figure, name, title, text)


def stacked_rows(
    name: str, title: str, text: str, rows: Sequence[str], series: Sequence[Series], unit: str
) -> Chart:
    """Horizontal bars, one per row, the first on top."""
    legend_lines = (len(series) + 1) // 2 if len(series) > 1 else 0
    figure, axes = _figure(0.75 + 0.3 * len(rows) + 0.2 * legend_lines)
    base = [0.0] * len(rows)
    for one in series:
        drawn = axes.barh(
            range(len(rows)), one.values, 0.7, base, color=one.colour, label=one.label
        )
        for row, bar, value in zip(rows, drawn, one.values, strict=True):
            of = f", {one.label}" if len(series) > 1 else ""
            _say(bar, name, f"{row}{of}: {value:.4g} {unit}")
        base = [left + value for left, value in zip(base, one.values, strict=True)]
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True, color=LINE, linewidth=0.8)
    if legend_lines:
        _legend(axes, len(series))
    return _chart(figure, name, title, text)


def heat_map(
    name: str,
    title: str,
    text: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[float]],
    unit: str,
    most: float,
) -> Chart:
    """One cell per scale (across) and layer (down), coloured from 0 to `most`."""
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex
    from matplotlib.patches import Rectangle

    figure, axes = _figure(1.35 + 0.105 * max(len(rows), 10))
    scale, colours = Normalize(0, most or 1), matplotlib.colormaps[COLOUR_MAP]
    shades = ScalarMappable(scale, colours)
    for layer, row in enumerate(rows):
        for place, value in enumerate(row):
            cell = Rectangle(
                (place - 0.5, layer - 0.5), 1, 1, color=to_hex(colours(float(scale(value))))
            )
            cell.set_linewidth(0.3)
            _say(cell, name, f"scale {columns[place]}, layer {layer}: {value:.6g} {unit}")
            axes.add_patch(cell)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(0, len(rows), max(len(rows) // 8, 1)))
    axes.set_xlabel("scale")
    axes.set_ylabel("layer")
    axes.grid(visible=False)
    bar = figure.colorbar(shades, ax=axes, orientation="horizontal", aspect=34, pad=0.03)
    bar.set_label(unit, color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=MUTED)
    bar.locator = matplotlib.ticker.MaxNLocator(5, integer=True)
    bar.update_ticks()
    return _chart(figure, name, title, text)


def _figure(height: float) -> tuple[Figure, Axes]:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells when it builds its font list
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    axes.tick_params(colors=MUTED, labelsize=POINT, length=0)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.label.set_fontsize(POINT)
    axes.yaxis.label.set_fontsize(POINT)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Axes, entries: int) -> None:
    axes.figure.legend(
        loc="outside lower left",
        ncols=min(entries, 2),
        frameon=False,
        fontsize=POINT,
        labelcolor=INK,
        handlelength=1.0,
        handleheight=1.0,
    )


def _say(artist: Any, name: str, words: str) -> None:
    """The tooltip of a part of the drawing; written into the SVG at the end."""
    artist.set_gid(f"say:{words}")


def _chart(figure: Figure, name: str, title: str, text: str) -> Chart:
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return Chart(name, title, text, _for_page(file.getvalue(), name, title, text))


def _for_page(drawn: str, name: str, title: str, text: str) -> str:
    """The drawing as an element of a page: named, described, its ids its own, its colours the
    page's."""
    for colour, variable in _VARIABLES.items():
        drawn = drawn.replace(colour, variable)
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    root = ElementTree.fromstring(drawn)
    for child in list(root):
        if child.tag == f"{{{_SVG}}}metadata":
            root.remove(child)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-text")
    for element in list(root.iter()):
        _rename(element, name)
    for tag, words in (("desc", text), ("title", title)):
        label = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        label.text = words
        root.insert(0, label)
    root[1].set("id", f"{name}-text")
    return ElementTree.tostring(root, encoding="unicode")


def _rename(element: ElementTree.Element, name: str) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id" and value.startswith("say:"):
            del element.attrib["id"]
            words = ElementTree.Element(f"{{{_SVG}}}title")
            words.text = value.removeprefix("say:")
            element.insert(0, words)
        elif key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{_XLINK}}}href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))


def legend_colours(names: Mapping[str, str]) -> dict[str, str]:
    """A colour for each part that memory is used for, always the same."""
    return dict(
        zip(names, (BLUE, SKY, PINK, RED, GREEN, ORANGE, YELLOW, VIOLET, GREY), strict=True)
    )
