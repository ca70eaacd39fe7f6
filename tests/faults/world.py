"""A finished run in a folder of its own: prices, store, both stages, backtest, submission and package.
Seconds on one core.

Every path in it is relative, so a copy of the folder is the same run. In: an empty folder. Out: the folder,
filled.
"""

import json
import runpy
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "config.yaml"
SUBMISSION = "submissions/first.csv"

COMMANDS = {
    "prepare": ("kaggle/prepare_data.py", "--config", CONFIG),
    "tokenizer": ("kaggle/train_stage.py", "--config", CONFIG, "--stage", "tokenizer"),
    "basemodel": ("kaggle/train_stage.py", "--config", CONFIG, "--stage", "basemodel"),
    "backtest": ("scripts/run_backtest.py", "--config", CONFIG),
    "submission": ("scripts/make_submission.py", "--config", CONFIG, "--output", SUBMISSION),
    "package": ("scripts/package_model.py", "--run", "runs/world"),
    "check": ("scripts/package_model.py", "--check", "models/world/v1.0.0"),
    "compare": ("scripts/compare_runs.py", "--config", CONFIG),
    "score": ("scripts/score_submission.py", "--config", CONFIG, "--file", SUBMISSION),
}
"""What is done to a world, by name: script and arguments, from inside its folder."""

SETTINGS = {
    "data": {
        "data_path": "data/train.csv",
        "test_path": "data/test.csv",
        "sample_submission_path": "data/sample_submission.csv",
        "solution_path": "data/solution.csv",
        "store": "runs/stores/world",
        "lookback_window": 16,
        "predict_window": 2,
        "train_ratio": 0.6,
    },
    "market": {"generate": True, "tickers": 10, "days": 300, "horizon": 2},
    "training": {
        "tokenizer_epochs": 1,
        "basemodel_epochs": 1,
        "batch_size": 8,
        "samples_per_epoch": 64,
        "validation_samples": 32,
        "checkpoint_steps": 3,
        "num_workers": 0,
        "trackers": [],
    },
    "model_paths": {"exp_name": "world"},
    "experiment": {"pre_trained": False, "preset": "nano"},
    "inference": {"sample_count": 3},
    "evaluation": {
        "origins": 12,
        "fitted_baselines": False,
        "random_init": False,
        "pretrained": False,
        "draws": 50,
    },
    "device": {"use_cuda": False},
}


def write_config(folder: Path) -> None:
    (folder / CONFIG).write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")


def call(command: tuple[str, ...]) -> None:
    """Run a script of the kit in this process, as `python script arguments` would. Leaves by SystemExit."""
    script, *arguments = command
    sys.argv = [str(ROOT / script), *arguments]
    sys.path[:0] = [str((ROOT / script).parent)]
    runpy.run_path(str(ROOT / script), run_name="__main__")


def networks(folder: Path) -> dict[str, Path]:
    """The folder of each network's weights."""
    return {stage: folder / "runs/world" / stage / "best_model" for stage in ("tokenizer", "basemodel")}


def written_json(folder: Path) -> list[Path]:
    """Every JSON file of a world that some command reads back."""
    found = sorted(path for path in (folder / "runs").rglob("*.json") if "logs" not in path.parts)
    return [
        path
        for path in found
        if path.stat().st_size and isinstance(json.loads(path.read_text()), dict | list)
    ]
