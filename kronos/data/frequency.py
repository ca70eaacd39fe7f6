"""How long a bar is: one name for a data set, checked ticker by ticker.

In: a panel. Out: the name of its frequency, as in `data.frequency`; or one line naming the files whose bars
are of another length. Horizons are counted in bars, so bars of two lengths in one data set would give wrong
ones.
"""

import numpy as np
from numpy.typing import NDArray

from kronos.data.price_panel import Panel
from kronos.errors import KitError

MINUTES = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720)
SECONDS = {f"{m}min": m * 60 for m in MINUTES} | {"daily": 86_400, "weekly": 604_800, "monthly": 2_629_800}
"""Name -> seconds between two bars; a month is a twelfth of a year."""
PAIRS = 100
"""Pairs of bars that are looked at in each ticker."""
FEWEST_STEPS = 5
"""Tickers with fewer bars are not judged."""
SURE = 0.8
"""Share of a ticker's steps that must be of another length before it is refused: rarely traded shares skip
days.
"""


def frequency_of(panel: Panel, wanted: str = "auto") -> str:
    """The commonest step between two bars of one ticker, by name; `wanted` where that is a name.

    Raises KitError when tickers differ, or when no name fits.
    """
    owner, step = _steps(panel)
    if not len(step):
        return "daily" if wanted == "auto" else wanted
    names, seconds = list(SECONDS), np.array(list(SECONDS.values()), dtype=float)
    nearest = np.searchsorted(np.sqrt(seconds[1:] * seconds[:-1]), step)
    ratio = step / seconds[nearest]
    kind = np.where((ratio > 0.8) & (ratio < 1.25), nearest, len(names))  # the last kind: of no name
    counts = np.bincount(owner * (len(names) + 1) + kind, minlength=len(panel.tickers) * (len(names) + 1))
    counts = counts.reshape(len(panel.tickers), -1)
    common = int(counts.sum(axis=0).argmax())
    if common == len(names) and wanted == "auto":
        raise _no_name(panel, step[kind == common])
    if wanted != "auto":
        common = names.index(wanted)
    total = counts.sum(axis=1)
    other = counts[:, : len(names)].copy()
    other[:, common] = 0
    differs = (other.max(axis=1) > SURE * total) & (total >= FEWEST_STEPS)
    if differs.any():
        raise _mixed(panel, differs, other.argmax(axis=1), names, common, asked=wanted != "auto")
    return names[common]


def _steps(panel: Panel) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Owners and seconds of steps between neighbours: of each ticker at most PAIRS, evenly spread."""
    length = np.diff(panel.offsets)
    pairs = np.maximum(length - 1, 0)
    count = np.minimum(pairs, PAIRS)
    owner = np.repeat(np.arange(len(length)), count)
    number = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    row = panel.offsets[:-1][owner] + number * pairs[owner] // np.maximum(count[owner], 1)
    step = (panel.sessions[panel.session[row + 1]] - panel.sessions[panel.session[row]]).astype(np.int64)
    apart = step > 0
    return owner[apart], step[apart].astype(np.float64)


def _no_name(panel: Panel, steps: NDArray[np.float64]) -> KitError:
    values, counts = np.unique(steps, return_counts=True)
    step = int(values[counts.argmax()])
    if step < SECONDS["daily"]:
        near = min(
            SECONDS, key=lambda name: abs(np.log(SECONDS[name] / step)) if name.endswith("min") else np.inf
        )
        remedy = f"set data.frequency: {near} (horizons are counted in the times of day that the data has)"
    else:
        remedy = "bring daily, weekly or monthly bars"
    return KitError(
        f"{panel.name}: expected bars of {', '.join(SECONDS)}; found them {step:,} seconds apart; {remedy}"
    )


def _mixed(
    panel: Panel,
    differs: NDArray[np.bool_],
    kind: NDArray[np.int64],
    names: list[str],
    common: int,
    asked: bool,
) -> KitError:
    """The line that names files (or tickers of one file) whose bars have another length."""
    shown: dict[str, str] = {}
    for k in np.flatnonzero(differs).tolist():
        shown.setdefault(panel.file_of(k), names[int(kind[k])])
    some = ", ".join(f"{where} ({name})" for where, name in list(shown.items())[:4])
    more = f" and {len(shown) - 4:,} more" if len(shown) > 4 else ""
    remedy = "keep files of one frequency in data.data_path"
    if asked:
        remedy = "set data.frequency: auto, or keep one frequency"
    return KitError(f"{panel.name}: expected {names[common]} bars everywhere, found {some}{more}; {remedy}")
