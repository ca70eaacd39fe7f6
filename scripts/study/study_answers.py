#!/usr/bin/env python3
"""What are answers without a network worth, and does a network add to them?

    python scripts/study/study_answers.py --data prices.parquet --work runs/answers [--scores runs/answers/head.npz
    ...] [--networks nano --steps 400 --paths-tickers 100 --paths-every 4]

Every date without overlap from --from on, --horizon trading days ahead. Fits learn from labels that ended
before the dates they answer, on every 5th and on every 30th trading day, and are fitted again every --refit
dates. A row of the table: accuracy within dates in per cent and rank IC (each the mean over dates with one
standard error, t in brackets), and the accuracy of the decision, whose level is the base rate of all history
and whose slope was fitted on earlier dates, beside "all rise". --scores: more answers, each an .npz with date
(n,), ticker (n,) and score (n,); they are scored alone and blended with the features, on the rows that have a
score. A blend is the mean of normal scores within the date, "weighted" one with weights that earlier dates
taught. --networks: a predictor is trained once before --from, with a head (whole and frozen) on every date and
sampled paths on a part of the rows; what was reduced is printed. "auto" is `findings.choose` on the dates
before. docs/findings.md says what came out.
"""

import argparse
import itertools
import logging
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import numpy as np
from numpy.typing import NDArray

from kronos import cli, configfile
from kronos.answers import fitted
from kronos.answers.answerer import SIMPLICITY, Answer, Kind, Rows
from kronos.answers.decision import EDGE, logit, z_of
from kronos.answers.features import NAMES
from kronos.answers.findings import Evidence, Figure, Findings, choose
from kronos.answers.fit import Samples, fit_decision
from kronos.answers.history import base_rates, tie_shares
from kronos.answers.weights import equal_weights, fit_weights
from kronos.bars import CLOSE
from kronos.config import Config
from kronos.data.prepare import prepare
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.scores import correlation, within_accuracy
from kronos.evaluation.significance import DateBootstrap, Interval

