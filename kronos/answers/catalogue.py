"""Every answerer by its name: what the backtest scores beside the network, and what `--answer NAME` finds.

In: a configuration, a name. Out: an `Answerer`, fitted on what had ended by the asked date where it has to
be; and the key that its decision has to belong to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kronos import files
from kronos.answers import fitted
from kronos.answers.answerer import Answer, Answerer, Fitter, Kind, Rows
from kronos.answers.blend import Blend
from kronos.answers.columns import NetworkColumns
from kronos.answers.findings import FITS, FOLDER
from kronos.answers.network import NetworkAnswerer
from kronos.answers.simple import simple_answerers
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.errors import KitError

if TYPE_CHECKING:
    from kronos.answers.head import HeadAnswerer

AUTO, NETWORK, HEAD, BLEND, WEIGHTED = "auto", "network", "head", "blend:", "weighted:"
WITH_NETWORK: dict[str, fitted.ModelKind] = {
    "ridge with network": "ridge",
    "boosting with network": "boosting",
}
"""Fits on figures and on what the run's networks say. A backtest makes and keeps them: only it has asked the
networks about past dates.
"""
GetNetwork = Callable[[], NetworkAnswerer]
"""Gives the run's network, loaded when it is called first."""


def fitters(config: Config) -> list[Fitter]:
    """Everything that is fitted, simplest first."""
    return list(fitted.fitters(fitted.Fitting(seed=config.training.seed)))


def names(config: Config) -> list[str]:
    """Every name that needs nothing trained."""
    return [*(answerer.name for answerer in simple_answerers()), *(fitter.name for fitter in fitters(config))]


def members_of(name: str) -> list[str]:
    """The names in 'blend:A+B' or 'weighted:A+B', [] for any other name. Raises KitError where there are not
    two different ones.
    """
    if not name.startswith((BLEND, WEIGHTED)):
        return []
    members = [part.strip() for part in name.removeprefix(BLEND).removeprefix(WEIGHTED).split("+")]
    if len(set(members)) < 2 or len(set(members)) < len(members) or not all(members):
        raise KitError(f"--answer {name}: expected blend:A+B with different names, found {len(set(members))}")
    return members


def needs_network(name: str, config: Config) -> bool:
    """Whether an answerer is, or holds, the run's network. Raises KitError for a name that nothing has."""
    return any(_is_network(part, config) for part in members_of(name) or [name])


def needs_training(name: str, config: Config) -> bool:
    """Whether an answerer is, or holds, something that was trained in the run."""
    trained = (HEAD, *WITH_NETWORK)
    return any(part in trained or _is_network(part, config) for part in members_of(name) or [name])


def needs_fit(name: str, config: Config) -> bool:
    """Whether an answerer is, or holds, something that is fitted when it is asked for."""
    fitted_names = {fitter.name for fitter in fitters(config)}
    return any(part in fitted_names for part in members_of(name) or [name])


def _is_network(name: str, config: Config) -> bool:
    if name == NETWORK or name in own_names(config):
        return True
    if name not in (HEAD, *WITH_NETWORK, *names(config)):
        known = ", ".join([HEAD, *names(config)])
        raise KitError(
            f"--answer {name}: expected auto, network, blend:A+B or one of {known}, found {name!r}"
        )
    return False


def own_names(config: Config) -> set[str]:
    """What the run's own network may be called."""
    return {config.model_paths.exp_name, f"run {config.model_paths.exp_name}"}


def open_head(config: Config) -> "HeadAnswerer":
    """The run's trained head. Raises KitError where there is none, or an unfinished one."""
    from kronos.answers.head import HeadAnswerer
    from kronos.forecasting.pair import pick_autocast, pick_device

    device = pick_device(config)
    return HeadAnswerer.of_run(config, device, pick_autocast(config, device))


def head_key(config: Config) -> dict[str, Any]:
    """What a decision of the run's head has to belong to."""
    return {"head": files.folder_digest(config.head_dir / "best_model")}


