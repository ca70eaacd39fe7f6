"""The study of answers: its table comes out, an added score is measured against the features, and a wrong
file is refused.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from panels import WEEKDAYS

ARGUMENTS = ["--from", "2017-01-02", "--horizon", "5", "--refit", "30"]


def prices(path: Path, tickers: int = 25, days: int = 700) -> None:
    """Random walks, and a file of scores that knows a part of every gain five days ahead."""
    rng = np.random.default_rng(3)
    frames, scores = [], []
    for k in range(tickers):
        close = 50 * np.exp(np.cumsum(0.01 * rng.normal(size=days)))
        high, low = close * 1.01, close * 0.99
        name = f"T{k:02d}"
        columns = {"Date": WEEKDAYS[:days], "Open": close, "High": high, "Low": low, "Close": close}
        frames.append(
            pl.DataFrame({"Ticker": [name] * days, **columns, "Volume": rng.lognormal(10, 1, days)})
        )
        gain = close[5:] / close[:-5] - 1
        scores.append(
            (WEEKDAYS[: days - 5], np.full(days - 5, name), gain + 0.02 * rng.normal(size=days - 5))
        )
    pl.concat(frames).write_parquet(path)
    day, ticker, score = (np.concatenate(part) for part in zip(*scores, strict=True))
    np.savez(path.with_name("known.npz"), date=day, ticker=ticker, score=score)


def study(root: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    line = [
        sys.executable,
        str(root / "scripts" / "study" / "study_answers.py"),
        "--data",
        str(folder / "prices.parquet"),
    ]
    return subprocess.run([*line, "--work", str(folder), *ARGUMENTS, *more], capture_output=True, text=True)


@pytest.mark.slow
def test_the_table_and_what_a_network_adds(root: Path, tmp_path: Path) -> None:
    """Noise has no skill, a score that knows the future has; the gain over the features says which is
    which.
    """
    prices(tmp_path / "prices.parquet")
    tiny = {
        "data.lookback_window": 16,
        "training.batch_size": 4,
        "training.validation_samples": 8,
        "head.every": 40,
        "head.stocks_per_date": 8,
        "head.validation_stocks": 8,
        "head.horizons": "[5]",
    }
    networks = [word for key, value in tiny.items() for word in ("--set", f"{key}={value}")]
    networks += [
        "--networks",
        "nano",
        "--steps",
        "2",
        "--head-steps",
        "2",
        "--paths-tickers",
        "3",
        "--paths-every",
        "6",
    ]
    done = study(root, tmp_path, "--scores", str(tmp_path / "known.npz"), *networks)
    assert done.returncode == 0, done.stderr
    rows: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():  # of a name the first line: later tables are of other scores
        if line.startswith("| "):
            rows.setdefault(line.split("|")[1].strip(), line.split("|")[2:])
    within = {name: float(cells[0].split("±")[0]) for name, cells in rows.items() if "±" in cells[0]}
    assert (
        abs(within["boosting, every 5"] - 50) < 6
        and within["alone"] > 60
        and within["features, 0.5 of it"] > 55
    )
    assert "weighted ridge + boosting, every 5" in rows and "weights in the end: " in done.stdout
    assert "networks: nano, 2 steps a stage, 2 a head, trained once on days up to 2016-" in done.stdout
    for name in ("head, whole", "head, frozen", "paths"):
        assert re.search(rf"^{name}: \d+ dates", done.stdout, flags=re.M), name
    assert "auto, by earlier dates" in rows and "all fall" in rows


def test_a_wrong_file_is_one_line(root: Path, tmp_path: Path) -> None:
    """Prices that are not there end in a line, not in a traceback."""
    done = study(root, tmp_path)
    assert done.returncode == 2 and done.stderr.strip().count("\n") == 0 and "prices.parquet" in done.stderr
