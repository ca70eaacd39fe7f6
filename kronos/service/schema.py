"""What a caller may ask and what the service answers: columns, not rows, every value checked before any work.

In: the bytes of a request. Out: a `PredictRequest`, or `Refused` with all problems at once, each in the kit's
words (where, expected, found, remedy; `refusals`). No torch.

Letters: L known bars of a series, H steps ahead, S paths.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import from_json

from kronos.bars import FloatArray
from kronos.forecasting.frames import completed
from kronos.service.refusals import Problem, Refused, not_json, raise_all, refusal, refused

LEAST_PATHS = 33
BEYOND = 2
"""Paths that have to lie beyond each bound of an interval: with fewer a bound is one path's luck."""
JOB_BYTES = 64 * 2**20
"""Of the body of a job at most: about 1,000 series of 1,000 bars."""
SMALL_BODY = 2**18
"""Bytes of a body that is not looked at before it is parsed."""
MOST_KEYS = 50
LARGEST_NUMBER = 1e30
"""Prices, volumes and amounts beyond it overflow float32 on the way through the networks."""


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for."""

    series: int = 256
    bars: int = 2048
    steps: int = 512
    paths: int = 401
    """What a level of 0.99 takes."""
    path_bars: int = 4_000_000
    """Series x paths x steps: each is held as six numbers."""


# -- the request ---------------------------------------------------------------------------------------------
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
Column = Annotated[list[Number], Field(min_length=2, fail_fast=True)]
Stamp = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?)?$")
]
Stamps = Annotated[list[Stamp], Field(fail_fast=True)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
PRICES = ("open", "high", "low", "close")
Model = TypeVar("Model", bound=BaseModel)


class Series(BaseModel):
    """The known bars of one series, oldest first, price units, as columns of one length."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    series_id: Name
    """Fixes the random numbers of the series: the same name, bars and seed give the same forecast."""
    timestamps: Annotated[Stamps, Field(min_length=2)]
    """(L,) YYYY-MM-DD or YYYY-MM-DDTHH:MM[:SS], the exchange's wall time, strictly rising."""
    open: Column
    high: Column
    low: Column
    close: Column
    volume: Column | None = None
    amount: Column | None = None
    future_timestamps: Annotated[Stamps, Field(min_length=1)] | None = None
    """(H,) of the bars to come; null: the next sessions of the model's exchange."""

    _dates: NDArray[np.datetime64] = PrivateAttr()
    _future: NDArray[np.datetime64] | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "Series":
        limits = limits_of(info)
        problems = [*self._wrong_lengths(limits), *self._negative()]
        self._dates, wrong = dates_of(self.timestamps, "timestamps")
        problems += wrong
        if self.future_timestamps is not None:
            self._future, wrong = dates_of(self.future_timestamps, "future_timestamps")
            problems += wrong
            if not problems and self._future[0] <= self._dates[-1]:
                found = f"{self._future[0]} after {self._dates[-1]}"
                rest = ("every one after the last of timestamps", found, "send only dates that are to come")
                problems.append(Problem("future_timestamps[0]", *rest))
        raise_all(problems)
        return self

    def bars(self) -> FloatArray:
        """(L, 6) float32, `bars.FEATURES` order; a missing volume or amount becomes what the library makes of
        it.
        """
        prices = np.array([getattr(self, name) for name in PRICES], dtype=np.float64).T
        optional = (self.volume, self.amount)
        volume, amount = (None if column is None else np.array(column, np.float64) for column in optional)
        return completed(prices, volume, amount)

    def dates(self) -> NDArray[np.datetime64]:
        """(L,) datetime64[s]"""
        return self._dates

    def future(self) -> NDArray[np.datetime64] | None:
        """(H,) datetime64[s], where they were given."""
        return self._future

    def _wrong_lengths(self, limits: Limits) -> Iterator[Problem]:
        length = len(self.timestamps)
        if length > limits.bars:
            yield Problem(
                "timestamps", f"at most {limits.bars} bars", f"{length}", "send the newest bars only"
            )
        for name in (*PRICES, "volume", "amount"):
            column = getattr(self, name)
            if column is not None and len(column) != length:
                found = f"{len(column)} for {length} timestamps"
                yield Problem(name, "one number per timestamp", found, "make all columns equally long")

    def _negative(self) -> Iterator[Problem]:
        for name in ("volume", "amount"):
            column = getattr(self, name)
            if column is not None and min(column) < 0:
                place = next(i for i, value in enumerate(column) if value < 0)
                found = f"{column[place]:g}"
                yield Problem(f"{name}[{place}]", "a number >= 0", found, "drop or mend the bar")