Array = NDArray[np.float64]
RULES = {
    "last day's return reversed": ("return over 1 days", -1),
    "21-day return reversed": ("return over 21 days", -1),
    "12-1 momentum": ("12-1 momentum", 1),
    "low volatility over 63 days": ("volatility over 63 days", -1),
    "near the year's high": ("below the year's high", 1),
}
DEFAULTS = Path(__file__).resolve().parents[2] / "configs" / "small.yaml"
DRAWS = 500
"""Bootstrap draws of an interval that `auto` looks at."""
PRIOR_SLOPE = 0.1
"""Slope of a decision before any date has been scored."""
WARM_UP = "1994-01-01"
"""The first decisions are fitted on dates from here on, which are in no row of the table."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", required=True, metavar="F", help="daily prices: CSV, Parquet or a folder of them"
    )
    parser.add_argument("--work", required=True, metavar="F", help="folder for the prepared data")
    parser.add_argument(
        "--from", dest="first", default="2000-01-01", metavar="DATE", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--horizon", type=int, default=30, metavar="H", help="trading days ahead (default: %(default)s)"
    )
    parser.add_argument(
        "--refit", type=int, default=26, metavar="N", help="dates between two fits (default: %(default)s)"
    )
    parser.add_argument("--scores", nargs="*", default=[], metavar="F", help=".npz files of more answers")
    parser.add_argument(
        "--networks", default="", choices=["", "nano", "mini"], help="train networks of this size, too"
    )
    parser.add_argument(
        "--steps", type=int, default=400, metavar="N", help="of each stage (default: %(default)s)"
    )
    parser.add_argument(
        "--head-steps", type=int, default=200, metavar="N", help="of each head (default: %(default)s)"
    )
    parser.add_argument("--paths-tickers", type=int, default=100, metavar="N", help="0: sample no paths")
    parser.add_argument("--paths-every", type=int, default=4, metavar="N", help="dates between sampled ones")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    arguments = parser.parse_args()
    cli.setup_logging()
    logging.getLogger("kronos").setLevel(logging.WARNING)
    given = [f"data.data_path={arguments.data}", f"data.store={arguments.work}/store", *arguments.overrides]
    config = configfile.load(DEFAULTS, given)
    store = prepare(config)
    dates = Dates.of(store, arguments.first, arguments.horizon)
    print(dates.describe())
    answers = simple_answers(dates)
    for every in (30, 5):
        answers |= fitted_answers(dates, every, arguments.refit)
    table(dates, answers, arguments.refit)
    features = answers["ridge + boosting, every 5"]
    more = {path: scores_of(dates, Path(path)) for path in arguments.scores}
    if arguments.networks:
        more |= network_answers(dates, config, arguments)
    for name, score in more.items():
        added(dates, features, name, score)


@dataclass(frozen=True, eq=False)
class Dates:
    """Every stock with a bar on some sessions and one `horizon` sessions later, sorted by date."""

    store: BarStore
    horizon: int
    sessions: NDArray[np.int64]
    """(D,) the dates, the ones before `first` only for decisions."""
    first: int
    """Position in `sessions` of the first date of the table."""
    rows: Rows
    """n rows."""
    date: NDArray[np.int64]
    """(n,) position in `sessions`."""
    gain: Array
    """(n,) future close / last close - 1."""

    @classmethod
    def of(cls, store: BarStore, first: str, horizon: int) -> "Dates":
        """Raises KitError where there is no date."""
        start, scored = (
            int(np.searchsorted(store.sessions, np.datetime64(day, "s")))
            for day in (min(WARM_UP, first), first)
        )
        sessions = np.arange(
            scored - (scored - start) // horizon * horizon, len(store.sessions) - horizon, horizon
        )
        if len(sessions) <= (scored - start) // horizon:
            raise KitError(
                f"--from {first}: expected a date with {horizon} trading days behind it, found none; name an earlier one"
            )
        row, date = fitted.bars_on(store, sessions)
        later, later_date = fitted.bars_on(store, sessions + horizon)
        tickers = np.repeat(np.arange(len(store.tickers)), np.diff(store.offsets))
        key, later_key = (
            date * len(store.tickers) + tickers[row],
            later_date * len(store.tickers) + tickers[later],
        )
        place = np.minimum(np.searchsorted(later_key, key), len(later_key) - 1)
        known = later_key[place] == key
        close = store.bars[:, CLOSE]
        gain = close[later[place[known]]].astype(np.float64) / close[row[known]] - 1
        rows = fitted.as_rows(store, row[known], sessions[date[known]], horizon)
        return cls(store, horizon, sessions, int(np.searchsorted(sessions, scored)), rows, date[known], gain)

    def parts(self) -> list[slice]:
        """The rows of each date."""
        edges = np.searchsorted(self.date, np.arange(len(self.sessions) + 1))
        return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]

    def blocks(self, length: int) -> list[NDArray[np.int64]]:
        """The dates (positions) between two fits, the table's own first date at the beginning of one."""
        edges = np.arange(self.first % length, len(self.sessions), length)
        return [part for part in np.split(np.arange(len(self.sessions)), edges) if len(part)]

    def describe(self) -> str:
        parts = self.parts()[self.first :]
        share = np.array([100 * np.mean(self.gain[part] > 0) for part in parts])
        days = [str(self.store.sessions[k])[:10] for k in (self.sessions[self.first], self.sessions[-1])]
        rows = sum(part.stop - part.start for part in parts)
        return (
            f"{len(parts)} dates, {days[0]} to {days[1]}, {self.horizon} trading days ahead, {rows:,} rows; "
            f"{share.mean():.1f} % rise, standard deviation over dates {share.std(ddof=1):.1f} points"
        )


# -- answers -------------------------------------------------------------------------------------------------
def simple_answers(dates: Dates) -> dict[str, Array]:
    """Scores (n,) of rules; NaN where history is too short."""
    raw = fitted.known_figures(dates.store, dates.rows.last, dates.rows.asof)
    return {name: sign * raw[:, NAMES.index(figure)] for name, (figure, sign) in RULES.items()}


