"""What a package says about itself: everything that a forecast needs, and what a reader wants to know first.

In: a packaged folder (`kronos.delivery.package`). Out: `Facts`, every value checked when it is read. NumPy
only, no torch: who only asks for the version does not wait for it.

A server reads the facts once, dates a forecast with `Facts.next_sessions`, and loads the networks with
`kronos.delivery.golden.load_networks` and `forecaster_of`, so that it normalises and samples as the package
says.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kronos import files, records
from kronos.answers.decision import Decision
from kronos.answers.findings import FOLDER, read_findings
from kronos.bars import FEATURES
from kronos.data.calendar import TradingCalendar
from kronos.errors import KitError

CHECKSUMS, METADATA = "checksums.json", "metadata.json"
GOLDEN, BACKTEST = "golden.json", "backtest.json"
SCHEMA = 2
"""1: no part `forecast`. 2: `forecast` says calendar, bar length and sampling; golden.json lies beside it."""
REMEDY = "package the run again (scripts/package_model.py)"


@dataclass(frozen=True)
class Market:
    """An exchange: its days come from the kit's frozen calendars, the times of its bars from the data."""

    calendar: str
    """As in `data.calendar`, e.g. XSHG."""
    timezone: str
    """Zone of the exchange's clocks. Stamps are times on them, without a zone."""
    times: tuple[str, ...] = ()
    """HH:MM:SS of the bars of one day, intraday only; empty: the times of the known bars are taken."""
    tickers: tuple[str, ...] = ()
    """Which tickers it is for. The first market of a package is for all that no other one names."""
    endings: tuple[str, ...] = ()
    """The same by the end of the name, e.g. .HK"""


@dataclass(frozen=True)
class Normalised:
    """How a window of bars is normalised, as in the networks' normalisation.json."""

    epsilon: Literal["absolute", "relative"]
    clip: float


@dataclass(frozen=True)
class Sampled:
    """How paths are drawn (`InferenceConfig`), and the precision of the answers."""

    temperature: Annotated[float, ">= 0"]
    top_k: Annotated[int, ">= 0"]
    top_p: Annotated[float, "0 to 1"]
    sample_count: Annotated[int, "> 0"]
    seed: int
    anchor: Literal["last_close", "none"]
    decode_rope: Literal["trained", "original"]
    overflow: Literal["cut", "slide"]
    probability: Literal["auto", "sampled", "enumerated"]
    enumeration_mass: Annotated[float, "0 to 1"]
    enumeration_pairs: Annotated[int, "> 0"]
    precision: Literal["auto", "no", "fp16", "bf16", "float32", "int8"]
    """`inference.precision`, else `training.mixed_precision`; what a device makes of it: `pair.autocast_of`."""


@dataclass(frozen=True)
class Facts:
    """A package in typed form. The networks themselves: `kronos.delivery.golden.load_networks`."""

    folder: Path
    schema: int
    name: str
    version: str
    """vX.Y.Z"""
    digest: str
    """SHA-256 of checksums.json: two packages with the same one have the same bytes in every file."""
    created: str
    """UTC, YYYY-MM-DDTHH:MM:SSZ"""
    licence: str
    kit: str
    """Version of the kit that packaged it; empty in schema 1."""
    versions: dict[str, str]
    """torch, numpy, safetensors: the installed versions when it was packaged."""
    networks: dict[str, str]
    """tokenizer, predictor: digest of each network's folder, as in a decision's key."""
    markets: tuple[Market, ...]
    """At least one; the first is the rule."""
    frequency: str
    """daily, weekly, monthly or e.g. 60min"""
    bar_seconds: int
    """Seconds between two bars of one session; a month is a twelfth of a year."""
    features: tuple[str, ...]
    """Columns of a bar, in order."""
    normalisation: Normalised
    lookback: int
    """Bars of history that it was trained with. A longer history is cut to it."""
    predict_window: int
    """Bars that it was trained to predict behind the lookback."""
    max_context: int
    """Most bars that the predictor sees at once."""
    horizon: int | None
    """`inference.horizon` of the run, where it was set."""
    sampling: Sampled
    decisions: dict[int, Decision] = field(default_factory=dict)
    """Horizon in trading days -> how scores of the network become P(rise), where a backtest left one."""
    train_end: str | None = None
    """Last day of training data, YYYY-MM-DD; None: networks as published, not known."""
    backtest: dict[str, Any] | None = None
    """verdict, dates and entries of the backtest of these weights; None: nobody has tested them."""

    @property
    def verdict(self) -> str:
        """The backtest's verdict in one line, or that there is none."""
        if self.backtest is None:
            return "no backtest of these weights: nothing is known about its skill"
        return str(self.backtest["verdict"]["headline"])

    @property
    def horizons(self) -> tuple[int, ...]:
        """Horizons with a decision, shortest first."""
        return tuple(sorted(self.decisions))

    def market_of(self, ticker: str) -> Market:
        """The exchange of a ticker: the one that names it, or the longest fitting ending, or the first."""
        found, longest = self.markets[0], 0
        for market in self.markets:
            if ticker in market.tickers:
                return market
            for ending in market.endings:
                if ticker.lower().endswith(ending.lower()) and len(ending) > longest:
                    found, longest = market, len(ending)
        return found

    def next_sessions(
        self, known: NDArray[np.datetime64], count: int, ticker: str = ""
    ) -> NDArray[np.datetime64]:
        """The `count` bars that follow the last known one in the ticker's market, (count,) datetime64[s].

        known: (n,) rising exchange-local times of the known bars, n >= 1. Raises KitError for a calendar that
        the kit does not know, and beyond the last year that it knows.
        """
        market = self.market_of(ticker)
        times = None
        if market.times:
            times = np.array([_since_midnight(text) for text in market.times], dtype="timedelta64[s]")
        calendar = TradingCalendar(known, market.calendar, self.frequency, times)
        return calendar.future(calendar.sessions[-1], count)


