"""The networks' answers to every as-of date, through the submission's own planning and forecaster, kept on disk.

In: a configuration and a run folder (`load_network`), a store, origins. Out: a `DateForecast` per date: P(rise) and the
sampled closes. Every ticker with a bar on the origin is forecast, whatever became of it, so nothing later than the origin
decides what is computed. A cached date is a function of networks, settings, data and date: an interrupted backtest goes on.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kronos import files
from kronos.config import Config, from_dict
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.errors import KitError
from kronos.evaluation.entry import Kind
from kronos.evaluation.panel import Panel, drawn, rows_on
from kronos.forecasting.calibration import key_of, uncertain
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.pair import Pair, find_pair, load_forecaster
from kronos.forecasting.rows import RowPlan, find_rises, plan_rows
from kronos.networks import Kronos
from kronos.progress import progress
from kronos.training.folder import read_summary
from kronos.training.stages import network_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Network:
    """A pair of networks ready to forecast, and what identifies its answers."""

    name: str
    kind: Kind
    config: Config
    pair: Pair
    forecaster: Forecaster
    digest: str
    tokenizer_digest: str
    summary: dict[str, Any] | None = None
    """The predictor's summary.json, where it was trained here."""
    note: str = ""

    def key(self, horizon: int) -> dict[str, Any]:
        """What its answers so many steps ahead depend on."""
        return key_of(self.config, horizon, self.digest, self.tokenizer_digest)

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {
            "name": self.name,
            "path": self.pair.predictor,
            "digest": self.digest,
            "tokenizer": self.pair.tokenizer,
            "tokenizer_digest": self.tokenizer_digest,
            "trained": self.pair.trained,
            "train_end": self.pair.train_end,
            "lookback": self.config.data.lookback_window,
            "parameters": sum(p.numel() for p in self.forecaster.model.parameters()),
        }


# -- which networks ----------------------------------------------------------------------------------------------------
def load_network(config: Config, name: str = "", allow_incomplete: bool = False) -> Network:
    """The networks of a configuration: the run's, or its pretrained pair. Raises KitError where there are none."""
    pair = find_pair(config, allow_incomplete)
    forecaster = load_forecaster(config, pair)
    return Network(
        name=name or config.model_paths.exp_name,
        kind="model",
        config=config,
        pair=pair,
        forecaster=forecaster,
        digest=network_digest(forecaster.model, pair.predictor),
        tokenizer_digest=network_digest(forecaster.tokenizer, pair.tokenizer),
        summary=read_summary(config.basemodel_dir) if pair.trained else None,
    )


def config_of_run(folder: str | Path, config: Config) -> Config:
    """The configuration that a run was trained with, for a backtest by `config`: its device, sampling, data and dates hold.

    What shaped the network (lookback, normalisation, context) is the run's own. Raises KitError when it is no run folder.
    """
    path = Path(folder) / "pipeline_config.json"
    if not path.is_file():
        raise KitError(f"--model {folder}: expected a run folder with pipeline_config.json, found none; name base_path/exp_name")
    own: Config = from_dict(json.loads(path.read_text(encoding="utf-8")))
    tokenizer = own.model_paths.finetuned_tokenizer
    if Path(tokenizer) == own.tokenizer_dir / "best_model":
        tokenizer = str(Path(folder) / own.model_paths.tokenizer_save_name / "best_model")
    paths = replace(own.model_paths, base_save_path=str(folder), finetuned_tokenizer=tokenizer)
    data = replace(own.data, data_path=config.data.data_path, store=config.data.store, calendar=config.data.calendar)
    own = replace(own, inference=config.inference, evaluation=config.evaluation, device=config.device, market=config.market)
    return replace(own, data=data, model_paths=paths)


def random_init(network: Network, seed: int) -> Network:
    """The same predictor with random weights, on the same tokenizer."""
    torch.manual_seed(seed)
    model = Kronos(**asdict(network.forecaster.model.config))
    forecaster = load_forecaster(network.config, network.pair)
    forecaster.model = model.to(forecaster.device)
    digest = hashlib.sha256(f"{network.digest} random {seed}".encode()).hexdigest()
    return replace(
        network, name="random-init", kind="network", forecaster=forecaster, digest=digest, note="the same network, untrained"
    )


def pretrained(network: Network) -> Network | None:
    """The published pair that the model started from, or None (said) where it is not here or did not start from one."""
    config = network.config
    if not (network.pair.trained and config.predictor_is_pretrained):
        return None
    paths = config.model_paths
    pair = Pair(paths.pretrained_tokenizer, paths.pretrained_predictor, trained=False)
    try:
        forecaster = load_forecaster(config, pair)
    except KitError as error:
        log.warning("the pretrained network is not scored: %s", error)
        return None
    return replace(
        network,
        name="pretrained",
        kind="network",
        pair=pair,
        forecaster=forecaster,
        digest=network_digest(forecaster.model, pair.predictor),
        tokenizer_digest=network_digest(forecaster.tokenizer, pair.tokenizer),
        summary=None,
        note=f"{pair.predictor} without fine-tuning",
    )


# -- forecasting -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class DateForecast:
    """What the networks said on one origin about m tickers."""

    ticker: NDArray[np.int32]
    """(m,) positions in the store, rising."""
    closes: NDArray[np.float32]
    """(m, S) closes on the target date, price units; NaN for a ticker that could not be forecast."""
    prob: NDArray[np.float64]
    """(m,) P(rise) of a price that moves, as the submission finds it (`find_rises`), kept off 0 and 1 (`uncertain`); NaN like the
    closes."""
    ties: NDArray[np.float64]
    """(m,) P(tie); NaN like the closes."""
    reason: NDArray[np.str_]
    """(m,) why not; '' where it was."""


