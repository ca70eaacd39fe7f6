"""Walk-forward training: the networks are trained anew before each fold of the test dates, on what had ended by then.

In: a configuration, a store, the panel of all dates. Out: one network per fold, and the forecasts of every date by the network
of its fold. Runs lie under RUN/folds/K and are resumed like any run. One process; for small configurations.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from kronos import configfile
from kronos.config import Config, DataConfig
from kronos.data.splits import Splits, split_store
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.baselines import folds
from kronos.evaluation.forecasts import DateForecast, Network, forecast_dates, load_network
from kronos.evaluation.origins import Boundary
from kronos.evaluation.panel import Panel
from kronos.training.stages import STAGES, run_stage

MODEL = "model, trained anew"


def planned_splits(config: Config, store: BarStore) -> Splits:
    """Training and validation of the configuration. Raises KitError when no day lies behind them."""
    splits = split_store(config.data, store.sessions, config.embargo)
    if splits.validation.last >= len(store.sessions) - 2:
        raise KitError(
            "--refit: expected days after the training and validation parts, found none; lower data.train_ratio or "
            "data.val_ratio, or set data.test_days"
        )
    return splits


def planned_boundary(config: Config, store: BarStore) -> Boundary:
    """Where the first fold may begin: after the training and validation parts of the configuration."""
    last = planned_splits(config, store).validation.last
    return Boundary(last, config.embargo, last)


def fold_data(config: Config, store: BarStore, first_session: int) -> DataConfig:
    """The parts of a fold: validation ends an embargo before the fold's first date. By shares, training and validation keep
    their proportion; by days, validation keeps its length."""
    d = config.data
    days = first_session - config.embargo
    if d.parts_by_days:
        length = len(planned_splits(config, store).validation)
        validation_until = str(store.sessions[days - 1])
        train_until = str(store.sessions[days - 1 - length - config.embargo])
        return replace(d, train_until=train_until, validation_until=validation_until, validation_days=None, test_days=0)
    assert d.train_ratio is not None and d.val_ratio is not None
    share = days / len(store.sessions) / (d.train_ratio + d.val_ratio) * (1 - 1e-9)  # rounding must not reach the fold
    return replace(d, train_ratio=d.train_ratio * share, val_ratio=d.val_ratio * share, test_ratio=0.0)


def fold_config(config: Config, store: BarStore, first_session: int, number: int) -> Config:
    """The configuration of a fold's run, which ends, with an embargo, before the fold (`fold_data`)."""
    data = fold_data(config, store, first_session)
    own = f"{config.model_paths.exp_name}-fold{number}"
    paths = replace(
        config.model_paths, exp_name=own, base_save_path=str(config.run_dir / "folds" / str(number)), finetuned_tokenizer=""
    )
    single = replace(config.distributed, use_ddp=False, num_processes=1, num_machines=1, machine_rank=0)
    fresh = replace(config.experiment, skip_existing=True, name="")
    return configfile.derived_paths(replace(config, data=data, model_paths=paths, distributed=single, experiment=fresh))


def train_fold(config: Config, store: BarStore) -> Network:
    """Both stages of one fold, or what is left of them. Raises KitError when it was asked to stop."""
    wanted = {"tokenizer": config.experiment.train_tokenizer, "basemodel": config.experiment.train_basemodel}
    for stage in STAGES:
        if wanted[stage] and run_stage(config, stage, store) != "complete":
            raise KitError(f"{config.run_dir}: stopped while training this fold; the same command goes on from there")
    return load_network(config)


def refit_forecasts(
    config: Config, store: BarStore, panel: Panel, cache: Path, deadline: float = math.inf
) -> tuple[list[Network], dict[str, list[DateForecast]]]:
    """The last fold's network, under the name of all, and every date's forecast by its own fold's."""
    dates: list[DateForecast] = []
    network = None
    for number, fold in enumerate(folds(panel.dates, config.evaluation.folds)):
        own = fold_config(config, store, int(panel.sessions[fold.start]), number)
        network = train_fold(own, store)
        sessions = np.asarray(panel.sessions[fold])
        limit = config.evaluation.tickers
        dates += forecast_dates([network], store, sessions, panel.horizon, cache, limit, deadline)[network.name]
    assert network is not None, "a panel has at least one date"
    count = len(folds(panel.dates, config.evaluation.folds))
    named = replace(network, name=MODEL, note=f"trained {count} times, each time on what had ended before the dates it answers")
    return [named], {MODEL: dates}
