"""What is asked and what is answered: the one interface of everything that can be scored or submitted.

In: a store and tickers with dates (`ask`). Out: `Rows`; every answerer turns them into an `Answer`. NumPy
only. A network by sampled paths, a head, a fitted model, a rule and a constant all have this one method, so
that the backtest can score many of them and the submission can take any of them by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kronos.data.store import BarStore
from kronos.forecasting.rows import plan_rows

Kind = Literal["paths", "enumeration", "head", "fitted", "rule", "constant", "blend"]

FloatArray = NDArray[np.float64]

ENDLESS = 2**40
"""A max_context that fits every horizon: here only the date and the store decide whether a row can be
asked.
"""


@dataclass(frozen=True, eq=False)
class Rows:
    """N asked rows. Nothing in the store that is dated after `asof` may be read for a row."""

    ticker: NDArray[np.int64]
    """(N,) position in the store's tickers; -1 for a ticker that the store does not have."""
    last: NDArray[np.int64]
    """(N,) store row of the last observed bar; -1 where there is none."""
    asof: NDArray[np.int64]
    """(N,) position in the store's sessions of the last trading day that is known; -1 before the first
    one.
    """
    horizon: NDArray[np.int64]
    """(N,) trading days from the last observed bar to the close that is asked for; 0 where that is
    unknown.
    """
    reason: NDArray[np.str_]
    """(N,) why a row cannot be asked ('' where it can): it has no bar, or no trading day ahead."""
    date: NDArray[np.datetime64]
    """(N,) datetime64[s] from which on nothing is read: the day asked for, in a backtest the moment after the
    origin.
    """
    ids: list[str] = field(default_factory=list)
    """N keys that fix the random numbers of sampled paths, wherever a row stands in a file."""

    def __len__(self) -> int:
        return len(self.ticker)

    @property
    def open(self) -> NDArray[np.bool_]:
        """(N,) which rows can be answered."""
        return np.asarray(self.reason == "")

    def only(self, which: NDArray) -> "Rows":
        """Some of the rows, by positions or by a mask (N,)."""
        places = np.arange(len(self))[which]
        columns = {
            name: getattr(self, name)[places]
            for name in ("ticker", "last", "asof", "horizon", "reason", "date")
        }
        return replace(self, **columns, ids=[self.ids[k] for k in places.tolist()])


@dataclass(frozen=True, eq=False)
class Answer:
    """What an answerer says about N rows."""

    score: FloatArray
    """(N,) float64; higher means likelier to rise. Only its order among the rows of one date counts. NaN
    where there is none.
    """
    prob: FloatArray | None = None
    """(N,) raw P(rise, if the price moves at all), strictly between 0 and 1, NaN where there is none. None:
    only an order.
    """
    reason: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    """(N,) why there is no answer ('' where there is one)."""
    closes: NDArray[np.float32] | None = None
    """(N, S) sampled closes on the target date in price units; NaN in rows without paths."""
    noise: FloatArray | None = None
    """(N,) variance of the log odds of `prob` that comes from finitely many paths; None: there is none."""
    mass: FloatArray | None = None
    """(N,) the probability that a listed answer rests on, NaN for the others; None: nothing was listed."""
    course: NDArray[np.float32] | None = None
    """(N, 4) of the mean path of one network's paths: mean, highest and lowest close of the days ahead, and the
    deviation that closes were normalised with, in price units; NaN in rows without paths.
    """
    terms: NDArray[np.float32] | None = None
    """(N, K) a score for each of K horizons, of one forecast: of paths for every step up to the horizon, of a
    head for each trained horizon. NaN where there is none; None: it speaks of one horizon only.
    """


class Answerer(Protocol):
    """Something that can be scored and submitted."""

    @property
    def name(self) -> str:
        """What the report, `--answer` and decisions call it; unique among the answerers of one backtest."""
        ...

    @property
    def kind(self) -> Kind:
        """What kind of answerer it is."""

    @property
    def simplicity(self) -> int:
        """Smaller is simpler; of two equally good answerers the simpler one is submitted. See
        `SIMPLICITY`.
        """
        ...

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Answer all rows; a row that cannot be answered has NaN and a reason. Reads nothing after
        `rows.asof`.

        Rows of one `asof` are one date: ranks and means within a date are taken among them.
        """
        ...


@runtime_checkable
class Fitter(Protocol):
    """Something that has to learn from the store before it can answer."""

    @property
    def name(self) -> str:
        """The name of the answerers that it makes."""
        ...

    @property
    def kind(self) -> Kind:
        """What kind of answerer it is."""

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""

    def fit(self, store: BarStore, before: int, horizon: int) -> Answerer:
        """An answerer that has learnt only from labels that ended before session `before` (a position in the
        store's sessions).

        horizon: trading days ahead. Raises KitError where there is too little to learn from.
        """
        ...


SIMPLICITY: dict[Kind, int] = {
    "constant": 0,
    "rule": 10,
    "fitted": 20,
    "head": 30,
    "enumeration": 40,
    "paths": 41,
    "blend": 50,
}
"""Where each kind stands; within a kind an answerer may add up to 9."""


def moment_after(store: BarStore, sessions: NDArray[np.int64]) -> NDArray[np.datetime64]:
    """The first moment after each session, datetime64[s] in the shape of `sessions`: a submission of the next
    day asks then, and bars up to and with the session are known.
    """
    days = store.sessions[sessions]
    if store.frequency in ("daily", "weekly", "monthly"):
        return np.asarray(days.astype("datetime64[D]") + np.timedelta64(1, "D"), "datetime64[s]")
    return np.asarray(days + np.timedelta64(1, "s"), "datetime64[s]")


def ask(
    store: BarStore,
    tickers: Sequence[str],
    dates: NDArray[np.datetime64],
    calendar: str,
    horizon: int | None = None,
    ids: Sequence[str] | None = None,
) -> Rows:
    """The rows (ticker, date): the close of each ticker on its date is asked for, and only bars before that
    date are known.

    tickers, dates: N each. calendar: whose trading days count after the last known one. horizon: the same for
    all rows; None: the trading days in (last bar, date]. ids: keys of the rows; None: the tickers.
    """
    plan = plan_rows(
        store, tickers, dates, calendar=calendar, lookback=1, max_context=ENDLESS, horizon=horizon, ids=ids
    )
    asof = np.searchsorted(store.sessions, plan.dates, side="left").astype(np.int64) - 1
    last = np.where(plan.known > 0, plan.end - 1, -1)
    return Rows(store.index_of(list(tickers)), last, asof, plan.horizon, plan.reason, plan.dates, plan.ids)
