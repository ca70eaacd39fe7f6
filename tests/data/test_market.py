"""The synthetic market: its files have the competition's layout, and its stated truth is the truth."""

import hashlib
import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kronos import files
from kronos.config import DataConfig, MarketConfig
from kronos.data import market, market_files
from kronos.data.calendar import open_days
from kronos.errors import KitError

SMALL = MarketConfig(generate=True, tickers=12, days=60, horizon=2, seed=3)
LARGE = MarketConfig(tickers=60, days=3000, horizon=3, seed=5)


def paths(folder: Path) -> DataConfig:
    return DataConfig(
        data_path=str(folder / "train.csv"),
        test_path=str(folder / "test.csv"),
        sample_submission_path=str(folder / "sample_submission.csv"),
        solution_path=str(folder / "solution.csv"),
    )


@pytest.fixture(scope="module")
def large() -> market.Market:
    return market.simulate(LARGE)


# -- files ---------------------------------------------------------------------------------------------------
def test_files_have_the_competitions_layout(tmp_path: Path) -> None:
    """Keeps out: a demo that exercises another layout than the one users bring (columns, order of rows, order
    of IDs).
    """
    data = paths(tmp_path)
    truth = market_files.write_market(SMALL, data)
    train = pl.read_csv(data.data_path)
    names = [f"ticker_{i}" for i in range(1, 13)]
    assert train.columns == [
        "Ticker",
        "Date",
        "Open",
        "High",
        "Low",
        "Close",
        "Volume",
        "Dividends",
        "Stock Splits",
    ]
    assert train.height == 12 * 60
    assert train["Date"].is_sorted() and train["Date"].str.contains(r"^\d{4}-\d\d-\d\d$").all()
    assert train["Volume"].dtype == pl.Float64
    by_date = [group["Ticker"].to_list() for _, group in train.group_by("Date", maintain_order=True)]
    assert all(sorted(order) == sorted(names) for order in by_date), "every ticker once on every date"
    assert len({tuple(order) for order in by_date}) > 50, "tickers are unordered within a date"

    test = pl.read_csv(data.test_path)
    assert test.columns == ["ID", "Date"] and test["ID"].to_list() == sorted(names)
    assert test["Date"].unique().to_list() == [truth["test_day"]]
    sample = pl.read_csv(data.sample_submission_path)
    assert sample.columns == ["ID", "Pred"] and sample["ID"].to_list() == sorted(names)
    assert json.loads((tmp_path / "market.json").read_text()) == truth
    assert {role: [files.digest(getattr(data, role))] for role in market_files.ROLES} == truth["files"]
    assert not list(tmp_path.glob(".*")), "no temporary files stay behind"


def test_solution_holds_the_labels_of_the_test_day(tmp_path: Path) -> None:
    """Keeps out: labels that belong to another ticker or another day than test.csv names."""
    data = paths(tmp_path)
    market_files.write_market(SMALL, data)
    world = market.simulate(SMALL)
    solution = dict(pl.read_csv(data.solution_path).iter_rows())
    last_close = dict(
        pl.read_csv(data.data_path)
        .group_by("Ticker", maintain_order=True)
        .last()
        .select("Ticker", "Close")
        .iter_rows()
    )
    for i, name in enumerate(world.tickers):
        assert last_close[name] == world.close[SMALL.days - 1, i]
        assert solution[name] == int(world.close[-1, i] > last_close[name])


def test_test_day_is_horizon_trading_days_after_the_last_one() -> None:
    """Keeps out: a test Date that the submission would bridge with another number of steps than the truth is
    stated for.
    """
    world = market.simulate(replace(SMALL, horizon=5))
    assert len(world.sessions) == SMALL.days + 5
    days = world.sessions.astype("datetime64[D]")
    assert np.array_equal(days, open_days("NYSE", days[0], days[-1])), (
        "every trading day once, holidays left out"
    )


def test_more_days_than_the_calendar_knows_is_the_users_error() -> None:
    """Keeps out: a market that silently ends early, or a traceback."""
    with pytest.raises(KitError, match="trading days of NYSE"):
        market.simulate(replace(SMALL, days=100_000))


