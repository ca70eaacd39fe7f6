"""What a trained pair of networks believes about the future at origins it has not seen, and whether chance
explains it.

In: a configuration with a test part. Out: networks trained by the kit's own stages; drifts and probabilities
of rising at origins of the test part, beside what happened; slopes and shares with standard errors clustered
by date, since shares of one date move together. Serves the studies of docs/findings.md and the tests that
keep their outcome.

Letters: n origins, L known bars, S paths, H steps ahead.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from kronos import configfile
from kronos.bars import CLOSE, FloatArray, calendar_stamps, window_stats
from kronos.config import Config
from kronos.data.loader import validation_loader
from kronos.data.prepare import prepare
from kronos.data.splits import Part, split_store
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex, gather
from kronos.errors import KitError
from kronos.forecasting.forecaster import Forecaster
from kronos.networks import Kronos, KronosTokenizer
from kronos.training.facts import STAGES
from kronos.training.objectives import PredictorObjective
from kronos.training.stages import run_stage

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Origins:
    """Where forecasts start: the bars known there, and the closes that followed."""

    bars: FloatArray
    """(n, L, 6) known bars."""
    stamps: FloatArray
    """(n, L + H, 5)"""
    closes: Values
    """(n, H) what followed."""
    date: NDArray[np.int64]
    """(n,) session of the last known bar: the cluster."""
    level: Values
    """(n,) last close, normalised by the known bars."""
    scale: Values
    """(n,) what a close is divided by in normalised space."""

    def __len__(self) -> int:
        return len(self.date)

    @property
    def last(self) -> Values:
        """(n,) last known close."""
        return self.bars[:, -1, CLOSE].astype(np.float64)

    @property
    def rise(self) -> NDArray[np.bool_]:
        """(n, H) whether the close was greater than the last known one."""
        return self.closes > self.last[:, None]


@dataclass(frozen=True)
class Belief:
    """What a forecaster said at n origins; each (n, H)."""

    drift: Values
    """Mean change of the close over the paths, in standard deviations of the known closes."""
    prob_up: Values
    """Share of the paths above the last known close; one half counts for ties."""
    close: Values
    """Mean close of the paths."""


# -- training ------------------------------------------------------------------------------------------------
def on_market(config: Config, folder: Path, signal: float, seed: int) -> Config:
    """`config` on a synthetic market of its own in `folder`, networks and market of one seed."""
    data = replace(
        config.data,
        data_path=str(folder / "train.csv"),
        test_path=str(folder / "test.csv"),
        sample_submission_path=str(folder / "sample_submission.csv"),
        solution_path=str(folder / "solution.csv"),
        store=str(folder / "store"),
    )
    return replace(
        config,
        data=data,
        market=replace(config.market, generate=True, signal=signal, seed=seed),
        training=replace(config.training, seed=seed),
    )


def in_folder(config: Config, run: Path, tokenizer: Path) -> Config:
    """`config` with its run in the folder `run`, on the tokenizer of the run in the folder `tokenizer`."""
    own = replace(
        config.model_paths,
        base_save_path=str(run),
        finetuned_tokenizer=str(tokenizer / "tokenizer" / "best_model"),
    )
    return configfile.derived_paths(replace(config, model_paths=own))


def train(config: Config) -> BarStore:
    """Prepare the data and train both stages; what is complete stays, the tokenizer of another run too.
    Returns the store.
    """
    store = prepare(config)
    config = replace(config, experiment=replace(config.experiment, skip_existing=True))
    own_tokenizer = Path(config.model_paths.finetuned_tokenizer) == config.tokenizer_dir / "best_model"
    for stage in STAGES if own_tokenizer else STAGES[1:]:
        run_stage(config, stage, store)
    return store


# -- origins -------------------------------------------------------------------------------------------------
def unseen_part(config: Config, store: BarStore) -> Part:
    """The part of history that no stage reads. Raises KitError when the configuration leaves none."""
    splits = split_store(config.data, store.sessions, store.span_of(config.embargo))
    if splits.test is None:
        raise KitError(
            "data.test_ratio: expected a share above 0 for dates that no stage has seen, found 0; or set data.test_days"
        )
    return splits.test


def held_out(
    config: Config, store: BarStore, horizon: int, every: int | None = None, limit: int | None = None
) -> Origins:
    """Origins whose H = `horizon` following bars lie in the test part, all tickers at each of its dates
    `every` sessions apart.

    every: None takes `horizon`, so that what follows one date does not overlap what follows the next. limit:
    at most that many tickers. Closes of later rows enter `closes` and nothing else.
    """
    lookback, part = config.data.lookback_window, unseen_part(config, store)
    index = WindowIndex.build(store, lookback, horizon, part)
    rows = index.rows(np.arange(len(index)))
    rows = rows[(store.session[rows + lookback] - part.first) % (every or horizon) == 0]
    if limit:
        rows = rows[np.searchsorted(store.offsets, rows, side="right") <= limit]
    if not len(rows):
        raise KitError(
            f"test part: expected windows of {lookback} + {horizon} bars, found none; raise data.test_ratio"
        )
    raw, session = (
        gather(store.bars, rows, lookback + horizon),
        gather(store.session, rows, lookback + horizon),
    )
    known = raw[:, :lookback]
    stats = window_stats(known, config.data.norm_epsilon)
    return Origins(
        bars=known,
        stamps=calendar_stamps(store.sessions)[session],
        closes=raw[:, lookback:, CLOSE].astype(np.float64),
        date=session[:, lookback - 1].astype(np.int64),
        level=(known[:, -1, CLOSE] - stats.mean[:, CLOSE]) / stats.scale[:, CLOSE],
        scale=stats.scale[:, CLOSE].astype(np.float64),
    )


def believe(forecaster: Forecaster, origins: Origins, batch_size: int = 512) -> Belief:
    """Forecast every origin, a batch at a time, and keep what the studies read of the paths."""
    parts, lookback = [], origins.bars.shape[1]
    for first in range(0, len(origins), batch_size):
        rows = slice(first, first + batch_size)
        stamps, keys = origins.stamps[rows], np.arange(len(origins))[rows]
        paths = forecaster.paths(origins.bars[rows], stamps[:, :lookback], stamps[:, lookback:], keys)
        close, last = paths[..., CLOSE].astype(np.float64), origins.last[rows, None, None]
        up = ((close > last) + 0.5 * (close == last)).mean(1)
        parts.append(((close - last).mean(1) / origins.scale[rows, None], up, close.mean(1)))
    return Belief(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def next_bar_loss(config: Config, store: BarStore, horizon: int, samples: int = 2000) -> float:
    """Mean cross entropy (nats) of the bars 1..H after windows of the test part, teacher-forced: (s1 + s2) /
    2.

    The same windows whatever the configuration trained on, so that networks trained with other horizons
    compare.
    """
    d = config.data
    predictor = Kronos.from_pretrained(str(config.basemodel_dir / "best_model"))
    tokenizer = KronosTokenizer.from_pretrained(config.model_paths.finetuned_tokenizer)
    objective = PredictorObjective(predictor, tokenizer, lookback=d.lookback_window).eval()
    index = WindowIndex.build(store, d.lookback_window, horizon, unseen_part(config, store))
    batches = validation_loader(
        store,
        index,
        batch_size=128,
        samples=samples,
        rank=0,
        processes=1,
        clip=d.clip,
        epsilon=d.norm_epsilon,
    )
    total: dict[str, float] = {}
    with torch.inference_mode():
        for batch in batches:
            for name, value in objective.evaluate(batch).items():
                total[name] = total.get(name, 0.0) + float(value)
    return objective.report({name: [value] for name, value in total.items()})["loss"]


# -- chance --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Estimate:
    """A number and its standard error, clustered by date."""

    value: float
    error: float

    @property
    def t(self) -> float:
        """The value in standard errors."""
        return self.value / self.error


def slope(y: Values, x: Values, cluster: NDArray[np.int64]) -> Estimate:
    """Slope of y on x with an intercept, each (n,); errors may correlate inside a cluster and not between two
    (CR1).
    """
    x = x - x.mean()
    value = float(x @ y / (x @ x))
    scores = x * (y - y.mean() - value * x)
    return Estimate(value, _clustered_error(scores, cluster) / float(x @ x))


def mean(values: Values, cluster: NDArray[np.int64]) -> Estimate:
    """Mean of (n,) values with an error clustered like that of `slope`."""
    values = np.asarray(values, dtype=np.float64)
    value = float(values.mean())
    return Estimate(value, _clustered_error(values - value, cluster) / len(values))


def _clustered_error(scores: Values, cluster: NDArray[np.int64]) -> float:
    """Root of the summed squares of the clusters' sums, times G / (G - 1) for G clusters."""
    sums = np.bincount(np.unique(cluster, return_inverse=True)[1].reshape(-1), weights=scores)
    if len(sums) < 2:
        raise ValueError("one date is one observation: no error can be told from it")
    return float(np.sqrt(np.square(sums).sum() * len(sums) / (len(sums) - 1)))


def within_date(values: Values, cluster: NDArray[np.int64]) -> Values:
    """(n,) values less the median of their date: what is left when the market's common move is taken out."""
    result = np.asarray(values, dtype=np.float64).copy()
    for date in np.unique(cluster):
        rows = cluster == date
        result[rows] -= np.median(result[rows])
    return result