def key_of(name: str, config: Config, horizon: int, network: GetNetwork) -> dict[str, Any]:
    """What a decision of the answerer called `name` has to belong to; of a blend by member, {} where nothing
    was trained.
    """
    members = members_of(name)
    keys = {}
    for part in members or [name]:
        if part == HEAD:
            keys[HEAD] = head_key(config)
        elif part in WITH_NETWORK:
            keys[part] = _key_of_fit(part, config, horizon, network)
        elif _is_network(part, config):
            keys[network().name] = network().key(horizon)
    if members:
        return keys
    return next(iter(keys.values()), {})


# -- fits on what networks say -------------------------------------------------------------------------------
def fit_path(config: Config, name: str, horizon: int) -> Path:
    """Where a backtest keeps a fit with network columns."""
    return config.run_dir / FOLDER / FITS / f"horizon-{horizon}-{name.replace(' ', '-')}.json"


def open_fit(name: str, config: Config, horizon: int, network: GetNetwork) -> fitted.FittedModel:
    """A fit that a backtest has kept, with the networks that fill its columns. Raises KitError where none is
    there.
    """
    path = fit_path(config, name, horizon)
    columns = fitted.columns_in(path)
    answerers: list[Answerer] = []
    if any(column.startswith("network ") for column in columns):
        answerers.append(network())
    if any(column.startswith("head ") for column in columns):
        answerers.append(open_head(config))
    return fitted.FittedModel.load(path, NetworkColumns(tuple(answerers), np.empty(0, np.int64)))


def _key_of_fit(name: str, config: Config, horizon: int, network: GetNetwork) -> dict[str, Any]:
    columns = fitted.columns_in(fit_path(config, name, horizon))
    key: dict[str, Any] = {}
    if any(column.startswith("network ") for column in columns):
        key |= {NETWORK: network().key(horizon)}
    if any(column.startswith("head ") for column in columns):
        key |= {HEAD: head_key(config)}
    return key


def find(
    name: str,
    config: Config,
    store: BarStore,
    before: int,
    horizon: int,
    network: GetNetwork,
    weights: Sequence[float] | None = None,
) -> Answerer:
    """The answerer called `name`. before: the first session that a fit may not see; horizon: trading days
    ahead.

    network: called only where the name asks for it. weights: of a blend whose weights a backtest has fitted.
    Raises KitError for an unknown name, and where there is no such network.
    """
    members = members_of(name)
    if members:
        if name.startswith(WEIGHTED) and weights is None:
            raise KitError(
                f"--answer {name}: expected weights that a backtest has fitted, found none; "
                "name it in evaluation.blends and run scripts/run_backtest.py --save"
            )
        parts = tuple(find(part, config, store, before, horizon, network) for part in members)
        return Blend(name, parts, tuple(weights) if name.startswith(WEIGHTED) and weights else None)
    if _is_network(name, config):
        return network()
    if name == HEAD:
        return open_head(config)
    if name in WITH_NETWORK:
        return open_fit(name, config, horizon, network)
    for answerer in simple_answerers():
        if answerer.name == name:
            return answerer
    fitter = next(fitter for fitter in fitters(config) if fitter.name == name)
    return Refitted(fitter, horizon) if config.inference.refit else fitter.fit(store, before, horizon)


@dataclass(frozen=True, eq=False)
class Refitted:
    """Something that is fitted, anew for every date that is asked about."""

    fitter: Fitter
    horizon: int

    @property
    def name(self) -> str:
        """The fitter's name."""
        return self.fitter.name

    @property
    def kind(self) -> Kind:
        """What kind of answerer it is."""
        return self.fitter.kind

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return self.fitter.simplicity

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Each date's rows by a fit on what had ended by then. Raises KitError where that is too little."""
        score = np.full(len(rows), np.nan)
        reason = np.array(rows.reason, dtype="<U64")
        for date in np.unique(rows.asof[rows.open]).tolist():
            where = np.flatnonzero(rows.asof == date)
            found = self.fitter.fit(store, date + 1, self.horizon).answer(store, rows.only(where))
            score[where], reason[where] = found.score, found.reason
        return Answer(score, None, reason)
