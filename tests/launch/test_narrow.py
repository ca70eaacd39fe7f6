"""Markets that hardly are one, through the whole launcher: train, backtest, page, submission, without a
traceback.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.long

CASES: dict[str, dict[str, object]] = {
    "one ticker": {"tickers": 1, "days": 400},
    "two tickers": {"tickers": 2, "days": 400},
    "one date": {"tickers": 8, "days": 400, "evaluation.origins": 1, "evaluation.every": None},
    "equal closes": {"tickers": 6, "days": 400, "still": True},
    "validation of predict_window days": {
        "tickers": 8,
        "days": 400,
        "data.val_ratio": 16 / 400,
        "data.embargo": 8,
    },
    "one day more than the shortest market": {"tickers": 8, "days": 160},
}


def write_market(folder: Path, tickers: int, days: int, still: bool) -> None:
    """train.csv in the competition's layout, and a test file three trading days ahead."""
    rng = np.random.default_rng(1)
    dates = np.arange("2019-01-01", "2024-01-01", dtype="datetime64[D]")
    dates = dates[np.is_busday(dates)][: days + 3]
    lines = ["Ticker,Date,Open,High,Low,Close,Volume,Dividends,Stock Splits"]
    for k in range(tickers):
        close = np.full(days, 10.0 + k) if still else 50 * np.exp(np.cumsum(rng.normal(0, 0.02, days)))
        for date, price in zip(dates, close, strict=False):
            lines.append(
                f"T{k},{date},{price:.4f},{price * 1.01:.4f},{price * 0.99:.4f},{price:.4f},1000,0,0"
            )
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    (folder / "test.csv").write_text("ID,Date\n" + "".join(f"T{k},{dates[-1]}\n" for k in range(tickers)))


@pytest.mark.parametrize("case", CASES)
def test_a_narrow_market_ends_in_a_page_and_a_submission(case: str, root: Path, tmp_path: Path) -> None:
    """One series is what most users have: figures that are not defined are shown as such, and nothing ends in
    a traceback.
    """
    own = dict(CASES[case])
    write_market(
        tmp_path, int(str(own.pop("tickers"))), int(str(own.pop("days"))), bool(own.pop("still", False))
    )
    settings: dict[str, object] = {
        "data.data_path": tmp_path / "train.csv",
        "data.test_path": tmp_path / "test.csv",
        "data.sample_submission_path": "",
        "data.solution_path": "",
        "data.store": tmp_path / "store",
        "data.calendar": "NYSE",
        "market.generate": "false",
        "model_paths.base_path": tmp_path / "runs",
        "training.samples_per_epoch": 96,
        "training.validation_samples": 48,
        "training.tokenizer_epochs": 1,
        "training.basemodel_epochs": 1,
        "inference.sample_count": 5,
        "evaluation.draws": 100,
        "evaluation.random_init": "false",
        **own,
    }
    words = [
        part
        for key, value in settings.items()
        for part in ("--set", f"{key}={'null' if value is None else value}")
    ]
    command = [
        "bash",
        str(root / "train_kaggle.sh"),
        "--cpu",
        "--config",
        "configs/demo.yaml",
        *words,
        "--submit",
    ]
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "KIT_PROGRESS"}}
    kept["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=500)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in said, said
    run = tmp_path / "runs" / "demo"
    tree = json.loads((run / "backtest" / "report.json").read_text())
    assert (run / "backtest" / "report.html").stat().st_size > 10_000
    assert tree["alarm"] is None, "so little shows nothing that would be too good"
    assert "Evidence of skill" not in tree["verdict"]["headline"].replace("No evidence", "")
    if case == "one ticker":
        assert "not defined" in said and tree["entries"][0]["figures"].get("rank_ic") is None
    line = next(line for line in said.splitlines() if line.startswith("  Submission: "))
    submission = root / line.removeprefix("  Submission: ").strip()
    manifest = json.loads(submission.with_suffix(".json").read_text())
    for leftover in submission.parent.glob(f"{submission.stem}*"):
        leftover.unlink()
    assert manifest["answer"]["kind"] == "constant" and manifest["decision"]["why"] == "a constant needs none"
