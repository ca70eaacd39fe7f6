"""A small market with finished, untrained networks in a run folder: what a backtest reads, in a second."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tiny import PREDICTOR, TOKENIZER, tiny_config, tiny_store

from kronos import files
from kronos.config import Config, to_dict
from kronos.data.store import BarStore
from kronos.networks import Kronos, KronosTokenizer

DAYS, TRAIN_END = 260, 99


def finished_run(config: Config, store: BarStore, seed: int = 0, train_end: int = TRAIN_END) -> Config:
    """Networks of random weights in the configuration's run folder, with the summaries of a finished
    training.
    """
    torch.manual_seed(seed)
    tokenizer = KronosTokenizer(**TOKENIZER)
    with torch.no_grad():
        tokenizer.head.weight *= (
            8  # untrained, all tokens mean nearly the same bar: spread them, so that paths differ
        )
    tokenizer.save_pretrained(config.tokenizer_dir / "best_model")
    Kronos(**PREDICTOR).save_pretrained(config.basemodel_dir / "best_model")
    end = str(store.sessions[train_end].astype("datetime64[D]"))
    digest = files.folder_digest(config.tokenizer_dir / "best_model")
    for stage in ("tokenizer", "basemodel"):
        summary: dict[str, Any] = {
            "status": "complete",
            "stage": stage,
            "step": 9,
            "total_steps": 9,
            "config": to_dict(config),
            "facts": {"start": "random weights"},
            "best": {"step": 9, "value": 1.0},
            "start_value": None,
        }
        summary |= {
            "tokenizer_digest": digest,
            "model_digest": files.folder_digest(config.run_dir / stage / "best_model"),
        }
        summary |= {"train_end": end, "train_end_session": train_end, "data_digest": store.digest}
        files.write_json(config.run_dir / stage / "summary.json", summary)
    files.write_json(config.resolved_path, to_dict(config))
    return config


def small_world(folder: Path, **settings: Any) -> tuple[Config, BarStore]:
    """A store of random walks and a finished run: 100 days of training, 26 of validation, 134 unseen."""
    own = {
        "data__train_ratio": 100 / DAYS,
        "data__val_ratio": 0.1,
        "data__calendar": "24/7",
        "inference__sample_count": 21,
        "evaluation__draws": 200,
        "evaluation__origins": 24,
        "evaluation__horizon": 3,
        "evaluation__folds": 2,
    }
    store = tiny_store(folder / "store", tickers=9, days=DAYS, seed=1)
    config = tiny_config(folder, **(own | settings))
    return finished_run(config, store), store


def changed(config: Config, **settings: Any) -> Config:
    """A configuration with some `section__key` changed."""
    for name, value in settings.items():
        section, key = name.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return config