def fitted_answers(dates: Dates, every: int, refit: int) -> dict[str, Array]:
    """Scores (n,) of every model fitted on each `every`-th session, and of blends of them."""
    fitting = fitted.Fitting(every=every, rows=10**9)
    scores = {f"{model}, every {every}": np.full(len(dates.rows), np.nan) for model in fitted.MODELS}
    for block in dates.blocks(refit):
        own = np.flatnonzero(np.isin(dates.date, block))
        rows = dates.rows.only(own)
        try:
            for fitter in fitted.fitters(fitting):
                started = time.process_time()
                model = fitter.fit(dates.store, int(dates.sessions[block[0]]), dates.horizon)
                seconds = time.process_time() - started
                scores[f"{fitter.name}, every {every}"][own] = model.answer(dates.store, rows).score
        except fitted.TooLittle as error:
            print(f"{len(block)} dates without an answer of fits: {error}")
            continue
        print(
            f"fitted up to {model.recipe.last_label}: {model.recipe.samples:,} samples, boosting {seconds:.0f} s",
            flush=True,
        )
    for members in (("ridge", "boosting"), ("ridge", "logistic", "boosting")):
        parts = [scores[f"{member}, every {every}"] for member in members]
        scores[f"{' + '.join(members)}, every {every}"] = blend(dates, parts)
        scores[f"weighted {' + '.join(members)}, every {every}"] = weighted(dates, parts, refit)
    return scores


def weighted(dates: Dates, scores: list[Array], refit: int) -> Array:
    """The blend with weights that earlier dates taught, fitted before each block of dates."""
    z = np.stack([z_of(Answer(score), dates.date) for score in scores], axis=1)
    rank = z_of(Answer(dates.gain), dates.date)
    known = np.isfinite(z).all(axis=1)
    result = np.full(len(z), np.nan)
    weights = equal_weights(len(scores))
    for block in dates.blocks(refit):
        # the label of the date before ended on the block's first day
        past = known & (dates.date < block[0])
        own = np.isin(dates.date, block)
        weights = fit_weights(z[past], rank[past], dates.date[past])
        result[own] = z[own] @ weights
    print(f"weights in the end: {', '.join(f'{100 * weight:.0f} %' for weight in weights)}")
    return result


def blend(dates: Dates, scores: list[Array], weights: tuple[float, ...] = ()) -> Array:
    """The weighted mean of normal scores within dates; equal weights by default."""
    orders = [z_of(Answer(score), dates.date) for score in scores]
    return np.average(orders, axis=0, weights=weights or None)


# -- figures -------------------------------------------------------------------------------------------------
def figures(dates: Dates, score: Array) -> Array:
    """Accuracy within dates in per cent and rank IC of the table's dates, (D, 2). What has no score stands in
    the middle.
    """
    found = []
    z = np.nan_to_num(z_of(Answer(score), dates.date))
    ranks = z_of(Answer(dates.gain), dates.date)
    for part in dates.parts()[dates.first :]:
        order = z_of(Answer(z[part]), dates.date[part])
        found.append((100 * within_accuracy(z[part], dates.gain[part]), spearman(order, ranks[part])))
    return np.array(found)


def spearman(a: Array, b: Array) -> float:
    from scipy.stats import rankdata

    return correlation(rankdata(a), rankdata(b))


def decided(dates: Dates, score: Array, refit: int) -> Array:
    """Accuracy of the answers in per cent on the table's dates, (D,): decisions fitted on earlier dates
    only.
    """
    z = z_of(Answer(score), dates.date)
    ties = tie_shares(dates.store, dates.rows)
    rise, moved = dates.gain > 0, dates.gain != 0
    history = base_rates(dates.store, dates.sessions, dates.horizon)
    level = logit(np.clip(history, EDGE, 1 - EDGE))[dates.date]
    right = np.zeros(len(rise), bool)
    for block in dates.blocks(refit):
        # the label of the date before ended on the block's first day: it is known when that day's answer is
        # given
        past, own = dates.date < block[0], np.flatnonzero(np.isin(dates.date, block))
        samples = Samples(
            z[past], dates.date[past], dates.sessions[: block[0]], rise[past], moved[past], order=True
        )
        decision = fit_decision(samples, float(history[block[0]]), dates.horizon, PRIOR_SLOPE)
        prob = decision.prob(z[own], dates.date[own], ties[own], level=level[own])
        right[own] = decision.answers(prob) == rise[own]
    return np.array([100 * right[part].mean() for part in dates.parts()[dates.first :]])


