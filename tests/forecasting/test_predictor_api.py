"""The public face: tables in, tables and forecasts out, the published numbers, and what is refused."""

import logging
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from test_forecaster import make_bars, tiny_networks
from test_golden import GOLDEN

from kronos import Kronos, KronosPredictor, KronosTokenizer
from kronos.bars import CLOSE, FEATURES, HIGH, LOW, OPEN, VOLUME, calendar_stamps
from kronos.errors import KitError
from kronos.forecasting.forecaster import Forecaster

HORIZON = 5


def make(dropout: float = 0.0, **settings: Any) -> KronosPredictor:
    return KronosPredictor(
        *tiny_networks(dropout), device="cpu", **{"max_context": 40, "epsilon": "relative"} | settings
    )


def table(rows: int = 30, seed: int = 3) -> tuple[pd.DataFrame, pd.DatetimeIndex, pd.DatetimeIndex]:
    """Bars, their stamps and the stamps that follow."""
    stamps = pd.date_range("2024-01-02 09:30", periods=rows + HORIZON, freq="5min")
    frame = pd.DataFrame(make_bars(1, rows, seed)[0], columns=list(FEATURES))
    return frame, stamps[:rows], stamps[rows:]


@pytest.fixture(scope="module")
def published() -> tuple[Kronos, KronosTokenizer]:
    return Kronos.from_pretrained(GOLDEN / "a" / "predictor"), KronosTokenizer.from_pretrained(
        GOLDEN / "a" / "tokenizer"
    )


@pytest.mark.parametrize("name", ["ctx16", "ctx27", "ctx29", "novolume"])
def test_the_original_predictor_is_reproduced(published: tuple[Kronos, KronosTokenizer], name: str) -> None:
    """Who changes one import must get the same numbers: two of the four contexts overflow and slide."""
    series = pd.read_csv(GOLDEN / "series.csv", parse_dates=["timestamps"])
    with np.load(GOLDEN / "a" / "golden.npz") as arrays:
        expected, (steps, max_context, *_) = arrays[f"predict_greedy_{name}"], arrays["predict_meta"]
    rows = 16 if name == "novolume" else int(name[3:])
    known, ahead = series.timestamps[:rows], series.timestamps[rows : rows + steps]
    frame = series[:rows].drop(columns=["volume", "amount"] if name == "novolume" else [])
    own = KronosPredictor(*published, device="cpu", max_context=int(max_context), compatibility="original")
    found = own.predict(frame, known, ahead, int(steps), top_k=1, verbose=False)
    assert list(found.columns) == list(FEATURES) and list(found.index) == list(ahead)
    scale = np.abs(expected).max(axis=0)
    np.testing.assert_allclose(found.to_numpy() / scale, expected / scale, rtol=1e-5, atol=1e-5)


def test_the_default_is_not_the_original(published: tuple[Kronos, KronosTokenizer]) -> None:
    """A setting that changes nothing: compatibility must be what makes the numbers equal."""
    series = pd.read_csv(GOLDEN / "series.csv", parse_dates=["timestamps"])
    asked = (series[:27], series.timestamps[:27], series.timestamps[27:35], 8)
    for settings in ({}, {"overflow": "slide"}):
        own = KronosPredictor(*published, device="cpu", max_context=36, **settings)
        old = KronosPredictor(*published, device="cpu", max_context=32, compatibility="original")
        mine, theirs = (p.predict(*asked, T=0, verbose=False) for p in (own, old))
        assert (mine.close != theirs.close).any()
        assert (mine.volume >= 0).all() and (mine.high >= mine[["open", "close"]].max(axis=1)).all()


def test_predict_is_the_mean_of_the_forecast() -> None:
    """Two ways to the same paths: what predict averages is what forecast shows."""
    frame, known, ahead = table()
    own = make()
    result = own.forecast(frame, known, ahead, HORIZON, sample_count=7, top_p=0.9)
    found = own.predict(frame, known, ahead, HORIZON, sample_count=7, verbose=False)
    np.testing.assert_array_equal(found.to_numpy(), result.mean()[0])
    assert found.index.equals(ahead) and result.paths.shape == (1, 7, HORIZON, 6)
    np.testing.assert_array_equal(result.dates[0], ahead.to_numpy().astype("datetime64[s]"))
    np.testing.assert_array_equal(result.history[0], frame.to_numpy(dtype=np.float32))
    assert result.repairs is not None and sum(result.repairs.values()) > 0
    paths = result.paths
    assert (paths[..., HIGH] >= paths[..., [OPEN, CLOSE]].max(-1)).all() and (paths[..., VOLUME:] >= 0).all()
    assert (paths[..., LOW] <= paths[..., [OPEN, CLOSE]].min(-1)).all()