class PredictRequest(BaseModel):
    """Series to forecast, all with one horizon, level and number of paths."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={
            "example": {
                "stock_data": [
                    {
                        "series_id": "600977",
                        "timestamps": ["2024-01-02", "2024-01-03"],
                        "open": [8.3, 8.4],
                        "high": [8.5, 8.5],
                        "low": [8.2, 8.3],
                        "close": [8.4, 8.4],
                    }
                ],
                "prediction_horizon": 10,
                "confidence_level": 0.95,
            }
        },
    )

    stock_data: Annotated[list[Series], Field(min_length=1)]
    prediction_horizon: Annotated[int, Field(ge=1)] = 10
    """Steps ahead: bars of the model's length."""
    confidence_level: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.95
    """Of the intervals."""
    sample_count: Annotated[int, Field(ge=1)] | None = None
    """Paths; null: the least odd number >= 33 with two paths beyond each bound."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    deadline_s: Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)] = 30
    """Seconds after which a request that still waits is dropped."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "PredictRequest":
        limits = limits_of(info)
        raise_all([*self._too_much(limits), *self._wrong_names(), *self._wrong_futures()])
        return self

    @property
    def paths(self) -> int:
        """Paths of each series."""
        return paths_for(self.confidence_level) if self.sample_count is None else self.sample_count

    def _too_much(self, limits: Limits) -> Iterator[Problem]:
        count, steps = len(self.stock_data), self.prediction_horizon
        if count > limits.series:
            remedy = "send several requests, or a job (POST /v1/jobs)"
            yield Problem("stock_data", f"at most {limits.series} series", f"{count}", remedy)
        if steps > limits.steps:
            yield Problem("prediction_horizon", f"at most {limits.steps}", f"{steps}", "ask for fewer steps")
        if self.paths > limits.paths:
            yield self._too_many_paths(limits)
        elif count * steps * self.paths > limits.path_bars:
            expected = f"series x paths x steps of at most {limits.path_bars:,}"
            remedy = "send fewer series in one request, or a job (POST /v1/jobs)"
            yield Problem("stock_data", expected, f"{count * steps * self.paths:,}", remedy)

    def _too_many_paths(self, limits: Limits) -> Problem:
        if self.sample_count is not None:
            found = f"{self.sample_count}"
            return Problem("sample_count", f"at most {limits.paths}", found, "ask for fewer paths")
        fits = highest_level(limits.paths)
        expected = f"at most {fits}, which {limits.paths} paths can show"
        found = f"{self.confidence_level:g}, which takes {self.paths} paths"
        return Problem("confidence_level", expected, found, f"set it to {fits} or less, or name sample_count")

    def _wrong_names(self) -> Iterator[Problem]:
        seen: dict[str, int] = {}
        for place, series in enumerate(self.stock_data):
            first = seen.setdefault(series.series_id, place)
            if first != place:
                found = f"the one of stock_data[{first}] again"
                where = f"stock_data[{place}].series_id"
                yield Problem(where, "every series_id once", found, "give each series a name of its own")

    def _wrong_futures(self) -> Iterator[Problem]:
        for place, series in enumerate(self.stock_data):
            given, steps = series.future_timestamps, self.prediction_horizon
            if given is not None and len(given) != steps:
                where = f"stock_data[{place}].future_timestamps"
                remedy = "send as many as prediction_horizon says, or none"
                yield Problem(where, f"{steps} dates", f"{len(given)}", remedy)


def paths_for(level: float) -> int:
    """The least odd number of paths >= 33 with `BEYOND` of them beyond each bound of an interval of `level`.

    Odd, so that the median is a path's.
    """
    needed = max(LEAST_PATHS, math.ceil(round(2 * BEYOND / (1 - level), 6)))
    return needed if needed % 2 else needed + 1


def highest_level(paths: int) -> float:
    """The highest level, in thousandths, that so many paths can show."""
    odd = paths if paths % 2 else paths - 1
    return math.floor((1 - 2 * BEYOND / odd) * 1000) / 1000