def auto(dates: Dates, answers: dict[str, Array]) -> Array:
    """On each date the answer that `findings.choose` takes on what the dates before it showed; none: 0."""
    names = list(answers)
    whole = replace(dates, first=0)
    # without an answer there is no evidence
    ic = np.nan_to_num(np.array([figures(whole, answers[name])[:, 1] for name in names]))
    score = np.zeros(len(dates.rows))
    chosen: dict[str, int] = {}
    for place, part in enumerate(dates.parts()):
        evidence = [_evidence(dates, name, ic[k, :place]) for k, name in enumerate(names)]
        rate = float(base_rates(dates.store, dates.sessions[place : place + 1], dates.horizon)[0])
        day = str(dates.store.sessions[dates.sessions[place]])[:10]
        known = Findings(
            version=1,
            horizon=dates.horizon,
            created="",
            data="",
            first=str(dates.store.sessions[dates.sessions[0]])[:10],
            last=day,
            dates=max(1, place),
            effective=place,
            history_rate=rate,
            least_skill=None,
            main="",
            answerers=evidence,
        )
        name = choose(known, set(names)).name
        if name in answers:
            score[part] = z_of(Answer(answers[name][part]), dates.date[part])
        if place >= dates.first:
            chosen[name] = chosen.get(name, 0) + 1
    print("auto chose " + ", ".join(f"{name} on {count} dates" for name, count in chosen.items()))
    return score


def _evidence(dates: Dates, name: str, ic: Array) -> Evidence:
    """What the dates so far say about an answer. No date overlaps the next one."""
    kind, simplicity = _kind(name)
    found = Interval(0.0)
    if len(ic):
        sessions = tuple(dates.sessions[: len(ic)].tolist())
        found = DateBootstrap(sessions, dates.horizon, DRAWS).interval(ic, 0.0)
    figure = Figure(found.value, found.low, found.high, found.p, len(ic))
    return Evidence(name, kind, simplicity, Figure(0.5), rank_ic=figure)


def _kind(name: str) -> tuple[Kind, int]:
    """The kind of an answer of the table, and how simple it is."""
    if name in RULES:
        return "rule", SIMPLICITY["rule"]
    if " + " in name:
        return "blend", SIMPLICITY["blend"] + name.count(" + ") + name.startswith("weighted")
    return "fitted", SIMPLICITY["fitted"] + fitted.MODELS.index(name.split(",")[0])


def shown(values: Array, digits: int = 1) -> str:
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}"


def t_value(values: Array) -> float:
    return float(values.mean() / values.std(ddof=1) * np.sqrt(len(values)))


def table(dates: Dates, answers: dict[str, Array], refit: int) -> None:
    """A line of Markdown for each answer."""
    rises = np.array([100 * np.mean(dates.gain[part] > 0) for part in dates.parts()[dates.first :]])
    print("\n| answer | within date | rank IC (t) | decision | less all rise |\n|---|---|---|---|---|")
    print(
        f"| all rise | 50 | 0 | {shown(rises)} | 0 |\n| all fall | 50 | 0 | {shown(100 - rises)} | {shown(100 - 2 * rises)} |"
    )
    for name, score in answers.items():
        print(line(dates, name, score, rises, refit), flush=True)
    print(line(dates, "auto, by earlier dates", auto(dates, answers), rises, refit))


def line(dates: Dates, name: str, score: Array, rises: Array, refit: int) -> str:
    found, right = figures(dates, score), decided(dates, score, refit)
    return (
        f"| {name} | {shown(found[:, 0])} | {found[:, 1].mean():.4f} ({t_value(found[:, 1]):.1f}) | {shown(right)} "
        f"| {shown(right - rises)} |"
    )


