"""A generated market in the form of a Qlib folder: an index whose members change, suspensions, late listings,
delistings.
"""

from pathlib import Path

import numpy as np

from kronos.data.calendar import open_days

FIELDS = ("open", "high", "low", "close", "volume", "factor")


def write_market(
    folder: Path,
    codes: int,
    days: int,
    members: int,
    seed: int = 1,
    index: str = "csi300",
    exchange: str = "",
) -> None:
    """Write a folder of `codes` shares over `days` weekdays (or days of an exchange) from 2015 on.

    `members` of them are in the index at any time.

    The close has a weak memory, so that there is something to learn.
    """
    rng = np.random.default_rng(seed)
    calendar = np.arange("2015-01-01", "2045-01-01", dtype="datetime64[D]")
    calendar = calendar[np.is_busday(calendar)][:days]
    if exchange:  # its holidays are closed: bars on them would be another market's
        calendar = open_days(exchange, "2015-01-01", "2024-12-31")[:days]
    for name in ("calendars", "instruments", "features"):
        (folder / name).mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("\n".join(map(str, calendar)) + "\n")
    listed, pool = [], []
    for number in range(codes):
        code = f"SH{600000 + number}"
        first = 0 if number % 5 else int(rng.integers(0, days // 4))
        last = days - 1 if number % 7 else int(rng.integers(3 * days // 4, days))
        listed.append(f"{code}\t{calendar[first]}\t{calendar[last]}")
        _write_share(folder / "features" / code.lower(), rng, first, last)
    half = days // 2
    for number in range(codes):
        code = f"SH{600000 + number}"
        if number < members:
            pool.append(f"{code}\t{calendar[0]}\t{calendar[half]}")
        if members // 2 <= number < members // 2 + members:
            pool.append(f"{code}\t{calendar[half + 1]}\t{calendar[-1]}")
    (folder / "instruments" / "all.txt").write_text("\n".join(listed) + "\n")
    (folder / "instruments" / f"{index}.txt").write_text("\n".join(pool) + "\n")


def _write_share(folder: Path, rng: np.random.Generator, first: int, last: int) -> None:
    folder.mkdir()
    n = last - first + 1
    noise = rng.normal(0, 0.02, n + 1)
    close = np.exp(np.cumsum(noise[1:] + 0.3 * noise[:-1]))
    open_ = close * np.exp(rng.normal(0, 0.005, n))
    values = {
        "open": open_,
        "high": np.maximum(open_, close) * 1.01,
        "low": np.minimum(open_, close) * 0.99,
        "close": close,
        "volume": rng.lognormal(10, 0.5, n),
        "factor": np.full(n, 0.1),
    }
    suspended = rng.random(n) < 0.01
    suspended[[0, -1]] = False
    for field in FIELDS:
        series = np.where(suspended, np.nan, values[field])
        np.concatenate([[first], series]).astype("<f4").tofile(folder / f"{field}.day.bin")