def test_bars_are_possible_candles(large: market.Market) -> None:
    """Keeps out: High below Close, negative volume, or fractions of a share, which cleaning would then have
    to repair.
    """
    assert (large.high >= np.maximum(large.open, large.close)).all()
    assert (large.low <= np.minimum(large.open, large.close)).all()
    assert (large.low > 0).all()
    assert (large.volume > 0).all() and (large.volume % 1 == 0).all()


def test_same_seed_same_bytes_and_other_seed_other_prices(tmp_path: Path) -> None:
    """Keeps out: a demo whose score cannot be reproduced."""

    def content(name: str, config: MarketConfig) -> dict[str, str]:
        market_files.write_market(config, paths(tmp_path / name))
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / name).iterdir()}

    first = content("a", SMALL)
    assert content("b", SMALL) == first
    assert content("c", replace(SMALL, seed=4))["train.csv"] != first["train.csv"]


def test_other_settings_rewrite_the_market_but_never_a_users_file(tmp_path: Path) -> None:
    """Keeps out: a stale market under new settings, and the loss of a user's prices to market.generate."""
    data = paths(tmp_path)
    market_files.ensure_market(SMALL, data)
    written = Path(data.data_path).stat().st_mtime_ns
    market_files.ensure_market(SMALL, data)
    assert Path(data.data_path).stat().st_mtime_ns == written, "an up-to-date market is kept"
    assert market_files.ensure_market(replace(SMALL, days=50), data)["settings"]["days"] == 50
    assert pl.read_csv(data.data_path).height == 12 * 50
    own = replace(data, data_path=str(tmp_path / "own.csv"))  # beside the market.json of another file
    Path(own.data_path).write_text("Ticker,Date\n")
    with pytest.raises(KitError, match="found another"):
        market_files.ensure_market(SMALL, own)
    assert Path(own.data_path).read_text() == "Ticker,Date\n"
    (tmp_path / "market.json").unlink()
    before = Path(data.data_path).read_bytes()
    with pytest.raises(KitError, match="found another"):
        market_files.ensure_market(SMALL, data)
    assert Path(data.data_path).read_bytes() == before


@pytest.mark.parametrize("role", market_files.ROLES)
@pytest.mark.parametrize("generated", [False, True])
def test_a_users_file_is_never_written_over(tmp_path: Path, role: str, generated: bool) -> None:
    """A mistyped data_path wrote a synthetic market over the user's test.csv and sample_submission.csv and
    went on.
    """
    data = paths(tmp_path)
    if generated:
        market_files.ensure_market(SMALL, data)
    own = Path(getattr(data, role))
    own.write_text("my,own\n1,2\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for settings in (SMALL, replace(SMALL, days=50)):
        for act in (market_files.ensure_market, market_files.check_market):
            with pytest.raises(
                KitError, match=rf"data\.{role}: .*{own.name}: expected .* found another"
            ) as caught:
                act(settings, data)
            assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_mistyped_price_path_is_said_with_the_name_that_is_there(tmp_path: Path) -> None:
    """A market in place of the user's prices, because two letters were swapped."""
    data = replace(paths(tmp_path), data_path=str(tmp_path / "trian.csv"))
    (tmp_path / "train.csv").write_text("Ticker,Date\n")
    with pytest.raises(KitError, match=r"trian\.csv; .*train\.csv is there, is that meant"):
        market_files.check_market(SMALL, data)
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


def test_a_record_of_before_knows_its_files(tmp_path: Path) -> None:
    """Markets that were generated before the record held four digests are the kit's own; a changed file among
    them is not.
    """
    data = paths(tmp_path)
    truth = market_files.ensure_market(SMALL, data)
    record = tmp_path / "market.json"
    files.write_json(record, {key: value for key, value in truth.items() if key != "files"})
    assert market_files.ensure_market(replace(SMALL, days=50), data)["settings"]["days"] == 50
    files.write_json(record, {key: value for key, value in truth.items() if key != "files"})
    with pytest.raises(KitError, match="found another"):
        market_files.ensure_market(SMALL, data)


def test_a_lost_file_is_written_again(tmp_path: Path) -> None:
    """A missing test file was found out by the submission, after the training."""
    data = paths(tmp_path)
    market_files.ensure_market(SMALL, data)
    Path(data.test_path).unlink()
    market_files.ensure_market(SMALL, data)
    assert Path(data.test_path).is_file()


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"settings": 3, "prices_sha256": "x"}', "nothing"])
def test_a_record_of_another_shape_is_one_line(tmp_path: Path, text: str) -> None:
    """A file called market.json that is not the kit's: it is not written over either."""
    (tmp_path / "market.json").write_text(text)
    with pytest.raises(KitError, match=r"market\.json: .*expected") as caught:
        market_files.ensure_market(SMALL, paths(tmp_path))
    assert "\n" not in str(caught.value) and (tmp_path / "market.json").read_text() == text


