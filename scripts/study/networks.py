"""Networks for the study of answers: trained once before its first date, then asked about every date.

In: a store, a configuration of sizes and steps, the first date of the table. Out: scores of a head (the
predictor trained with it, and frozen) and of sampled paths. Nothing of a network has seen a label that ends
on or after the first date: training and validation end before it.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kronos import configfile
from kronos.answers.answerer import Rows
from kronos.answers.head import HeadAnswerer
from kronos.answers.network import load_network
from kronos.config import Config, Preset
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.panel import drawn
from kronos.forecasting.pair import pick_autocast, pick_device
from kronos.training.facts import Stage
from kronos.training.stages import run_stage

log = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

VALIDATION_DAYS, VALIDATION_SHARE = 500, 4
"""Trading days before the first date that choose the checkpoint: so many, at most a fourth of all."""
LEAST_DAYS = 200
"""Fewest trading days before the first date."""


@dataclass(frozen=True)
class Wanted:
    """How large, and how long it trains."""

    preset: Preset = "nano"
    steps: int = 400
    """Optimiser steps of each stage."""
    horizon: int = 30
    head_steps: int = 200
    """Of the head, whose steps are of whole dates and so ten times as large."""
    paths_tickers: int = 100
    """Tickers of each date that paths are sampled for; 0: none are."""
    paths_every: int = 1
    """Every so many dates."""
    paths: int = 33


def network_config(config: Config, work: Path, store: BarStore, first: int, wanted: Wanted) -> Config:
    """The configuration of the networks: trained before session `first`. Raises KitError where too little
    lies before it.
    """
    last = first - 1
    if first < LEAST_DAYS:
        raise KitError(
            f"--networks: expected at least {LEAST_DAYS} trading days before the first date, found {first}; name a later --from"
        )
    validation = min(VALIDATION_DAYS, first // VALIDATION_SHARE)
    data = replace(
        config.data,
        train_until=str(store.sessions[last - validation - wanted.horizon])[:10],
        validation_until=str(store.sessions[last])[:10],
        validation_days=None,
        test_days=0,
        train_ratio=None,
        val_ratio=None,
        test_ratio=None,
        predict_window=wanted.horizon,
        embargo=wanted.horizon,
    )
    return configfile.derived_paths(
        replace(
            config,
            data=data,
            training=replace(config.training, max_steps=wanted.steps, num_workers=0, trackers=[]),
            model_paths=replace(
                config.model_paths,
                base_save_path=str(work / "networks"),
                exp_name="study",
                finetuned_tokenizer="",
            ),
            experiment=replace(config.experiment, pre_trained=False, preset=wanted.preset, train_head=True),
            inference=replace(config.inference, horizon=wanted.horizon, sample_count=wanted.paths),
            device=replace(config.device, use_cuda=False),
        )
    )


def head_scores(config: Config, store: BarStore, rows: Rows, wanted: Wanted, frozen: bool) -> FloatArray:
    """Scores (n,) of a head that reads the predictor's tokens, trained where it is not there yet."""
    name = "head-frozen" if frozen else "head-whole"
    own = replace(
        config,
        head=replace(config.head, inputs="tokens", frozen=frozen),
        model_paths=replace(config.model_paths, head_save_name=name),
        training=replace(config.training, max_steps=wanted.head_steps),
    )
    for stage in ("tokenizer", "basemodel"):
        _train(config, stage, store)
    _train(own, "head", store)
    device = pick_device(own)
    return HeadAnswerer.of_run(own, device, pick_autocast(own, device)).answer(store, rows).score


def path_scores(config: Config, store: BarStore, rows: Rows, wanted: Wanted) -> FloatArray:
    """Mean over deviation of sampled paths, (n,); NaN in the rows that are not asked."""
    for stage in ("tokenizer", "basemodel"):
        _train(config, stage, store)
    score = np.full(len(rows), np.nan)
    days = np.unique(rows.asof)[:: wanted.paths_every]
    key = np.searchsorted(np.unique(rows.asof), rows.asof) * len(store.tickers) + rows.ticker
    asked = np.isin(rows.asof, days) & drawn(store, key, wanted.paths_tickers)
    network = load_network(config, wanted.horizon)
    score[asked] = network.answer(store, rows.only(asked)).score
    return score


def _train(config: Config, stage: Stage, store: BarStore) -> None:
    if run_stage(config, stage, store) != "complete":
        raise KitError(f"{config.run_dir}: stopped while training; the same command goes on from there")
