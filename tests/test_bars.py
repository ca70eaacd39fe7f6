"""Bars: stamps, statistics and normalisation, against the published figures and their own properties."""

from pathlib import Path

import numpy as np
import pytest

from kronos import bars


def test_stamps_of_known_moments() -> None:
    """The weekday and month tables of the published weights start at Monday 0 and January 1."""
    moments = np.array(["1962-01-02", "2024-02-29T23:59:30", "1969-12-31T00:05"], dtype="datetime64[s]")
    expected = [[0, 0, 1, 2, 1], [59, 23, 3, 29, 2], [5, 0, 2, 31, 12]]
    assert bars.calendar_stamps(moments).tolist() == expected


def test_a_missing_date_has_no_stamp() -> None:
    """NaT converts to a number that looks like a date."""
    with pytest.raises(ValueError, match="NaT"):
        bars.calendar_stamps(np.array(["NaT"], dtype="datetime64[s]"))


@pytest.mark.parametrize("case", ["a", "b"])
def test_golden_windows(root: Path, case: str) -> None:
    """The published loader's normalisation, with a clipped spike and a window where the absolute epsilon
    matters.

    It computes in float32; true statistics are off from its own by as much as its rounding.
    """
    golden = np.load(root / "tests" / "golden" / case / "golden.npz")
    raw = np.stack([golden[f"raw_{j}"] for j in range(3)]).astype(np.float32)
    published = bars.normalise(raw, bars.published_stats(raw), 5.0)
    np.testing.assert_allclose(published, golden["x"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(bars.normalise(raw, bars.window_stats(raw), 5.0), golden["x"], atol=1e-4)


def test_denormalise_undoes_normalise() -> None:
    """With and without a paths axis between batch and time."""
    window = np.random.default_rng(0).normal(100, 5, (3, 20, 6)).astype(np.float32)
    stats = bars.window_stats(window)
    scaled = bars.normalise(window, stats, 50.0)
    np.testing.assert_allclose(bars.denormalise(scaled, stats), window, rtol=1e-6)
    paths = np.repeat(scaled[:, None], 4, axis=1)
    np.testing.assert_allclose(bars.denormalise(paths, stats)[:, 2], window, rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_relative_epsilon_is_scale_free(factor: float) -> None:
    """A cheap share must look like an expensive one."""
    window = np.random.default_rng(1).normal(100, 5, (2, 20, 6))
    plain = bars.normalise(window, bars.window_stats(window, "relative"), 5.0)
    scaled = bars.normalise(window * factor, bars.window_stats(window * factor, "relative"), 5.0)
    np.testing.assert_allclose(scaled, plain, atol=1e-6)


@pytest.mark.parametrize("epsilon", ["absolute", "relative"])
@pytest.mark.parametrize("value", [0.0, 1e-6, 7.3, 1e9])
def test_a_constant_series_is_zero(epsilon: bars.EpsilonKind, value: float) -> None:
    """Rounding in the statistics must not become a pattern."""
    window = np.full((1, 20, 6), value)
    scaled = bars.normalise(window, bars.window_stats(window, epsilon), 5.0)
    assert np.abs(scaled).max() < 1e-3