def test_a_batch_is_its_series_in_order() -> None:
    """Series of unequal length were refused or padded; order and names must survive the grouping by
    length.
    """
    lengths = (30, 22, 36, 22)
    frames, known, ahead = (
        list(x) for x in zip(*(table(n, seed=i) for i, n in enumerate(lengths)), strict=True)
    )
    own, names = make(), ["A", "B", "C", "D"]
    whole = own.forecast(frames, known, ahead, HORIZON, sample_count=3, names=names)
    for i, name in enumerate(names):
        alone = own.forecast(frames[i], known[i], ahead[i], HORIZON, sample_count=3, names=[name])
        np.testing.assert_allclose(whole.paths[i], alone.paths[0], rtol=1e-4)
    assert list(whole.names) == names and np.isnan(whole.history[1, : 36 - 22]).all()
    tables = own.predict_batch(frames, known, ahead, HORIZON, verbose=False)
    assert [len(t) for t in tables] == [HORIZON] * 4
    assert all(t.index.equals(y) for t, y in zip(tables, ahead, strict=True))


def test_rows_before_the_context_change_nothing() -> None:
    """Statistics over more history than the model sees made old rows move a forecast."""
    frame, known, ahead = table(60)
    changed = frame.copy()
    changed.iloc[: 60 - (40 + 1 - HORIZON)] *= 100
    for overflow, untouched in (("cut", changed), ("slide", frame.iloc[-40:])):
        own = make(overflow=overflow)
        stamps = known[-len(untouched) :]
        one = own.forecast(frame, known, ahead, HORIZON, sample_count=2)
        two = own.forecast(untouched, stamps, ahead, HORIZON, sample_count=2)
        np.testing.assert_array_equal(one.paths, two.paths)
    original = make(compatibility="original")
    one, two = (original.predict(f, known, ahead, HORIZON, T=0, verbose=False) for f in (frame, changed))
    assert (one.close != two.close).any()


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_a_forecast_scales_with_its_prices(factor: float) -> None:
    """Cheap coins and dear indices: forecast(c x) = c forecast(x) with the relative epsilon."""
    frame, known, ahead = table()
    own = make()
    plain, scaled = (own.forecast(f, known, ahead, HORIZON, sample_count=5) for f in (frame, frame * factor))
    np.testing.assert_allclose(scaled.paths, plain.paths * factor, rtol=2e-3, atol=1e-4 * factor)
    np.testing.assert_array_equal(scaled.prob_up(), plain.prob_up())


def test_a_constant_series_gives_a_finite_forecast() -> None:
    """Zero variance must not become a division by zero, nor noise of the price's size."""
    frame, known, ahead = table()
    frame[:] = 25.0
    for epsilon in ("absolute", "relative"):
        out = make(epsilon=epsilon).predict(frame, known, ahead, HORIZON, verbose=False)
        np.testing.assert_allclose(out.to_numpy(), 25.0, rtol=1e-3)


def test_two_calls_agree_and_dropout_is_off() -> None:
    """One unseeded sample decided an answer; dropout left on in training mode changed it per call."""
    frame, known, ahead = table()
    own = make(dropout=0.5)
    first = own.predict(frame, known, ahead, HORIZON, verbose=False)
    own.model.train()
    own.tokenizer.train()
    torch.manual_seed(99)
    pd.testing.assert_frame_equal(own.predict(frame, known, ahead, HORIZON, verbose=False), first)
    other = make(dropout=0.5, seed=1).predict(frame, known, ahead, HORIZON, verbose=False)
    assert (other.close != first.close).any()


def test_zero_temperature_is_the_likeliest_path() -> None:
    """T = 0 divided by zero; here every path is the same, and the same as with top_k = 1."""
    frame, known, ahead = table()
    paths = make().forecast(frame, known, ahead, HORIZON, T=0, sample_count=3).paths
    np.testing.assert_array_equal(paths[:, 0], paths[:, 2])
    single = make().forecast(frame, known, ahead, HORIZON, top_k=1, sample_count=1).paths
    np.testing.assert_allclose(single, paths[:, :1], rtol=1e-5)


