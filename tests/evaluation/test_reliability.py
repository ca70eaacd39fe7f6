"""How honest probabilities are, with the day's luck taken out."""

import numpy as np
import pytest
from scipy.special import expit

from kronos.evaluation.panel import Panel
from kronos.evaluation.reliability import BINS, equal_bins, reliability
from kronos.evaluation.significance import DateBootstrap


def panel_of(label: np.ndarray, every: int = 5, horizon: int = 5) -> Panel:
    """A panel with labels (dates, stocks)."""
    dates, stocks = label.shape
    days = np.datetime64("2020-01-01") + np.arange(dates) * every
    last = np.full(label.size, 100.0)
    return Panel(
        tickers=[f"t{k}" for k in range(stocks)], horizon=horizon, span=horizon, sessions=np.arange(dates) * every,
        origins=days.astype("datetime64[s]"), targets=(days + horizon).astype("datetime64[s]"),
        origin=np.repeat(np.arange(dates), stocks).astype(np.int32), ticker=np.tile(np.arange(stocks), dates).astype(np.int32),
        row=np.arange(label.size), last_close=last, future_close=np.where(label.ravel() == 1, 101.0, 99.0), excluded={},
    )  # fmt: skip


@pytest.mark.parametrize("market", [0.0, 0.8])
def test_reliability_of_honest_and_of_loud_probabilities(market: float) -> None:
    """The curve has to lie on the diagonal where probabilities are true, and its bands to hold it, whatever
    the days did.
    """
    rng = np.random.default_rng(0)
    for slope, worst in ((1.0, 0.03), (0.3, 1.0)):
        odds = rng.normal(0, 1.5, (60, 100))
        level = market * rng.standard_normal((60, 1))
        p = expit(odds / np.sqrt(1 + 0.35 * market**2))
        panel = panel_of((rng.random(p.shape) < expit(slope * odds + level)).astype(int))
        bins, error = reliability(
            panel, p.ravel(), DateBootstrap(tuple(panel.sessions.tolist()), 5, draws=300)
        )
        assert sum(b.rows for b in bins) == len(panel) and len(bins) == BINS
        inside = [b.observed.low <= b.predicted <= b.observed.high for b in bins]
        assert (np.mean(inside) >= 0.8) == (slope == 1.0)
        assert error.low <= error.value <= worst and (error.value > 0.1) == (slope < 1)


def test_bins_hold_equally_many() -> None:
    """Bins of equal width were empty at both ends; equal values stay together."""
    found = np.bincount(equal_bins(np.random.default_rng(0).normal(size=1000), 10))
    assert found.tolist() == [100] * 10
    assert set(equal_bins(np.full(7, 0.5), 10).tolist()) == {9} and len(equal_bins(np.empty(0), 3)) == 0
