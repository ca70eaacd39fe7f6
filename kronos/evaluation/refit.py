"""Walk-forward training: the networks are trained anew before each fold of the test dates, on what had ended
by then.

In: a configuration, a store, the first session of a fold. Out: a `RefitFitter`, which makes a network for
each fold. Runs lie under RUN/folds/K and are resumed like any run. One process; for small configurations.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from kronos import configfile
from kronos.answers.answerer import SIMPLICITY, Kind
from kronos.answers.network import NetworkAnswerer, load_network
from kronos.config import Config, DataConfig
from kronos.data.splits import Splits, split_store
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.origins import Boundary
from kronos.training.facts import STAGES
from kronos.training.stages import run_stage

MODEL = "model, trained anew"


def planned_splits(config: Config, store: BarStore) -> Splits:
    """Training and validation of the configuration. Raises KitError when no day lies behind them."""
    splits = split_store(config.data, store.sessions, store.span_of(config.embargo))
    if splits.validation.last >= len(store.sessions) - 2:
        raise KitError(
            "--refit: expected days after the training and validation parts, found none; lower data.train_ratio or "
            "data.val_ratio, or set data.test_days"
        )
    return splits


def planned_boundary(config: Config, store: BarStore) -> Boundary:
    """Where the first fold may begin: after the training and validation parts of the configuration."""
    last = planned_splits(config, store).validation.last
    return Boundary(last, store.span_of(config.embargo), last)


def fold_data(config: Config, store: BarStore, first_session: int) -> DataConfig:
    """The parts of a fold: validation ends an embargo before the fold's first date. By shares, training and
    validation keep their proportion; by days, validation keeps its length."""
    d = config.data
    embargo = store.span_of(config.embargo)
    days = first_session - embargo
    if d.parts_by_days:
        length = len(planned_splits(config, store).validation)
        validation_until = str(store.sessions[days - 1])
        train_until = str(store.sessions[days - 1 - length - embargo])
        return replace(
            d, train_until=train_until, validation_until=validation_until, validation_days=None, test_days=0
        )
    assert d.train_ratio is not None and d.val_ratio is not None
    share = (
        days / len(store.sessions) / (d.train_ratio + d.val_ratio) * (1 - 1e-9)
    )  # rounding must not reach the fold
    return replace(d, train_ratio=d.train_ratio * share, val_ratio=d.val_ratio * share, test_ratio=0.0)


def fold_config(config: Config, store: BarStore, first_session: int, number: int) -> Config:
    """The configuration of a fold's run, which ends, with an embargo, before the fold (`fold_data`)."""
    data = fold_data(config, store, first_session)
    own = f"{config.model_paths.exp_name}-fold{number}"
    paths = replace(
        config.model_paths,
        exp_name=own,
        base_save_path=str(config.run_dir / "folds" / str(number)),
        finetuned_tokenizer="",
    )
    single = replace(config.distributed, num_processes=1, num_machines=1, machine_rank=0)
    fresh = replace(config.experiment, skip_existing=True, name="")
    return configfile.derived_paths(
        replace(config, data=data, model_paths=paths, distributed=single, experiment=fresh)
    )


def train_fold(config: Config, store: BarStore, horizon: int) -> NetworkAnswerer:
    """Both stages of one fold, or what is left of them. Raises KitError when it was asked to stop."""
    wanted = {"tokenizer": config.experiment.train_tokenizer, "basemodel": config.experiment.train_basemodel}
    for stage in STAGES:
        if wanted[stage] and run_stage(config, stage, store) != "complete":
            raise KitError(
                f"{config.run_dir}: stopped while training this fold; the same command goes on from there"
            )
    return load_network(config, horizon)


@dataclass
class RefitFitter:
    """Trains both stages before every fold that asks for it."""

    config: Config
    cache: Path
    deadline: float = math.inf
    name: str = MODEL
    kind: Kind = "paths"
    simplicity: int = SIMPLICITY["paths"]
    made: list[NetworkAnswerer] = field(default_factory=list)
    """The networks of the folds so far."""

    def fit(self, store: BarStore, before: int, horizon: int) -> NetworkAnswerer:
        """A network that was trained on what had ended before session `before`."""
        own = fold_config(self.config, store, before, len(self.made))
        network = train_fold(own, store, horizon)
        note = "trained anew before each fold, on what had ended before the dates it answers"
        self.made.append(
            replace(
                network,
                name=MODEL,
                note=note,
                cache=self.cache,
                deadline=self.deadline,
                paths=True,
                by_date=True,
            )
        )
        return self.made[-1]
