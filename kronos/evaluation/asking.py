"""Who is asked in a backtest: the run's networks, what stands beside them, and what is made of their answers.

In: a `Setup`, networks. Out: a `Contestant` for each. Answers of networks become columns of fits and members
of blends; whatever is fitted here learns from dates whose labels had ended before the dates that it answers.
"""

import logging
from dataclasses import replace
from typing import Any

import numpy as np

from kronos.answers.answerer import SIMPLICITY, Answer
from kronos.answers.blend import blended
from kronos.answers.catalogue import (
    BLEND,
    NETWORK,
    WEIGHTED,
    WITH_NETWORK,
    fitters,
    head_key,
    members_of,
    open_head,
)
from kronos.answers.columns import NetworkColumns, remembered
from kronos.answers.decision import z_of
from kronos.answers.fitted import FittedModel, Fitting, ModelFitter, TooLittle
from kronos.answers.network import NetworkAnswerer, joined, pretrained, random_init
from kronos.answers.simple import simple_answerers
from kronos.answers.weights import fit_weights
from kronos.config import Config, EvaluationConfig
from kronos.evaluation.contest import Contestant, Setup, contest
from kronos.evaluation.controls import noisy_futures, shuffled_labels
from kronos.evaluation.panel import Panel, build_panel
from kronos.evaluation.significance import DateBootstrap

log = logging.getLogger(__name__)

ENSEMBLE = "blend"


def _of_one_size(network: NetworkAnswerer, extent: tuple[int, int]) -> NetworkAnswerer:
    """The network with nothing remembered and batches whose size no longer follows the free memory. extent:
    bars, steps.
    """
    series = network.forecaster.memory_plan(*extent).series
    return replace(network, cache=None, forecaster=network.forecaster.using(batch_size=series))


def ask_networks(
    setup: Setup, control: str | None, networks: list[NetworkAnswerer]
) -> tuple[Setup, list[Contestant], int]:
    """All networks' answers, the setup with the labels of a control, and how many rows a changed future
    changed.
    """
    if not networks:
        return setup, [], 0
    fresh = control == "future-noise"
    if fresh:  # compared bit by bit with forecasts to come: other batches would round in another way
        extent = setup.config.data.lookback_window, setup.panel.horizon
        networks = [_of_one_size(network, extent) for network in networks]
    asked = [
        contest(
            setup,
            network,
            model=True,
            note=network.note,
            key=network.key(setup.panel.horizon),
            terms=tuple(range(1, setup.panel.horizon + 1)),
        )
        for network in networks
    ]
    changed = 0
    if control == "shuffle-labels":
        setup = replace(setup, panel=shuffled_labels(setup.panel, setup.config.training.seed))
    if fresh:
        panel, noisy = _with_noise(setup, networks)
        changed = sum(_differences(one.given, noisy[one.name]) for one in asked)
        asked = [replace(one, given=noisy[one.name]) for one in asked]
        setup = replace(setup, panel=panel)
    if len(asked) > 1:
        note = f"mean of the ranks of {', '.join(one.name for one in asked)}"
        asked.insert(0, _blend(setup, ENSEMBLE, asked, note, model=True, candidate=False))
    extra = _baseline_networks(setup.config, networks[0])
    asked += [
        contest(setup, network, only_test=True, candidate=False, note=network.note) for network in extra
    ]
    return setup, asked, changed


def _baseline_networks(config: Config, main: NetworkAnswerer) -> list[NetworkAnswerer]:
    own = config.evaluation
    found = [random_init(main, config.training.seed)] if own.random_init else []
    published = pretrained(main) if own.pretrained else None
    return found + ([published] if published else [])


def ask_head(setup: Setup, config: Config) -> Contestant:
    """The head of the run, whose stage has ended."""
    head = open_head(config)
    return contest(setup, head, key=head_key(config), terms=head.horizons)


def ask_others(setup: Setup, asked: list[Contestant]) -> list[Contestant]:
    """Everything that needs no network, fits with columns of the networks that were asked, and blends."""
    own = setup.config.evaluation
    found = [contest(setup, answerer) for answerer in simple_answerers()]
    if own.fitted_baselines:
        found += [contest(setup, fitter) for fitter in fitters(setup.config)]
        found += _fits_with_networks(setup, asked)
    known = {one.name: one for one in [*asked, *found]}
    models = [one for one in asked if one.model and one.kind != "blend"]
    if len(models) == 1:
        known[NETWORK] = models[0]
    usual = own.blends == EvaluationConfig().blends
    for name in own.blends:
        members = members_of(f"{BLEND}{name}")
        missing = [member for member in members if member not in known]
        if missing and usual:  # the usual list holds blends for every kind of run
            continue
        if missing:
            log.info("blend:%s is not scored: there is no answerer %s here", name, missing[0])
            continue
        parts = [known[member] for member in members]
        words = " and ".join(members)
        found.append(_blend(setup, f"{BLEND}{name}", parts, f"mean of the ranks of {words}"))
        found.append(_weighted(setup, f"{WEIGHTED}{name}", parts, words))
    return found


