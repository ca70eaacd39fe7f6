"""All answerers on the same rows: asked on every date, decided by what earlier dates taught.

In: a `Setup` (store, dates, panel), answerers and fitters. Out: a `Contestant` each: its answers, and
`judge`: P(rise) and class on the scored dates, every fold of them with a decision fitted on the dates whose
labels had ended before.
"""

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronos.answers.answerer import Answer, Answerer, Fitter, Kind, Rows, moment_after
from kronos.answers.bands import fit_width
from kronos.answers.decide import Decided, decide, plain_decision
from kronos.answers.decision import RANK_SLOPE, Decision, z_of
from kronos.answers.fit import Samples, fit_decision
from kronos.answers.fitted import TooLittle
from kronos.answers.history import base_rates, tie_shares
from kronos.answers.network import joined
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.evaluation.origins import Timeline
from kronos.evaluation.panel import Panel, drawn, rows_on

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

NOTHING_LEARNT = "nothing to learn from yet"


@dataclass(frozen=True, eq=False)
class Setup:
    """What all steps of one backtest share."""

    config: Config
    store: BarStore
    timeline: Timeline
    panel: Panel
    """Calibration and test dates."""
    asked: Rows
    """Every ticker with a bar on each of these dates, whatever became of it: nothing later decides what is
    asked.
    """
    place: NDArray[np.int64]
    """(n,) where each row of the panel stands among those asked."""
    ties: FloatArray
    """(N,) P(tie) of the rows asked."""
    folder: Path
    deadline: float = math.inf

    @property
    def is_test(self) -> NDArray[np.bool_]:
        """(D,) which dates are scored."""
        return np.isin(self.panel.sessions, self.timeline.test)

    @property
    def blocks(self) -> list[NDArray[np.int64]]:
        """Numbers of the dates of each part before which fits are made anew: of the calibration, then of the
        test.
        """
        count = self.config.evaluation.folds
        first = int((~self.is_test).sum())
        early = folds(first, max(1, round(count * first / max(1, self.panel.dates - first)))) if first else []
        later = folds(self.panel.dates - first, count)
        dates = np.arange(self.panel.dates)
        return [dates[part] for part in early] + [dates[first:][part] for part in later]

    @property
    def test_blocks(self) -> list[NDArray[np.int64]]:
        """Those of the test."""
        first = int((~self.is_test).sum())
        return [block for block in self.blocks if block[0] >= first]


def set_up(
    config: Config, store: BarStore, timeline: Timeline, panel: Panel, folder: Path, deadline: float
) -> Setup:
    """The rows that are asked on every date of a panel."""
    asked, key = ask_on(store, panel.sessions, panel.horizon, config.evaluation.tickers)
    own = panel.origin.astype(np.int64) * len(store.tickers) + panel.ticker
    return Setup(
        config,
        store,
        timeline,
        panel,
        asked,
        np.searchsorted(key, own),
        tie_shares(store, asked),
        folder,
        deadline,
    )


def ask_on(
    store: BarStore, sessions: NDArray[np.int64], horizon: int, tickers: int | None = None
) -> tuple[Rows, NDArray[np.int64]]:
    """Every ticker with a bar on each session (`panel.drawn` of them), as a submission of the next day would
    ask; and the keys date x K + ticker, rising."""
    row, key = rows_on(store, sessions)
    kept = drawn(store, key, tickers)
    row, key = row[kept], key[kept]
    place, ticker = np.divmod(key, max(len(store.tickers), 1))
    asof = np.asarray(sessions)[place]
    names = [date_text(store.sessions[session]) for session in np.asarray(sessions).tolist()]
    ids = [f"{store.tickers[t]} {names[d]}" for t, d in zip(ticker.tolist(), place.tolist(), strict=True)]
    reason = np.full(len(row), "", "<U32")
    steps = np.full(len(row), horizon, np.int64)
    return Rows(ticker, row, asof, steps, reason, moment_after(store, asof), ids), key


