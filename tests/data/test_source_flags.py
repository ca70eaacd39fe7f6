"""--data-source and --skip-data-process: what they set, on every command that has them."""

import subprocess
import sys
from pathlib import Path

import pytest
from qlib_market import write_market

from kronos import configfile
from kronos.data.sources.flags import with_flags
from kronos.errors import KitError
from kronos.launch import arguments


def loaded(path: Path, source: str | None, *given: str, skip: bool = False) -> configfile.Config:
    return configfile.load(path, with_flags(path, given, source, skip))


def test_a_source_takes_the_place_of_the_configurations_files(root: Path) -> None:
    """Keeps out: a competition's test file asked about Chinese shares, and runs/kaggle written over with
    other prices.
    """
    kaggle = root / "configs" / "kaggle.yaml"
    config = loaded(kaggle, "qlib", "source.pool=csi300")
    assert config.data.data_path == "data/qlib/bars.parquet" and config.data.test_path == "data/qlib/test.csv"
    assert (config.data.pool_path, config.data.sample_submission_path) == ("data/qlib/pool.csv", "")
    assert (config.model_paths.exp_name, config.data.calendar, config.source.pool) == (
        "kaggle-qlib",
        "XSHG",
        "csi300",
    )
    own = loaded(
        kaggle, "binance", "model_paths.exp_name=coins", "data.test_path=mine.csv", "data.calendar=NYSE"
    )
    assert (own.model_paths.exp_name, own.data.test_path, own.data.calendar) == ("coins", "mine.csv", "NYSE")
    files = loaded(kaggle, "csv")
    assert files == configfile.load(kaggle) == loaded(kaggle, None)
    named = root / "configs" / "csi300.yaml"
    assert loaded(named, "qlib") == configfile.load(named)
    assert loaded(named, None, skip=True).source.skip


def test_a_name_that_is_none_is_refused(root: Path) -> None:
    for name in ("", "a b", "../x", "qlib: {}"):
        with pytest.raises(KitError, match="--data-source: expected a name"):
            with_flags(root / "configs" / "kaggle.yaml", [], name, False)


def test_the_launcher_has_both(root: Path, tmp_path: Path) -> None:
    flags = arguments.parse(["--data-source", "sina", "--skip-data-process"], tmp_path)
    assert flags is not None and (flags.data_source, flags.skip_data_process) == ("sina", True)
    plain = arguments.parse([], tmp_path)
    assert plain is not None and (plain.data_source, plain.skip_data_process) == (None, False)


def test_a_launch_with_a_source_is_planned_and_a_wrong_one_refused(root: Path, tmp_path: Path) -> None:
    write_market(tmp_path / "m", codes=6, days=200, members=4)
    words = [
        "--dry-run",
        "--cpu",
        "--config",
        "configs/small.yaml",
        "--data-source",
        "qlib",
        "--set",
        "source.pool=csi300",
    ]
    words += ["--set", f"model_paths.base_path={tmp_path}/runs", "--set"]
    for path, code, said in (
        (tmp_path / "m", 0, "small-qlib"),
        (tmp_path / "none", 2, "expected a Qlib folder"),
    ):
        call = [sys.executable, str(root / "kaggle" / "launch.py"), *words, f"source.path={path}"]
        done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == code and said in done.stdout + done.stderr, done.stdout + done.stderr
