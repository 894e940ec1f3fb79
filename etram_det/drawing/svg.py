"""Plots as SVG, to stand in a page that needs nothing else."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from etram_det.drawing.plots import GREY, GRID, INK

SMALL, WIDE = (3.6, 2.4), (5.4, 2.9)  # inches
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and found by a search
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page names others as wide
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "text.parse_math": False,  # names of classes and runs are no formulas
    "hatch.color": GREY,
    "hatch.linewidth": 0.6,
}


def svg_of(key: str, label: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """A plot to be put into a page as it is.

    Args:
        key: of all ids in it, which a page must not have twice.
        label: what is read out in place of the plot.
        size: width and height in inches.
        draw: fills the axes.
    """
    content = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": key}):
        plot = Figure(figsize=size, layout="constrained")
        draw(plot.add_subplot())
        # Without a date the same results give the same page.
        plot.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    svg = content.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    name = re.sub(r"\W+", "-", key)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