def folds(dates: int, count: int) -> list[slice]:
    """Contiguous parts of the origins, as equal as can be; fewer where there are fewer dates."""
    edges = np.unique(np.linspace(0, dates, min(count, dates) + 1).round().astype(int))
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


# -- asking --------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Contestant:
    """Somebody who was asked, and the answers to all rows."""

    name: str
    kind: Kind
    simplicity: int
    given: Answer
    note: str = ""
    model: bool = False
    """Whether it is what the report is about."""
    members: list[str] = field(default_factory=list)
    """Of a blend."""
    weights: list[float] | None = None
    """Of a blend with fitted weights: those fitted on all dates."""
    terms: tuple[int, ...] = ()
    """Horizons of the columns of `given.terms`, rising."""
    candidate: bool = True
    """Whether a submission could take it by name."""
    key: dict[str, object] = field(default_factory=dict)
    """What its decision belongs to."""

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Its answers were given already: only a part of the asked rows can be had, through `part`."""
        raise NotImplementedError("a contestant was asked once, on all rows")

    def part(self, which: NDArray) -> Answer:
        """The answers to some rows, by positions."""
        columns: dict[str, Any] = {}
        for name, values in vars(self.given).items():
            columns[name] = None if values is None else values[which]
        return Answer(**columns)


def contest(setup: Setup, source: Answerer | Fitter, only_test: bool = False, **about: object) -> Contestant:
    """Ask an answerer on all rows, a fitter in parts: each part's dates are answered by a fit on what had
    ended before them.

    only_test: leave the calibration dates unasked (NaN). about: further fields of the contestant.
    """
    parts = []
    date = np.searchsorted(setup.panel.sessions, setup.asked.asof)
    unfit = 0
    failed: list[TooLittle] = []
    if isinstance(source, Fitter):
        for block in setup.blocks:
            rows = np.flatnonzero((date >= block[0]) & (date <= block[-1]))
            try:
                made = source.fit(setup.store, int(setup.panel.sessions[block[0]]), setup.panel.horizon)
            except TooLittle as error:
                failed.append(error)
                unfit += len(rows)
                continue
            parts.append((rows, made.answer(setup.store, setup.asked.only(rows))))
        about = {
            "note": f"fitted {len(parts)} times, each on labels that ended before the dates it answers"
        } | about
    else:
        first = int((~setup.is_test).sum()) if only_test else 0
        rows = np.flatnonzero(date >= first)
        parts.append((rows, source.answer(setup.store, setup.asked.only(rows))))
    given = joined(parts, len(setup.asked))
    if failed:
        log.info("%s (the first of %d of %d fits)", failed[0], len(failed), len(setup.blocks))
    if unfit:
        given.reason[np.isnan(given.score) & (given.reason == "")] = NOTHING_LEARNT
        log.info("%s: %d rows before the first fit have no answer", source.name, unfit)
    return Contestant(source.name, source.kind, source.simplicity, given, **about)  # type: ignore[arg-type]


# -- judging -------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Judged:
    """A contestant's answers to the scored rows, and the decision for the time after them."""

    contestant: Contestant
    decided: Decided
    decisions: list[Decision | None]
    """Of each fold of the test dates."""
    final: Decision
    """Fitted on all dates: for rows dated after them."""
    shifted: int = 0
    """Answers that change when the contestant's mean log odds are moved by 0.3 in either direction: a test of
    the level.
    """


