"""The examples of docs/forecasting.md, run as they stand."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_forecaster import make_bars, tiny_networks

from kronos.bars import FEATURES


def test_the_examples_run(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that fails is the first thing that a reader of the page tries."""
    page = (root / "docs" / "forecasting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 4 and "LogisticRegression" in blocks[2]
    model, tokenizer = tiny_networks()
    model.save_pretrained(tmp_path / "runs" / "kaggle" / "basemodel" / "best_model")
    tokenizer.save_pretrained(tmp_path / "runs" / "kaggle" / "tokenizer" / "best_model")
    prices = pd.DataFrame(make_bars(1, 210)[0], columns=list(FEATURES)).drop(columns="amount")
    prices.insert(0, "Date", pd.bdate_range("2023-01-02", periods=len(prices)))
    prices.to_csv(tmp_path / "prices.csv", index=False)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "docs/forecasting.md", "exec"), names)
    assert names["table"].index.equals(pd.DatetimeIndex(prices.Date[200:205])) and len(names["tables"]) == 2
    assert names["result"].paths.shape == (2, 99, 5, 6) and (tmp_path / "msft.png").stat().st_size > 0
    assert names["states"].shape == (100, 16) and np.isfinite(names["states"]).all()
    assert names["listed"].lower <= names["listed"].prob_up <= names["listed"].upper
