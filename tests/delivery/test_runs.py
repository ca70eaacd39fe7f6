"""scripts/compare_runs.py: what a table of experiments may claim."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kronos import files
from kronos.config import Config, to_dict
from kronos.data.calendar import open_days
from kronos.delivery.runs import against, find_runs, read_run, runs_table
from kronos.errors import KitError

DATES = [str(day) for day in open_days("NYSE", "2023-01-03", "2024-06-28").astype("datetime64[D]")[::5]]


def make_run(base: Path, name: str, loss: float, seconds: float = 1800.0, **training: Any) -> Path:
    """What a training leaves in its folder."""
    config = Config()
    paths = replace(config.model_paths, base_path=str(base), exp_name=name, base_save_path=str(base / name))
    config = replace(config, model_paths=paths, training=replace(config.training, **training))
    files.write_json(base / name / "pipeline_config.json", to_dict(config))
    for stage, value in (("tokenizer", 0.05), ("basemodel", loss)):
        summary = {
            "status": "complete",
            "best": {"value": value, "metric": "loss", "step": 1},
            "seconds": seconds,
            "model_digest": name,
        }
        files.write_json(base / name / stage / "summary.json", summary)
    return base / name


def interval(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "p": None, "dates": len(DATES)}


def add_backtest(run: Path, within: float, noise: float, seed: int, **more: Any) -> None:
    """backtest/report.json as docs/evaluation.md describes it, as far as it is read here."""
    market = np.random.default_rng(7).normal(0, 0.05, len(DATES))
    own = np.random.default_rng(seed).normal(0, noise, len(DATES))
    series = {
        "within_date_accuracy": within + market + own,
        "accuracy": within + 3 * market + own,
        "brier": 0.25 - own,
    }
    figures = {figure: interval(float(values.mean()), 0.02 + noise) for figure, values in series.items()}
    tree = {
        "main": "model",
        "control": None,
        "entries": [{"name": "model", "figures": figures}],
        "models": [{"name": "model", "digest": run.name}],
        "dates": {"horizon": 5, "stride": 5},
        "per_date": {"origins": DATES, "entries": {"model": {k: v.tolist() for k, v in series.items()}}},
        "config": {"data": {"calendar": "NYSE"}},
    }
    files.write_json(run / "backtest" / "report.json", tree | more)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "runs with space"
    add_backtest(make_run(base, "good", 1.5, batch_size=64), 0.53, 0.002, 1)
    add_backtest(make_run(base, "lucky", 1.4), 0.54, 0.05, 2)
    make_run(base, "untested", 1.3, seconds=7200, seed=1)
    make_run(base, "worse", 1.6)
    (base / "stores").mkdir()
    return base


def test_best_first_by_what_is_sure(base: Path) -> None:
    """Sorted by point estimates the luckiest run leads; by loss alone, runs on other data do."""
    assert [run.folder.name for run in find_runs(base)] == ["good", "lucky", "untested", "worse"]


def test_command_shows_what_a_choice_needs(base: Path, root: Path, tmp_path: Path) -> None:
    """Changed settings, losses, figures with intervals, time and cost in one look."""
    command = [
        sys.executable,
        str(root / "scripts" / "compare_runs.py"),
        "--config",
        str(root / "configs" / "kaggle.yaml"),
    ]
    command += ["--set", f"model_paths.base_path={base}"]
    done = subprocess.run([*command, "--price", "2.5"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = {line.split("|")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("|")}
    assert (
        "training.batch_size=64" in lines["good"]
        and "%" in lines["good"]
        and f"{len(DATES)} dates" in lines["good"]
    )
    assert all(
        text in lines["untested"]
        for text in ("no backtest", "basemodel 1.3", "4.00", "10.00", "training.seed=1")
    )
    assert "| none" in lines["worse"]
    two = subprocess.run(
        [*command, "--against", "good", "lucky"], cwd=tmp_path, capture_output=True, text=True
    )
    assert two.returncode == 0 and f"{len(DATES)} common dates" in two.stdout, two.stderr
    missing = subprocess.run(
        [*command, "--against", "good", "nothing"], cwd=tmp_path, capture_output=True, text=True
    )
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1


def test_pairs_see_what_two_intervals_hide(base: Path) -> None:
    """Both runs live through the same market: only differences by date show a small, steady advantage."""
    add_backtest(make_run(base, "steady", 1.5), 0.525, 0.002, 3)
    text = against(read_run(base / "good"), read_run(base / "steady"))
    row = next(line for line in text.splitlines() if "within_date_accuracy" in line)
    assert row.split("|")[6].strip() == "good" and "+0.00" in row
    back = against(read_run(base / "steady"), read_run(base / "good"))
    assert (
        next(line for line in back.splitlines() if "within_date_accuracy" in line).split("|")[6].strip()
        == "good"
    )
    assert "| training.batch_size | 64" in text


def test_brier_is_better_when_it_is_smaller(base: Path) -> None:
    """A sign taken for the wrong way would recommend the worse run."""
    for name, level in (("low", 0.240), ("high", 0.250)):
        values = level + np.random.default_rng(len(name)).normal(0, 0.001, len(DATES))
        own = {"origins": DATES, "entries": {"model": {"brier": values.tolist()}}}
        add_backtest(make_run(base, name, 1.5), 0.5, 0.002, 3, per_date=own)
    row = next(
        line
        for line in against(read_run(base / "low"), read_run(base / "high")).splitlines()
        if "brier" in line
    )
    assert row.split("|")[6].strip() == "low"


def test_noise_is_no_evidence(base: Path) -> None:
    """Two runs that differ by luck must not be told apart."""
    add_backtest(make_run(base, "same", 1.5), 0.54, 0.05, 9)
    text = against(read_run(base / "same"), read_run(base / "lucky"))
    assert "no evidence" in next(line for line in text.splitlines() if "within_date_accuracy" in line)


def test_what_cannot_be_compared_is_refused(base: Path) -> None:
    """Other horizons ask other questions; without common dates nothing is paired."""
    one = read_run(base / "good")
    add_backtest(make_run(base, "far", 1.5), 0.5, 0.01, 1, dates={"horizon": 30, "stride": 5})
    with pytest.raises(KitError, match="one horizon"):
        against(one, read_run(base / "far"))
    add_backtest(
        make_run(base, "apart", 1.5),
        0.5,
        0.01,
        1,
        per_date={"origins": ["2020-01-02"], "entries": {"model": {}}},
    )
    with pytest.raises(KitError, match="dates in common"):
        against(one, read_run(base / "apart"))
    with pytest.raises(KitError, match=r"backtest/report\.json"):
        against(one, read_run(base / "worse"))
    with pytest.raises(KitError, match="expected run folders"):
        find_runs(base / "stores")


@pytest.mark.parametrize(
    "dates", [[f"2023-01-{day:02}" for day in range(1, 31)], [f"2023-01-03 {h:02}:30:00" for h in range(24)]]
)
def test_dates_outside_the_calendar(base: Path, dates: list[str]) -> None:
    """Two dates on one place of the calendar would divide by zero; then the backtest's own order counts."""
    for name, seed in (("one", 1), ("two", 2)):
        values = 0.5 + np.random.default_rng(seed).normal(0, 0.01, len(dates))
        series = {"origins": dates, "entries": {"model": {"accuracy": values.tolist()}}}
        add_backtest(make_run(base, name, 1.5), 0.5, 0.01, 1, per_date=series)
    assert f"{len(dates)} common dates ({len(dates)} without overlap)" in against(
        read_run(base / "one"), read_run(base / "two")
    )


