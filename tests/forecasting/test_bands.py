"""Bands that hold what they say."""

import numpy as np
import pytest

from kronos.answers.bands import fit_width, widened


def test_bands_are_widened_to_what_happened() -> None:
    """A 90 % band that held 25 % was the finding about sampled paths: paths a third as wide as the truth get
    a factor of 3.
    """
    rng = np.random.default_rng(0)
    closes = (100 * np.exp(0.02 * rng.standard_normal((3000, 33)))).astype(np.float32)
    future = 100 * np.exp(0.06 * rng.standard_normal(3000))
    weight = np.full(3000, 1 / 3000)
    assert fit_width(closes, future, weight) == pytest.approx(3, rel=0.1)
    assert fit_width(closes, 100 * np.exp(0.02 * rng.standard_normal(3000)), weight) == pytest.approx(
        1, rel=0.1
    )
    wide = widened(closes, 3.0)
    assert np.median(wide, axis=1) == pytest.approx(np.median(closes, axis=1), rel=1e-5)
    assert np.log(wide).std() == pytest.approx(3 * np.log(closes).std(), rel=0.05)
    assert ((wide > 100) == (closes > 100)).mean() > 0.9
    assert fit_width(np.full((4, 3), 5, np.float32), np.full(4, 6.0), np.full(4, 0.25)) == 1.0
    assert fit_width(closes[:, :1], future, weight) == 1.0, "one path has no band"
    below = np.array([[1.0, -1.0, 2.0]], np.float32)
    assert widened(below, 2.0).tolist() == below.tolist(), "a path below zero has no logarithm"
