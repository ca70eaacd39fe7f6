"""One packaged version, loaded once and ready to answer: from a checked request to its answer.

In: a package folder. Out: `Served`. `prepare` cuts histories and dates the bars to come, `compute` makes one
forecaster call of several callers' series, `answer` says what came of it. Each step gives the same bits
whoever shares the call (`apart`): random numbers are keyed by series_id, a path does not depend on how many there are,
a step not on how many follow.

Letters: B series of one request, L bars, H steps, S paths.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kronos.bars import CLOSE, FloatArray, calendar_stamps
from kronos.delivery.golden import GATE, forecaster_of, golden_difference, load_networks
from kronos.delivery.package_facts import Facts, check_sums, read_facts
from kronos.errors import KitError
from kronos.forecasting.context import MIN_BARS, room
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.pair import autocast_of
from kronos.forecasting.result import Forecast
from kronos.forecasting.rows import series_keys
from kronos.service import chances, views
from kronos.service.apart import Share, SharedForecaster
from kronos.service.refusals import Problem, refused
from kronos.service.schema import PredictRequest, Series, paths_for

log = logging.getLogger(__name__)

KNOWN_DATES = 256
"""Lists of dates whose next sessions are remembered: a desk's series share theirs, and so do its requests."""
MOST_PATHS = {"cpu": 512, "cuda": 1 << 20}
"""Series x paths of one call: a processor is no faster with more, and everybody in the call waits longer."""


@dataclass(frozen=True)
class Prepared:
    """B series of one request as the forecaster takes them."""

    names: list[str]
    bars: list[FloatArray]
    """B times (L_i, 6): what is used of each history."""
    stamps: list[FloatArray]
    """B times (L_i, 5)"""
    dates: NDArray[np.datetime64]
    """(B, H) of the bars to come."""
    keys: NDArray[np.int64]
    """(B,) of the random numbers."""
    ties: NDArray[np.float64]
    """(B,) P(the last close ahead equals the last known one)."""
    warnings: list[list[str]]
    paths: int
    seed: int

    @property
    def steps(self) -> int:
        """Bars to forecast."""
        return self.dates.shape[1]

    @property
    def length(self) -> int:
        """Bars of its longest history."""
        return max(len(bars) for bars in self.bars)

    def part(self, which: slice) -> "Prepared":
        """Some of the series."""
        names = ("names", "bars", "stamps", "dates", "keys", "ties", "warnings")
        return replace(self, **{name: getattr(self, name)[which] for name in names})


@dataclass(frozen=True)
class Computed:
    """What the networks gave for B series."""

    paths: FloatArray
    """(B, S, H, 6) price units."""
    listed: NDArray[np.float64] | None
    """(B,) P(rise) by enumeration, where outcomes are listed."""