KILLED = """
import os, sys
from dataclasses import replace
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_market import SMALL, market, market_files, paths
take_place, left = Path.replace, int(sys.argv[4])

def last(temporary, path):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
    return take_place(temporary, path)

Path.replace = last
market_files.ensure_market(replace(SMALL, days=50), paths(Path(sys.argv[3])))
"""


@pytest.mark.parametrize("writes", [2, 4, 5, 6])
def test_a_killed_writer_leaves_no_mixture(writes: int, root: Path, tmp_path: Path) -> None:
    """Keeps out: old prices beside the truth of new ones, which every later start takes for a user's own
    file.

    The process dies as its n-th file takes its place: the test file's, the solution's, the prices', the final
    record's.
    """
    data = paths(tmp_path / "market")
    market_files.ensure_market(SMALL, data)
    words = [str(root), str(root / "tests" / "data"), str(tmp_path / "market"), str(writes)]
    assert subprocess.run([sys.executable, "-c", KILLED, *words], check=False).returncode == -signal.SIGKILL
    assert Path(data.data_path).exists() is (writes == 6), "nothing, or the new ones: never the old prices"
    truth = market_files.ensure_market(replace(SMALL, days=55), data)
    market_files.write_market(replace(SMALL, days=55), paths(tmp_path / "fresh"))
    for path in (tmp_path / "fresh").iterdir():
        assert (tmp_path / "market" / path.name).read_bytes() == path.read_bytes(), path.name
    assert truth["settings"]["days"] == 55


WAITING = """
import logging, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from test_market import SMALL, market, market_files, paths
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
market_files.ensure_market(SMALL, paths(Path(sys.argv[3])))
"""


def test_a_second_process_waits_for_the_market(root: Path, tmp_path: Path) -> None:
    """Keeps out: one process taking away the prices that another has just written and is about to read."""
    data = paths(tmp_path)
    with files.locked(tmp_path / ".train.csv.lock", ""):
        words = [sys.executable, "-u", "-c", WAITING, str(root), str(root / "tests" / "data"), str(tmp_path)]
        second = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert second.stdout and "waiting" in second.stdout.readline()
        market_files.write_market(SMALL, data)
        written = Path(data.data_path).stat().st_mtime_ns
    assert second.communicate(timeout=60)[0] == "" and second.returncode == 0
    assert Path(data.data_path).stat().st_mtime_ns == written and not list(tmp_path.glob(".*"))


def test_several_data_files_cannot_be_generated() -> None:
    """Keeps out: a traceback when data_path is a list or empty."""
    for path in ("", ["a.csv", "b.csv"]):
        with pytest.raises(KitError, match="expected the one CSV file"):
            market_files.write_market(SMALL, DataConfig(data_path=path))