def read_facts(folder: str | Path) -> Facts:
    """The facts of a packaged folder (or of a link to one).

    Raises KitError, one line, for a folder that is no package, a value that is not what it can be, and a
    package of schema 1, which does not say its calendar nor its sampling.
    """
    folder = Path(folder).resolve()
    for name in (METADATA, CHECKSUMS):
        if not (folder / name).is_file():
            raise KitError(
                f"{folder / name}: expected a packaged model (scripts/package_model.py), found no such file"
            )
    return _read(folder, files.digest(folder / CHECKSUMS))


def read_unsealed(folder: Path) -> Facts:
    """The facts of a package that is being made: its files have no checksums yet, so `digest` is empty."""
    return _read(folder, "")


def _read(folder: Path, digest: str) -> Facts:
    head = records.read(folder / METADATA, _Head, remedy=REMEDY)
    if head.schema > SCHEMA:
        raise KitError(
            f"{folder / METADATA}: expected schema {SCHEMA} at most, found {head.schema}; "
            "it was packaged by a newer kit: update this one"
        )
    if head.forecast is None:
        raise KitError(
            f"{folder / METADATA}: expected schema {SCHEMA} with calendar, bar length and sampling, "
            f"found schema {head.schema} without them; {REMEDY}"
        )
    return _facts(folder, digest, head, head.forecast)


# -- the golden forecast -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Golden:
    """golden.json."""

    seed: int
    paths: Annotated[int, "> 0"]
    horizon: Annotated[int, "> 0"]
    dates: list[str]
    """Of the known bars and of the forecast ones, L + H."""
    bars: list[list[float]]
    """(L, 6) known bars."""
    forecast: list[list[list[float]]]
    """(S, H, 6) bars of every path."""
    state: list[float]
    """(D,) the predictor's state at the last known bar."""


def read_golden(folder: str | Path) -> Golden:
    """Raises KitError where a package has none, or another form."""
    path = Path(folder) / GOLDEN
    if not path.is_file():
        raise KitError(f"{path}: expected the golden forecast, found none; {REMEDY}")
    golden = records.read(path, Golden, remedy=REMEDY)
    wide = {len(bar) for bar in golden.bars}
    for steps in golden.forecast:
        wide |= {len(bar) for bar in steps}
    if wide != {len(FEATURES)} or len(golden.dates) != len(golden.bars) + golden.horizon:
        raise KitError(f"{path}: expected bars of 6 numbers and a date for each, found others; {REMEDY}")
    return golden


