"""Fitted answerers: ridge, logistic regression and gradient boosting on the ranked figures of all stocks of a
date.

In: a store and the first session that may not be seen. Out: `FittedModel`, an answerer that can be saved as
JSON and read back: coefficients, or trees as tables of nodes that a few lines of NumPy evaluate to the bits
of scikit-learn.

Every fifth session is an origin (`Fitting`). A label of `horizon` days overlaps those of neighbouring
origins, so a sample weighs 1 / (labels of its ticker that share a day with its own). No label ends on or
after the first session that is not to be seen. What is learnt is the order within a date:
the rank of the return (ridge), or whether it is above the date's median (logistic, boosting). The level of
P(rise) is the decision's business.
"""

import functools
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from kronos import files, records
from kronos.answers.answerer import SIMPLICITY, Answer, Kind, Rows
from kronos.answers.decision import of_dates
from kronos.answers.features import NAMES, placed, ranked, raw_features
from kronos.answers.trees import Trees, trees_of
from kronos.bars import CLOSE
from kronos.data.row_places import owner_of
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.forecasting.context import MIN_BARS
from kronos.forecasting.rows import FEW_BARS

ModelKind = Literal["ridge", "logistic", "boosting"]
MODELS: tuple[ModelKind, ...] = ("ridge", "logistic", "boosting")
"""What can be fitted, simplest first."""
RIDGE_PENALTY = 100.0
TREES, RATE, LEAVES, LEAF_SAMPLES = 150, 0.05, 15, 500
LEVELS = 250
"""Trees see ranks in so many steps: as many as scikit-learn has bins, and found without sorting."""
LEAST_DATES = 12
"""Fewest dates without overlap that a fit learns from."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class TooLittle(KitError):
    """There is nothing yet that a fit could learn from."""


class Columns(Protocol):
    """More columns beside the figures: what a network says about the same rows, one (N, k) array."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""

    @property
    def sessions(self) -> IntArray:
        """Sessions on which a fit may use them, rising: out of sample for whatever made them."""
        ...

    def values(self, store: BarStore, rows: Rows) -> FloatArray:
        """(N, k) float64, NaN where there is none; a fit leaves out rows without any. Reads nothing after
        `rows.asof`.
        """
        ...


@dataclass(frozen=True)
class Linear:
    """score = x @ weights: a sum over columns in their order, so that its bits depend on the row only."""

    weights: list[float]

    def score(self, x: FloatArray) -> FloatArray:
        """x (n, F) -> (n,)."""
        total = np.zeros(len(x))
        for column, weight in enumerate(self.weights):
            total += x[:, column] * weight
        return total


@dataclass(frozen=True)
class Recipe:
    """What a fit was made from; the same store and recipe give the same bits."""

    store: str
    """The store's digest."""
    before: int
    """First session that was not to be seen, as a position in the store's sessions."""
    last_label: str
    """Day on which the last label ended."""
    horizon: int
    every: int
    """Trading days between two origins."""
    samples: int
    dates: int
    effective: int
    """Dates without overlapping labels."""
    seed: int
    versions: dict[str, str] = field(default_factory=dict)


