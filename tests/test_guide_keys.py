"""Configurations with the guide's flat keys: every key has its place, or a word; nothing is taken over
silently.
"""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from qlib_market import write_market

from kronos import configfile, guide_keys
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.errors import KitError

GUIDE: dict[str, Any] = {
    "qlib_data_path": "/q/cn_data", "instrument": "csi300",
    "dataset_begin_time": "2011-01-01", "dataset_end_time": "2025-06-05",
    "lookback_window": 90, "predict_window": 10, "max_context": 512,
    "feature_list": ["open", "high", "low", "close", "vol", "amt"],
    "time_feature_list": ["minute", "hour", "weekday", "day", "month"],
    "train_time_range": ["2011-01-01", "2022-12-31"], "val_time_range": ["2022-09-01", "2024-06-30"],
    "test_time_range": ["2024-04-01", "2025-06-05"], "backtest_time_range": ["2024-07-01", "2025-06-05"],
    "dataset_path": "./data/processed_datasets", "clip": 5.0, "epochs": 30, "log_interval": 100, "batch_size": 50,
    "n_train_iter": 100000, "n_val_iter": 20000, "tokenizer_learning_rate": 2e-4, "predictor_learning_rate": 4e-5,
    "accumulation_steps": 1, "adam_beta1": 0.9, "adam_beta2": 0.95, "adam_weight_decay": 0.1, "seed": 100, "use_comet": True,
    "comet_config": {"api_key": "YOUR_KEY", "project_name": "p", "workspace": "w"}, "comet_tag": "t", "comet_name": "named",
    "save_path": "./outputs/models", "tokenizer_save_folder_name": "tok", "predictor_save_folder_name": "pred",
    "backtest_save_folder_name": "b", "backtest_result_path": "./outputs/backtest_results",
    "pretrained_tokenizer_path": "T", "pretrained_predictor_path": "P", "finetuned_tokenizer_path": "F",
    "finetuned_predictor_path": "G", "backtest_n_symbol_hold": 50, "backtest_n_symbol_drop": 5, "backtest_hold_thresh": 5,
    "inference_T": 0.6, "inference_top_p": 0.9, "inference_top_k": 0, "inference_sample_count": 5, "backtest_batch_size": 1000,
    "backtest_benchmark": "SH000300",
}  # fmt: skip
"""Every key of the original repository's finetune/config.py."""


def load(path: Path, tree: dict[str, Any], *overrides: str) -> Config:
    path.write_text(json.dumps(tree))
    return configfile.load(path, overrides)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "my_config.json"