class Served:
    """A version whose networks are in memory and whose golden forecast was right."""

    def __init__(self, facts: Facts, forecaster: Forecaster, difference: float, golden_s: float) -> None:
        """difference, golden_s: from the golden forecast, and the seconds that it took."""
        self.facts, self.forecaster = facts, forecaster
        self.difference, self.golden_s = difference, golden_s
        self._futures: dict[tuple[str, bytes, int], NDArray[np.datetime64]] = {}
        self.name, self.version, self.digest = facts.name, facts.version, facts.digest

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "Served":
        """Check a packaged folder's files, read facts and networks, once, and make its golden forecast.

        Raises KitError where the folder is no whole package, or its forecast is not the one that it was
        packaged with.
        """
        facts = read_facts(folder)
        check_sums(facts.folder)  # a golden forecast does not see a damaged decision
        networks = load_networks(folder)
        begun = time.perf_counter()
        difference = golden_difference(folder, networks, device, facts)
        golden_s = time.perf_counter() - begun
        if not difference <= GATE:
            raise KitError(
                f"{folder}: expected its golden forecast within {GATE:g}, found a difference of {difference:.2g}; "
                "package the run again, or serve another version"
            )
        autocast = autocast_of(facts.sampling.precision, torch.device(device))
        integers = facts.sampling.precision == "int8"
        own = forecaster_of(facts, networks, device=device, autocast=autocast, integers=integers)
        return cls(facts, own, difference, golden_s)

    @property
    def identity(self) -> dict[str, str]:
        """What an answer says of the model."""
        return {"name": self.name, "version": self.version, "digest": self.digest}

    def most_series(self, request: PredictRequest) -> int:
        """Series of such a request that are computed at once, by the memory that is free now and what the
        processor takes: the size of a job's chunk.
        """
        longest = max(len(series.timestamps) for series in request.stock_data)
        return self.at_once(min(longest, self.facts.lookback), request.prediction_horizon, request.paths)

    def at_once(self, length: int, steps: int, paths: int) -> int:
        """Series that are computed at once, of at most so many bars, steps and paths each."""
        planner = self.forecaster.using(sampling=replace(self.forecaster.sampling, sample_count=paths))
        by_paths = MOST_PATHS[planner.device.type] // paths
        return max(1, min(planner.memory_plan(length, steps).series, by_paths))

    def forecast(self, request: PredictRequest) -> dict[str, Any]:
        """The whole answer to a request but its id and timing, JSON types only; what HTTP callers get, too.

        Raises Refused as `prepare` and `answer` do.
        """
        prepared = self.prepare(request)
        return self.answer(request, prepared, self.compute([prepared])[0])

    # -- before ----------------------------------------------------------------------------------------------
    def prepare(self, request: PredictRequest) -> Prepared:
        """Cut histories to the lookback and date the bars to come.

        Raises Refused (422) with every series whose dates are not known or whose horizon does not fit.
        """
        problems = self._too_long(request)
        dates = []
        for place, series in enumerate(request.stock_data):
            found = self._future(series, request.prediction_horizon)
            if isinstance(found, Problem):
                problems.append(replace(found, where=f"stock_data[{place}].{found.where}"))
            else:
                dates.append(found)
        if problems:
            raise refused(problems)
        bars, stamps = [], []
        for series in request.stock_data:
            used = self._used(len(series.timestamps), request.prediction_horizon)
            bars.append(series.bars()[-used:])
            stamps.append(calendar_stamps(series.dates()[-used:]))
        steps = request.prediction_horizon
        ties = [chances.tie_share(np.array(s.close, np.float32), steps) for s in request.stock_data]
        names = [series.series_id for series in request.stock_data]
        return Prepared(
            names,
            bars,
            stamps,
            np.stack(dates),
            series_keys(names),
            np.array(ties),
            [self._warnings(request, series) for series in request.stock_data],
            request.paths,
            request.seed,
        )

    def _used(self, length: int, steps: int) -> int:
        """Bars of a history that the forecast rests on: what the library would use, too."""
        used = min(length, self.facts.lookback)
        if self.forecaster.settings.overflow == "slide":
            return used
        return min(used, room(steps, self.facts.max_context))

    def _too_long(self, request: PredictRequest) -> list[Problem]:
        steps, limit = request.prediction_horizon, self.facts.max_context
        longest = max(len(series.timestamps) for series in request.stock_data)
        least = min(MIN_BARS, self.facts.lookback, longest)
        most = limit - 1 if self.forecaster.settings.overflow == "slide" else room(least, limit)
        if steps <= most:
            return []
        expected = f"at most {max(most, 0)}, beside {least} known bars in the model's {limit}"
        return [Problem("prediction_horizon", expected, f"{steps}", "ask for fewer steps")]

    def _future(self, series: Series, steps: int) -> NDArray[np.datetime64] | Problem:
        """(H,) dates of the bars to come: as given, else the next sessions of the exchange."""
        if (given := series.future()) is not None:
            return given
        dates = series.dates()
        market = self.facts.market_of(series.series_id).calendar
        key = (market, dates.tobytes(), steps)
        if (known := self._futures.get(key)) is not None:
            return known
        if not _fits(dates, self.facts.bar_seconds):
            return Problem(
                "timestamps",
                f"{self.facts.frequency} bars, as the model was trained on, or future_timestamps",
                "bars of another length",
                "send bars of that length, or name future_timestamps",
            )
        try:
            found = self.facts.next_sessions(dates, steps, series.series_id)
        except KitError as error:
            why = f"none known ({error})"
            return Problem("future_timestamps", "dates of the bars to come", why, "name them")
        if len(self._futures) >= KNOWN_DATES:
            self._futures.clear()
        self._futures[key] = found
        return found

    def _warnings(self, request: PredictRequest, series: Series) -> list[str]:
        said = []
        length, lookback = len(series.timestamps), self.facts.lookback
        if length < lookback:
            said.append(f"{length} known bars; the model was trained with {lookback}")
        if not _fits(series.dates(), self.facts.bar_seconds):
            said.append(f"the bars are not {self.facts.frequency}, as the model was trained")
        if series.volume is None:
            said.append("no volume: taken from the amount, else 0")
        tail = (1 - request.confidence_level) / 2
        if tail * (request.paths + 1) < 1:
            said.append(
                f"no intervals: {request.paths} paths are too few for the level {request.confidence_level:g}"
            )
        elif request.paths < paths_for(request.confidence_level):
            said.append(f"rough intervals: {request.paths} paths are few for this level")
        _, why = chances.decision_of(self.facts, request.prediction_horizon)
        if why:
            said.append(why)
        return said

    # -- the networks ----------------------------------------------------------------------------------------
    def compute(self, parts: Sequence[Prepared]) -> list[Computed]:
        """One forecaster call for several requests' series of one seed; each gets its own steps and paths.

        Only one thread may call this.
        """
        steps, paths = max(part.steps for part in parts), max(part.paths for part in parts)
        sampling = replace(self.forecaster.sampling, sample_count=paths, seed=parts[0].seed)
        own, size = self.forecaster, sum(len(part.bars) for part in parts)
        # One batch whatever memory is free now: the last bits of an answer depend on the batch's shape, and a
        # chunk that is done again has to give the same bytes. It is halved only when memory runs out.
        settings = replace(own.settings, sampling=sampling, batch_size=size)
        forecaster = SharedForecaster(own.model, own.tokenizer, settings, own.device, _shares(parts))
        bars = [bars for part in parts for bars in part.bars]
        stamps = [stamps for part in parts for stamps in part.stamps]
        dates = np.concatenate([_padded(part.dates, steps) for part in parts])
        keys = np.concatenate([part.keys for part in parts])
        given = (bars, stamps, calendar_stamps(dates), keys)
        found = forecaster.forecast(*given).paths
        listed = forecaster.next_step(*given).prob_up if self._lists(steps) else None
        result = []
        for one in forecaster.shares:
            own_listed = None if listed is None else listed[one.rows]
            result.append(Computed(found[one.rows, : one.paths, : one.steps], own_listed))
        return result

    def shares(self, one: Prepared, other: Prepared) -> bool:
        """Whether the series of two requests can be computed in one call, with the same answers as apart.

        Of one seed and one length, so that the networks see one batch; steps and paths within a factor 2,
        because all pay for the most of both. The decoder sees max_context bars, known and to come: where a
        longer horizon would cut what it sees of the known ones, horizons have to be equal.
        """
        if one.seed != other.seed or one.length != other.length:
            return False
        if min(map(len, one.bars)) != one.length or min(map(len, other.bars)) != other.length:
            return False
        if self._lists(one.steps) != self._lists(other.steps):
            return False
        fits = one.length + max(one.steps, other.steps) <= self.facts.max_context
        if one.steps != other.steps and not fits:
            return False
        return _near(one.steps, other.steps) and _near(one.paths, other.paths)

    def _lists(self, steps: int) -> bool:
        """Whether P(rise) comes from listed outcomes: only one step ahead can be listed."""
        return steps == 1 and self.forecaster.enumerates(1)

    # -- after -----------------------------------------------------------------------------------------------
    def answer(self, request: PredictRequest, prepared: Prepared, computed: Computed) -> dict[str, Any]:
        """What the paths say, JSON types only. Raises Refused (422) with every series whose forecast is not
        finite.
        """
        last = np.array([bars[-1, CLOSE] for bars in prepared.bars], np.float32)
        forecast = Forecast(computed.paths, last)
        bad = np.flatnonzero(~forecast.finite)
        if len(bad):
            remedy = "look at its prices and volumes: they are far from what the model was trained on"
            raise refused(
                [Problem(f"stock_data[{i}]", "a finite forecast", "NaN or infinity", remedy) for i in bad]
            )
        decision, _ = chances.decision_of(self.facts, prepared.steps)
        closes = computed.paths[:, :, -1, CLOSE]
        rises = chances.prob_up(chances.Known(closes, last, prepared.ties, computed.listed), decision)
        shown = views.predictions(forecast.repaired(), request.confidence_level, decision)
        for row, prediction in enumerate(shown):
            prediction |= {
                "series_id": prepared.names[row],
                "timestamps": views.date_texts(prepared.dates[row]),
                "used_bars": len(prepared.bars[row]),
                "prob_up": float(rises[row]),
                "prob_up_calibrated": decision is not None,
                "warnings": prepared.warnings[row],
            }
        return {
            "model": self.identity,
            "horizon": prepared.steps,
            "confidence_level": request.confidence_level,
            "sample_count": prepared.paths,
            "predictions": shown,
        }


def _fits(dates: NDArray[np.datetime64], seconds: int) -> bool:
    """Whether the commonest step between bars is about the model's bar length: within a factor 2."""
    steps, seen = np.unique(np.diff(dates).astype(np.int64), return_counts=True)
    commonest = int(steps[seen.argmax()])
    return seconds / 2 <= commonest <= 2 * seconds


def _shares(parts: Sequence[Prepared]) -> tuple[Share, ...]:
    """What each request has of a call, in order."""
    found, first = [], 0
    for part in parts:
        rows = slice(first, first + len(part.bars))
        found.append(Share(rows, part.paths, part.steps))
        first = rows.stop
    return tuple(found)


def _padded(dates: NDArray[np.datetime64], steps: int) -> NDArray[np.datetime64]:
    """(B, steps): the last date again behind the end; nothing that is asked for depends on it."""
    return np.pad(dates, ((0, 0), (0, steps - dates.shape[1])), mode="edge")


def _near(one: int, other: int) -> bool:
    return max(one, other) <= 2 * min(one, other)