# -- fits with columns of networks ---------------------------------------------------------------------------
def network_fitters(setup: Setup, asked: list[Contestant]) -> list[ModelFitter]:
    """Fits on the figures and on what the run's network and head said of the backtest's dates; [] where
    there is neither, or several networks.
    """
    models = [one for one in asked if one.model and one.kind in ("paths", "enumeration")]
    heads = [one for one in asked if one.kind == "head"]
    members = [*(models if len(models) == 1 else []), *heads]
    if not members:
        return []
    given = remembered(members, setup.asked, [one.given for one in members])
    columns = NetworkColumns(given, setup.panel.sessions)
    fitting = Fitting(seed=setup.config.training.seed)
    return [ModelFitter(name, kind, fitting, columns) for name, kind in WITH_NETWORK.items()]


def _fits_with_networks(setup: Setup, asked: list[Contestant]) -> list[Contestant]:
    key = {NETWORK if one.kind != "head" else "head": one.key for one in asked if one.key}
    return [contest(setup, fitter, key=key) for fitter in network_fitters(setup, asked)]


def final_fits(setup: Setup, asked: list[Contestant]) -> dict[str, FittedModel]:
    """The same fits on all dates of the backtest, for a submission; those without enough dates are left out,
    and that is said.
    """
    found = {}
    for fitter in network_fitters(setup, asked):
        try:
            found[fitter.name] = fitter.fit(setup.store, len(setup.store.sessions), setup.panel.horizon)
        except TooLittle as error:
            log.info("%s", error)
    return found


# -- blends --------------------------------------------------------------------------------------------------
def _blend(setup: Setup, name: str, members: list[Contestant], note: str, **about: Any) -> Contestant:
    given = blended([one.given for one in members], setup.asked)
    return _made_of(name, members, given, note, **about)


def _weighted(setup: Setup, name: str, members: list[Contestant], words: str) -> Contestant:
    """A blend whose weights are fitted before each part of the dates, on dates whose labels had ended."""
    date = np.searchsorted(setup.panel.sessions, setup.asked.asof)
    parts = []
    for block in setup.blocks:
        first = int(setup.panel.sessions[block[0]])
        rows = np.flatnonzero((date >= block[0]) & (date <= block[-1]))
        weights = blend_weights(setup, members, before=first)
        answers = [one.part(rows) for one in members]
        parts.append((rows, blended(answers, setup.asked.only(rows), weights)))
    final = blend_weights(setup, members, before=len(setup.store.sessions))
    shown = ", ".join(f"{100 * weight:.0f} %" for weight in final)
    note = f"ranks of {words}, weights fitted on earlier dates; on all dates {shown}"
    return replace(_made_of(name, members, joined(parts, len(setup.asked)), note), weights=final)


def blend_weights(setup: Setup, members: list[Contestant], before: int) -> list[float]:
    """Weights of members that dates teach whose labels ended before session `before`."""
    panel = setup.panel
    ended = panel.sessions + panel.span < before
    rows = np.flatnonzero(ended[panel.origin])
    where = setup.place[rows]
    z = np.stack([z_of(Answer(one.given.score), setup.asked.asof)[where] for one in members], axis=1)
    known = np.isfinite(z).all(axis=1)
    z, date = z[known], panel.origin[rows][known].astype(np.int64)
    rank = z_of(Answer(panel.ret[rows][known]), date)
    days = panel.sessions[np.unique(date)]
    effective = DateBootstrap(tuple(days.tolist()), panel.span).effective if len(days) else 0
    return fit_weights(z, rank, date, effective / max(1, len(days))).tolist()


def _made_of(name: str, members: list[Contestant], given: Answer, note: str, **about: Any) -> Contestant:
    key: dict[str, object] = {one.name: one.key for one in members if one.key}
    simplicity = SIMPLICITY["blend"] + min(len(members), 9)
    names = [one.name for one in members]
    return Contestant(name, "blend", simplicity, given, note=note, members=names, key=key, **about)


# -- a control -----------------------------------------------------------------------------------------------
def _with_noise(setup: Setup, networks: list[NetworkAnswerer]) -> tuple[Panel, dict[str, Answer]]:
    """The panel with what the noise became, and answers given while everything after each origin was noise.
    Never cached.
    """
    panel, limit = setup.panel, setup.config.evaluation.tickers
    future = panel.future_close.copy()
    parts: dict[str, list[tuple[Any, Answer]]] = {network.name: [] for network in networks}
    for place, store in noisy_futures(setup.store, panel.sessions, setup.config.training.seed):
        session = panel.sessions[place : place + 1]
        future[panel.slices()[place]] = build_panel(store, session, panel.horizon, limit).future_close
        rows = np.flatnonzero(setup.asked.asof == session[0])
        for network in networks:
            parts[network.name].append((rows, network.answer(store, setup.asked.only(rows))))
    found = {name: joined(several, len(setup.asked)) for name, several in parts.items()}
    return replace(panel, future_close=future), found


def _differences(a: Answer, b: Answer) -> int:
    """Rows of which P(rise) or any sampled close differs in any bit."""
    one, other = (
        np.column_stack([values for values in (x.prob, x.closes) if values is not None]) for x in (a, b)
    )
    return int((~((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)).sum())