# -- more answers --------------------------------------------------------------------------------------------
def network_answers(dates: Dates, config: Config, arguments: argparse.Namespace) -> dict[str, Array]:
    """Scores (n,) of networks that were trained before the first date of the table; NaN on earlier dates."""
    from scripts.study import networks  # torch takes seconds to load

    wanted = networks.Wanted(
        preset=arguments.networks,
        steps=arguments.steps,
        head_steps=arguments.head_steps,
        horizon=dates.horizon,
        paths_tickers=arguments.paths_tickers,
        paths_every=arguments.paths_every,
    )
    first = int(dates.sessions[dates.first])
    own = networks.network_config(config, Path(arguments.work), dates.store, first, wanted)
    print(
        f"networks: {wanted.preset}, {wanted.steps} steps a stage, {wanted.head_steps} a head, "
        f"trained once on days up to {own.data.train_until}; "
        f"paths: {wanted.paths} on {wanted.paths_tickers} tickers of every {wanted.paths_every}th date"
    )
    asked = np.flatnonzero(dates.date >= dates.first)
    rows = dates.rows.only(asked)
    found: dict[str, Array] = {}
    for name, frozen in (("head, whole", False), ("head, frozen", True)):
        found[name] = np.full(len(dates.rows), np.nan)
        found[name][asked] = networks.head_scores(own, dates.store, rows, wanted, frozen)
    if wanted.paths_tickers:
        found["paths"] = np.full(len(dates.rows), np.nan)
        found["paths"][asked] = networks.path_scores(own, dates.store, rows, wanted)
    return found


def added(dates: Dates, features: Array, name: str, score: Array) -> None:
    """What scores are worth alone, and what they add to the features, on the rows that have one."""
    known = np.isfinite(score) & np.isfinite(features)
    kept = np.unique(dates.date[known])
    first = int(np.searchsorted(kept, dates.first))
    own = replace(
        dates,
        sessions=dates.sessions[kept],
        first=first,
        rows=dates.rows.only(known),
        date=np.searchsorted(kept, dates.date[known]),
        gain=dates.gain[known],
    )
    print(
        f"\n{name}: {own.describe()}\n\n| answer | within date | rank IC (t) | gain, points | gain, IC |\n|---|---|---|---|---|"
    )
    base = figures(own, features[known])
    rows = {"features": features[known], "alone": score[known]}
    rows |= {
        f"features, {share:g} of it": blend(own, [features[known], score[known]], (1 - share, share))
        for share in (0.25, 0.5)
    }
    for what, values in rows.items():
        found = figures(own, values)
        gain = found - base
        text = f"| {what} | {shown(found[:, 0])} | {found[:, 1].mean():.4f} ({t_value(found[:, 1]):.1f})"
        print(
            f"{text} | {shown(gain[:, 0], 2)} | {interval(gain[:, 1])} |" if gain.any() else f"{text} | | |"
        )


def interval(values: Array) -> str:
    """The mean with its 95 % interval over dates without overlap."""
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.4f} ({values.mean() - half:+.4f} to {values.mean() + half:+.4f})"


def scores_of(dates: Dates, path: Path) -> Array:
    """The file's score of each row, (n,); NaN where it has none. Raises KitError where the file is
    another.
    """
    try:
        with np.load(path) as file:
            day, ticker, score = (
                file["date"].astype("datetime64[D]"),
                file["ticker"].astype(str),
                file["score"].astype(np.float64),
            )
    except (OSError, KeyError, ValueError) as error:
        raise KitError(
            f"{path}: expected an .npz file with date, ticker and score, found another ({error})"
        ) from error
    if not len(day) == len(ticker) == len(score):
        raise KitError(
            f"{path}: expected as many dates as tickers and scores, found {len(day)}, {len(ticker)}, {len(score)}"
        )
    store = dates.store
    days = store.sessions.astype("datetime64[D]")
    session = np.searchsorted(days, day)
    number = store.index_of(ticker.tolist())
    use = (number >= 0) & (session < len(days))
    use[use] &= days[session[use]] == day[use]
    key = session[use] * len(store.tickers) + number[use]
    order = np.argsort(key)
    wanted = dates.rows.asof * len(store.tickers) + dates.rows.ticker
    place = np.minimum(np.searchsorted(key[order], wanted), max(len(key) - 1, 0))
    if not len(key) or not (found := key[order][place] == wanted).any():
        raise KitError(f"{path}: expected scores on the dates of the study, found none")
    return np.where(found, score[use][order][place], np.nan)


if __name__ == "__main__":
    cli.run(main)
