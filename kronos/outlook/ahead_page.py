"""An `Outlook` as files: one page, two tables, a manifest.

In: an `Outlook`, a folder. Out: `index.html`, `forecast.csv` (a line per ticker), `bars.csv` (a line per
ticker and day), `forecast.json`. The folder is written beside its name and renamed: it is there whole or not
at all.
"""

import csv
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kronos import files, page
from kronos.bars import FEATURES
from kronos.data.survey import date_text
from kronos.errors import KitError
from kronos.forecasting.plot import draw_outlook
from kronos.outlook.ahead import QUANTILES, Outlook, counted

log = logging.getLogger(__name__)

MOST_SHOWN = 200
"""Tickers in the page's table; all of them are in forecast.csv."""
MOST_UNUSUAL = 20


def write_outlook(outlook: Outlook, folder: Path) -> None:
    """Write the files of an outlook into a new folder. Raises KitError where the folder is there already."""
    if folder.exists():
        raise KitError(
            f"{folder}: expected a new folder, found one that is there; name another with --output"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as holder:
        made = Path(holder) / folder.name
        made.mkdir()
        (made / "forecast.csv").write_text(_csv(_summary(outlook)), encoding="utf-8")
        (made / "bars.csv").write_text(_csv(_bars(outlook)), encoding="utf-8")
        files.write_json(made / "forecast.json", manifest(outlook))
        page.write(made / "index.html", "kronos.outlook", **_values(outlook))
        made.rename(folder)


def manifest(outlook: Outlook) -> dict[str, Any]:
    """What was asked, and by whom it was answered."""
    return {
        "tickers": len(outlook.tickers),
        "days": outlook.days,
        "last_known_day": date_text(outlook.last_day.max()),
        "first_day": date_text(outlook.dates[:, 0].min()),
        "last_day": date_text(outlook.dates[:, -1].max()),
        "quantiles": list(QUANTILES),
        "mean_prob_up": float(outlook.prob_up.mean()),
        "left_out": outlook.left_out,
        "unusual": [outlook.tickers[k] for k in outlook.unusual().tolist()],
        "answer": outlook.answer,
    }


# -- tables --------------------------------------------------------------------------------------------------
def _summary(outlook: Outlook) -> Iterator[list[Any]]:
    """A line per ticker, in the order of P(rise)."""
    ends = [f"close_q{round(100 * q):02d}" for q in QUANTILES]
    yield ["ticker", "group", "last_day", "last_close", "day", "prob_up", *ends, "expected_move", "strange"]
    move = outlook.move
    for k in np.argsort(-outlook.prob_up, kind="stable").tolist():
        known = [outlook.tickers[k], outlook.groups[k], date_text(outlook.last_day[k])]
        prices = [f"{value:.6g}" for value in outlook.closes[k, :, -1].tolist()]
        strange = outlook.strange[k]
        yield [
            *known,
            f"{outlook.last_close[k]:.6g}",
            date_text(outlook.dates[k, -1]),
            f"{outlook.prob_up[k]:.4f}",
            *prices,
            f"{move[k]:.5f}",
            "" if np.isnan(strange) else f"{strange:.2f}",
        ]


def _bars(outlook: Outlook) -> Iterator[list[Any]]:
    """A line per ticker and day: the median of every feature, the quantiles of the close."""
    ends = [f"close_q{round(100 * q):02d}" for q in QUANTILES]
    yield ["ticker", "date", "step", *FEATURES, *ends]
    for k, ticker in enumerate(outlook.tickers):
        for step in range(outlook.dates.shape[1]):
            bar = [f"{value:.6g}" for value in outlook.median[k, step].tolist()]
            closes = [f"{value:.6g}" for value in outlook.closes[k, :, step].tolist()]
            yield [ticker, date_text(outlook.dates[k, step]), step + 1, *bar, *closes]


def _csv(lines: Iterator[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


# -- the page ------------------------------------------------------------------------------------------------
def _values(outlook: Outlook) -> dict[str, Any]:
    days = outlook.days
    first, last = date_text(outlook.dates[:, 0].min()), date_text(outlook.dates[:, -1].max())
    return {
        "title": f"The next {days} trading day{'s' * (days > 1)}: {first} to {last}",
        "known": date_text(outlook.last_day.max()),
        "facts": _facts(outlook),
        "calibrated": outlook.answer["calibrated"],
        "answer": outlook.answer,
        "left_out": counted(outlook.left_out),
        "figures": _figures(outlook),
        "unusual": [_line(outlook, k) for k in outlook.unusual()[:MOST_UNUSUAL].tolist()],
        "groups": _groups(outlook),
        "lines": [
            _line(outlook, k) for k in np.argsort(-outlook.prob_up, kind="stable")[:MOST_SHOWN].tolist()
        ],
        "grouped": any(outlook.groups),
        "more": max(0, len(outlook.tickers) - MOST_SHOWN),
    }


def _facts(outlook: Outlook) -> dict[str, str]:
    return {
        "tickers": f"{len(outlook.tickers):,}",
        "mean P(rise)": f"{outlook.prob_up.mean():.1%}",
        "P(rise) above 50 %": f"{(outlook.prob_up > 0.5).mean():.0%}",
        "median expected move": f"{np.median(outlook.move):+.2%}",
        "unusual moves": str(len(outlook.unusual())),
    }


def _line(outlook: Outlook, k: int) -> dict[str, str]:
    low, high = outlook.closes[k, 0, -1], outlook.closes[k, -1, -1]
    return {
        "ticker": outlook.tickers[k],
        "group": outlook.groups[k],
        "last": f"{outlook.last_close[k]:.6g}",
        "prob": f"{outlook.prob_up[k]:.1%}",
        "median": f"{outlook.closes[k, QUANTILES.index(0.5), -1]:.6g}",
        "band": f"{low:.6g} to {high:.6g}",
        "move": f"{outlook.move[k]:+.2%}",
        "strange": "" if np.isnan(outlook.strange[k]) else f"{outlook.strange[k]:+.1f}",
    }


def _groups(outlook: Outlook) -> list[dict[str, str]]:
    """A line per group, the likeliest to rise first; nothing without groups."""
    names = sorted({name for name in outlook.groups if name})
    lines = []
    for name in names:
        own = np.array([group == name for group in outlook.groups])
        prob, move = outlook.prob_up[own], outlook.move[own]
        line = {"group": name, "tickers": str(own.sum()), "prob": f"{prob.mean():.1%}"}
        line |= {"above": f"{(prob > 0.5).mean():.0%}", "move": f"{np.median(move):+.2%}"}
        lines.append((float(prob.mean()), line))
    return [line for _, line in sorted(lines, key=lambda item: -item[0])]


def _figures(outlook: Outlook) -> list[tuple[str, Any]]:
    """A picture per drawn ticker: its history and the fan of what may follow."""
    drawn = outlook.pictures
    if drawn is None:
        return []
    made = []
    for position in range(len(drawn.paths)):
        name = drawn.name(position)
        prob = outlook.prob_up[outlook.tickers.index(name)]

        def plot(axes: Axes, position: int = position) -> None:
            draw_outlook(axes, drawn, position)

        made.append((f"{name}: P(rise) {prob:.1%}", page.draw(plot)))
    return made