# -- whole and as it was written ------------------------------------------------------------------------------
def check_sums(folder: Path) -> int:
    """The number of files that are as checksums.json says. Raises KitError where one is not, or one lies
    there that it does not name."""
    expected = records.read(folder / CHECKSUMS, dict[str, str], remedy="fetch the package again")
    found = {str(p.relative_to(folder)): files.digest(p) for p in contents(folder)}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        what = "other content"
        if name not in expected:
            what = "a file that was not packaged"
        elif name not in found:
            what = "no file"
        raise KitError(
            f"{folder / name}: expected what {CHECKSUMS} lists, found {what}; fetch the package again"
        )
    return len(found)


def contents(folder: Path) -> Iterator[Path]:
    """Every file but the list of checksums itself and what a hub client keeps beside a download."""
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.name != CHECKSUMS
            and not path.relative_to(folder).parts[0].startswith(".")
        ):
            yield path


# -- the file ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Window:
    """`window` of metadata.json."""

    lookback: Annotated[int, "> 0"]
    predict: Annotated[int, "> 0"]
    max_context: Annotated[int, "> 0"]
    clip: Annotated[float, "> 0"]
    norm_epsilon: Literal["absolute", "relative"]
    features: tuple[str, ...]


@dataclass(frozen=True)
class ForecastPart:
    """`forecast` of metadata.json, since schema 2."""

    markets: tuple[Market, ...]
    frequency: str
    bar_seconds: Annotated[int, "> 0"]
    sampling: Sampled
    horizon: Annotated[int, "> 0"] | None = None


@dataclass(frozen=True)
class _Network:
    digest: str


@dataclass(frozen=True)
class _Verdict:
    headline: str


@dataclass(frozen=True)
class _Backtest:
    verdict: _Verdict


@dataclass(frozen=True)
class _Head:
    """As much of metadata.json as the facts are made of."""

    schema: Annotated[int, "> 0"]
    name: str
    version: str
    created: str
    licence: str
    networks: dict[str, _Network]
    window: Window
    versions: dict[str, str]
    train_end: str | None = None
    backtest: _Backtest | None = None
    kit: str = ""
    forecast: ForecastPart | None = None


def _facts(folder: Path, digest: str, head: _Head, forecast: ForecastPart) -> Facts:
    path = folder / METADATA
    if not forecast.markets:
        raise KitError(f"{path}: forecast.markets: expected at least one market, found none; {REMEDY}")
    missing = sorted({"tokenizer", "predictor"} - set(head.networks))
    if missing:
        raise KitError(f"{path}: networks: expected the digest of the {missing[0]}, found none; {REMEDY}")
    whole = records.read(path, dict[str, Any], remedy=REMEDY)
    digests = {kind: network.digest for kind, network in head.networks.items()}
    return Facts(
        folder=folder,
        schema=head.schema,
        name=head.name,
        version=head.version,
        digest=digest,
        created=head.created,
        licence=head.licence,
        kit=head.kit,
        versions=head.versions,
        networks=digests,
        markets=forecast.markets,
        frequency=forecast.frequency,
        bar_seconds=forecast.bar_seconds,
        features=head.window.features,
        normalisation=Normalised(head.window.norm_epsilon, head.window.clip),
        lookback=head.window.lookback,
        predict_window=head.window.predict,
        max_context=head.window.max_context,
        horizon=forecast.horizon,
        sampling=forecast.sampling,
        decisions=_decisions(folder),
        train_end=head.train_end,
        backtest=whole.get("backtest"),
    )


def _decisions(folder: Path) -> dict[int, Decision]:
    """Of the network itself, one per horizon that a backtest left findings for."""
    found: dict[int, Decision] = {}
    for path in sorted((folder / FOLDER).glob("horizon-*.json")):
        horizon = path.stem.removeprefix("horizon-")
        findings = read_findings(folder, int(horizon)) if horizon.isdecimal() else None
        if findings is None:
            raise KitError(f"{path}: expected findings named horizon-H.json, found another name; {REMEDY}")
        main = findings.of(findings.main)
        network = main is not None and main.kind in ("paths", "enumeration")
        if main is not None and main.decision is not None and network:
            found[int(horizon)] = main.decision
    return found


def _since_midnight(text: str) -> np.timedelta64:
    """'09:35:00' as a time of day. Raises KitError on anything else."""
    try:
        hours, minutes, seconds = map(int, text.split(":"))
    except ValueError:
        raise KitError(f"market times: expected HH:MM:SS, found {text!r}; {REMEDY}") from None
    return np.timedelta64(3600 * hours + 60 * minutes + seconds, "s")