# -- the truth -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("horizon", [1, 2, 4])
def test_rise_probability_equals_the_sum_over_all_paths(horizon: int) -> None:
    """Keeps out: an error in the inversion formula. The slow clear version adds up every path of (s, v)."""
    table = market.rise_probability(0.4, horizon)
    levels = len(market.VOLATILITY_LEVELS)
    step = market._transition()
    assert np.allclose(step.sum(axis=1), 1)
    for start in range(2 * levels):
        total = 0.0
        for path in product(range(2 * levels), repeat=horizon - 1):
            states = [start, *path]
            weight = math.prod(step[a, b] for a, b in pairwise(states))
            if weight == 0:
                continue
            volatility = market.VOLATILITY_LEVELS[[k % levels for k in states]]
            sign = np.array([1 if k >= levels else -1 for k in states])
            z = 0.4 * (sign * volatility).sum() / np.sqrt((volatility**2).sum())
            total += weight * (1 + math.erf(z / math.sqrt(2))) / 2
        assert table[start // levels, start % levels] == pytest.approx(total, abs=1e-9)


def test_stated_probabilities_are_met_by_the_simulation(large: market.Market) -> None:
    """Keeps out: a stated truth that the prices do not follow (a drift applied a day late, a state read a day
    early).

    Dates are the independent unit, since the factor is shared; origins `horizon` apart do not overlap.
    """
    labels, prob = large.labels[:: LARGE.horizon], large.prob_up[: -LARGE.horizon : LARGE.horizon]
    assert len(labels) >= 1000
    for state in (-1, 1):
        chosen = large.state[: -LARGE.horizon : LARGE.horizon] == state
        per_date = np.where(chosen, labels - prob, 0).sum(axis=1) / chosen.sum(axis=1)
        assert abs(per_date.mean()) < 4 * per_date.std() / np.sqrt(len(per_date))
    right = ((large.state[: -LARGE.horizon : LARGE.horizon] > 0) == labels).mean(axis=1)
    stated = market.attainable(prob)
    assert 0.65 < stated < 0.75
    assert abs(right.mean() - stated) < 4 * right.std() / np.sqrt(len(right)), (
        "the oracle scores what is stated"
    )
    assert abs(labels.mean() - 0.5) < 0.02, "a constant scores a half"


def test_volume_alone_reveals_the_signal(large: market.Market) -> None:
    """Keeps out: a signal that is hidden from a model which sees bars only: the attainable accuracy would be
    a fiction.
    """
    middle = (large.volume.max(axis=0) * large.volume.min(axis=0)) ** 0.5
    assert np.array_equal(large.volume > middle, large.state > 0)


def test_no_past_return_beats_the_stated_accuracy(large: market.Market) -> None:
    """Keeps out: an easier rule than the planted one, such as yesterday's sign, that would make the truth too
    low.
    """
    horizon = LARGE.horizon
    stated = market.attainable(large.prob_up)
    log_close = np.log(large.close)
    for lag in (1, 3, 10, 30):
        past = log_close[lag:-horizon] - log_close[: -horizon - lag]
        momentum = ((past > 0) == large.labels[lag:]).mean()
        assert max(momentum, 1 - momentum) < stated - 0.04


def test_within_date_accuracy_is_met_by_the_oracle(large: market.Market) -> None:
    """Keeps out: a within-date figure that belongs to another rule than beating the date's median return."""
    change = np.log(large.close[LARGE.horizon :] / large.close[: -LARGE.horizon])
    above = change > np.median(change, axis=1, keepdims=True)
    right = (above == (large.state[: -LARGE.horizon] > 0)).mean(axis=1)[:: LARGE.horizon]
    stated, error = market.attainable_within_date(large)
    assert error < 0.005
    assert abs(right.mean() - stated) < 4 * np.hypot(error, right.std() / np.sqrt(len(right))) + 0.01


def test_signal_zero_is_a_coin() -> None:
    """Keeps out: a null market with something in it, on which a leak test would pass or fail for the wrong
    reason.
    """
    config = replace(LARGE, signal=0.0)
    world = market.simulate(config)
    assert np.allclose(world.prob_up, 0.5, atol=1e-12)
    assert market.attainable(world.prob_up) == pytest.approx(0.5)
    right = ((world.state[: -config.horizon] > 0) == world.labels)[:: config.horizon].mean(axis=1)
    assert abs(right.mean() - 0.5) < 4 * right.std() / np.sqrt(len(right))
    daily = np.diff(np.log(world.close), axis=0)
    today, tomorrow = daily[:-1].ravel(), daily[1:].ravel()
    assert abs(np.corrcoef(today, tomorrow)[0, 1]) < 0.02, "a random walk has no serial correlation"


def test_returns_look_like_a_market(large: market.Market) -> None:
    """Keeps out: a market without clustered volatility, common moves or fat tails."""
    daily = np.diff(np.log(large.close), axis=0)
    scaled = (daily - daily.mean(axis=0)) / daily.std(axis=0)
    assert 3.3 < (scaled**4).mean() < 8, "tails fatter than normal, within reason"
    clustering = np.corrcoef(np.abs(scaled[:-1]).ravel(), np.abs(scaled[1:]).ravel())[0, 1]
    assert clustering > 0.05
    rising = (daily > 0).mean(axis=1)
    assert rising.std() > 1.2 * np.sqrt(0.25 / LARGE.tickers), (
        "shares rise and fall together, more than coins would"
    )
