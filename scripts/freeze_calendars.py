#!/usr/bin/env python3
"""Write kronos/data/calendars/*.txt: the weekdays on which an exchange is closed, from
pandas_market_calendars (dev only).

Run it again with a newer version of the library when an exchange has announced a new year. No exchange
calendar of
exchange_calendars is used before 1970 for New York: it has 69 sessions there that never took place.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

import numpy as np
import pandas_market_calendars

from kronos import cli, files
from kronos.data.calendar import FOLDER

# name: (library's calendars, first day, last announced or ruled day, last day of the library's projection)
EXCHANGES = {
    "NYSE": (
        ("NYSE",),
        "1962-01-01",
        "2050-12-31",
        "2050-12-31",
    ),  # by rule: the holidays do not need announcing
    "XSHG": (
        ("SSE",),
        "1990-12-19",
        "2026-12-31",
        "2030-12-31",
    ),  # the State Council moves the days every year
    "XHKG": (("HKEX", "XHKG"), "2000-01-01", "2026-12-31", "2049-12-31"),  # lunar tables end in 2049
}


def open_weekdays(sources: tuple[str, ...], first: str, known: str, last: str) -> np.ndarray:
    """Sessions (n,) datetime64[D]: of the first source; up to `known` only those on which all sources agree.

    For Hong Kong each of the library's two calendars misses some typhoon closures that the other has.
    """
    days = [_valid_days(name, first, last) for name in sources]
    result = days[0]
    for other in days[1:]:
        result = result[(result > np.datetime64(known)) | np.isin(result, other)]
    assert np.is_busday(result).all(), "a session on a weekend does not fit into a file of closed weekdays"
    return result


def _valid_days(name: str, first: str, last: str) -> np.ndarray:
    index = pandas_market_calendars.get_calendar(name).valid_days(first, last)
    return index.tz_localize(None).to_numpy().astype("datetime64[D]")


def main() -> None:
    cli.parser(__doc__).parse_args()
    version = pandas_market_calendars.__version__
    for name, (sources, first, known, last) in EXCHANGES.items():
        weekdays = np.arange(first, np.datetime64(last) + 1, dtype="datetime64[D]")
        weekdays = weekdays[np.is_busday(weekdays)]
        closed = weekdays[~np.isin(weekdays, open_weekdays(sources, first, known, last))].astype(str)
        years = {
            year: " ".join(d[5:] for d in closed if d[:4] == year) for year in sorted({d[:4] for d in closed})
        }
        head = [
            f"# {name}: weekdays without a session, from pandas_market_calendars {version} by scripts/freeze_calendars.py"
        ]
        head += [f"first {first}", f"known {known}", f"last {last}"]
        files.write_text(
            FOLDER / f"{name}.txt", "\n".join(head + [f"{y} {d}" for y, d in years.items()]) + "\n"
        )


if __name__ == "__main__":
    cli.run(main)
