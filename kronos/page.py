"""What the HTML reports share: one self-contained page, one look, plots as SVG inside it.

In: values for a template, or a function that plots. Out: a page that opens without a network, on a screen or
on paper.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import matplotlib.ticker
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kronos import files
from kronos.palette import GREY, INK, RED

SIZE = (5.6, 2.9)
"""Inches of one figure."""


def write(path: str | Path, package: str, **values: Any) -> None:
    """Render `package`'s templates/report.html, which extends page.html, and write it atomically. `values`
    holds a title.

    Every value is text unless it is Markup; a value that the template misses is an error
    (jinja2.UndefinedError).
    """
    own, shared = jinja2.PackageLoader(package), jinja2.PackageLoader("kronos")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([own, shared]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    files.write_text(path, environment.get_template("report.html").render(values | {"ink": INK, "fail": RED}))


def draw(plot: Callable[[Axes], None], size: tuple[float, float] = SIZE) -> Markup:
    """One figure as an SVG element. Text stays text; dense dots are one picture inside it."""
    with matplotlib.rc_context(
        {"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": "report", "axes.edgecolor": GREY}
    ):
        figure = Figure(figsize=size, layout="constrained", dpi=150)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(color=GREY)
        plot(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    return Markup(re.sub(r'\s(width|height)="[\d.]+pt"', "", svg[svg.index("<svg") :], count=2))


def percent(axes: Axes) -> None:
    """The y axis in whole per cent."""
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
