"""Callers who share a call get what each would get alone; who is late, left or too many is told so."""

import asyncio
import json
import math
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from services import asked, series, tiny_models

from kronos.answers.decision import Decision, Fitted
from kronos.bars import FEATURES, calendar_stamps
from kronos.delivery.golden import forecaster_of, load_networks
from kronos.delivery.package_facts import read_facts
from kronos.forecasting.rows import series_keys
from kronos.service import chances
from kronos.service.batcher import Batcher
from kronos.service.schema import PredictAnswer, PredictRequest, Refused, read_request
from kronos.service.served import Computed, Prepared, Served


@pytest.fixture(scope="module")
def served() -> Served:
    return Served.load(tiny_models() / "production")


def same(answer: dict[str, Any], alone: dict[str, Any]) -> None:
    """To the last bit, and about the same series of the same dates. Listed chances are sums over a batch: to
    1e-6.
    """
    for one, other in zip(answer["predictions"], alone["predictions"], strict=True):
        if answer["horizon"] == 1:
            assert one["prob_up"] == pytest.approx(other["prob_up"], rel=1e-6)
            one = {**one, "prob_up": other["prob_up"]}
        assert one == other


def together(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def mixed() -> list[PredictRequest]:
    """Requests of other horizons, paths, seeds, lengths and counts."""
    made = [asked(1, k, prediction_horizon=5 + k, sample_count=20 + 3 * k) for k in range(8)]
    made += [asked(3, 20, prediction_horizon=1), asked(1, 30, prediction_horizon=1, seed=7)]
    made += [asked(2, 40, prediction_horizon=9, seed=7), asked(20, 50, prediction_horizon=2)]
    made.append(read_request(json.dumps({"stock_data": [series("short", 7), series("long", 40)]}).encode()))
    return made


def test_an_answer_is_the_librarys(served: Served) -> None:
    """The library alone, from the package, on the bars and dates that the answer names."""
    request = asked(2, prediction_horizon=5)
    answer = served.forecast(request)
    PredictAnswer.model_validate(
        {"id": "x", "timing": {"queue_ms": 0, "compute_ms": 0, "batch_series": 1}, **answer}
    )
    facts = read_facts(served.facts.folder)
    library = forecaster_of(facts, load_networks(facts.folder), sample_count=81, seed=0)
    for given, shown in zip(request.stock_data, answer["predictions"], strict=True):
        dates, bars = given.dates()[-facts.lookback :], given.bars()[-facts.lookback :]
        ahead = np.array(shown["timestamps"], "datetime64[s]")
        np.testing.assert_array_equal(ahead, facts.next_sessions(dates, 5))
        alone = library.forecast(
            [bars], [calendar_stamps(dates)], calendar_stamps(ahead)[None], series_keys([given.series_id])
        ).repaired()
        for view, name in ((alone.mean(), "mean"), (alone.median(), "median")):
            shown_view = np.array([shown[name][feature] for feature in FEATURES]).T
            np.testing.assert_allclose(shown_view, view[0], rtol=1e-6)
        assert shown["prob_up"] == alone.prob_up()[0]
        lower = shown["confidence_intervals"]["close"]["lower"]
        expected = np.quantile(alone.paths[0, :, :, 3], 0.025, axis=0, method="weibull")
        np.testing.assert_allclose(lower, expected, rtol=1e-6)


def test_who_shares_a_call_changes_no_answer(served: Served) -> None:
    """Horizons, path counts and callers mixed: each gets the bits that it would get alone."""

    async def all_at_once() -> tuple[list[dict[str, Any]], int]:
        batcher, calls = Batcher(), 0

        def counted(series: int) -> None:
            nonlocal calls
            calls += 1

        batcher.seen.batch = counted
        batcher.start()
        answers = await asyncio.gather(*(batcher.forecast(served, request) for request in mixed()))
        await batcher.stop()
        return list(answers), calls

    answers, calls = together(all_at_once())
    assert calls < len(mixed())
    assert max(answer["timing"]["batch_series"] for answer in answers) > 3
    for answer, request in zip(answers, mixed(), strict=True):
        same(answer, served.forecast(request))


def test_what_may_share_a_call(served: Served) -> None:
    """A factor 2 in steps and paths, one seed, one length; and nothing that would change what is seen."""

    def one(**settings: Any) -> Prepared:
        return served.prepare(asked(**{"prediction_horizon": 10, "sample_count": 20, **settings}))

    assert served.shares(one(), one(prediction_horizon=20, sample_count=40))
    for other in ({"prediction_horizon": 21}, {"sample_count": 41}, {"seed": 1}):
        assert not served.shares(one(), one(**other))
    shorter = served.prepare(
        read_request(json.dumps({"stock_data": [series("x", 8)], "sample_count": 20}).encode())
    )
    assert not served.shares(one(), shorter)
    most = served.facts.max_context - served.facts.lookback
    assert served.shares(one(prediction_horizon=most), one(prediction_horizon=most - 1))
    assert not served.shares(one(prediction_horizon=most + 1), one(prediction_horizon=most))


def test_a_full_queue_is_said(served: Served) -> None:
    """429 with the seconds after which it may be tried again; what waits is answered all the same."""

    async def crowd() -> list[Any]:
        batcher = Batcher(most_waiting=6)
        asks = [batcher.forecast(served, asked(2, 2 * k)) for k in range(6)]
        waiting = [asyncio.ensure_future(ask) for ask in asks]
        await asyncio.sleep(0.2)
        assert batcher.waiting == 6
        batcher.start()
        found = await asyncio.gather(*waiting, return_exceptions=True)
        await batcher.stop()
        return found

    found = together(crowd())
    refused = [one for one in found if isinstance(one, Refused)]
    assert [one.status for one in refused] == [429] * 3 and int(refused[0].headers["Retry-After"]) >= 1
    assert sum(isinstance(one, dict) for one in found) == 3


def test_what_is_too_late_or_left_is_never_computed(served: Served) -> None:
    """504 at the deadline, before any work; a client that left costs nothing."""

    async def late() -> tuple[list[Any], int]:
        batcher, computed = Batcher(), 0

        def counted(series: int) -> None:
            nonlocal computed
            computed += series

        batcher.seen.batch = counted
        slow = asyncio.ensure_future(batcher.forecast(served, asked(1, 0, deadline_s=0.05)))
        left = asyncio.ensure_future(batcher.forecast(served, asked(2, 1)))
        stays = asyncio.ensure_future(batcher.forecast(served, asked(4, 3)))
        await asyncio.sleep(0.3)
        left.cancel()
        await asyncio.sleep(0)
        assert batcher.waiting == 4
        batcher.start()
        found = await asyncio.gather(slow, left, stays, return_exceptions=True)
        await batcher.stop()
        return found, computed

    (slow, left, stays), computed = together(late())
    assert isinstance(slow, Refused) and slow.status == 504
    assert isinstance(left, asyncio.CancelledError) and isinstance(stays, dict)
    assert computed == 4


def test_people_before_jobs(served: Served) -> None:
    """A chunk of a job waits for everybody who waits for an answer."""

    async def order() -> list[str]:
        batcher, ended = Batcher(most_series=1), []

        async def one(name: str, number: int, urgent: bool) -> None:
            await batcher.forecast(served, asked(1, number), urgent=urgent)
            ended.append(name)

        tasks = [asyncio.ensure_future(one(f"job {k}", k, False)) for k in range(3)]
        tasks += [asyncio.ensure_future(one(f"person {k}", 9 + k, True)) for k in range(3)]
        await asyncio.sleep(0.1)
        batcher.start()
        await asyncio.gather(*tasks)
        await batcher.stop()
        return ended

    assert together(order()) == [f"{who} {k}" for who in ("person", "job") for k in range(3)]


def test_one_bad_series_fails_alone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of a shared call is not everybody's."""
    compute = Served.compute

    def fails(self: Served, parts: list[Prepared]) -> list[Computed]:
        if any("S1" in part.names for part in parts):
            raise RuntimeError("this one")
        return compute(self, parts)

    monkeypatch.setattr(Served, "compute", fails)

    async def three() -> list[Any]:
        batcher = Batcher()
        asks = [asyncio.ensure_future(batcher.forecast(served, asked(1, k))) for k in range(3)]
        await asyncio.sleep(0.1)
        batcher.start()
        found = await asyncio.gather(*asks, return_exceptions=True)
        await batcher.stop()
        return found

    found = together(three())
    assert [type(one) for one in found] == [dict, RuntimeError, dict]


def test_dates_come_from_the_packages_calendar(served: Served) -> None:
    """Sessions only; where they cannot be known, a 422 that says what to send, and nothing is guessed."""
    answer = served.forecast(asked(1, prediction_horizon=30))
    ahead = np.array(answer["predictions"][0]["timestamps"], "datetime64[D]")
    assert np.is_busday(ahead).all() and np.datetime64("2024-02-19") not in ahead  # Presidents' Day
    hourly = series("S", 5)
    hourly["timestamps"] = [f"2024-01-02T{hour}:30" for hour in range(10, 15)]
    request = read_request(json.dumps({"stock_data": [hourly], "prediction_horizon": 2}).encode())
    with pytest.raises(Refused, match="future_timestamps") as refused:
        served.prepare(request)
    assert refused.value.status == 422
    hourly["future_timestamps"] = ["2024-01-03T10:30", "2024-01-03T11:30"]
    request = read_request(json.dumps({"stock_data": [hourly], "prediction_horizon": 2}).encode())
    found = served.forecast(request)["predictions"][0]
    assert found["timestamps"] == ["2024-01-03T10:30:00", "2024-01-03T11:30:00"]
    assert any("not daily" in line for line in found["warnings"])


def test_what_cannot_be_forecast_is_named(served: Served) -> None:
    """A horizon beyond the context, and numbers that overflow, are the request's problem and not a 500."""
    with pytest.raises(Refused) as refused:
        served.prepare(asked(1, prediction_horizon=512))
    assert refused.value.problems[0].where == "prediction_horizon"
    prepared = served.prepare(asked(2))
    computed = served.compute([prepared])[0]
    computed.paths[1, 3] = math.nan
    with pytest.raises(Refused) as refused:
        served.answer(asked(2), prepared, computed)
    assert [problem.where for problem in refused.value.problems] == ["stock_data[1]"]


def test_too_few_paths_give_no_interval(served: Served) -> None:
    """A bound that no path supports is none."""
    found = served.forecast(asked(1, sample_count=9))["predictions"][0]
    assert found["confidence_intervals"] == {} and "no intervals" in found["warnings"][-1]
    rough = served.forecast(asked(1, sample_count=45))["predictions"][0]
    assert rough["confidence_intervals"] and "rough" in rough["warnings"][-1]


def test_a_decision_calibrates_one_series(served: Served) -> None:
    """Level and slope of the backtest, no other series needed; a decision of other paths is left out, said."""
    own = {name: getattr(served.facts.sampling, name) for name in chances.SHAPING}
    decision = Decision(3, level=0.2, slope=0.5, centre=0.1, width=2.0, key=own, fitted=Fitted(dates=50))
    facts = replace(served.facts, decisions={3: decision})
    known = chances.Known(
        np.array([[9.0, 11.0, 12.0, 13.0]], np.float32), np.array([10.0], np.float32), np.array([0.04])
    )
    z = math.log(0.7 / 0.3)
    listed = replace(known, listed=np.array([0.7]))
    expected = 0.96 / (1 + math.exp(-(0.5 * (z - 0.1) + 0.2)))
    assert chances.prob_up(listed, decision)[0] == pytest.approx(expected)
    assert chances.prob_up(known, None)[0] == 0.75
    assert chances.decision_of(facts, 3) == (decision, "") and chances.decision_of(facts, 4) == (None, "")
    other = replace(decision, key={**own, "temperature": 0.5})
    found, why = chances.decision_of(replace(facts, decisions={3: other}), 3)
    assert found is None and "temperature" in why
    plain = served.forecast(asked(1))["predictions"][0]
    calibrated = Served(facts, served.forecaster, 0.0, 0.0).forecast(asked(1))["predictions"][0]
    assert (plain["prob_up_calibrated"], plain["intervals_calibrated"]) == (False, False)
    assert (calibrated["prob_up_calibrated"], calibrated["intervals_calibrated"]) == (True, True)

    def width(prediction: dict[str, Any]) -> float:
        bounds = prediction["confidence_intervals"]["close"]
        return math.log(bounds["upper"][-1] / bounds["lower"][-1])

    assert width(calibrated) == pytest.approx(2 * width(plain), rel=1e-3)


def test_ties_are_counted_as_the_backtest_does() -> None:
    """A price that stands still half of the time does not rise half of the time."""
    assert chances.tie_share(np.array([1.0, 1.0, 2.0, 2.0, 3.0]), 1) == pytest.approx((2 + 0.01) / 5)
    assert chances.tie_share(np.array([1.0]), 3) == 0.01
