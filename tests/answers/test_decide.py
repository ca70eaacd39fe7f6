"""From paths to P(rise), and from P(rise) to an answer."""

import subprocess
import sys

import numpy as np
import pytest

from kronos.answers.decision import answers
from kronos.bars import CLOSE
from kronos.config import InferenceConfig
from kronos.forecasting.decide import prob_up


def paths_of(closes: list[list[list[float]]]) -> np.ndarray:
    """(B, S, H) closes as paths whose other features would all say 'rise'."""
    paths = np.full((*np.shape(closes), 6), 1e6, np.float32)
    paths[..., CLOSE] = closes
    return paths


def test_a_tie_is_not_a_rise() -> None:
    """The label is 1 only when the close is greater: a path that ends where it began counted as a rise would
    be wrong.
    """
    paths = paths_of([[[9.0], [10.0], [11.0], [10.0]]])
    assert prob_up(paths, np.array([10.0], np.float32)).tolist() == [0.25]
    assert answers(np.array([0.5, np.nextafter(0.5, 1)])).tolist() == [0, 1]


def test_the_step_that_is_asked_for_decides() -> None:
    """A horizon of several steps must be judged on its own last close, not on the first or on the mean."""
    paths = paths_of([[[12.0, 8.0], [12.0, 8.0], [8.0, 12.0]]])
    last = np.array([10.0], np.float32)
    assert prob_up(paths, last)[0] == pytest.approx(1 / 3)
    assert prob_up(paths, last, step=0)[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_close_that_is_no_number_is_never_a_fall(bad: float) -> None:
    """NaN compares as 'not above': broken forecasts once became falls without a word."""
    with pytest.raises(ValueError, match="not finite"):
        prob_up(paths_of([[[9.0], [bad]]]), np.array([10.0], np.float32))
    with pytest.raises(ValueError, match="NaN"):
        answers(np.array([0.2, np.nan]))


def test_default_number_of_paths_has_no_even_split() -> None:
    """With an even number of paths one coin-flip row in seven sits at exactly 0.5 and all of them become
    falls.
    """
    assert InferenceConfig().sample_count % 2 == 1


def test_deciding_needs_no_torch() -> None:
    """Rules of decision run where there is NumPy only."""
    code = "import sys, kronos.forecasting.decide; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
