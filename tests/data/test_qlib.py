"""Qlib's folder: to the last digit what pyqlib reads from it; members change; csi300 from the folder to a
submission.
"""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from qlib_market import write_market

from kronos import configfile
from kronos.config import Config
from kronos.data import sources
from kronos.data.prepare import prepare
from kronos.data.sources import qlib
from kronos.errors import KitError

GOLDEN = Path(__file__).parents[1] / "golden" / "qlib"
FIELDS = ("open", "high", "low", "close", "volume", "amount", "factor")


def config_of(root: Path, *overrides: str) -> Config:
    known = (
        "data.train_until=2022-06-30",
        "data.validation_until=2022-12-31",
        "source.end=",
        "source.pause=0",
    )
    return configfile.load(root / "configs" / "csi300.yaml", [*known, *overrides])


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / "cn_data.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "cn_data"


def recorded() -> pl.DataFrame:
    """What pyqlib answered: 9 significant digits."""
    return pl.read_csv(GOLDEN / "csi300_features.csv.gz", try_parse_dates=True).sort("ticker", "date")


def test_all_members_and_days_are_what_pyqlib_reads(golden: Path) -> None:
    """Every field of every day of every membership, to 9 digits."""
    calendar = qlib.read_calendar(golden)
    intervals = qlib.read_instruments(golden, "csi300")
    codes = sorted({code for code, _, _ in intervals})
    values, absent = qlib.read_fields(golden, codes, FIELDS, len(calendar))
    member = np.zeros(values.shape[1:], bool)
    for code, first, last in intervals:
        member[codes.index(code)] |= (calendar >= np.datetime64(first)) & (calendar <= np.datetime64(last))
    there = member & np.isfinite(values[FIELDS.index("close")])
    code, day = np.nonzero(there)
    wanted = recorded()
    assert not absent and len(code) == len(wanted) == 21_181
    assert wanted["ticker"].to_list() == [codes[k] for k in code]
    assert wanted["date"].to_list() == calendar[day].astype("datetime64[D]").tolist()
    for field, column in zip(FIELDS, values, strict=True):
        assert [f"{value:.9g}" for value in column[there]] == [f"{value:.9g}" for value in wanted[field]], (
            field
        )


def test_the_store_holds_them_and_all_other_bars(
    golden: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store, asked about on member days only, is pyqlib's answer; bars outside are there as context."""
    monkeypatch.chdir(tmp_path)
    store = prepare(config_of(root, f"source.path={golden}"))
    rows = np.flatnonzero(store.askable(np.arange(len(store))))
    wanted = recorded()
    tickers = np.array(store.tickers)[np.searchsorted(store.offsets, rows, side="right") - 1]
    assert tickers.tolist() == wanted["ticker"].to_list()
    assert store.dates(rows).astype("datetime64[D]").tolist() == wanted["date"].to_list()
    for place, field in enumerate(FIELDS[:6]):
        np.testing.assert_array_equal(
            store.bars[rows, place], wanted[field].to_numpy().astype(np.float32), err_msg=field
        )
    assert len(store) == 39_024 and store.members is not None and len(store.members) == 70
    assert pl.read_csv("data/qlib/test.csv").height == 40  # today's members
    index = np.fromfile(golden / "features" / "sh000300" / "close.day.bin", "<f4")
    benchmark = pl.read_csv("data/qlib/benchmark.csv")
    assert (
        benchmark["date"][0] == "2021-01-04"
        and benchmark["close"].to_numpy().astype(np.float32).tolist() == index[1:].tolist()
    )


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_an_archive_of_the_folder_is_unpacked_once(
    golden: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / f"qlib_bin.{kind}"
    if kind == "zip":
        subprocess.run([sys.executable, "-m", "zipfile", "-c", archive, golden], check=True)
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(golden, "qlib_bin")
    config = config_of(root, f"source.path={archive}")
    sources.gather(config)
    assert pl.read_parquet("data/qlib/bars.parquet").height == 39_024
    archive.write_bytes(b"not read again")
    sources.gather(config)


def test_an_archive_that_would_write_elsewhere_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tarfile.open("bad.tar.gz", "w:gz") as packed:
        entry = tarfile.TarInfo("cn_data/../../elsewhere")
        entry.size = 4
        packed.addfile(entry, io.BytesIO(b"evil"))
    with pytest.raises(KitError, match="outside the folder"):
        sources.gather(config_of(root, "source.path=bad.tar.gz"))
    assert not list(tmp_path.rglob("elsewhere")) and not list(tmp_path.parent.glob("elsewhere"))


def test_intervals_that_touch_are_one_and_names_of_devices_are_found(tmp_path: Path) -> None:
    """The community's file has a line for each rebalancing period."""
    write_market(tmp_path / "m", codes=3, days=30, members=2)
    (tmp_path / "m" / "instruments" / "p.txt").write_text(
        "SH600001\t2015-01-01\t2015-01-09\nSH600001\t2015-01-10\t2015-01-20\nSH600001\t2015-02-02\t2015-02-05\nSH600000\t2015-01-01\t2015-01-02\n"
    )
    found = [
        (code, str(first), str(last)) for code, first, last in qlib.read_instruments(tmp_path / "m", "p")
    ]
    assert found == [
        ("SH600000", "2015-01-01", "2015-01-02"),
        ("SH600001", "2015-01-01", "2015-01-20"),
        ("SH600001", "2015-02-02", "2015-02-05"),
    ]
    (tmp_path / "m" / "features" / "sh600001").rename(tmp_path / "m" / "features" / "_qlib_con")
    values, absent = qlib.read_fields(tmp_path / "m", ["CON", "SH600001"], ["close"], 30)
    assert np.isfinite(values[0, 0]).any() and absent == ["SH600001"]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda f: (f / "calendars" / "day.txt").write_text("2015-01-02\n2015-01-01\n"), "rising dates"),
        (lambda f: (f / "calendars" / "day.txt").write_text("tomorrow\n"), "a date a line"),
        (lambda f: (f / "instruments" / "csi300.txt").write_text("SH600000 then now\n"), "line 1"),
        (lambda f: (f / "instruments" / "csi300.txt").unlink(), "expected one of all"),
        (
            lambda f: np.ones(90, "<f4").tofile(f / "features" / "sh600000" / "close.day.bin"),
            "inside the calendar",
        ),
        (
            lambda f: np.array([0.5, 1], "<f4").tofile(f / "features" / "sh600000" / "open.day.bin"),
            "inside the calendar",
        ),
        (lambda f: (f / "features" / "sh600000" / "low.day.bin").unlink(), "folder is incomplete"),
    ],
)
def test_a_damaged_folder_is_one_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_market(tmp_path / "m", codes=4, days=60, members=3)
    damage(tmp_path / "m")  # type: ignore[operator]
    with pytest.raises(KitError, match=said) as error:
        sources.gather(config_of(root, f"source.path={tmp_path / 'm'}"))
    assert "\n" not in str(error.value)


