"""Quality over time: what is kept, what became of it, and when to say that a model has left its promise."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the service's packages are not installed: pip install '.[serve]'")

from kronos.data.calendar import open_days
from kronos.evaluation.scores import within_accuracy
from kronos.evaluation.significance import DateBootstrap
from kronos.service.kept import FOLDER, Kept, UnknownForecast, seconds
from kronos.service.promise import Promise, Promised
from kronos.service.quality import Quality
from kronos.service.watch import EVERY, watch

DAYS = [str(day) for day in open_days("NYSE", "2023-01-03", "2024-12-30").astype("datetime64[D]")]
DIGEST = "d" * 64


@dataclass
class Asked:
    """What `keep` needs of a request."""

    stock_data: list[dict[str, Any]]
    paths: int = 33

    def model_dump(self, mode: str) -> dict[str, Any]:
        return {"stock_data": self.stock_data, "prediction_horizon": 2, "sample_count": None}


def ask(first: int, names: list[str], closes: dict[str, np.ndarray], length: int = 5) -> Asked:
    """The `length` bars up to and with day `first` of some series."""
    stock = []
    for name in names:
        price = closes[name][first - length + 1 : first + 1].tolist()
        columns = {column: price for column in ("open", "high", "low", "close")}
        stamps = DAYS[first - length + 1 : first + 1]
        stock.append({"series_id": name, "timestamps": stamps, **columns})
    return Asked(stock)


def tell(
    first: int,
    request: Asked,
    bands: np.ndarray,
    prob: np.ndarray,
    level: float = 0.9,
    version: str = "v1.0.0",
) -> dict[str, Any]:
    """An answer with bounds `bands` (n, H, 2)."""
    steps = bands.shape[1]
    predictions = [
        {
            "series_id": one["series_id"],
            "timestamps": DAYS[first + 1 : first + 1 + steps],
            "last_close": one["close"][-1],
            "prob_up": float(prob[i]),
            "confidence_intervals": {
                "close": {"lower": bands[i, :, 0].tolist(), "upper": bands[i, :, 1].tolist()}
            },
        }
        for i, one in enumerate(request.stock_data)
    ]
    model = {"name": "demo", "version": version, "digest": DIGEST}
    name = f"fc_{version}_{first}_{level}_{len(predictions)}"
    return {
        "id": name,
        "model": model,
        "horizon": steps,
        "confidence_level": level,
        "predictions": predictions,
    }


def learn(kept: Kept, name: str, days: list[str], closes: np.ndarray) -> int:
    prices = np.full((len(days), 4), np.nan)
    prices[:, 3] = closes
    return kept.learn(name, seconds(days), prices)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "state")


def market(names: list[str], days: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: 50 * np.exp(np.cumsum(rng.normal(0, 0.02, days))) for name in names}


# -- keeping -------------------------------------------------------------------------------------------------
def test_a_forecast_is_kept_and_shown(kept: Kept) -> None:
    closes = market(["A", "B"], 20)
    request = ask(10, ["A", "B"], closes)
    answer = tell(10, request, np.full((2, 2, 2), 50.0), np.array([0.4, 0.6]))
    kept.keep(request, answer)
    file = kept.folder / FOLDER / f"{answer['id']}.json"
    tree = json.loads(file.read_text(encoding="utf-8"))
    assert tree["answer"] == answer and tree["request"]["sample_count"] == 33
    listed = kept.newest(series="B")
    assert [(one["id"], one["series_id"], one["last_date"]) for one in listed] == [
        (answer["id"], "B", DAYS[10])
    ]
    shown = kept.show(answer["id"])
    assert [one["actual"] for one in shown["series"]] == [None, None]
    assert shown["series"][0]["history"]["close"] == request.stock_data[0]["close"]
    assert learn(kept, "B", DAYS[11:12], closes["B"][11:12]) == 1
    actual = kept.show(answer["id"])["series"][1]["actual"]
    assert actual["timestamps"] == [DAYS[11]] and actual["close"] == [closes["B"][11]]
    with pytest.raises(UnknownForecast):
        kept.show("../state")


def test_bars_may_be_known_before_the_forecast(kept: Kept) -> None:
    closes = market(["A"], 20)
    learn(kept, "A", DAYS[:20], closes["A"])
    request = ask(10, ["A"], closes)
    kept.keep(request, tell(10, request, np.full((1, 2, 2), 50.0), np.array([0.4])))
    assert kept.show(kept.newest()[0]["id"])["series"][0]["actual"]["timestamps"] == DAYS[11:13]


def test_the_oldest_leave_and_are_counted(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    closes = market(["A", "B"], 40)
    monkeypatch.setattr("kronos.service.kept.KEPT_SERIES", 6)
    for day in range(10, 20):
        request = ask(day, ["A", "B"], closes)
        kept.keep(request, tell(day, request, np.full((2, 2, 2), 50.0), np.array([0.4, 0.5])))
    assert sorted({one["last_date"] for one in kept.newest()}) == DAYS[17:20]
    assert kept.counters() == {"series dropped": 14}
    size = next((kept.folder / FOLDER).glob("*.json")).stat().st_size
    monkeypatch.setattr("kronos.service.kept.KEPT_BYTES", 4 * size)
    request = ask(20, ["A", "B"], closes)
    kept.keep(request, tell(20, request, np.full((2, 2, 2), 50.0), np.array([0.4, 0.5])))
    left = list((kept.folder / FOLDER).glob("*.json"))
    assert len(left) in (3, 4) and kept.counters()["files dropped"] == 11 - len(left)


# -- figures -------------------------------------------------------------------------------------------------
def test_figures_are_those_of_the_backtest(kept: Kept) -> None:
    """Coverage, accuracy, Brier of kept forecasts: the same numbers as from the arrays themselves."""
    names, steps, dates = [f"S{i}" for i in range(8)], 3, range(10, 70)
    closes, rng = market(names, 90), np.random.default_rng(1)
    inside, right, errors = [], [], []
    for day in dates:
        request = ask(day, names, closes)
        last = np.array([closes[name][day] for name in names])
        width = 0.03 * np.sqrt(np.arange(1, steps + 1)) * rng.uniform(0.5, 1.5, (len(names), 1))
        bands = last[:, None, None] * np.exp(np.stack([-width, width], axis=-1))
        prob = rng.uniform(0.2, 0.8, len(names))
        kept.keep(request, tell(day, request, bands, prob))
        future = np.array([closes[name][day + 1 : day + 1 + steps] for name in names])
        inside.append(((bands[..., 0] <= future) & (future <= bands[..., 1])).mean(axis=0))
        right.append(within_accuracy(prob, future[:, -1] / last - 1))
        errors.append(((prob - (future[:, -1] > last)) ** 2).mean())
    for name in names:
        learn(kept, name, DAYS[:90], closes[name])
    quality = Quality(kept, lambda version: Promise())
    (found,) = quality.report()["versions"]
    assert (found["forecasts"], found["dates"], found["horizon"]) == (480, 60, 3)
    for step in range(steps):
        row = found["coverage"][step]
        bootstrap = DateBootstrap(tuple(dates), step + 1)
        expected = bootstrap.interval(np.array(inside)[:, step])
        assert row["value"] == pytest.approx(expected.value, abs=1e-9)
        assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert quality.measured("v1.0.0", 0.9, step + 1)["value"] == row["value"]
    assert found["accuracy"]["value"] == pytest.approx(np.mean(right), abs=1e-9)
    assert found["brier"]["value"] == pytest.approx(np.mean(errors), abs=1e-9)
    assert quality.measured("v1.0.0", 0.95, 1) is None and quality.measured("v9.9.9", 0.9, 1) is None


def test_what_is_no_evidence_is_left_out_and_counted(kept: Kept) -> None:
    closes = market(["A", "B"], 40)
    for day in (10, 20, 30):
        request = ask(day, ["A", "B"], closes)
        kept.keep(request, tell(day, request, np.full((2, 2, 2), 50.0), np.array([0.4, 0.5])))
    again = ask(30, ["A"], closes)
    kept.keep(again, tell(30, again, np.full((1, 2, 2), 50.0), np.array([0.4])))
    learn(kept, "A", DAYS[:40], closes["A"])
    learn(kept, "B", DAYS[:40], closes["B"] / 2)  # B was split 2:1 since
    quality = Quality(kept, lambda version: Promise(train_end=DAYS[10]))
    (found,) = quality.report()["versions"]
    assert found["left_out"] == {"of training": 2, "other scale": 2, "asked again": 1}
    assert found["forecasts"] == 2 and found["alert"] is None


def test_versions_apart(kept: Kept) -> None:
    closes = market(["A", "B"], 40)
    for day, version in ((10, "v1.0.0"), (12, "v1.1.0")):
        request = ask(day, ["A", "B"], closes)
        kept.keep(
            request, tell(day, request, np.full((2, 2, 2), 50.0), np.array([0.4, 0.5]), version=version)
        )
    quality = Quality(kept, lambda version: Promise())
    assert [one["dates"] for one in quality.report()["versions"]] == [0, 0]
    for name in ("A", "B"):
        learn(kept, name, DAYS[:40], closes[name])
    found = quality.report()["versions"]
    assert [(one["version"], one["dates"]) for one in found] == [("v1.1.0", 1), ("v1.0.0", 1)]


# -- the watch -----------------------------------------------------------------------------------------------
BACKTEST = {
    "dates": {"horizon": 5},
    "entries": [
        {
            "kind": "paths",
            "figures": {
                "within_date_accuracy": {"value": 0.53, "low": 0.51, "high": 0.55},
                "coverage_90": {"value": 0.9, "low": 0.88, "high": 0.92},
            },
        }
    ],
}


def world(seed: int, dates: int, width: float, skill: float, steps: int = 5) -> tuple[np.ndarray, ...]:
    """Shares that move together: per date what lies inside bands of 90 % times `width` at the first and the last
    step, and accuracy of a score that knows `skill` of the last return. Returns (D,) each."""
    rng = np.random.default_rng(seed)
    stocks = 30
    common = rng.normal(0, np.sqrt(0.3), (dates + steps, 1))
    own = rng.normal(0, np.sqrt(0.7), (dates + steps, stocks))
    moves = common + own
    ahead = np.stack([moves[d + 1 : d + 1 + steps].cumsum(axis=0) for d in range(dates - 1)])
    first, last = (
        (np.abs(ahead[:, step - 1]) <= 1.6449 * width * np.sqrt(step)).mean(axis=1) for step in (1, steps)
    )
    score = skill * ahead[:, -1] + rng.normal(0, 1, ahead[:, -1].shape)
    right = np.array([within_accuracy(s, r) for s, r in zip(score, ahead[:, -1], strict=True)])
    return first, last, right


def flagged(seed: int, dates: int, width: float = 1.0, skill: float = 0.036) -> list[str]:
    """The lines of a world that was watched to its last date."""
    promise = Promise.of("2020-01-01", BACKTEST)
    first, last, right = world(seed, dates + 1, width, skill)
    stamps = seconds(DAYS)[: len(first)]
    sessions = seconds(DAYS)[: len(first) + 5]
    lines = watch("coverage of 0.9 at step 1", stamps, first, sessions, 1, promise.coverage(0.9, 1))
    lines += watch("coverage of 0.9 at step 5", stamps, last, sessions, 5, promise.coverage(0.9, 5))
    return lines + watch("accuracy", stamps, right, sessions, 5, promise.accuracy(5))


@pytest.mark.slow
def test_a_right_model_is_rarely_flagged() -> None:
    """100 models that keep their promise, each watched for a year of 250 dates: at most 5 are flagged."""
    assert sum(bool(flagged(seed, 250)) for seed in range(100)) <= 5


@pytest.mark.slow
def test_halved_bands_are_always_flagged_after_sixty_dates() -> None:
    lines = [flagged(seed, 60, width=0.5) for seed in range(100)]
    assert all(lines)
    assert "expected 0.900 (level), found 0.5" in lines[0][0]


def test_a_model_that_lost_its_skill_is_flagged() -> None:
    """From right to wrong answers: within a year."""
    assert any("accuracy: expected at least 0.510" in line for line in flagged(3, 250, skill=-0.15))


def test_few_dates_say_nothing() -> None:
    days = seconds(DAYS)
    values = np.zeros(EVERY - 1)
    assert watch("coverage", days[: EVERY - 1], values, days, 1, Promised(0.9, 0.9, "level")) == []
    ones = np.ones(60)  # everything covered, as 0.99 mostly is: no date differs from another
    assert watch("coverage", days[:60], ones, days, 1, Promised(0.99, 0.99, "level")) == []


def test_where_a_promise_comes_from() -> None:
    promise = Promise.of("2020-01-01", BACKTEST)
    assert promise.coverage(0.9, 5) == Promised(0.88, 0.92, "backtest")
    assert promise.coverage(0.9, 4) == Promised(0.9, 0.9, "level")
    assert promise.coverage(0.95, 5) == Promised(0.95, 0.95, "level")
    assert promise.accuracy(5) == Promised(0.51, 1.0, "backtest")
    assert promise.accuracy(4) is None
    fitted = {**BACKTEST, "entries": [{**BACKTEST["entries"][0], "kind": "fitted"}]}
    assert Promise.of(None, fitted).accuracy(5) is None and Promise.of(None, None).shown() is None