def test_stamps_of_every_kind_give_the_same_forecast() -> None:
    """A Series, an index, a list, text, and the exchange's own time zone; the networks read wall time."""
    frame, known, ahead = table()
    own = make()
    expected = own.predict(frame, known, ahead, HORIZON, verbose=False).to_numpy()
    zone = "America/New_York"
    kinds = [
        (pd.Series(known, index=range(7, 37)), pd.Series(ahead)),
        (list(known), list(ahead)),
        (known.to_numpy(), ahead.to_numpy()),
        (known.astype(str), list(ahead.astype(str))),
        (known.tz_localize(zone), ahead.tz_localize(zone)),
        (known.tz_localize(zone), ahead.tz_localize(zone).tz_convert("UTC")),
        ([stamp.to_pydatetime() for stamp in known], ahead.astype("datetime64[s]")),
    ]
    for x, y in kinds:
        out = own.predict(frame, x, y, HORIZON, verbose=False)
        np.testing.assert_array_equal(out.to_numpy(), expected)
        assert len(out.index) == HORIZON and out.index[0] == (
            y.iloc[0] if isinstance(y, pd.Series) else pd.DatetimeIndex(y)[0]
        )


def test_a_missing_volume_or_amount(caplog: pytest.LogCaptureFixture) -> None:
    """An amount alone was thrown away, or read as a volume; the rule that networks were trained with works
    both ways.
    """
    frame, known, ahead = table()
    frame["amount"] = frame.volume * frame[["open", "high", "low", "close"]].mean(axis=1)
    own = make()
    with caplog.at_level(logging.WARNING):
        both, only_volume, only_amount, again = (
            own.predict(frame.drop(columns=gone), known, ahead, HORIZON, verbose=False)
            for gone in ([], ["amount"], ["volume"], ["volume"])
        )
    np.testing.assert_allclose(only_volume, both, rtol=1e-4)
    np.testing.assert_allclose(only_amount, both, rtol=1e-4)
    pd.testing.assert_frame_equal(only_amount, again)
    assert [r.getMessage() for r in caplog.records] == [
        "1 of 1 tables have an amount but no volume: volume is taken to be amount / mean price"
    ]
    prices = frame[["open", "high", "low", "close"]]
    neither = own.predict(prices, known, ahead, HORIZON, verbose=False)
    zeros = own.predict(prices.assign(volume=0.0, amount=0.0), known, ahead, HORIZON, verbose=False)
    pd.testing.assert_frame_equal(neither, zeros)
    original = make(compatibility="original")
    theirs = [
        original.predict(f, known, ahead, HORIZON, T=0, verbose=False)
        for f in (frame.drop(columns="volume"), prices)
    ]
    pd.testing.assert_frame_equal(*theirs)


def broken(change: Any) -> dict[str, Any]:
    frame, known, ahead = table()
    given = {"df": frame, "x_timestamp": known, "y_timestamp": ahead, "pred_len": HORIZON}
    return given | change(frame, known, ahead)


def with_value(value: Any, column: str = "low", row: int = 4) -> Any:
    def change(frame: pd.DataFrame, *_: Any) -> dict[str, Any]:
        changed = frame.astype(object)
        changed.loc[row, column] = value
        return {"df": changed if isinstance(value, str) else changed.astype(float)}

    return change


