"""The rule that turns paths into an answer."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from kronos.bars import CLOSE
from kronos.config import InferenceConfig
from kronos.forecasting.decide import TIE_PRIOR, decide, prob_up, tie_share


def paths_of(closes: list[list[list[float]]]) -> np.ndarray:
    """(B, S, H) closes as paths whose other features would all say 'rise'."""
    paths = np.full((*np.shape(closes), 6), 1e6, np.float32)
    paths[..., CLOSE] = closes
    return paths


def test_a_tie_is_not_a_rise() -> None:
    """The label is 1 only when the close is greater: a path that ends where it began counted as a rise would be wrong."""
    paths = paths_of([[[9.0], [10.0], [11.0], [10.0]]])
    assert prob_up(paths, np.array([10.0], np.float32)).tolist() == [0.25]
    assert decide(np.array([0.5, np.nextafter(0.5, 1)])).tolist() == [0, 1]


def test_the_step_that_is_asked_for_decides() -> None:
    """A horizon of several steps must be judged on its own last close, not on the first or on the mean."""
    paths = paths_of([[[12.0, 8.0], [12.0, 8.0], [8.0, 12.0]]])
    last = np.array([10.0], np.float32)
    assert prob_up(paths, last)[0] == pytest.approx(1 / 3)
    assert prob_up(paths, last, step=0)[0] == pytest.approx(2 / 3)


def test_ties_are_counted_over_the_horizon() -> None:
    """A price that stands still for a day is not one that stands still for a month; few bars make no tie of it."""
    closes = np.array([[1, 1, 2, 2, 3, 3], [5, 5, 5, 5, 5, 5], [1, 2, 1, 2, 1, 2]], np.float32)
    assert tie_share(closes, 1) == pytest.approx((np.array([3, 5, 0]) + TIE_PRIOR) / 6)
    assert tie_share(closes, 2) == pytest.approx((np.array([0, 4, 4]) + TIE_PRIOR) / 5)
    assert tie_share(closes, 30) == pytest.approx((np.array([0, 1, 0]) + TIE_PRIOR) / 2)
    assert tie_share(closes[:, :1], 3) == pytest.approx([TIE_PRIOR] * 3)


def test_ties_of_real_prices_are_as_many_as_expected(shared_data: Path) -> None:
    """Shares that trade every day must keep their answers, and a P(tie) that is off would bend every probability."""
    prices = pl.read_parquet(shared_data / "sp500" / "train_all505.parquet", columns=["Ticker", "Close"])
    series = [group["Close"].drop_nulls().to_numpy().astype(np.float32) for _, group in prices.group_by("Ticker")]
    ends = [(closes, end) for closes in series for end in range(300, len(closes) - 31, 97)]
    contexts = np.stack([closes[end - 256 : end] for closes, end in ends])
    for horizon in (1, 5, 30):
        happened = np.mean([closes[end - 1 + horizon] == closes[end - 1] for closes, end in ends])
        assert len(ends) > 3000 and abs(tie_share(contexts, horizon).mean() - happened) < 0.002, horizon


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_close_that_is_no_number_is_never_a_fall(bad: float) -> None:
    """NaN compares as 'not above': broken forecasts once became falls without a word."""
    with pytest.raises(ValueError, match="not finite"):
        prob_up(paths_of([[[9.0], [bad]]]), np.array([10.0], np.float32))
    with pytest.raises(ValueError, match="NaN"):
        decide(np.array([0.2, np.nan]))


def test_default_number_of_paths_has_no_even_split() -> None:
    """With an even number of paths one coin-flip row in seven sits at exactly 0.5 and all of them become falls."""
    assert InferenceConfig().sample_count % 2 == 1


def test_deciding_needs_no_torch() -> None:
    """Rules of decision run where there is NumPy only."""
    code = "import sys, kronos.forecasting.decide; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