def judge(setup: Setup, contestant: Contestant) -> Judged:
    """Decide every fold of the test dates with what earlier dates taught."""
    date = np.searchsorted(setup.panel.sessions, setup.asked.asof)
    z = z_of(contestant.given, setup.asked.asof)
    parts, decisions, shifted = [], [], 0
    for block in setup.test_blocks:
        first = int(setup.panel.sessions[block[0]])
        ended = setup.panel.sessions + setup.panel.span < first
        decision = None
        if setup.config.inference.calibration != "off":
            decision = decision_from(setup, contestant, z, ended, asof=first)
        rows = np.flatnonzero((date >= block[0]) & (date <= block[-1]))
        asked, given = setup.asked.only(rows), contestant.part(rows)
        made = decide(
            setup.store,
            asked,
            contestant,
            given,
            decision,
            setup.ties[rows],
            setup.config.inference.threshold,
        )
        shifted += _shift_changes(setup, asked, contestant, given, decision, setup.ties[rows], made)
        panel_rows = np.flatnonzero((setup.panel.origin >= block[0]) & (setup.panel.origin <= block[-1]))
        parts.append(made.only(setup.place[panel_rows] - rows[0]))
        decisions.append(decision)
    everything = np.ones(setup.panel.dates, bool)
    final = decision_from(setup, contestant, z, everything, asof=len(setup.store.sessions) - 1)
    missing = ~np.isfinite(contestant.given.score[setup.place[setup.is_test[setup.panel.origin]]])
    decided = replace(
        _concatenated(parts), fallback=int(missing.sum()), note=contestant.note, model=contestant.model
    )
    return Judged(contestant, decided, decisions, final, shifted)


def _shift_changes(
    setup: Setup,
    asked: Rows,
    who: Contestant,
    given: Answer,
    decision: Decision | None,
    ties: FloatArray,
    made: Decided,
) -> int:
    """Answers that change when 0.3 is added to, or taken from, every log odds: none, while the level is not
    the answerer's.
    """
    if decision is None or given.prob is None or who.kind == "constant" or decision.date_slope > 0:
        return 0
    changed = 0
    for shift in (-0.3, 0.3):
        odds = np.log(given.prob) - np.log1p(-given.prob) + shift
        moved = replace(given, prob=1 / (1 + np.exp(-odds)))
        other = decide(setup.store, asked, who, moved, decision, ties, setup.config.inference.threshold)
        changed += int((other.pred != made.pred).sum())
    return changed


def decision_from(
    setup: Setup, contestant: Contestant, z: FloatArray, dates: NDArray[np.bool_], asof: int
) -> Decision:
    """The decision that some dates (D,) teach, for rows asked from session `asof` on. z (N,): of the rows
    asked.
    """
    panel, given = setup.panel, contestant.given
    rows = np.flatnonzero(dates[panel.origin])
    where = setup.place[rows]
    known = np.isfinite(z[where])
    if contestant.kind == "constant" or not known.any():
        return plain_decision(setup.store, asof, panel.horizon, given)
    number = np.cumsum(dates) - 1
    samples = Samples(
        z=z[where],
        date=number[panel.origin[rows]],
        sessions=panel.sessions[dates],
        rise=panel.label[rows] == 1,
        moved=panel.future_close[rows] != panel.last_close[rows],
        noise=None if given.noise is None else given.noise[where],
        order=given.prob is None,
    )
    history = float(base_rates(setup.store, np.array([asof]), panel.horizon)[0])
    prior = RANK_SLOPE if given.prob is None else 1.0
    made = fit_decision(samples, history, panel.span, prior, key=contestant.key)
    made = replace(made, horizon=panel.horizon)  # dates overlap by the span; rows are asked for the horizon
    days = panel.origins[dates]
    fitted = replace(
        made.fitted,
        first=date_text(days[0]),
        last=date_text(days[-1]),
        last_label=date_text(panel.targets[dates][-1]),
    )
    if given.closes is None:
        return replace(made, fitted=fitted)
    weight = date_weights(samples.date, int(dates.sum()))
    return replace(
        made, fitted=fitted, width=fit_width(given.closes[where], panel.future_close[rows], weight)
    )


def date_weights(origin: NDArray[np.integer], dates: int) -> FloatArray:
    """Weights (n,) that sum to 1 and give every date that has rows the same part."""
    count = np.bincount(origin, minlength=dates)
    return 1 / (count[origin] * (count > 0).sum())


def _concatenated(parts: Sequence[Decided]) -> Decided:
    """The answers of all folds; of constants the first one's probability tells whether there is any."""
    columns: dict[str, Any] = {}
    for name in ("pred", "score", "prob", "closes", "raw"):
        values = [getattr(part, name) for part in parts]
        columns[name] = None if any(v is None for v in values) else np.concatenate(values)
    return replace(parts[0], **columns)