def plan_date(store: BarStore, session: int, tickers: NDArray[np.integer], horizon: int, config: Config) -> RowPlan:
    """The submission's planning as of an origin: bars dated up to and with it are known, and nothing else."""
    origin = store.sessions[session]
    names = [store.tickers[k] for k in tickers]
    after = origin + (np.timedelta64(1, "D") if store.frequency in ("daily", "weekly") else np.timedelta64(1, "s"))
    return plan_rows(
        store,
        names,
        np.full(len(names), after),
        calendar=config.data.calendar,
        lookback=config.data.lookback_window,
        max_context=config.data.max_context,
        horizon=horizon,
        overflow=config.inference.overflow,
        ids=[f"{name} {date_text(origin)}" for name in names],  # random numbers of their own on every date
    )


def forecast_dates(
    networks: Iterable[Network],
    store: BarStore,
    sessions: NDArray[np.int64],
    horizon: int,
    cache: Path | None,
    tickers: int | None = None,
    deadline: float = math.inf,
) -> dict[str, list[DateForecast]]:
    """Every network's answers to every origin, {name: [D]}. cache: folder to keep and find them in; None: neither.

    tickers: of each date only so many (`panel.drawn`). Raises KitError before a date when time.monotonic() is past `deadline`.
    """
    networks = list(networks)
    row, key = rows_on(store, sessions)
    kept = drawn(store, key, tickers)
    row, key = row[kept], key[kept]
    origin, ticker = np.divmod(key, len(store.tickers))
    parts = np.split(ticker.astype(np.int32), np.searchsorted(origin, np.arange(1, len(sessions))))
    result: dict[str, list[DateForecast]] = {}
    for network in networks:
        log.info("%s: %s", network.name, network.forecaster.memory_plan(network.config.data.lookback_window, horizon))
    with progress("backtest", len(row) * len(networks), "rows") as bar:
        for network in networks:
            folder = cache / _folder(network, store, horizon) if cache else None
            result[network.name] = []
            for session, alive in zip(sessions, parts, strict=True):
                _check_time(deadline, bar, network.name)
                result[network.name].append(_forecast_date(network, store, int(session), alive, horizon, folder, bar))
    return result


def _check_time(deadline: float, bar: Any, name: str) -> None:
    if time.monotonic() > deadline:
        raise KitError(
            f"backtest: expected an end within evaluation.time_limit, found {bar.n:,} of {bar.total:,} rows done, at {name}; "
            "the same command goes on from there, or lower evaluation.origins or evaluation.tickers"
        )


def _folder(network: Network, store: BarStore, horizon: int) -> str:
    fixed = {**network.key(horizon), "data": store.digest, "horizon": horizon, "calendar": network.config.data.calendar}
    fixed |= {
        "seed": network.config.inference.seed,
        "precision": str(network.forecaster.autocast),
        "device": network.forecaster.device.type,
    }
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def _forecast_date(
    network: Network, store: BarStore, session: int, tickers: NDArray[np.int32], horizon: int, folder: Path | None, bar: Any
) -> DateForecast:
    name = date_text(store.sessions[session]).replace(":", "").replace(" ", "T")
    path = folder / f"{name}.npz" if folder else None
    if path and path.is_file():
        with np.load(path, allow_pickle=False) as saved:
            found = DateForecast(**saved)
        if np.array_equal(found.ticker, tickers):
            bar.update(len(tickers))
            return found
    plan = plan_date(store, session, tickers, horizon, network.config)
    count = network.forecaster.sampling.sample_count
    closes, reason = np.full((len(tickers), count), np.nan, np.float32), plan.reason.copy()
    prob, ties = np.full((2, len(tickers)), np.nan)
    bar.update(int((reason != "").sum()))
    for batch in plan.batches(network.forecaster.memory_plan(*plan.extent()).series):
        rises = find_rises(batch, network.forecaster, paths=True)
        closes[batch.rows], ties[batch.rows], reason[batch.rows] = rises.closes, rises.ties, rises.reason
        prob[batch.rows] = uncertain(rises.prob_up, rises.mass, count)
        bar.update(len(batch.rows))
    made = DateForecast(tickers, closes, prob, ties, reason)
    if path:
        with files.atomic(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, **vars(made))
    return made


def closes_on(panel: Panel, forecasts: list[DateForecast]) -> NDArray[np.float32]:
    """The sampled closes of a panel's rows, (n, S); forecasts: one per origin of the panel."""
    return np.concatenate([found.closes[place] for found, place in _places(panel, forecasts)])


def probabilities_on(panel: Panel, forecasts: list[DateForecast]) -> NDArray[np.float64]:
    """P(rise) of a panel's rows if their prices move, (n,), before calibration; NaN for a row that could not be forecast."""
    return np.concatenate([found.prob[place] for found, place in _places(panel, forecasts)])


def ties_on(panel: Panel, forecasts: list[DateForecast]) -> NDArray[np.float64]:
    """P(tie) of a panel's rows, (n,); NaN for a row that could not be forecast."""
    return np.concatenate([found.ties[place] for found, place in _places(panel, forecasts)])


def _places(panel: Panel, forecasts: list[DateForecast]) -> Iterator[tuple[DateForecast, NDArray[np.intp]]]:
    """Each origin's forecast and where the panel's rows stand in it."""
    for part, found in zip(panel.slices(), forecasts, strict=True):
        place = np.searchsorted(found.ticker, panel.ticker[part])
        assert (found.ticker[place] == panel.ticker[part]).all(), "every ticker with a bar on the origin was forecast"
        yield found, place
