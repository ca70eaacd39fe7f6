"""What a forecast is: every sampled path of some series, and views of them.

In: paths (B, S, H, 6) in price units and the last known closes; names, dates and a tail of history where they
are known.
Out: mean, median, quantiles, P(rise), a table, a plot. NumPy only; pandas and matplotlib are loaded by the
views that need them.

Letters: B series, S sample paths, H steps, K bars of history kept for plots.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kronos.bars import AMOUNT, CLOSE, FEATURES, HIGH, LOW, OPEN, VOLUME, FloatArray
from kronos.errors import KitError
from kronos.forecasting import decide

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

View = Literal["mean", "median"] | float
"""One number per bar and feature instead of S: the mean, the median, or a quantile given as a number in [0,
1].
"""


@dataclass(frozen=True)
class Rise:
    """P(rise) of B series, each (B,) float64; NaN where the networks gave something that is not finite."""

    prob_up: NDArray[np.float64]
    mass: NDArray[np.float64]
    """Probability of the outcomes that an enumerated `prob_up` rests on (see `next_step`); NaN: sampled."""


@dataclass(frozen=True)
class Forecast:
    """Sampled futures of B series: S paths of H bars, and views of them. All in price units."""

    paths: FloatArray
    """(B, S, H, 6) float32, `bars.FEATURES` order."""
    last_close: FloatArray
    """(B,) the last close that was known."""
    names: NDArray[np.str_] | None = None
    """(B,) what the series are called; None: their positions."""
    dates: NDArray[np.datetime64] | None = None
    """(B, H) of the forecast bars, exchange-local."""
    shortened: NDArray[np.bool_] | None = None
    """(B,) whose context was cut to leave room for the horizon."""
    history: FloatArray | None = None
    """(B, K, 6) the last known bars, NaN in front of a series that has fewer. Only `plot` reads it."""
    repairs: Mapping[str, int] | None = None
    """Bars that `repaired` changed, by kind; None: candles are as the networks gave them."""

    def only(self, which: NDArray[np.int64]) -> "Forecast":
        """The series at the positions `which`. `repairs` stays that of all series."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "repairs"}
        part: dict[str, Any] = {
            name: None if array is None else array[which] for name, array in arrays.items()
        }
        return replace(self, **part)

    @property
    def finite(self) -> NDArray[np.bool_]:
        """(B,) whether every path of a series is. The others are no answer: the networks gave something that
        is not finite.
        """
        return np.asarray(np.isfinite(self.paths).all(axis=(1, 2, 3)))

    def mean(self) -> FloatArray:
        """Mean path, (B, H, 6)."""
        return self.paths.mean(axis=1)

    def median(self) -> FloatArray:
        """Median path (per feature and step), (B, H, 6)."""
        return np.median(self.paths, axis=1)

    def quantile(self, q: float) -> FloatArray:
        """The q-quantile over the paths, per feature and step, (B, H, 6); 0 <= q <= 1."""
        return np.quantile(self.paths, q, axis=1).astype(np.float32)

    def prob_up(self, step: int = -1) -> NDArray[np.float64]:
        """(B,) share of the paths whose close at `step` is strictly above the last known close."""
        return decide.prob_up(self.paths, self.last_close, step)

    def repaired(self) -> "Forecast":
        """The same closes and opens in candles that can exist, and how many bars that changed (`repairs`).

        Per path: high >= max(open, close), low <= min(open, close), volume and amount >= 0. Repairing comes
        before any
        view, and every view of repaired paths is a candle that can exist: the rules are linear, so they hold
        for a mean; and what holds between two features on each path holds between their quantiles of one
        order. `prob_up` does not change.
        """
        paths = self.paths.copy()
        np.maximum.reduce(paths[..., [OPEN, HIGH, LOW, CLOSE]], axis=-1, out=paths[..., HIGH])
        np.minimum.reduce(self.paths[..., [OPEN, HIGH, LOW, CLOSE]], axis=-1, out=paths[..., LOW])
        np.maximum(paths[..., VOLUME:], 0, out=paths[..., VOLUME:])
        changed = (paths != self.paths) & ~np.isnan(self.paths)
        kinds = {
            "high too low": HIGH,
            "low too high": LOW,
            "negative volume": VOLUME,
            "negative amount": AMOUNT,
        }
        return replace(
            self,
            paths=paths,
            repairs={kind: int(changed[..., column].sum()) for kind, column in kinds.items()},
        )

    # -- tables and plots ------------------------------------------------------------------------------------
    def view(self, which: View) -> FloatArray:
        """`mean()`, `median()` or `quantile(which)`, (B, H, 6). Raises KitError on anything else."""
        if which == "mean":
            return self.mean()
        if which == "median":
            return self.median()
        if isinstance(which, (int, float)) and 0 <= which <= 1:
            return self.quantile(which)
        raise KitError(f"forecast: expected the view mean, median or a quantile from 0 to 1, found {which!r}")

    def to_frame(
        self, views: Literal["paths"] | Sequence[View] = ("mean", "median", 0.1, 0.9)
    ) -> "pd.DataFrame":
        """A long table, one bar per row: series, step (from 1), date where dates are known, view, and the six
        features.

        views: which of `view`, named in the column `view` ('mean', 'median', 'q0.1'); 'paths': every path,
        with its number in a column `path` instead.
        """
        import pandas as pd

        if views == "paths":
            parts: list[tuple[str, Any, NDArray]] = [
                ("path", s, self.paths[:, s]) for s in range(self.paths.shape[1])
            ]
        else:
            parts = [
                ("view", f"q{which:g}" if isinstance(which, (int, float)) else which, self.view(which))
                for which in views
            ]
        return pd.concat([pd.DataFrame(dict(self._columns(*part))) for part in parts], ignore_index=True)

    def plot(self, series: int | str = 0) -> "Figure":
        """Candlesticks of the history and the fan of the paths' closes of one series, given by position or
        name.
        """
        from kronos.forecasting.plot import plot_forecast

        return plot_forecast(self, self.position(series))

    def name(self, position: int) -> str:
        """What the series at `position` is called."""
        return str(position) if self.names is None else str(self.names[position])

    def position(self, series: int | str) -> int:
        """Where a series stands, given by position or name. Raises KitError when there is none."""
        names = [self.name(i) for i in range(len(self.paths))]
        if isinstance(series, str):
            if series in names:
                return names.index(series)
        elif -len(names) <= series < len(names):
            return series % len(names)
        raise KitError(
            f"forecast: expected one of {len(names)} series ({', '.join(names[:5])}, ...), found {series!r}"
        )

    def _columns(self, label: str, value: str | int, bars: NDArray) -> Iterator[tuple[str, Any]]:
        """Columns of the table of one view, bars (B, H, 6)."""
        count, horizon, _ = bars.shape
        yield (
            "series",
            np.repeat(np.arange(count) if self.names is None else self.names.astype(object), horizon),
        )
        yield "step", np.tile(np.arange(1, horizon + 1), count)
        if self.dates is not None:
            yield "date", self.dates.reshape(-1)
        yield label, value
        yield from zip(FEATURES, bars.reshape(-1, len(FEATURES)).T, strict=True)
