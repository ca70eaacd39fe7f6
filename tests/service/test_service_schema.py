"""What may be asked: every problem of a request at once, in the kit's words, and nothing of its texts."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from services import asked, series, tree

from kronos.service.schema import (
    Limits,
    PredictRequest,
    Problem,
    Refused,
    highest_level,
    paths_for,
    read_request,
)


def problems(request: Any, limits: Limits | None = None) -> list[Problem]:
    """What is said about a request that is refused."""
    body = request if isinstance(request, bytes) else json.dumps(request).encode()
    with pytest.raises(Refused) as refused:
        read_request(body, limits)
    assert refused.value.status == (400 if refused.value.code == "not_json" else 422)
    return refused.value.problems


def broken(**changes: Any) -> dict[str, Any]:
    """A request whose one series has other columns."""
    return {"stock_data": [series("S", 5) | changes], "prediction_horizon": 2}


def test_defaults_are_the_guides() -> None:
    """`prediction_horizon` 10 and `confidence_level` 0.95."""
    made = read_request(json.dumps({"stock_data": [series("S")]}).encode())
    assert (made.prediction_horizon, made.confidence_level, made.seed, made.deadline_s) == (10, 0.95, 0, 30)
    assert made.paths == 81 and made.stock_data[0].future() is None


@pytest.mark.parametrize(("level", "paths"), [(0.5, 33), (0.8, 33), (0.9, 41), (0.95, 81), (0.99, 401)])
def test_paths_follow_the_level(level: float, paths: int) -> None:
    """Two paths beyond each bound, and an odd number of all, so that the median is a path's."""
    assert paths_for(level) == paths


def test_the_level_that_fits_is_named() -> None:
    """ "Too many paths" helps nobody who asked for a level."""
    (found,) = problems(tree(confidence_level=0.995))
    assert found.where == "confidence_level" and "at most 0.99," in found.expected and "801" in found.found
    assert paths_for(highest_level(400)) <= 400
    assert asked(confidence_level=0.99).paths == 401
    assert asked(confidence_level=0.995, sample_count=99).paths == 99


def test_all_problems_at_once() -> None:
    """Ten rounds of one complaint each are ten rounds."""
    request = tree(2, prediction_horizon="5", seed=-1, extra=1)
    request["stock_data"][0]["close"][1] = None
    request["stock_data"][1]["timestamps"][3] = "2024-02-31"
    found = {problem.where: problem for problem in problems(request)}
    assert set(found) == {
        "prediction_horizon",
        "seed",
        "extra",
        "stock_data[0].close[1]",
        "stock_data[1].timestamps[3]",
    }
    assert found["stock_data[0].close[1]"] == Problem(
        "stock_data[0].close[1]", "a finite number", "null", "drop or fill the bar"
    )


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"close": [1, 2]}, "stock_data[0].close"),
        ({"open": [1, 2, float("nan"), 4, 5]}, "stock_data[0].open[2]"),
        ({"high": [1, float("inf"), 3, 4, 5]}, "stock_data[0].high[1]"),
        ({"low": [1, 2, 3, 4, 1e31]}, "stock_data[0].low[4]"),
        ({"low": ["1", 2, 3, 4, 5]}, "stock_data[0].low[0]"),
        ({"volume": [1, 2, -3, 4, 5]}, "stock_data[0].volume[2]"),
        ({"series_id": ""}, "stock_data[0].series_id"),
        ({"series_id": "a\nb"}, "stock_data[0].series_id"),
        ({"series_id": 7}, "stock_data[0].series_id"),
        ({"timestamps": ["2024-01-02"] * 5}, "stock_data[0].timestamps[1]"),
        ({"timestamps": ["2024-01-0" + d for d in "54321"]}, "stock_data[0].timestamps[1]"),
        ({"timestamps": ["01/02/2024"] * 5}, "stock_data[0].timestamps[0]"),
        ({"timestamps": ["2024-01-02T09:30:00Z"] * 5}, "stock_data[0].timestamps[0]"),
        ({"timestamps": [1704153600] * 5}, "stock_data[0].timestamps[0]"),
        ({"future_timestamps": ["2024-02-01"]}, "stock_data[0].future_timestamps"),
        ({"future_timestamps": ["2023-02-01", "2023-02-02"]}, "stock_data[0].future_timestamps[0]"),
        ({"opne": [1]}, "stock_data[0].opne"),
    ],
)
def test_where_it_is_wrong(changes: dict[str, Any], where: str) -> None:
    """The place, so that a program can show it beside the field."""
    assert [problem.where for problem in problems(broken(**changes))] == [where]


def test_what_was_sent_is_not_repeated() -> None:
    """An answer that echoes is a way into someone's page or log."""
    secret = "<script>alert(1)</script>"
    said = json.dumps(
        [vars(p) for p in problems(broken(**{"close": secret, "series_id": "x\n" + secret, secret: 1}))]
    )
    assert "script" not in said and "a text of" in said


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"stock_data": NaN'])
def test_no_json(body: bytes) -> None:
    """400, and not 422: nothing was read."""
    assert problems(body)[0].where == "body"


def test_limits() -> None:
    """What a request may ask for, and what to do instead."""
    few = replace(Limits(), series=2, bars=20, steps=4, paths=50, path_bars=200)
    assert [p.where for p in problems(tree(3, prediction_horizon=5), few)][:1] == ["stock_data[0].timestamps"]
    short = {"stock_data": [series(f"S{i}", 20) for i in range(3)], "prediction_horizon": 5}
    where = [problem.where for problem in problems(short, few)]
    assert where == ["stock_data", "prediction_horizon", "confidence_level"]
    (found,) = problems(
        {**short, "stock_data": short["stock_data"][:2], "prediction_horizon": 4, "sample_count": 49}, few
    )
    assert found.where == "stock_data" and found.found == "392"


def test_large_nonsense_is_refused_before_it_is_listed() -> None:
    """Sixteen megabytes of wrong items made a list of gigabytes."""
    many = b'{"stock_data":[' + b",".join([b"1"] * 400_000) + b"]}"
    (found,) = problems(many)
    assert found.found == "400000"
    keys = ("{" + ",".join(f'"k{i}":1' for i in range(60_000)) + "}").encode()
    assert problems(keys)[0].found == "60000"


def test_a_name_is_given_once() -> None:
    """The name fixes the random numbers: two series of one name would look alike."""
    request = tree(2)
    request["stock_data"][1]["series_id"] = request["stock_data"][0]["series_id"]
    (found,) = problems(request)
    assert found.where == "stock_data[1].series_id"


def test_missing_volume_and_amount_become_what_the_library_makes_of_them() -> None:
    """Volume alone gives an amount, an amount alone a volume, neither zeros."""
    one = series("S", 4)
    prices = np.array([one[name] for name in ("open", "high", "low", "close")]).mean(axis=0)
    both = one["volume"]
    with_volume = PredictRequest.model_validate({"stock_data": [one]}).stock_data[0].bars()
    np.testing.assert_allclose(with_volume[:, 5], both * prices, rtol=1e-6)
    amount = {**one, "volume": None, "amount": (both * prices).tolist()}
    np.testing.assert_allclose(
        PredictRequest.model_validate({"stock_data": [amount]}).stock_data[0].bars()[:, 4], both, rtol=1e-6
    )
    neither = PredictRequest.model_validate({"stock_data": [{**one, "volume": None}]}).stock_data[0].bars()
    assert (neither[:, 4:] == 0).all()
