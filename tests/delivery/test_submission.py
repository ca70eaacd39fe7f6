"""Test rows to a checked file: what is known at the Date, what is counted, what is refused, what is
written.
"""

import csv
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backtests import changed, small_world

from kronos import files
from kronos.answers.answerer import ask
from kronos.answers.decision import EDGE
from kronos.answers.findings import Figure, path_of, read_findings
from kronos.answers.history import base_rates
from kronos.bars import CLOSE, VOLUME
from kronos.config import (
    Config,
    DataConfig,
    DeviceConfig,
    ExperimentConfig,
    InferenceConfig,
    ModelPathsConfig,
    to_dict,
)
from kronos.data.calendar import open_days
from kronos.data.competition import read_rows
from kronos.data.store import BarStore
from kronos.data.store_writer import store_from_dict
from kronos.errors import KitError
from kronos.evaluation.backtest import Options, run_backtest
from kronos.forecasting.decide import TIE_PRIOR
from kronos.forecasting.pair import find_pair
from kronos.forecasting.rows import plan_rows
from kronos.networks import Kronos, KronosTokenizer, preset
from kronos.scoring import baseline_answers, score_submission
from kronos.submission import make_submission

DATE = "2024-03-12"
DAYS = open_days("NYSE", "2023-06-01", "2024-04-30").astype("datetime64[s]")
KNOWN = DAYS[
    np.datetime64("2024-03-08") > DAYS
]  # to a Thursday; the Date is the Tuesday after it, three trading days on
NAMES = ("a", "b", "c", "d", "e", "f", "g")

Series = dict[str, tuple[np.ndarray, np.ndarray]]