def test_the_whole_guide_is_read(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keeps out: a key that is accepted and does nothing."""
    caplog.set_level(logging.INFO)
    config = load(path, GUIDE)
    data, training, paths, inference = config.data, config.training, config.model_paths, config.inference
    assert (config.source.name, config.source.path, config.source.pool) == ("qlib", "/q/cn_data", "csi300")
    assert (config.source.begin, config.source.end) == ("2011-01-01", "2025-06-05")
    assert (data.train_until, data.validation_until, data.train_ratio) == ("2022-12-31", "2024-06-30", None)
    assert (data.lookback_window, data.predict_window, data.store) == (
        90,
        10,
        "./data/processed_datasets/qlib",
    )
    assert (training.tokenizer_epochs, training.basemodel_epochs, training.batch_size) == (30, 30, 50)
    assert (training.samples_per_epoch, training.validation_samples, training.seed, inference.seed) == (
        100000,
        20000,
        100,
        100,
    )
    assert training.trackers == ["tensorboard", "comet_ml"] and config.experiment.name == "named"
    assert (config.tokenizer_dir, config.basemodel_dir) == (
        Path("outputs/models/tok"),
        Path("outputs/models/pred"),
    )
    assert (paths.pretrained_tokenizer, paths.pretrained_predictor, paths.finetuned_tokenizer) == (
        "T",
        "P",
        "F",
    )
    assert (inference.temperature, inference.top_p, inference.sample_count, inference.batch_size) == (
        0.6,
        0.9,
        5,
        1000,
    )
    said = "\n".join(record.getMessage() for record in caplog.records)
    for name in GUIDE:
        key = guide_keys.BY_NAME[name]
        assert key.settings or name.endswith("feature_list") or f"{name}: not read" in said, name
    assert "YOUR_KEY" not in said


def test_overrides_and_sections_stand_beside(path: Path) -> None:
    config = load(path, {**GUIDE, "training": {"num_workers": 0}}, "training.batch_size=7")
    assert (config.training.num_workers, config.training.batch_size) == (0, 7)
    sina = {
        "data_source": "sina",
        "instrument": "csi300",
        "qlib_data_path": "x",
        "source": {"symbols": "AAPL"},
        "model_version": "mini",
    }
    config = load(path, sina)
    assert (config.source.name, config.source.pool, config.source.path) == ("sina", "", "")
    assert config.model_paths.pretrained_predictor == "NeoQuasar/Kronos-mini"
    assert load(path, {"epochs": 2, "model_version": "base"}).source.name == "csv"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"feature_list": ["open", "high", "low", "close"]}, "feature_list: expected open, high"),
        ({"feature_list": ["close", "high", "low", "open", "vol", "amt"]}, "in this order"),
        ({"time_feature_list": ["minute"]}, "time_feature_list: expected minute, hour"),
        ({"epoch": 3}, "epoch: expected a section or a key of the guide"),
        ({"train_time_range": "2011"}, "train_time_range: expected two days"),
        ({"train_time_range": ["2011-01-01", "end"]}, "data.train_until: expected a date"),
        ({"model_version": "huge"}, "model_version: expected mini, small, base"),
        ({"training": {"batch_size": 3}}, "batch_size: expected one value of training.batch_size"),
        ({"epochs": "many"}, "tokenizer_epochs: expected"),
    ],
)
def test_what_is_not_ours_is_refused(path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(KitError, match=said) as error:
        load(path, GUIDE | change)
    assert "my_config.json" in str(error.value) and "\n" not in str(error.value)


def test_every_setting_of_the_table_is_there_and_the_page_shows_it(root: Path) -> None:
    known = {name for name, _ in configfile._known()}
    for key in guide_keys.KEYS:
        assert set(key.settings) <= known, key.name
        assert key.settings or key.note, key.name
    assert guide_keys.table() in (root / "docs" / "guide_keys.md").read_text(encoding="utf-8")
    assert set(GUIDE) <= set(guide_keys.BY_NAME)


def test_yaml_and_the_kits_own_files_are_as_before(tmp_path: Path) -> None:
    flat = tmp_path / "flat.yaml"
    flat.write_text(
        "epochs: 3\nmodel_version: small\ntrain_time_range: [2011-01-01, 2015-12-31]\nval_time_range: [2015-01-01, 2016-12-31]\n"
    )
    config = configfile.load(flat)
    assert config.training.basemodel_epochs == 3 and config.data.train_until == "2015-12-31"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("a: 1\nb: 2\n")
    with pytest.raises(KitError, match="expected sections"):
        configfile.load(wrong)


@pytest.mark.long
def test_the_commands_of_the_page_run(root: Path, tmp_path: Path) -> None:
    """The page's JSON under its name, on a generated market: the launcher plans it, the data are prepared.

    Changed is only where the folders are, and that --dry-run ends the launcher before a training of hours.
    """
    page = (root / "docs" / "guide_keys.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S)
    tree = json.loads(next(text for name, text in blocks if name == "json"))
    lines = [line.split() for line in blocks[0][1].splitlines()]
    assert [line[1] for line in lines] == ["train_kaggle.sh", "kaggle/prepare_data.py"]
    write_market(tmp_path / "m", codes=12, days=500, members=8, exchange="XSHG")
    tree |= {
        "qlib_data_path": str(tmp_path / "m"),
        "train_time_range": ["2015-01-01", "2016-03-31"],
        "val_time_range": ["2016-01-01", "2016-07-31"],
    }
    (tmp_path / "my_config.json").write_text(json.dumps(tree))
    places = {"data.data_path": "data/bars.parquet", "data.store": "store", "model_paths.base_path": "runs"}
    flags = [part for name, value in places.items() for part in ("--set", f"{name}={tmp_path / value}")]
    for program, script, *given in lines:
        call = [sys.executable if program == "python" else program, str(root / script), *given, *flags]
        call += ["--dry-run", "--cpu"] if script.endswith(".sh") else []
        done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, f"{call}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
    assert BarStore.open(tmp_path / "store").members is not None