def test_a_pool_that_ends_before_the_data_is_said(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The community's file never writes its last period: nobody is asked about after it, which must not be
    silent.
    """
    monkeypatch.chdir(tmp_path)
    write_market(tmp_path / "m", codes=4, days=60, members=3)
    pool = tmp_path / "m" / "instruments" / "csi300.txt"
    pool.write_text("".join(line + "\n" for line in pool.read_text().splitlines() if "2015-01-01" in line))
    sources.gather(config_of(root, f"source.path={tmp_path / 'm'}"))
    assert "known until" in Path("data/qlib/source.json").read_text()


@pytest.mark.long
def test_csi300_trains_is_backtested_and_submits(root: Path, tmp_path: Path) -> None:
    """The shipped configuration on a generated market, with the smallest networks."""
    write_market(tmp_path / "m", codes=12, days=500, members=8, exchange="XSHG")
    overrides = {
        "source.path": tmp_path / "m", "source.end": "", "data.data_path": tmp_path / "data" / "bars.parquet",
        "data.store": tmp_path / "store", "data.train_until": "2016-03-31", "data.validation_until": "2016-07-31",
        "model_paths.base_path": tmp_path / "runs", "experiment.pre_trained": "false", "experiment.preset": "nano",
        "training.tokenizer_epochs": 1, "training.basemodel_epochs": 1, "training.samples_per_epoch": 64,
        "training.validation_samples": 16, "training.batch_size": 16, "training.num_workers": 0, "device.use_cuda": "false",
        "evaluation.origins": 3, "evaluation.random_init": "false", "inference.sample_count": 3,
    }  # fmt: skip
    flags = [part for name, value in overrides.items() for part in ("--set", f"{name}={value}")]
    config = ["--config", root / "configs" / "csi300.yaml", *flags]
    for command in (
        ["kaggle/prepare_data.py", "--data-source", "qlib"],
        ["kaggle/train_stage.py", "--stage", "tokenizer"],
        ["kaggle/train_stage.py", "--stage", "basemodel"],
        ["scripts/run_backtest.py"],
        ["scripts/make_submission.py"],
    ):
        done = subprocess.run(
            [sys.executable, root / command[0], *command[1:], *config],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    answers = pl.read_csv(next((tmp_path / "submissions").glob("*.csv")))
    members = {f"SH{600000 + number}" for number in range(4, 12)}
    assert 0 < answers.height <= 8 and set(answers["ID"]) <= members