# -- a small world -------------------------------------------------------------------------------------------
def walk(days: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    close = 40 * np.exp(np.cumsum(0.02 * rng.standard_normal(len(days))))
    volume = 1e4 * rng.random(len(days))
    bars = np.stack([close * 1.001, close * 1.01, close * 0.99, close, volume, volume * close], axis=-1)
    return days, bars.astype(np.float32)


def market(names: tuple[str, ...] = NAMES) -> Series:
    return {name: walk(KNOWN[-80:], seed) for seed, name in enumerate(names)}


def write_csv(path: Path, header: str, rows: Sequence[tuple[str, ...]]) -> str:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def save_networks(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    torch.manual_seed(seed)
    tokenizer, predictor = preset("nano")
    size = {"d_model": 16, "n_heads": 2, "ff_dim": 16}
    paths = folder / "tokenizer" / "best_model", folder / "basemodel" / "best_model"
    network = KronosTokenizer(**tokenizer | size | {"n_enc_layers": 2, "n_dec_layers": 2})
    with torch.no_grad():
        network.head.weight *= (
            8  # untrained, all tokens mean nearly the same bar: spread them, so that paths differ
        )
    network.save_pretrained(paths[0])
    Kronos(
        **predictor | size | {"n_layers": 1, "ffn_dropout_p": 0.3, "resid_dropout_p": 0.3}
    ).save_pretrained(paths[1])
    return paths


def write_summaries(config: Config, **changes: Any) -> None:
    """What a finished training leaves in the run folder."""
    common = {"step": 9, "total_steps": 9, "config": to_dict(config), "train_end": "2024-01-31"}
    tokenizer, predictor = (
        files.folder_digest(d / "best_model") for d in (config.tokenizer_dir, config.basemodel_dir)
    )
    for stage, digests in (
        ("tokenizer", {"model_digest": tokenizer}),
        ("basemodel", {"model_digest": predictor}),
    ):
        summary = common | digests | {"status": "complete", "stage": stage, "tokenizer_digest": tokenizer}
        files.write_json(config.run_dir / stage / "summary.json", summary | changes.get(stage, {}))


class World:
    """A store, test file, sample and trained networks under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.series = market()
        ids = [(name, DATE) for name in NAMES]
        save_networks(folder / "run")
        data = DataConfig(
            test_path=write_csv(folder / "test.csv", "ID,Date", ids),
            sample_submission_path=write_csv(
                folder / "sample.csv", "ID,Pred", [(name, "0") for name in reversed(NAMES)]
            ),
            store=str(folder / "store"),
            lookback_window=40,
            max_context=64,
        )
        paths = ModelPathsConfig(
            exp_name="world",
            base_save_path=str(folder / "run"),
            finetuned_tokenizer=str(folder / "run" / "tokenizer" / "best_model"),
        )
        inference = InferenceConfig(sample_count=5, batch_size=3)
        own = {"experiment": ExperimentConfig(pre_trained=False), "device": DeviceConfig(use_cuda=False)}
        self.config = Config(data=data, model_paths=paths, inference=inference, **own)
        write_summaries(self.config)
        self.prepare()

    def prepare(self, **series: tuple[np.ndarray, np.ndarray] | None) -> BarStore:
        """Write the store, with some tickers changed, added or (None) left out."""
        kept = {name: value for name, value in (self.series | series).items() if value is not None}
        return store_from_dict(self.folder / "store", kept)

    def set(self, **sections: dict[str, Any]) -> None:
        self.config = replace(
            self.config, **{k: replace(getattr(self.config, k), **v) for k, v in sections.items()}
        )

    def rows(self, rows: list[tuple[str, str]], sample: bool = False) -> None:
        """Another test file; without a sample its own order holds."""
        self.set(data={"test_path": write_csv(self.folder / "other.csv", "ID,Date", rows)})
        if not sample:
            self.set(data={"sample_submission_path": ""})

    def make(self, name: str = "out.csv", **options: Any) -> tuple[bytes, bytes, dict[str, Any]]:
        path = make_submission(self.config, self.folder / name, **options).path
        prob = path.with_name(f"{path.stem}-prob.csv").read_bytes()
        return path.read_bytes(), prob, json.loads(path.with_suffix(".json").read_text())

    def refuses(self, message: str, **options: Any) -> None:
        with pytest.raises(KitError, match=message):
            make_submission(self.config, self.folder / "refused.csv", **options)
        assert not list(self.folder.glob("refused*"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def table(content: bytes) -> dict[str, dict[str, str]]:
    return {row["ID"]: row for row in csv.DictReader(content.decode().splitlines())}


# -- what is written -----------------------------------------------------------------------------------------
def test_file_holds_the_samples_ids_in_its_order(world: World) -> None:
    """A file in another order or with other columns is rejected by the competition, or scored against other
    rows.
    """
    content, prob, manifest = world.make()
    rows = list(csv.reader(content.decode().splitlines()))
    assert rows[0] == ["ID", "Pred"] and [r[0] for r in rows[1:]] == list(reversed(NAMES))
    assert {r[1] for r in rows[1:]} <= {"0", "1"}
    for name, row in table(prob).items():
        assert (float(row["ProbUp"]) > 0.5) == (table(content)[name]["Pred"] == "1")
    assert manifest["share_of_rises"] == np.mean([int(r[1]) for r in rows[1:]])
    assert manifest["horizons"] == {"3": len(NAMES)} and manifest["fallbacks"] == {}
    assert manifest["sha256"] == files.digest(world.folder / "out.csv")
    assert manifest["model"]["digest"] == files.folder_digest(world.config.basemodel_dir / "best_model")
    assert manifest["config"] == to_dict(world.config) and manifest["train_end"] == "2024-01-31"


def test_same_seed_same_file_whatever_the_batches_and_the_order(world: World) -> None:
    """One unseeded sample decided the class: two runs gave two files."""
    first = world.make()
    assert world.make("again.csv")[:2] == first[:2]
    for size in (1, 2, 64):
        world.set(inference={"batch_size": size})
        assert world.make("again.csv")[:2] == first[:2]
    world.rows([(name, DATE) for name in ("d", "a", "g", "c", "b", "f", "e")])
    assert table(world.make("again.csv")[1]) == table(first[1])
    world.set(inference={"seed": 43})
    assert world.make("other.csv")[1] != first[1]


def more(series: Series, days: np.ndarray, factor: float = 1.0) -> Series:
    """The same series with bars on `days` after those they have."""
    dates, bars = walk(days, 99)
    return {
        name: (np.concatenate([d, dates]), np.concatenate([b, factor * bars]))
        for name, (d, b) in series.items()
    }


FUTURE = DAYS[np.datetime64(DATE) <= DAYS]
WEEKEND = np.array(["2024-03-16", "2024-03-17"], dtype="datetime64[s]")
FUTURES: dict[str, Callable[[Series], Series]] = {
    "bars on the Date and after it": lambda s: more(s, FUTURE),
    "other bars there": lambda s: more(s, FUTURE, 1e6),
    "one ticker on the Date only": lambda s: s | more({"a": s["a"]}, FUTURE[:1]),
    "days that no exchange knows": lambda s: more(s, WEEKEND),
    "a ticker that begins later": lambda s: s | {"z": walk(FUTURE, 5)},
}


@pytest.mark.parametrize("kind", FUTURES)
def test_nothing_on_or_after_the_date_is_read(world: World, kind: str) -> None:
    """A cut with <= at the test date, or a back-fill, gives a leaderboard score that no honest model has."""
    world.prepare(short=walk(KNOWN[-5:], 50))
    world.rows([*((name, DATE) for name in NAMES), ("short", DATE), ("unknown", DATE)])
    world.set(inference={"max_fallback_ratio": 0.5})
    before = world.make()
    world.prepare(**FUTURES[kind](world.series), short=walk(KNOWN[-5:], 50))
    assert world.make("later.csv")[:2] == before[:2]


def test_the_last_known_bar_does_matter(world: World) -> None:
    """The other side of the perturbation test: it would pass if nothing at all were read. What is read of one
    ticker moves others only through the mean of the date, which raw probabilities do without."""
    decided = world.make()[1]
    world.set(inference={"calibration": "off"})
    before = world.make()[1]
    days, bars = world.series["a"]
    changed = bars.copy()
    changed[-1, CLOSE] *= 0.7
    world.prepare(a=(days, changed))
    after = world.make("later.csv")[1]
    assert after != before
    world.set(inference={"calibration": "auto"})
    assert world.make("decided.csv")[1] != decided
    assert {n: r for n, r in table(after).items() if n != "a"} == {
        n: r for n, r in table(before).items() if n != "a"
    }


def test_history_before_the_lookback_changes_nothing(world: World) -> None:
    """Statistics once covered more history than the model saw. Only the level of a decision knows all of
    it.
    """
    world.set(inference={"calibration": "off"})
    before = world.make()[:2]
    days, bars = world.series["a"]
    changed = bars.copy()
    changed[:-40] *= 3
    world.prepare(a=(days, changed))
    assert world.make("later.csv")[:2] == before


def test_a_failed_write_leaves_the_old_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up between two files must not leave a new CSV beside an old manifest."""
    before = world.make()
    content = {p.name: p.read_bytes() for p in world.folder.glob("out*")}
    world.set(inference={"seed": 1})
    monkeypatch.setattr(
        files, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        world.make()
    assert {p.name: p.read_bytes() for p in world.folder.glob("out*")} == content
    assert not list(world.folder.glob(".*.tmp")) and before[0] == content["out.csv"]


def test_a_file_that_nobody_named_is_never_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs in one second, or a clock set back, must not lose a submission."""
    monkeypatch.chdir(world.folder)
    monkeypatch.setattr("time.strftime", lambda *_: "20240312-101500")
    paths = [make_submission(world.config).path for _ in range(2)]
    assert [str(p) for p in paths] == [
        "submissions/world-20240312-101500.csv",
        "submissions/world-20240312-101500-2.csv",
    ]
    assert len(list((world.folder / "submissions").iterdir())) == 6


def test_output_has_to_be_a_csv_file(world: World) -> None:
    """The manifest lies beside it as .json: an output of that name would be replaced by it."""
    with pytest.raises(KitError, match=r"expected the name of a \.csv file"):
        make_submission(world.config, world.folder / "out.json")


def test_the_printed_line_submits_the_file(world: World) -> None:
    """Names with spaces or shell characters must not change the command."""
    world.set(model_paths={"exp_name": 'my "run" $HOME'}, inference={"competition": "some-competition"})
    made = make_submission(world.config, world.folder / "my file.csv")
    words = shlex.split(made.command)
    assert words[:7] == ["kaggle", "competitions", "submit", "-c", "some-competition", "-f", str(made.path)]
    assert words[7] == "-m" and len(words) == 9 and not set('"$`\\') & set(words[8])


# -- what is refused -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (NAMES[1:], r"1 missing \(a\)"),
        ((*NAMES, "z"), r"1 extra \(z\)"),
        ((*NAMES[1:], "z"), r"1 missing \(a\) and 1 extra \(z\)"),
        ((*NAMES, "b"), r"each ID once, found 'b' again"),
    ],
)
def test_ids_that_are_not_the_samples_are_refused(world: World, rows: tuple[str, ...], message: str) -> None:
    """A file with missing or double IDs was written and failed on upload, or worse, did not."""
    world.rows([(name, DATE) for name in rows], sample=True)
    world.refuses(message)


def test_a_sample_with_double_ids_is_refused(world: World) -> None:
    """The written file would hold the same row twice."""
    write_csv(world.folder / "sample.csv", "ID,Pred", [(name, "0") for name in (*NAMES, "a")])
    world.refuses(r"sample\.csv: line 9, column ID: expected each ID once, found 'a' again")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,Date\na,12th of March\n", "expected YYYY-MM-DD"),
        ("ID,Day\na,2024-03-12\n", "expected one column Date"),
        ("ID,Date\n", "expected rows"),
        ("", "expected"),
    ],
)
def test_an_unreadable_test_file_is_refused(world: World, text: str, message: str) -> None:
    """A parsing error turned into missing dates, and those into falls."""
    (world.folder / "test.csv").write_text(text)
    world.refuses(message)


def test_stages_have_to_be_complete(world: World) -> None:
    """A best_model exists after the first epoch: an interrupted run was taken for a finished one."""
    write_summaries(world.config, basemodel={"status": "interrupted", "step": 4})
    world.refuses("basemodel is interrupted at step 4 of 9.*--allow-incomplete")
    _, _, manifest = world.make(allow_incomplete=True)
    assert manifest["incomplete_stages"] == ["the basemodel is interrupted at step 4 of 9"]


def test_the_tokenizer_has_to_be_the_one_trained_on(world: World) -> None:
    """A tokenizer trained again after the predictor speaks another language: every answer would be noise."""
    save_networks(world.folder / "other", seed=5)
    world.set(model_paths={"finetuned_tokenizer": str(world.folder / "other" / "tokenizer" / "best_model")})
    world.refuses("expected the tokenizer that the predictor was trained on")


def test_the_network_has_to_be_the_one_described(world: World) -> None:
    """Weights exchanged under an old summary would be submitted under its name."""
    _, predictor = save_networks(world.folder / "other", seed=5)
    for item in predictor.iterdir():
        (world.config.basemodel_dir / "best_model" / item.name).write_bytes(item.read_bytes())
    world.refuses("summary.json describes")


def test_windows_have_to_look_as_in_training(world: World) -> None:
    """Another clip or epsilon than in training changes every input without a word."""
    world.set(data={"clip": 3.0})
    world.refuses("data.clip: expected 5.0, as the predictor was trained, found 3.0")


def test_the_pretrained_pair_serves_where_nothing_was_trained(world: World) -> None:
    """Zero-shot use needs no training run; a missing run must not fall back to it silently."""
    tokenizer, predictor = save_networks(world.folder / "published", seed=8)
    world.set(
        model_paths={
            "base_save_path": str(world.folder / "none"),
            "pretrained_tokenizer": str(tokenizer),
            "pretrained_predictor": str(predictor),
        }
    )
    world.refuses("train_basemodel=false")
    world.set(experiment={"train_basemodel": False})
    assert find_pair(world.config).predictor == str(predictor)
    _, _, manifest = world.make()
    assert manifest["model"]["trained"] is False and manifest["train_end"] is None


# -- what is counted -----------------------------------------------------------------------------------------
def test_every_fallback_is_counted_by_its_reason(world: World) -> None:
    """Errors, short histories and unknown names all became "fall" without a word."""
    holed = world.series["b"][1].copy()
    holed[-3, VOLUME] = np.nan
    world.prepare(
        b=(world.series["b"][0], holed),
        short=walk(KNOWN[-35:], 20),
        tiny=walk(KNOWN[-10:], 21),
        late=walk(DAYS[-20:], 22),
        old=walk(KNOWN[:60], 23),
    )
    names = [*NAMES, "short", "tiny", "late", "old", "unknown"]
    world.rows([*((name, DATE) for name in names)])
    world.set(inference={"max_fallback_ratio": 0.5})
    _, prob, manifest = world.make()
    expected = {
        "too few bars": "tiny",
        "no bar before the date": "late",
        "unknown ID": "unknown",
        "non-finite bars": "b",
    }
    expected["horizon does not fit max_context"] = "old"
    assert manifest["fallbacks"] == dict.fromkeys(expected, 1)
    assert {row["Fallback"]: name for name, row in table(prob).items() if row["Fallback"]} == expected
    assert manifest["shortened"] == {"short history": 1, "cut to fit max_context": 0}
    assert manifest["forecast"] == len(names) - 5
    rates = {(r["date"], r["horizon"]): r["rate"] for r in manifest["base_rates"]}
    assert float(table(prob)["unknown"]["ProbUp"]) == pytest.approx(rates[(DATE, 3)] * (1 - TIE_PRIOR))


def test_a_price_that_hardly_moves_is_no_rise(world: World) -> None:
    """The rounding of the networks' outputs made nine in ten dead tickers rise, listed or sampled; a tie is a
    fall.
    """
    still = {f"still{n}": (KNOWN, np.full_like(walk(KNOWN, n)[1], 20.0 + n)) for n in range(6)}
    still["still5"][1][::15, CLOSE] += np.arange(len(KNOWN[::15]))
    world.prepare(**still)
    world.rows([(name, DATE) for name in [*still, "a"]])
    for probability in ("auto", "sampled"):
        world.set(inference={"probability": probability, "horizon": 1})
        _, prob, manifest = world.make()
        found = {name: float(row["ProbUp"]) for name, row in table(prob).items()}
        assert max(found[f"still{n}"] for n in range(5)) < 0.03 and found["still5"] < 0.2 < found["a"]
        assert manifest["ties"]["likeliest"] == 6 and manifest["forecast"] == 7


def test_too_many_fallbacks_fail_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test file of another market gave a file full of constants. What is known beforehand fails before the
    long part.
    """
    monkeypatch.delattr("kronos.submission.load_network")
    world.rows([*((name, DATE) for name in NAMES), ("x", DATE), ("y", DATE)])
    world.refuses(r"2 of 9 rows cannot be forecast \(2 unknown ID\): expected at most 20%")
    old = world.folder / "refused.csv"
    old.write_text("mine")
    with pytest.raises(KitError, match="cannot be forecast"):
        make_submission(world.config, old)
    assert old.read_text() == "mine" and not (world.folder / "refused.json").exists()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_forecasts_that_overflow_are_not_falls(world: World) -> None:
    """NaN is above nothing: a network that broke answered "fall" for every row, below a warning of
    NumPy's.
    """
    predictor = world.config.basemodel_dir / "best_model"
    tokenizer = KronosTokenizer.from_pretrained(world.config.tokenizer_dir / "best_model")
    with torch.no_grad():
        tokenizer.head.bias.fill_(3e38)  # finite; the prices that it makes are not
    tokenizer.save_pretrained(world.config.tokenizer_dir / "best_model")
    assert predictor.is_dir()
    write_summaries(world.config)
    world.refuses("7 non-finite forecast")


@pytest.mark.parametrize("value", [float("nan"), 3e37])
def test_a_broken_predictor_submits_nothing(world: World, value: float) -> None:
    """One NaN weight drew sound-looking tokens: "fallbacks none", exit 0. Finite weights that overflow are
    seen at the logits.
    """
    folder = world.config.basemodel_dir / "best_model"
    predictor = Kronos.from_pretrained(folder)
    with torch.no_grad():
        predictor.norm.weight.fill_(value)
    predictor.save_pretrained(folder)
    write_summaries(world.config)
    world.refuses(
        "7 non-finite forecast" if value > 0 else "expected the weights .* 1 with NaN or infinity in it"
    )


# -- how far a row reaches -----------------------------------------------------------------------------------
def horizons(store: BarStore, dates: list[str], ticker: str = "a", **settings: Any) -> list[int]:
    asked = np.array(dates, dtype="datetime64[s]")
    settings = {"calendar": "NYSE", "lookback": 40, "max_context": 64} | settings
    return plan_rows(store, [ticker] * len(dates), asked, **settings).horizon.tolist()


def test_horizon_counts_trading_days(tmp_path: Path) -> None:
    """A competition's Date lies 30 trading days ahead, not 42 days and not one step: weekends and holidays do
    not count.
    """
    days = DAYS[np.datetime64("2024-03-28") > DAYS]  # Good Friday is the 29th
    store = store_from_dict(tmp_path / "store", {"a": walk(days, 0), "b": walk(days[:-2], 1)})
    assert horizons(store, ["2024-03-28", "2024-04-01", "2024-04-02", "2024-04-08"]) == [1, 2, 3, 7]
    assert horizons(store, ["2024-03-28", "2024-04-01"], "b") == [3, 4], (
        "a ticker that ended earlier has further to go"
    )
    assert horizons(store, ["2024-03-27", "2024-03-26"]) == [1, 1], (
        "a Date inside the data: from the last bar before it"
    )
    assert horizons(store, ["2024-04-01"], horizon=5) == [5]


@pytest.mark.parametrize("bar_hour", [0, 16])
@pytest.mark.parametrize("asked_hour", [0, 16, 23])
def test_a_time_of_day_opens_no_door(tmp_path: Path, bar_hour: int, asked_hour: int) -> None:
    """Date 2024-02-01 16:00 against bars stamped midnight: "strictly before" would read the day that is asked
    for.
    """
    hours = np.timedelta64(3600, "s")
    dates, bars = walk(DAYS[:150], 0)
    store = store_from_dict(tmp_path / "store", {"a": (dates + bar_hour * hours, bars)})
    asked = DAYS[[120, 149, 152]] + asked_hour * hours
    plan = plan_rows(store, ["a"] * 3, asked, calendar="NYSE", lookback=40, max_context=64)
    assert plan.end.tolist() == [120, 149, 150] and plan.horizon.tolist() == [1, 1, 3]


def test_the_datas_own_days_count_in_the_past(tmp_path: Path) -> None:
    """An exchange calendar that disagrees with the data would shift every horizon of a halted ticker."""
    days = DAYS[:100]
    saturday = days[95:96] + np.timedelta64(2 * 86400, "s")
    while (saturday[0].astype("datetime64[D]").astype(int) + 3) % 7 != 5:
        saturday = saturday + np.timedelta64(86400, "s")
    everyone = np.sort(np.concatenate([days, saturday]))
    store = store_from_dict(tmp_path / "store", {"halted": walk(days[:95], 0), "other": walk(everyone, 1)})
    after = str(DAYS[100].astype("datetime64[D]"))
    assert horizons(store, [after], "halted") == [len(everyone) - 95 + 1]


def test_a_date_without_trading_up_to_it_is_not_forecast(tmp_path: Path) -> None:
    """A Saturday right after the last bar asks for a close that does not exist."""
    store = store_from_dict(tmp_path / "store", {"a": walk(DAYS[np.datetime64("2024-03-09") > DAYS], 0)})
    plan = plan_rows(
        store, ["a"], np.array(["2024-03-09"], "datetime64[s]"), calendar="NYSE", lookback=40, max_context=64
    )
    assert plan.reason.tolist() == ["no trading day up to the date"]


def test_context_is_cut_so_that_the_horizon_fits(world: World) -> None:
    """History ended long ago: the oldest bars are given up, counted, and the newest kept."""
    world.set(inference={"horizon": 30})
    _, prob, manifest = world.make()
    assert manifest["horizons"] == {"30": len(NAMES)}
    assert manifest["shortened"] == {"short history": 0, "cut to fit max_context": len(NAMES)}
    assert {row["Context"] for row in table(prob).values()} == {"35"}  # 35 + 30 - 1 = 64


def test_one_step_ahead_is_enumerated_and_counted(world: World) -> None:
    """A setting without effect, or an answer that hides how little of the probability it rests on."""
    world.set(inference={"horizon": 1, "enumeration_pairs": 40})
    _, listed, manifest = world.make()
    assert manifest["enumerated"]["rows"] == len(NAMES)
    assert 0 < manifest["enumerated"]["least_mass"] <= manifest["enumerated"]["mean_mass"] < 0.995
    world.set(inference={"seed": 1})
    assert world.make()[1] == listed, "no random number plays a part"
    world.set(inference={"enumeration_pairs": 1, "enumeration_mass": 0.5, "calibration": "off"})
    certain = (pytest.approx(EDGE, abs=1e-3), pytest.approx(1 - EDGE, abs=1e-3))
    assert all(float(row["ProbUp"]) in certain for row in table(world.make()[1]).values())
    world.set(inference={"probability": "sampled"})
    assert world.make()[2]["enumerated"] == {"rows": 0}
    world.set(inference={"probability": "enumerated", "horizon": 3})
    world.refuses("expected rows one step ahead to enumerate, found")


# -- the score -----------------------------------------------------------------------------------------------
def test_score_stands_beside_baselines(world: World) -> None:
    """On one date "all fall" can beat every model: an accuracy alone says nothing."""
    truth = dict(zip(NAMES, "1101110", strict=True))
    world.set(
        data={"solution_path": write_csv(world.folder / "solution.csv", "ID,Label", list(truth.items()))}
    )
    write_csv(
        world.folder / "mine.csv", "ID,Pred", [(n, truth[n] if n != "a" else "0") for n in reversed(NAMES)]
    )
    files.write_json(world.folder / "market.json", {"attainable_accuracy": 0.75})
    score = score_submission(world.config, world.folder / "mine.csv")
    assert (score.rows, score.dates, score.accuracy, score.attainable) == (7, 1, 6 / 7, 0.75)
    assert score.baselines["all rise"] == 5 / 7 and score.baselines["all fall"] == 2 / 7
    store = world.prepare()
    rate = base_rates(store, np.array([len(store.sessions) - 1]), 3)[0]
    assert score.baselines["majority in training"] == (5 / 7 if rate > 0.5 else 2 / 7)
    text = score.table()
    assert "85.7%" in text and "75.0%" in text and "One date is one observation" in text and "±" not in text


def test_last_return_is_the_last_known_one(world: World) -> None:
    """A baseline that reads the answer's own day would look unbeatable."""
    store = world.prepare(**FUTURES["bars on the Date and after it"](world.series), one=walk(KNOWN[-1:], 3))
    world.rows([*((name, DATE) for name in NAMES), ("one", DATE), ("unknown", DATE)])
    answers = baseline_answers(store, ask(store, *read_rows(world.config), "NYSE"))
    moves = [float(np.diff(world.series[name][1][-2:, CLOSE])[0]) for name in NAMES]
    assert answers["last return's sign"].tolist() == [*(int(m > 0) for m in moves), 0, 0]
    assert answers["last return reversed"].tolist() == [*(int(m < 0) for m in moves), 0, 0]


def test_a_submission_that_is_no_submission_is_not_scored(world: World) -> None:
    """Probabilities or missing rows compared as labels give a number that means nothing."""
    world.set(
        data={
            "solution_path": write_csv(world.folder / "solution.csv", "ID,Label", [(n, "1") for n in NAMES])
        }
    )
    write_csv(world.folder / "mine.csv", "ID,Pred", [(n, "0.7") for n in NAMES])
    with pytest.raises(KitError, match=r"expected 0 or 1 in Pred, found '0.7'"):
        score_submission(world.config, world.folder / "mine.csv")
    write_csv(world.folder / "mine.csv", "ID,Pred", [(n, "1") for n in NAMES[1:]])
    with pytest.raises(KitError, match=r"1 missing \(a\)"):
        score_submission(world.config, world.folder / "mine.csv")


# -- by hand -------------------------------------------------------------------------------------------------
def run_script(root: Path, cwd: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "KIT_PROGRESS"}}
    words = [sys.executable, str(root / "scripts" / name), *arguments]
    return subprocess.run(words, cwd=cwd, env=kept, capture_output=True, text=True, timeout=120, check=False)


def write_prices(path: Path, series: Series) -> str:
    header = "Ticker,Date,Open,High,Low,Close,Volume,Dividends,Stock Splits"
    rows = [
        (name, str(date.astype("datetime64[D]")), *(f"{value:.6f}" for value in bar[:5]), "0", "0")
        for name, (dates, bars) in series.items()
        for date, bar in zip(dates, bars, strict=True)
    ]
    return write_csv(path, header, rows)


def test_scripts_from_prices_to_score_from_any_directory(world: World, root: Path) -> None:
    """What a person types, outside the repository, without PYTHONPATH: files in, a submission and its score
    out.
    """
    folder = world.folder
    world.set(
        data={
            "data_path": write_prices(folder / "train.csv", world.series),
            "solution_path": write_csv(folder / "solution.csv", "ID,Label", [(n, "1") for n in NAMES]),
            "store": str(folder / "prepared"),
        }
    )
    config = folder / "config.json"
    files.write_json(config, to_dict(world.config))
    arguments = ["--config", str(config), "--set", "inference.sample_count=3"]
    files.write_text(
        Path(world.config.data.test_path).parent / "download.json", "{}"
    )  # the files are the competition's
    made = run_script(root, folder, "make_submission.py", *arguments, "--horizon", "2")
    assert made.returncode == 0, made.stderr
    path = next(folder.glob("submissions/world-*[0-9].csv"))
    assert (
        f"kaggle competitions submit -c predicting-stock-trends-rise-or-fall -f submissions/{path.name} -m "
        in made.stdout
    )
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["horizons"] == {"2": 7} and manifest["config"]["inference"]["sample_count"] == 3
    score = run_script(root, folder, "score_submission.py", *arguments, "--file", str(path))
    assert score.returncode == 0 and "all rise" in score.stdout and "100.0%" in score.stdout, score.stderr

    write_prices(folder / "train.csv", FUTURES["bars on the Date and after it"](world.series))
    again = run_script(
        root, folder, "make_submission.py", *arguments, "--horizon", "2", "--output", "later.csv"
    )
    assert again.returncode == 0, again.stderr
    assert (folder / "later.csv").read_bytes() == path.read_bytes(), (
        "prices after the Date, from file to file"
    )


def test_scripts_end_in_one_line(world: World, root: Path) -> None:
    """A traceback tells a user nothing, and an exit code of 0 tells the launcher a lie."""
    config = world.folder / "config.json"
    files.write_json(config, to_dict(world.config))
    arguments = ["--config", str(config)]
    for words, message in (
        (["make_submission.py", *arguments, "--horizon", "soon"], "inference.horizon: expected"),
        (["make_submission.py", *arguments, "--set", "data.test_path=nowhere.csv"], "nowhere.csv"),
        (["score_submission.py", *arguments, "--file", "x.csv"], "data.solution_path: expected"),
    ):
        done = run_script(root, world.folder, *words)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert done.stderr.startswith("error: ") and message in done.stderr
    assert not list(world.folder.glob("submissions/*"))


# -- by whom, and by which decision --------------------------------------------------------------------------
@pytest.fixture
def submitted(tmp_path: Path) -> tuple[Config, BarStore]:
    """A world with a saved backtest behind it and test rows three days ahead."""
    config, store = small_world(tmp_path, evaluation__random_init=False, evaluation__draws=100)
    assert run_backtest(config, Options(save=True)).saved
    date = store.sessions[-1].astype("datetime64[D]") + 3
    (tmp_path / "test.csv").write_text("ID,Date\n" + "".join(f"{name},{date}\n" for name in store.tickers))
    return changed(config, data__test_path=str(tmp_path / "test.csv")), store


def manifest_of(config: Config, folder: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The manifest and P(rise) of every row."""
    path = make_submission(config, folder / "out.csv").path
    prob = np.loadtxt(path.with_name("out-prob.csv"), delimiter=",", skiprows=1, usecols=2)
    return json.loads(path.with_suffix(".json").read_text()), prob


def test_a_submission_uses_what_fits(submitted: tuple[Config, BarStore], tmp_path: Path) -> None:
    """A decision of another network, horizon or sampling would distort what it was meant to mend; silence
    would hide which.
    """
    config, _ = submitted
    config = changed(config, inference__answer="network")
    found = read_findings(config.run_dir, 3)
    assert found is not None and found.main == config.model_paths.exp_name
    evidence = found.of(found.main)
    assert evidence is not None and evidence.decision is not None
    manifest, prob = manifest_of(config, tmp_path)
    assert manifest["decision"]["used"] and manifest["decision"]["slope"] == evidence.decision.slope
    assert (
        manifest["answer"]["expected"] == asdict(evidence.accuracy)
        and manifest["answer"]["why"] == "asked for by name"
    )
    assert manifest["answer"]["all_rise"]["value"] == found.of("all rise").accuracy.value  # type: ignore[union-attr]
    more_paths, other = manifest_of(changed(config, inference__sample_count=35), tmp_path)
    assert more_paths["decision"]["used"] and (other != prob).any(), (
        "the decision knows the noise of any number of paths"
    )
    raw, _ = manifest_of(changed(config, inference__calibration="off"), tmp_path)
    assert raw["decision"] == {"used": False, "why": "inference.calibration is off"}
    for name, value in {"inference__temperature": 0.9, "inference__anchor": "none"}.items():
        refused, _ = manifest_of(changed(config, **{name: value}), tmp_path)
        assert not refused["decision"]["used"] and name.split("__")[1] in refused["decision"]["why"]
        assert refused["answer"]["expected"] is None, (
            "what was found of another network is not expected of this one"
        )
    nearer, _ = manifest_of(changed(config, inference__horizon=2), tmp_path)
    assert not nearer["decision"]["used"] and "horizon-2.json: none there" in nearer["decision"]["why"]
    path_of(config.run_dir, 3).write_text("{}")
    with pytest.raises(KitError, match=r"run_backtest\.py --save again"):
        make_submission(config, tmp_path / "out.csv")


def test_a_look_leaves_no_decision(submitted: tuple[Config, BarStore], tmp_path: Path) -> None:
    """A backtest of another horizon, of few tickers or with its report elsewhere replaced what the submission
    decides by.
    """
    config, _ = submitted
    before = path_of(config.run_dir, 3).read_bytes()
    small = changed(config, evaluation__fitted_baselines=False, evaluation__every=30)
    for look, options in (
        (changed(small, evaluation__tickers=5), Options()),
        (small, Options(output=str(tmp_path / "elsewhere"))),
        (changed(small, evaluation__horizon=4), Options()),
    ):
        assert run_backtest(look, options).saved is None
    assert path_of(config.run_dir, 3).read_bytes() == before and not path_of(config.run_dir, 4).exists()


def test_the_evidence_chooses_who_answers(submitted: tuple[Config, BarStore], tmp_path: Path) -> None:
    """On random walks nothing is known: a constant is sent, and the reason stands beside it. With evidence
    the answerer is.
    """
    config, _ = submitted
    manifest, _ = manifest_of(config, tmp_path)
    assert (
        manifest["answer"]["kind"] == "constant" and "none has a rank IC above 0" in manifest["answer"]["why"]
    )
    assert manifest["share_of_rises"] in (0.0, 1.0) and "model" not in manifest
    found = read_findings(config.run_dir, 3)
    assert found is not None
    for name in ("boosting", config.model_paths.exp_name, "blend:network+boosting"):
        sure = Figure(0.1, 0.08, 0.12, 0.0001, 24)
        items = [replace(item, rank_ic=sure) if item.name == name else item for item in found.answerers]
        replace(found, answerers=items).save(config.run_dir)
        manifest, _ = manifest_of(config, tmp_path)
        assert manifest["answer"]["name"] == name and "highest lower end" in manifest["answer"]["why"]
        assert manifest["decision"]["used"] and ("model" in manifest) is (name != "boosting")
    other = changed(config, inference__temperature=0.5)
    manifest, _ = manifest_of(other, tmp_path)
    assert manifest["answer"]["kind"] == "constant", (
        "evidence about another network's settings chooses nothing"
    )


def test_a_baseline_needs_no_network(submitted: tuple[Config, BarStore], tmp_path: Path) -> None:
    """Most of what can be had on prices is had without one: raw files in, boosting's answers out, nothing
    trained.
    """
    config, store = submitted
    empty = changed(
        config, model_paths__base_save_path=str(tmp_path / "nothing"), inference__answer="boosting"
    )
    manifest, prob = manifest_of(empty, tmp_path)
    assert (
        manifest["answer"]["kind"] == "fitted"
        and manifest["forecast"] == len(store.tickers)
        and len(set(prob)) > 3
    )
    assert "none there" in manifest["decision"]["why"] and manifest["answer"]["expected"] is None
    with pytest.raises(
        KitError, match=r"--answer sorcery: expected auto, network, blend:A\+B or one of .*boosting"
    ):
        make_submission(changed(empty, inference__answer="sorcery"), tmp_path / "no.csv")
    with pytest.raises(KitError, match=r"expected blend:A\+B with different names"):
        make_submission(changed(empty, inference__answer="blend:boosting"), tmp_path / "no.csv")
    for name in ("auto", "network"):
        with pytest.raises(KitError, match="expected a trained predictor"):
            make_submission(changed(empty, inference__answer=name), tmp_path / "no.csv")
    assert not list(tmp_path.glob("no*.csv"))


def test_several_dates_are_fitted_once_or_each(submitted: tuple[Config, BarStore], tmp_path: Path) -> None:
    """A fit of the latest date knows the answers to the earliest one; a single fit is old for the latest."""
    config, store = submitted
    own = changed(config, model_paths__base_save_path=str(tmp_path / "nothing"), inference__answer="ridge")
    early, late = (
        store.sessions[200].astype("datetime64[D]") + 3,
        store.sessions[-1].astype("datetime64[D]") + 1,
    )
    rows = [f"{name},{early}\n" for name in store.tickers[:5]] + [
        f"{name},{late}\n" for name in store.tickers[5:]
    ]

    def written(kept: list[str], refit: bool = False) -> tuple[str, np.ndarray]:
        (tmp_path / "test.csv").write_text("ID,Date\n" + "".join(kept))
        manifest, prob = manifest_of(changed(own, inference__refit=refit), tmp_path)
        return manifest["answer"]["fits"], prob

    (said, first), (_, second) = written(rows[:5]), written(rows[5:])
    assert said == ""
    said, once = written(rows)
    assert said.startswith("once, before the earliest of 2 dates (inference.refit: true")
    said, each = written(rows, refit=True)
    assert said == "before each of 2 dates"
    assert once[:5].tolist() == each[:5].tolist() == first.tolist()
    assert once[5:].tolist() != each[5:].tolist()
    assert np.argsort(each[5:]).tolist() == np.argsort(second).tolist()