def test_a_run_trained_anew_has_no_backtest(base: Path) -> None:
    """Its folder keeps the report of the weights before: the best figure of the table would belong to none of
    its models.
    """
    for digest in ("new", None):
        summary = {"status": "complete", "best": None, "seconds": 5.0, "model_digest": digest}
        files.write_json(base / "good" / "basemodel" / "summary.json", summary)
        assert find_runs(base)[0].folder.name == "lucky"
        line = next(line for line in runs_table(find_runs(base)).splitlines() if line.startswith("| good"))
        assert "| no backtest of these weights " in line and "%" not in line
        with pytest.raises(
            KitError, match=r"of its weights, found no backtest of these weights; .*run_backtest\.py"
        ):
            against(read_run(base / "good"), read_run(base / "lucky"))
    (base / "good" / "basemodel" / "summary.json").unlink()
    assert read_run(base / "good").report is not None, "a run that only forecasts with the published pair"


def test_unfinished_runs_say_so(base: Path) -> None:
    """A loss in mid-training beside finished ones misleads."""
    files.write_json(
        base / "worse" / "basemodel" / "summary.json", {"status": "interrupted", "best": None, "seconds": 5.0}
    )
    line = next(line for line in runs_table(find_runs(base)).splitlines() if line.startswith("| worse"))
    assert "basemodel interrupted" in line