REFUSED = {
    r"nan in row 4 \(4\), column low, and 1": with_value(np.nan),
    r"inf in row 4 \(4\), column volume": with_value(np.inf, "volume"),
    r"1e\+39 in row 2": with_value(1e39, "amount", 2),
    r"numbers in column low, found could not convert string to float: 'n/a'": with_value("n/a"),
    r"expected one column close, found Close and CLOSE; rename": lambda f, x, y: {
        "df": f.rename(columns={"close": "Close"}).assign(CLOSE=1.0)
    },
    r"expected one ticker, found 2 \(AAPL, MSFT\); pick one with df\.xs\('AAPL', axis=1, level=1\)": lambda f, x, y: {
        "df": pd.concat({"AAPL": f, "MSFT": f}, axis=1).swaplevel(axis=1)
    },
    r"expected one ticker, found 2 \(A, B\); give a list of tables": lambda f, x, y: {
        "df": f.assign(Ticker=["A", "B"] * 15)
    },
    "two \\(a price and a ticker\\), found 3 levels": lambda f, x, y: {
        "df": pd.concat({"A": pd.concat({"B": f}, axis=1)}, axis=1)
    },
    r"df: expected a DataFrame, found dict": lambda f, x, y: {"df": {"open": [1.0]}},
    r"df: expected a DataFrame, found LazyFrame; collect\(\) it first": lambda f, x, y: {
        "df": pl.from_dicts(f.to_dict("records")).lazy()
    },
    r"expected numbers in column low, found the type String": lambda f, x, y: {
        "df": pl.from_dicts(f.to_dict("records")).with_columns(low=pl.lit("n/a"))
    },
    r"nan in row 3, column low, and 1": lambda f, x, y: {
        "df": pl.from_dicts(f.assign(low=f.low.where(f.index != 3)).to_dict("records"))
    },
    r"expected x_timestamp, found none, and a table without an index": lambda f, x, y: {
        "df": pl.from_dicts(f.to_dict("records")),
        "x_timestamp": None,
    },
    r"x_timestamp: expected dates, found integer values": lambda f, x, y: {"x_timestamp": None},
    r"expected stamps, found a table of 6 columns": lambda f, x, y: {"x_timestamp": f},
    r"y_timestamp: expected dates that can be read in one way, found '03/06/2024', which is a day in": lambda f, x, y: {
        "y_timestamp": [f"0{day}/06/2024" for day in range(3, 8)]
    },
    r"found '13/06/2024', of both orders; write them as YYYY-MM-DD": lambda f, x, y: {
        "y_timestamp": ["13/06/2024", "06/14/2024", "06/15/2024", "06/16/2024", "06/17/2024"]
    },
    r"years of four digits, found '03/06/24'": lambda f, x, y: {
        "y_timestamp": [f"0{day}/06/24" for day in range(3, 8)]
    },
    "found no low, close; rename": lambda f, x, y: {"df": f.drop(columns=["low", "close"])},
    "every column once, found 'open' twice": lambda f, x, y: {"df": pd.concat([f, f[["open"]]], axis=1)},
    "at least 2 rows of history, found 1": lambda f, x, y: {"df": f[:1], "x_timestamp": x[:1]},
    "one x_timestamp per row, found 29 for 30": lambda f, x, y: {"x_timestamp": x[:-1]},
    "as many y_timestamp, found 5 for 4": lambda f, x, y: {"pred_len": HORIZON - 1},
    "pred_len >= 1 and as many y_timestamp, found 0": lambda f, x, y: {"pred_len": 0, "y_timestamp": y[:0]},
    r"x_timestamp: expected rising stamps, each once, found .* in row 1$": lambda f, x, y: {
        "x_timestamp": x[::-1]
    },
    r"x_timestamp: expected rising stamps.* in row 8$": lambda f, x, y: {
        "x_timestamp": x[:8].append(x[7:-1])
    },
    r"y_timestamp: expected rising stamps.* in row 1$": lambda f, x, y: {"y_timestamp": y[[0, 0, 1, 2, 3]]},
    "after the last x_timestamp": lambda f, x, y: {"y_timestamp": y - pd.Timedelta("5min")},
    "a date in every row, found none in row 3": lambda f, x, y: {"x_timestamp": x.where(np.arange(30) != 3)},
    "expected dates, found integer": lambda f, x, y: {"x_timestamp": list(range(30))},
    "expected dates of one time zone, found .*soon": lambda f, x, y: {"y_timestamp": ["soon"] * HORIZON},
    "time zone on both": lambda f, x, y: {"y_timestamp": y.tz_localize("UTC")},
    "expected a DatetimeIndex, a Series or a list of stamps, found str": lambda f, x, y: {
        "x_timestamp": "2024-01-02"
    },
    "as many tables as stamps": lambda f, x, y: {"df": [f, f], "x_timestamp": [x], "y_timestamp": [y, y]},
    r"df_list\[1\]: expected the columns": lambda f, x, y: {
        "df": [f, f[["open"]]],
        "x_timestamp": [x, x],
        "y_timestamp": [y, y],
    },
    "max_context 40": lambda f, x, y: {
        "y_timestamp": pd.date_range(y[0], periods=45, freq="5min"),
        "pred_len": 45,
    },
    "temperature >= 0, found -1": lambda f, x, y: {"T": -1.0},
    "sample_count >= 1, found 0": lambda f, x, y: {"sample_count": 0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_refused_before_any_work(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN in, plausible numbers out. The message names row and column; nothing has been computed."""
    own = make()
    monkeypatch.setattr(own.tokenizer, "encode", None)  # calling it would be another error
    with pytest.raises(KitError, match=message):
        own.forecast(**broken(REFUSED[message]))


def test_summer_time_is_no_disorder() -> None:
    """A market that never closes has one wall hour twice in autumn: its instants still rise."""
    frame, *_ = table()
    stamps = pd.date_range("2024-11-03 00:00", periods=30 + HORIZON, freq="5min", tz="America/New_York")
    known, ahead = stamps[:30], stamps[30:]
    assert not known.tz_localize(None).is_monotonic_increasing
    assert len(make().predict(frame, known, ahead, HORIZON, verbose=False)) == HORIZON


def test_embeddings_are_the_states_behind_the_logits() -> None:
    """Embeddings of another layer, or of a padded position, train a head on noise."""
    frame, known, _ = table()
    longer, their_known, _ = table(36, seed=5)
    own = make()
    states = own.hidden_states([frame, longer], [known, their_known])
    every = own.hidden_states([frame, longer], [known, their_known], last=False)
    assert isinstance(states, np.ndarray) and states.shape == (2, 16) and [len(s) for s in every] == [30, 36]
    for row in range(2):
        np.testing.assert_allclose(states[row], every[row][-1], rtol=1e-6)
    one = own.hidden_states(frame, known)
    np.testing.assert_allclose(one[0], states[0], rtol=1e-5)
    s1, s2, *_ = own._forecaster(own._sampling(1, 0, 1, 1)).encode(frame.to_numpy(dtype=np.float32)[None])
    with torch.inference_mode():
        stamp = torch.from_numpy(calendar_stamps(known.to_numpy())[None])
        expected = own.model.context(s1, s2, stamp)[0]
    np.testing.assert_allclose(every[0], expected, rtol=1e-5, atol=1e-6)


def test_the_progress_bar_shows_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """verbose=False must be silent, verbose=True must not."""
    frame, known, ahead = table()
    own = make()
    own.predict(frame, known, ahead, HORIZON, verbose=False)
    assert capsys.readouterr() == ("", "")
    own.predict(frame, known, ahead, HORIZON)
    assert "1/1" in capsys.readouterr().err


# -- tables and stamps of every kind -------------------------------------------------------------------------
def yfinance_like(frame: pd.DataFrame, *, ticker_first: bool) -> pd.DataFrame:
    """Two levels, prices in capitals, a column that nobody asked for; as yfinance writes one ticker."""
    named = frame.rename(columns=str.capitalize).assign(**{"Adj Close": frame.close})
    both = pd.concat({"AAPL": named}, axis=1, names=["Ticker", "Price"])
    return both if ticker_first else both.swaplevel(axis=1)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.convert_dtypes(),
        lambda f: f.astype("Float32"),
        lambda f: f.rename(columns=str.capitalize),
        lambda f: yfinance_like(f, ticker_first=True),
        lambda f: yfinance_like(f, ticker_first=False),
        lambda f: pl.DataFrame({name: f[name].to_numpy() for name in f.columns}),
        lambda f: pl.DataFrame({name: f[name].to_numpy() for name in f.columns}).with_columns(
            ticker=pl.lit("AAPL")
        ),
        lambda f: f.assign(Symbol="AAPL"),
        lambda f: f.convert_dtypes(dtype_backend="pyarrow"),
    ],
    ids=[
        "nullable",
        "Float32",
        "capitals",
        "ticker first",
        "price first",
        "polars",
        "polars ticker",
        "symbol",
        "pyarrow",
    ],
)
def test_tables_of_every_kind_give_the_same_forecast(change: Any, request: pytest.FixtureRequest) -> None:
    """What most people hold: yfinance's two levels, polars, nullable columns."""
    if "pyarrow" in request.node.name:
        pytest.importorskip("pyarrow")
    frame, known, ahead = table()
    own = make()
    expected = own.predict(frame, known, ahead, HORIZON, verbose=False)
    found = own.predict(change(frame), known, ahead, HORIZON, verbose=False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert list(found.columns) == list(FEATURES) and found.index.equals(ahead)


def test_stamps_lie_in_a_column_the_index_or_a_table_of_their_own() -> None:
    """A table of one column of stamps was an internal error; an index was asked for a second time."""
    frame, known, ahead = table()
    own = make()
    expected = own.predict(frame, known, ahead, HORIZON, verbose=False).to_numpy()
    polars = pl.DataFrame({name: frame[name].to_numpy() for name in frame.columns}).with_columns(
        at=pl.Series(known.to_list())
    )
    zone = polars.with_columns(at=pl.col("at").dt.replace_time_zone("America/New_York"))
    text = polars.with_columns(at=pl.col("at").dt.to_string("%Y-%m-%d %H:%M:%S"))
    cases: list[tuple[Any, Any, Any]] = [
        (frame.assign(at=known), "at", ahead),
        (frame.set_index(known), None, ahead),
        (frame.set_index(known.astype(str)), None, ahead),
        (frame, pd.DataFrame({"timestamps": known}), pd.DataFrame({"timestamps": ahead})),
        (polars, "at", ahead),
        (polars, polars["at"], pl.Series(ahead.to_list())),
        (polars, polars.select("at"), pl.DataFrame({"at": ahead.to_list()})),
        (zone, zone["at"], ahead.tz_localize("America/New_York")),
        (text, text["at"], ahead.strftime("%Y-%m-%d %H:%M")),
    ]
    for number, (df, x, y) in enumerate(cases):
        out = own.predict(df, x, y, HORIZON, verbose=False)
        np.testing.assert_array_equal(out.to_numpy(), expected, err_msg=str(number))


def test_day_first_text_is_not_read_as_month_first() -> None:
    """3 June became 6 March, and the networks read the calendar of another season."""
    frame, *_ = table()
    own = make()
    forms = [
        "%d/%m/%Y",
        "%m/%d/%Y",
        "%d-%m-%Y",
        "%d.%m.%Y",
        "%d.%m.%Y %H:%M",
        "%Y/%m/%d",
        "%Y%m%d",
        "%d %B %Y",
    ]
    for first in ("2024-05-20", "2024-06-03"):  # the second begins with days that may be months
        days = pd.date_range(first, periods=30 + HORIZON)
        expected = own.forecast(frame, days[:30], days[30:], HORIZON)
        for form in forms:
            known, ahead = list(days[:30].strftime(form)), list(days[30:].strftime(form))
            later = days[30:] if first == "2024-06-03" else ahead  # five days of July could be months
            result = own.forecast(frame, known, later, HORIZON)
            np.testing.assert_array_equal(result.dates, expected.dates, err_msg=form)
            np.testing.assert_array_equal(result.paths, expected.paths, err_msg=form)


def test_without_future_stamps_the_next_sessions_follow() -> None:
    """Who forecasts tomorrow had to write down tomorrow: weekends and holidays are the calendar's
    business.
    """
    frame, *_ = table()
    days = pd.bdate_range(end="2024-03-27", periods=30)  # the 29th is Good Friday
    own = make()
    found = own.predict(frame.set_index(days), pred_len=3, verbose=False)
    assert [str(day.date()) for day in found.index] == ["2024-03-28", "2024-04-01", "2024-04-02"]
    coin = make(calendar="24/7").forecast(frame, days, pred_len=3)
    assert coin.dates is not None and str(coin.dates[0, 1])[:10] == "2024-03-29"
    zoned = own.predict_batch(
        [frame.set_index(days.tz_localize("America/New_York"))], pred_len=1, verbose=False
    )[0]
    assert str(zoned.index[0]) == "2024-03-28 00:00:00-04:00"
    minutes = pd.DatetimeIndex([day + pd.Timedelta(f"{hour}h") for day in days[-15:] for hour in (10, 15)])
    assert [str(t) for t in own.predict(frame, minutes, pred_len=2, verbose=False).index] == [
        "2024-03-28 10:00:00",
        "2024-03-28 15:00:00",
    ]
    with pytest.raises(KitError, match=r"data.calendar: expected one of .*, found 'LSE'"):
        make(calendar="LSE").predict(frame, days, pred_len=1, verbose=False)


def test_swapped_networks_are_refused_at_once() -> None:
    """AttributeError, only when predicting."""
    model, tokenizer = tiny_networks()
    for kind in (KronosPredictor, Forecaster):
        with pytest.raises(KitError, match="found KronosTokenizer and Kronos; swap the two"):
            kind(tokenizer, model)  # type: ignore[arg-type]
        with pytest.raises(
            KitError, match=r"found str and KronosTokenizer; load them with Kronos\.from_pretrained"
        ):
            kind("NeoQuasar/Kronos-mini", tokenizer)  # type: ignore[arg-type]


def test_a_predictor_says_what_it_is() -> None:
    """A notebook's last line prints it."""
    assert repr(make()) == "KronosPredictor(0.0 M parameters, cpu, max_context 40)"
    assert repr(make(compatibility="original")).endswith("max_context 40, as the original)")


def test_a_wrong_compatibility_is_refused() -> None:
    """A misspelt mode that is silently ours."""
    with pytest.raises(KitError, match="None or 'original', found 'Original'"):
        make(compatibility="Original")
