"""The lines before a long run: few, from the store's counts, and with --strict a warning ends the launch."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from test_markets import bars

from kronos.config import Config, DataConfig
from kronos.data.calendar import open_days
from kronos.data.prepare import prepare
from kronos.data.quick import quick_checks

DAYS = open_days("NYSE", "2023-01-03", "2023-06-16")


def config_of(folder: Path, volume: bool = True) -> Config:
    frame = bars("AAPL", DAYS, 1).with_columns(exchange_rate=1.5)
    frame = frame if volume else frame.drop("Volume")
    frame.write_csv(folder / "train.csv")
    (folder / "test.csv").write_text("ID,Date\nAAPL,2023-06-23\nZZZ,2023-06-23\n")
    data = DataConfig(
        data_path=str(folder / "train.csv"),
        test_path=str(folder / "test.csv"),
        store=str(folder / "store"),
        lookback_window=30,
        predict_window=4,
    )
    return Config(data=data)


def test_the_lines_need_no_price_file(tmp_path: Path) -> None:
    """Keeps out: checks that read gigabytes again. All that issue 15 names is in them."""
    config = config_of(tmp_path)
    store = prepare(config)
    (tmp_path / "train.csv").unlink()
    text = "\n".join(f"{result.status} {result.line}" for result in quick_checks(store, config))
    assert text.count("\n") < 10
    for words in (
        "0 dropped (0.00%)", "hold no window of 34 bars", f"{len(DAYS)} daily dates", "2023-01-03 to 2023-06-16",
        "NYSE (1 tickers", "not read: exchange_rate", "4 bars after the last one, 2023-06-16, to 2023-06-23",
        "warn test IDs: 2 IDs, 1 without a history, e.g. ZZZ",
    ):  # fmt: skip
        assert words in text, text


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_the_launcher_shows_them_and_strict_ends_it(root: Path, tmp_path: Path, strict: bool) -> None:
    """Keeps out: hours of training on a file whose volume nobody read."""
    config = config_of(tmp_path, volume=False)
    settings = {
        "data.data_path": config.data.data_path,
        "data.test_path": config.data.test_path,
        "data.store": config.data.store,
        "data.lookback_window": 30,
        "data.predict_window": 4,
        "data.sample_submission_path": "",
        "data.solution_path": "",
        "data.validation_days": "null",
        "data.test_days": "null",
        "data.train_ratio": 0.7,
        "data.val_ratio": 0.3,
        "data.test_ratio": 0.0,
        "model_paths.base_path": tmp_path / "runs",
        "experiment.pre_trained": "false",
        "experiment.preset": "nano",
        "experiment.train_tokenizer": "false",
        "experiment.train_basemodel": "false",
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    call = ["bash", str(root / "train_kaggle.sh"), "--cpu", *flags, *(["--strict"] if strict else [])]
    done = subprocess.run(call, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert "warn columns: read" in said and "no volume" in said
    assert done.returncode == (2 if strict else 0), said
    assert ("--strict: expected no warning" in said) is strict
    assert len(np.load(tmp_path / "store" / "session.npy")) == len(DAYS), "the store itself is there"