def dates_of(texts: list[str], where: str) -> tuple[NDArray[np.datetime64], list[Problem]]:
    """(n,) datetime64[s] and what is wrong with them: days that do not exist, an order that does not rise."""
    try:
        dates = np.array(texts, dtype="datetime64[s]")
    except ValueError:
        place = next(i for i, text in enumerate(texts) if not _exists(text))
        problem = Problem(
            f"{where}[{place}]", "a date that exists", "one that does not", "correct or drop the bar"
        )
        return np.zeros(len(texts), "datetime64[s]"), [problem]
    falls = np.flatnonzero(np.diff(dates) <= np.timedelta64(0, "s"))
    if not len(falls):
        return dates, []
    place = int(falls[0]) + 1
    found = f"{dates[place]} after {dates[place - 1]}"
    remedy = "sort the bars by date and send each once"
    return dates, [Problem(f"{where}[{place}]", "strictly rising dates", found, remedy)]


def _exists(text: str) -> bool:
    try:
        np.datetime64(text, "s")
    except ValueError:
        return False
    return True


# -- reading -------------------------------------------------------------------------------------------------
def read_request(body: bytes, limits: Limits | None = None) -> PredictRequest:
    """The request in the bytes of a body. Raises Refused: 400 where it is no JSON, 422 with every problem."""
    return parse(body, PredictRequest, limits or Limits())


def parse(body: bytes, model: type[Model], limits: Limits) -> Model:
    """A value of `model` in the bytes of a body. Raises Refused: 400 where it is no JSON, 422 with every
    problem.
    """
    if len(body) > SMALL_BODY:
        _look(body, limits)
    try:
        return model.model_validate_json(body, context=limits)
    except ValidationError as error:
        raise refusal(error) from None


def _look(body: bytes, limits: Limits) -> None:
    """Refuse a large body whose lists or groups are far too long, before a problem is made of each item.

    A body of 16 MB can hold millions of wrong items: the list of them would take gigabytes and seconds.
    """
    try:
        tree = from_json(body)
    except ValueError:
        raise not_json() from None
    parts: list[Any] = [tree]
    series = tree.get("stock_data") if isinstance(tree, dict) else tree
    if isinstance(series, list):
        if len(series) > limits.series:
            remedy = "send several requests, or a job (POST /v1/jobs)"
            raise refused(
                [Problem("stock_data", f"at most {limits.series} series", f"{len(series)}", remedy)]
            )
        parts += series
    most = max((len(part) for part in parts if isinstance(part, dict)), default=0)
    if most > MOST_KEYS:
        remedy = "compare the request with /openapi.json"
        raise refused([Problem("body", f"at most {MOST_KEYS} keys in a group", f"{most}", remedy)])


def limits_of(info: ValidationInfo) -> Limits:
    """The limits that a model is checked against."""
    return info.context if isinstance(info.context, Limits) else Limits()


# -- the answer ----------------------------------------------------------------------------------------------
class ModelName(BaseModel):
    """Which network answered."""

    name: str
    version: str
    digest: str


class Candles(BaseModel):
    """(H,) of each feature, price units."""

    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]
    amount: list[float]


class Interval(BaseModel):
    """(H,) bounds."""

    lower: list[float]
    upper: list[float]


class Prediction(BaseModel):
    """What is predicted of one series."""

    series_id: str
    timestamps: list[str]
    last_close: float
    used_bars: int
    """Known bars that the forecast rests on: histories longer than the model's lookback are cut."""
    mean: Candles
    median: Candles
    confidence_intervals: dict[str, Interval]
    prob_up: float
    """P(the last close ahead is above the last known one)."""
    prob_up_calibrated: bool
    intervals_calibrated: bool
    measured_coverage: dict[str, Any] | None
    warnings: list[str]


class Timing(BaseModel):
    """Where the time went."""

    queue_ms: float
    compute_ms: float
    batch_series: int


class PredictAnswer(BaseModel):
    """The answer to a `PredictRequest`."""

    id: str
    model: ModelName
    horizon: int
    confidence_level: float
    sample_count: int
    predictions: list[Prediction]
    timing: Timing


__all__ = [
    "Limits",
    "PredictAnswer",
    "PredictRequest",
    "Problem",
    "Refused",
    "Series",
    "parse",
    "read_request",
]
