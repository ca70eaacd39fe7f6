"""A tiny market, tiny networks and a tiny configuration, for the tests of training. Seconds on one core."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kronos import configfile
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict

TOKENIZER: dict[str, Any] = {
    "d_in": 6,
    "d_model": 16,
    "n_heads": 2,
    "ff_dim": 24,
    "n_enc_layers": 2,
    "n_dec_layers": 2,
    "ffn_dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.0,
    "s1_bits": 3,
    "s2_bits": 3,
    "beta": 0.05,
    "gamma0": 1.0,
    "gamma": 1.1,
    "zeta": 0.05,
    "group_size": 3,
}
PREDICTOR: dict[str, Any] = {
    "s1_bits": 3,
    "s2_bits": 3,
    "n_layers": 1,
    "d_model": 16,
    "n_heads": 2,
    "ff_dim": 24,
    "ffn_dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.0,
    "token_dropout_p": 0.0,
    "learn_te": True,
}
LOOKBACK, PREDICT = 12, 2


def tiny_store(path: Path, tickers: int = 5, days: int = 90, seed: int = 0) -> BarStore:
    """Random walks with volume, one calendar."""
    rng = np.random.default_rng(seed)
    dates = np.datetime64("2020-01-01") + np.arange(days)
    series = {}
    for number in range(tickers):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, days)))
        open_ = close * np.exp(rng.normal(0, 0.005, days))
        high, low = np.maximum(open_, close) * 1.01, np.minimum(open_, close) * 0.99
        volume = rng.lognormal(10, 0.3, days)
        bars = np.stack([open_, high, low, close, volume, volume * close], axis=1).astype(np.float32)
        series[f"T{number}"] = (dates, bars)
    return store_from_dict(path, series)


def tiny_config(folder: Path, **settings: Any) -> Config:
    """Both stages from random weights of the nano preset on CPU; keyword arguments `section__key`
    override.
    """
    base = {
        "data__data_path": "unused",
        "data__store": str(folder / "store"),
        "data__lookback_window": LOOKBACK,
        "data__predict_window": PREDICT,
        "data__train_ratio": 0.7,
        "data__val_ratio": 0.3,
        "training__tokenizer_epochs": 2,
        "training__basemodel_epochs": 2,
        "training__samples_per_epoch": 22,
        "training__validation_samples": 20,
        "training__batch_size": 4,
        "training__num_workers": 0,
        "training__log_interval": 2,
        "training__checkpoint_steps": 2,
        "training__trackers": [],
        "model_paths__base_save_path": str(folder / "run"),
        "experiment__pre_trained": False,
        "experiment__preset": "nano",
        "device__use_cuda": False,
    }
    config = Config()
    for name, value in {**base, **settings}.items():
        section, key = name.split("__")
        config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return configfile.derived_paths(config)
