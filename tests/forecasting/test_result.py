"""Views of a forecast: candles that can exist, tables, plots."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.bars import AMOUNT, CLOSE, FEATURES, HIGH, LOW, OPEN, VOLUME
from kronos.errors import KitError
from kronos.forecasting.result import Forecast


def sample(seed: int = 0, series: int = 2, paths: int = 9, horizon: int = 4) -> Forecast:
    """Features that know nothing of each other: most candles are impossible."""
    rng = np.random.default_rng(seed)
    bars = (50 + rng.standard_normal((series, paths, horizon, 6))).astype(np.float32)
    bars[..., VOLUME:] -= 50
    days = np.datetime64("2024-03-04T00:00:00") + np.arange(horizon) * np.timedelta64(86400, "s")
    return Forecast(
        bars,
        np.full(series, 50, np.float32),
        names=np.array([f"T{i}" for i in range(series)]),
        dates=np.broadcast_to(days, (series, horizon)),
        history=(50 + rng.random((series, 30, 6))).astype(np.float32),
    )


def check_possible(bars: np.ndarray) -> None:
    assert (bars[..., HIGH] >= bars[..., [OPEN, LOW, CLOSE]].max(-1)).all()
    assert (bars[..., LOW] <= bars[..., [OPEN, HIGH, CLOSE]].min(-1)).all()
    assert (bars[..., VOLUME:] >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.floats(0, 1))
def test_every_view_of_repaired_paths_can_exist(seed: int, paths: int, q: float) -> None:
    """Highs below the close were shown to users; repairing the mean instead of the paths would also move
    it.
    """
    fixed = sample(seed, paths=paths).repaired()
    for bars in (fixed.paths, fixed.mean(), fixed.median(), fixed.quantile(q)):
        check_possible(bars)


def test_repairs_are_counted_and_touch_nothing_else() -> None:
    """A repair that nobody counts hides a network that has not learned what a candle is."""
    raw = sample(series=1, paths=2, horizon=1)
    raw.paths[0, 0, 0] = [10, 12, 9, 11, 5, 50]  # possible
    raw.paths[0, 1, 0] = [10, 9, 11, 12, -1, 0]
    fixed = raw.repaired()
    np.testing.assert_array_equal(fixed.paths[0, :, 0], [[10, 12, 9, 11, 5, 50], [10, 12, 9, 12, 0, 0]])
    assert fixed.repairs == {"high too low": 1, "low too high": 1, "negative volume": 1, "negative amount": 0}
    assert raw.paths[0, 1, 0, VOLUME] == -1 and raw.repairs is None
    again = fixed.repaired()
    np.testing.assert_array_equal(again.paths, fixed.paths)
    assert not any((again.repairs or {"": 1}).values())


def test_repairs_move_neither_open_nor_close() -> None:
    """A probability that depended on cosmetics would not be the networks'."""
    raw = sample()
    fixed = raw.repaired()
    np.testing.assert_array_equal(fixed.paths[..., [OPEN, CLOSE]], raw.paths[..., [OPEN, CLOSE]])
    np.testing.assert_array_equal(fixed.prob_up(), raw.prob_up())


def test_a_table_row_is_the_bar_it_names() -> None:
    """A long table in another order than its labels is wrong everywhere and looks right."""
    own = sample()
    frame = own.to_frame(["mean", 0.25])
    assert list(frame.columns) == ["series", "step", "date", "view", *FEATURES] and len(frame) == 2 * 2 * 4
    row = frame[(frame.series == "T1") & (frame.step == 3) & (frame["view"] == "q0.25")]
    np.testing.assert_array_equal(row[list(FEATURES)].to_numpy()[0], own.quantile(0.25)[1, 2])
    assert row.date.iloc[0] == own.dates[1, 2]
    paths = own.to_frame("paths")
    assert len(paths) == own.paths[..., 0].size
    row = paths[(paths.series == "T0") & (paths.step == 2) & (paths.path == 7)]
    np.testing.assert_array_equal(row[list(FEATURES)].to_numpy()[0], own.paths[0, 7, 1])
    bare = Forecast(own.paths, own.last_close).to_frame()
    assert list(bare.columns[:3]) == ["series", "step", "view"] and set(bare["view"]) == {
        "mean",
        "median",
        "q0.1",
        "q0.9",
    }


@pytest.mark.parametrize("views", [["mode"], [1.5], [-0.1]])
def test_a_view_that_does_not_exist_is_refused(views: list) -> None:
    """Silently showing another view than the one asked for."""
    with pytest.raises(KitError, match="expected the view"):
        sample().to_frame(views)


def test_a_part_keeps_what_belongs_to_its_series() -> None:
    """Names or dates left behind would label a series as another one."""
    part = sample(series=3).only(np.array([2]))
    assert part.name(0) == "T2" and part.paths.shape[0] == part.dates.shape[0] == part.history.shape[0] == 1
    np.testing.assert_array_equal(part.paths[0], sample(series=3).paths[2])


def test_a_plot_shows_the_series_that_was_asked_for() -> None:
    """By name or position, with or without history; saved without a display."""
    own = sample()
    short = own.history.copy()
    short[1, :20] = np.nan
    for forecast in (own, Forecast(own.paths, own.last_close), replace(own, history=short)):
        figure = forecast.plot(1)
        figure.savefig(io.BytesIO(), format="png")
        axes = figure.axes[0]
        median = next(line for line in axes.get_lines() if line.get_label() == "median")
        np.testing.assert_allclose(median.get_ydata(), [50, *own.median()[1, :, CLOSE]], rtol=1e-6)
    assert own.plot("T1").axes[0].get_title().startswith("T1: 9 paths")
    assert len(axes.patches) == 10  # bodies of the candles
    odd = replace(own, names=np.array(["$SPX_{ and $NDX^^", r"\$"])).plot(
        0
    )  # two $ began and ended a formula: ValueError
    odd.savefig(io.BytesIO(), format="png")
    for missing in ("T9", 2):
        with pytest.raises(KitError, match="expected one of 2 series"):
            own.plot(missing)
    assert own.repaired().paths[..., AMOUNT].min() >= 0