# -- the answerer --------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class FittedModel:
    """A fitted ridge, logistic regression or boosting. Answers an order within each date, no probability."""

    name: str
    model: ModelKind
    columns: tuple[str, ...]
    recipe: Recipe
    linear: Linear | None = None
    trees: Trees | None = None
    extra: Columns | None = None
    kind: Kind = "fitted"

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return _simplicity(self.model, self.extra)

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Figures are ranked among all stocks with a bar on the row's `asof`, extra columns among the rows of
        one date.
        """
        score = np.full(len(rows), np.nan)
        reason = np.array(rows.reason, dtype="<U64")
        asked = np.flatnonzero(rows.open)
        age = rows.last[asked] - store.offsets[rows.ticker[asked]]
        reason[asked[age < MIN_BARS - 1]] = FEW_BARS
        asked = asked[age >= MIN_BARS - 1]
        if len(asked):
            score[asked] = self.scores(self._columns(store, rows.only(asked)))
        return Answer(score, None, reason)

    def scores(self, x: FloatArray) -> FloatArray:
        """Scores of ranked columns x (n, F), (n,)."""
        if self.linear is not None:
            return self.linear.score(x)
        assert self.trees is not None, "a fitted model has coefficients or trees"
        return self.trees.score(stepped(x))

    def _columns(self, store: BarStore, rows: Rows) -> FloatArray:
        x = known_figures(store, rows.last, rows.asof)
        if self.extra is None:
            return x
        return np.concatenate([x, _ranked_by_date(self.extra.values(store, rows), rows.asof)], axis=1)

    # -- on disk ---------------------------------------------------------------------------------------------
    def save(self, path: Path) -> None:
        """Write it as JSON; numbers are written so that they read back to the same bits."""
        tree = asdict(Saved(self.name, self.model, list(self.columns), self.recipe, self.linear, self.trees))
        files.write_json(path, tree)

    @classmethod
    def load(cls, path: Path, extra: Columns | None = None) -> "FittedModel":
        """Read what `save` wrote. extra: the columns beside the figures, if it was fitted with any.

        Raises KitError where there is no such file, or one that does not fit.
        """
        remedy = "fit it again"
        try:
            saved = records.read(path, Saved, remedy=remedy)
        except FileNotFoundError:
            raise KitError(f"{path}: expected a fitted model, found no file; {remedy}") from None
        wanted = [*NAMES, *(extra.names if extra else ())]
        if saved.columns != wanted:
            missing = sorted(set(saved.columns) ^ set(wanted))
            raise KitError(
                f"{path}: expected the columns of this version, found others ({', '.join(missing)}); {remedy}"
            )
        if saved.linear is not None and saved.trees is None and len(saved.linear.weights) == len(wanted):
            return cls(saved.name, saved.model, tuple(wanted), saved.recipe, saved.linear, extra=extra)
        if saved.trees is not None and saved.linear is None and saved.trees.fits(len(wanted)):
            return cls(saved.name, saved.model, tuple(wanted), saved.recipe, trees=saved.trees, extra=extra)
        raise KitError(
            f"{path}: expected coefficients or trees of {len(wanted)} columns, found neither; {remedy}"
        )


@dataclass(frozen=True)
class Saved:
    """The JSON form of a `FittedModel`."""

    name: str
    model: ModelKind
    columns: list[str]
    recipe: Recipe
    linear: Linear | None = None
    trees: Trees | None = None


def columns_in(path: Path) -> list[str]:
    """The columns of a saved model. Raises KitError where there is none."""
    if not path.is_file():
        raise KitError(f"{path}: expected a fitted model, found no file; run scripts/run_backtest.py --save")
    return records.read(path, Saved, remedy="fit it again").columns


def _simplicity(model: ModelKind, extra: Columns | None) -> int:
    return SIMPLICITY["fitted"] + MODELS.index(model) + (len(MODELS) if extra else 0)


def stepped(x: FloatArray) -> FloatArray:
    """Ranks in steps of 1 / `LEVELS`."""
    return np.rint(x * LEVELS) / LEVELS


def _ranked_by_date(values: FloatArray, date: IntArray) -> FloatArray:
    result = np.zeros_like(values)
    for part in of_dates(date):
        result[part] = ranked(values[part], np.array([0, len(part)]))
    return result


# -- figures of a date ---------------------------------------------------------------------------------------
def bars_on(store: BarStore, sessions: IntArray) -> tuple[IntArray, IntArray]:
    """Store rows dated on any of the sessions (D,), and the position of each one's date in `sessions`, sorted
    by date, then ticker."""
    slot = np.full(len(store.sessions), -1, np.int64)
    slot[sessions] = np.arange(len(sessions))
    date = slot[store.session]
    row = np.flatnonzero(date >= 0)
    order = np.argsort(date[row], kind="stable")
    return row[order], date[row[order]]


@functools.lru_cache(maxsize=3)
def _figures_on(
    store: BarStore, sessions: tuple[int, ...]
) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
    """(rows, bounds, raw figures, their ranks) of all stocks with a bar on each of the sessions;
    read-only.
    """
    days = np.array(sessions, np.int64)
    row, date = bars_on(store, days)
    bounds = np.searchsorted(date, np.arange(len(days) + 1))
    raw = raw_features(store, row)
    result = (row, bounds, raw, ranked(raw, bounds))
    for array in result:
        array.flags.writeable = False
    return result


def known_figures(store: BarStore, last: IntArray, asof: IntArray) -> FloatArray:
    """Ranked figures (n, F) of rows: `last` (n,) their last store row, `asof` (n,) the last known session.

    They are ranked among all stocks that have a bar on `asof`, whichever rows are asked for. A stock without
    one, whose last bar is older, is placed among them.
    """
    days = np.unique(asof)
    row, bounds, raw, ranks = _figures_on(store, tuple(days.tolist()))
    date = np.searchsorted(days, asof)
    key = date * len(store) + last
    known = np.repeat(np.arange(len(days)), np.diff(bounds)) * len(store) + row
    place = np.minimum(np.searchsorted(known, key), len(known) - 1)
    found = known[place] == key
    result = np.empty((len(last), raw.shape[1]))
    result[found] = ranks[place[found]]
    older = np.flatnonzero(~found)
    if len(older):
        own = raw_features(store, last[older])
        for part in of_dates(date[older]):
            day = date[older[part[0]]]
            result[older[part]] = placed(own[part], raw[bounds[day] : bounds[day + 1]])
    return result


# -- samples -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Samples:
    """n samples with known labels, sorted by date."""

    x: FloatArray
    """(n, F) ranked figures, then ranked extra columns."""
    rank: FloatArray
    """(n,) rank of the return within its date, in (-0.5, 0.5)."""
    weight: FloatArray
    """(n,) 1 / labels of the same ticker that share a day with this one."""
    session: IntArray
    """(n,) the origin."""

    def __len__(self) -> int:
        return len(self.rank)


@dataclass(frozen=True)
class Fitting:
    """What a fit learns from, and its seed."""

    every: int = 5
    """Trading days between two origins. Labels that overlap weigh less."""
    rows: int = 1_000_000
    """Most samples; where a store has more, its origins lie a multiple of `every` apart."""
    seed: int = 42


def stride_of(store: BarStore, fitting: Fitting) -> int:
    """Trading days between two origins: a multiple of `every` with which a store gives at most `rows` samples."""
    samples = -(-len(store) // fitting.every)
    return fitting.every * -(-samples // fitting.rows)


def samples_before(
    store: BarStore, before: int, horizon: int, fitting: Fitting, extra: Columns | None = None
) -> Samples:
    """Samples whose labels ended before session `before`: origin + horizon < before."""
    origins = range(0, len(store.sessions), stride_of(store, fitting))
    if extra is not None:
        origins = extra.sessions.tolist()
    row, target, session, x = _labelled(store, tuple(origins), horizon)
    span = store.span_of(horizon)
    use = session + span < before
    row, target, session, x = row[use], target[use], session[use], x[use]
    if extra is not None:
        values = extra.values(store, as_rows(store, row, session, horizon))
        known = np.isfinite(values).any(axis=1)  # a backtest of a few tickers has asked about no others
        row, target, session, x = row[known], target[known], session[known], x[known]
        x = np.concatenate([x, _ranked_by_date(values[known], session)], axis=1)
    bounds = np.append(np.unique(session, return_index=True)[1], len(session))
    close = store.bars[:, CLOSE]
    gain = close[target].astype(np.float64) / close[row] - 1
    rank = ranked(gain[:, None], bounds)[:, 0]
    ticker = owner_of(store.offsets, row)
    return Samples(x, rank, overlap_weights(ticker, session, span), session)


@functools.lru_cache(maxsize=2)
def _labelled(
    store: BarStore, origins: tuple[int, ...], horizon: int
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """(row, row of the target, session, ranked figures) of all samples on some sessions. Ranks are among all
    stocks of the date.
    """
    grid = np.array(origins, np.int64)
    row, date = bars_on(store, grid)
    bounds = np.searchsorted(date, np.arange(len(grid) + 1))
    x = ranked(raw_features(store, row), bounds)
    ticker = owner_of(store.offsets, row)
    target, found = store.row_at(ticker, store.ahead(grid[date], store.market_of(ticker), horizon))
    use = found & (row - store.offsets[ticker] >= MIN_BARS - 1)
    return row[use], target[use], grid[date[use]], x[use]


def overlap_weights(ticker: IntArray, session: IntArray, horizon: int) -> FloatArray:
    """1 / (labels of the same ticker, itself included, whose `horizon` days share one with a label's),
    (n,).
    """
    span = int(session.max(initial=0)) + 2 * horizon + 1
    key = ticker * span + session + horizon
    rising = np.sort(key)
    count = np.searchsorted(rising, key + horizon, side="left") - np.searchsorted(
        rising, key - horizon, side="right"
    )
    return 1 / count


def as_rows(store: BarStore, row: IntArray, session: IntArray, horizon: int) -> Rows:
    """Samples as asked rows: what was known on their origin."""
    ticker = owner_of(store.offsets, row)
    count = len(row)
    date = store.sessions[session] + np.timedelta64(1, "s")
    ids = [store.tickers[k] for k in ticker.tolist()]
    return Rows(ticker, row, session, np.full(count, horizon), np.full(count, "", "<U32"), date, ids)


# -- fitting -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ModelFitter:
    """Fits one kind of model anew whenever it is asked."""

    name: str
    model: ModelKind
    fitting: Fitting
    extra: Columns | None = None
    kind: Kind = "fitted"

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return _simplicity(self.model, self.extra)

    def fit(self, store: BarStore, before: int, horizon: int) -> FittedModel:
        """Learn from labels that ended before session `before`. Raises TooLittle where there are too few
        dates.
        """
        samples = samples_before(store, before, horizon, self.fitting, self.extra)
        effective = _effective(samples.session, store.span_of(horizon))
        if effective < LEAST_DATES:
            day = str(store.sessions[min(before, len(store.sessions) - 1)])[:10]
            raise TooLittle(
                f"{self.name}: expected labels {horizon} trading days ahead on at least {LEAST_DATES} dates without overlap "
                f"before {day}, found {effective}; bring a longer history, or ask for later dates or a shorter horizon"
            )
        above = samples.rank > 0
        if above.all() or not above.any():
            raise TooLittle(
                f"{self.name}: expected stocks that differ within a date, found none among {len(samples)} samples: one stock, or "
                "prices that never differ, have no order to learn"
            )
        days = np.unique(samples.session)
        recipe = Recipe(
            store=store.digest,
            before=before,
            last_label=str(store.sessions[days[-1] + store.span_of(horizon)])[:10],
            horizon=horizon,
            every=stride_of(store, self.fitting),
            samples=len(samples),
            dates=len(days),
            effective=effective,
            seed=self.fitting.seed,
            versions=_versions(),
        )
        columns = (*NAMES, *(self.extra.names if self.extra else ()))
        model = FITS[self.model](samples, self.fitting.seed)
        if isinstance(model, Linear):
            return FittedModel(self.name, self.model, columns, recipe, linear=model, extra=self.extra)
        return FittedModel(self.name, self.model, columns, recipe, trees=model, extra=self.extra)


def fitters(fitting: Fitting, extra: Columns | None = None) -> list[ModelFitter]:
    """Every model that can be fitted, simplest first; with `extra` columns under names of their own."""
    return [ModelFitter(_named(model, extra), model, fitting, extra) for model in MODELS]


def _named(model: ModelKind, extra: Columns | None) -> str:
    return model if extra is None else f"{model} with {', '.join(extra.names)}"


def _effective(session: IntArray, horizon: int) -> int:
    """Dates that can be chosen so that no two labels overlap."""
    count, free = 0, -1
    for day in np.unique(session).tolist():
        if day >= free:
            count, free = count + 1, day + horizon
    return count


def _versions() -> dict[str, str]:
    import sklearn

    return {"numpy": np.__version__, "scikit-learn": sklearn.__version__}


def _fit_ridge(samples: Samples, seed: int) -> Linear:
    """Weighted least squares of the within-date rank, drawn towards 0. Ranks have mean 0 on every date: no
    intercept.
    """
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=RIDGE_PENALTY, fit_intercept=False, solver="cholesky")
    with threadpool_limits(1):  # so that the bits do not depend on the number of cores
        model.fit(samples.x, samples.rank, sample_weight=samples.weight)
    return Linear([float(w) for w in model.coef_])


def _fit_logistic(samples: Samples, seed: int) -> Linear:
    """Logistic regression of "above the date's median"."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=500, fit_intercept=False)
    with threadpool_limits(1):
        model.fit(samples.x, samples.rank > 0, sample_weight=samples.weight)
    return Linear([float(w) for w in model.coef_[0]])


def _fit_boosting(samples: Samples, seed: int) -> Trees:
    """Histogram gradient boosting of "above the date's median", small and slow, since the signal is weak."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        learning_rate=RATE,
        max_iter=TREES,
        max_leaf_nodes=LEAVES,
        min_samples_leaf=min(LEAF_SAMPLES, max(20, len(samples) // 50)),
        early_stopping=False,
        random_state=seed,
    )
    model.fit(stepped(samples.x), samples.rank > 0, sample_weight=samples.weight)
    return trees_of(model)


FITS: dict[ModelKind, Any] = {"ridge": _fit_ridge, "logistic": _fit_logistic, "boosting": _fit_boosting}
