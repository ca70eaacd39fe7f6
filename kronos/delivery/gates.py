"""What a version has to pass before it is served: to staging whether it works here, to production whether it
is as good and as fast as what is served now.

In: a model's folder, a version. Out: a line per gate, and a link that is moved when all have passed.

    staging      checksums   every file as it was packaged
                 versions    schema, and torch and numpy of the same major version as installed
                 known       features, bar length and calendars that this kit knows
                 golden      the golden forecast to 1e-4
    production   the same again, then against the version that is production now:
                 comparison  no figure of the backtests is significantly worse on the same dates
                 latency     a forecast takes at most 1.2 times as long
                 replay      kept requests: every one answered, bands at most twice or half as wide

The last three can be left out by name, with a reason; both are written into the history.
"""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from kronos.bars import FEATURES, calendar_stamps
from kronos.data.calendar import SessionRules
from kronos.data.frequency import SECONDS
from kronos.delivery import registry
from kronos.delivery.compare import compare
from kronos.delivery.golden import SERIES, check_golden, forecaster_of, load_networks
from kronos.delivery.package_facts import REMEDY, Facts, check_sums, read_facts, read_golden
from kronos.delivery.registry import Change, Version
from kronos.delivery.replay import Loaded, read_kept, replay
from kronos.errors import KitError

log = logging.getLogger(__name__)

SKIPPABLE = ("comparison", "latency", "replay")
SLOWEST = 1.2
"""Largest ratio of seconds, candidate to production."""
ROUNDS = 7
"""Forecasts that are timed of each, in turn; their medians are compared."""
TRIALS = 3
"""So often it is timed before a version counts as slow."""
STEPS = 5
"""Bars ahead of a timed forecast."""
WIDEST = 2.0
"""Bands of the kept requests may become so many times as wide, or as narrow."""


@dataclass(frozen=True)
class Asked:
    """What a promotion to production is compared with, and what is left out."""

    report: Path | None = None
    """A backtest's report.json that scored both networks; None: the packages' own backtests."""
    state: Path | None = None
    """State folder of the service, whose kept requests are replayed."""
    skip: tuple[str, ...] = ()
    """Gates to leave out: of `SKIPPABLE`."""
    why: str = ""
    """The reason, for the history."""
    device: str = "cpu"


@dataclass(frozen=True)
class Gates:
    """What was found about a version."""

    lines: list[str]
    """One per gate that passed, or was left out."""
    refused: list[str]
    """One per gate that did not."""


class Refused(KitError):
    """A version that did not pass; the message names all reasons."""


# -- promoting -----------------------------------------------------------------------------------------------
def promote(
    root: str | Path, alias: registry.Alias, version: str | None = None, asked: Asked | None = None
) -> Change:
    """Check a version and let `staging` or `production` lead to it.

    version: None, for staging the newest (`latest`), for production what is in staging. Raises Refused, and
    moves nothing, when a gate does not pass; KitError where there is no such version.
    """
    root, asked = Path(root), asked or Asked()
    _check_asked(alias, asked)
    chosen = _chosen(root, alias, version)
    found = to_staging(root / str(chosen))
    if alias == "production":
        found = _with_production(root, chosen, found, asked)
    for line in found.lines:
        log.info("%s", line)
    if found.refused:
        raise Refused(f"{root / str(chosen)}: not promoted to {alias}: {'; '.join(found.refused)}")
    why = "; ".join([*filter(None, [asked.why]), *found.lines])
    return registry.point(root, alias, chosen, "promote", why, asked.skip)


def _check_asked(alias: str, asked: Asked) -> None:
    unknown = sorted(set(asked.skip) - set(SKIPPABLE))
    if unknown:
        raise KitError(f"--skip: expected one of {', '.join(SKIPPABLE)}, found {unknown[0]}")
    if asked.skip and not asked.why:
        raise KitError("--skip: expected --why with the reason, which the history keeps, found none")
    if asked.skip and alias != "production":
        raise KitError(f"--skip: expected --to production, found {alias}; its gates cannot be left out")


def _chosen(root: Path, alias: registry.Alias, version: str | None) -> Version:
    if version is not None:
        chosen = Version.parse(version)
        if not (root / str(chosen)).is_dir():
            there = ", ".join(map(str, registry.versions(root))) or "none"
            raise KitError(f"{root / str(chosen)}: expected a version, found none; there are {there}")
        return chosen
    source: registry.Alias = "staging" if alias == "production" else "latest"
    found = registry.current(root, source)
    if found is None:
        remedy = (
            "package a model first" if source == "latest" else "promote it to staging first, or --version"
        )
        raise KitError(f"{root / source}: expected a version to promote, found no link; {remedy}")
    return found


def _with_production(root: Path, chosen: Version, found: Gates, asked: Asked) -> Gates:
    now = registry.named(root, "production")
    if found.refused:
        return found
    why = ""
    if now is None:
        why = "no version is in production yet"
    elif now == chosen:
        why = f"{now} is in production already"
    elif not (root / str(now)).is_dir():
        why = f"production is {now}, which is not there any more"
    if why:
        return Gates([*found.lines, f"comparison, latency, replay: {why}"], [])
    more = against(root / str(chosen), root / str(now), asked)
    return Gates(found.lines + more.lines, more.refused)


# -- to staging ----------------------------------------------------------------------------------------------
def to_staging(folder: Path) -> Gates:
    """Whether a version works here. Ends at the first gate that does not pass: files that are damaged are not
    loaded."""
    lines: list[str] = []
    for name, gate in (
        ("checksums", _checksums),
        ("versions", _versions),
        ("known", _known),
        ("golden", check_golden),
    ):
        try:
            lines.append(f"{name}: {gate(folder)}")
        except KitError as error:
            return Gates(lines, [f"{name}: {error}"])
    return Gates(lines, [])


def _checksums(folder: Path) -> str:
    return f"{check_sums(folder)} files as they were packaged"


def _versions(folder: Path) -> str:
    facts = read_facts(folder)
    notes = []
    for package in ("torch", "numpy"):
        made, here = facts.versions.get(package, ""), metadata.version(package)
        if made.split(".")[0] != here.split(".")[0]:
            raise KitError(
                f"{folder}: expected {package} {made.split('.')[0] or '(not said)'}.x as it was packaged with, "
                f"found {here}; install it, or {REMEDY} here"
            )
        if made.split("+")[0] != here.split("+")[0]:
            notes.append(f"{package} {made} when packaged, {here} here")
    said = "; ".join(notes) + ": the golden forecast decides" if notes else "torch and numpy as installed"
    return f"schema {facts.schema}, {said}"


def _known(folder: Path) -> str:
    facts = read_facts(folder)
    if facts.features != FEATURES:
        raise KitError(
            f"{folder}: expected the features {', '.join(FEATURES)}, found {', '.join(facts.features)}"
        )
    if SECONDS.get(facts.frequency) != facts.bar_seconds:
        raise KitError(
            f"{folder}: expected a bar length of {', '.join(SECONDS)}, found {facts.frequency} of "
            f"{facts.bar_seconds:,} seconds; {REMEDY}"
        )
    for market in facts.markets:
        SessionRules.load(market.calendar)  # refuses a calendar that it does not know
    names = ", ".join(market.calendar for market in facts.markets)
    return f"{len(FEATURES)} features, {facts.frequency} bars, sessions of {names}"


# -- to production -------------------------------------------------------------------------------------------
def against(candidate: str | Path, production: str | Path, asked: Asked | None = None) -> Gates:
    """Whether a version is as good and as fast as another. All gates are looked at, also after one that did
    not pass."""
    asked = asked or Asked()
    pair = []
    for folder in (candidate, production):
        facts = read_facts(folder)
        pair.append(Loaded(facts, load_networks(facts.folder), asked.device))
    new, old = pair
    gates: dict[str, Callable[[], str]] = {
        "comparison": lambda: _comparison(new.facts, old.facts, asked.report),
        "latency": lambda: _latency(new, old),
        "replay": lambda: _replay(new, old, asked.state),
    }
    lines, refused = [], []
    for name, gate in gates.items():
        if name in asked.skip:
            lines.append(f"{name}: left out ({asked.why})")
            continue
        try:
            lines.append(f"{name}: {gate()}")
        except KitError as error:
            refused.append(f"{name}: {error}")
    return Gates(lines, refused)


def _comparison(new: Facts, old: Facts, report: Path | None) -> str:
    found = compare(new, old, report)
    said = "; ".join(difference.line() for difference in found.differences)
    head = f"{found.dates} dates from {found.first} to {found.last}"
    worse = [difference.figure for difference in found.differences if difference.worse]
    if worse:
        raise KitError(
            f"expected {new.version} not to be worse than {old.version}, found it worse in {', '.join(worse)} "
            f"({head}: {said})"
        )
    if all(difference.difference.low is None for difference in found.differences):
        raise KitError(
            f"expected enough common dates to tell whether {new.version} is worse than {old.version}, "
            f"found {found.dates}; run both backtests on more dates"
        )
    return f"{head}: {said}"


def _latency(new: Loaded, old: Loaded) -> str:
    ratio = float("inf")
    for _ in range(TRIALS):  # what is slower is slower each time; a busy machine is not
        seconds = measure([new, old])
        if seconds[0] / seconds[1] < ratio:
            ratio = seconds[0] / seconds[1]
            said = f"{1000 * seconds[0]:.0f} ms against {1000 * seconds[1]:.0f} ms, {ratio:.2f} times"
        if ratio <= SLOWEST:
            break
    if ratio > SLOWEST:
        raise KitError(
            f"expected at most {SLOWEST:g} times as long for a forecast, found {said}; run it again on a quiet "
            "machine, or serve a smaller network"
        )
    return said


def measure(packages: Sequence[Loaded], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Median seconds of each package for one series, its lookback, `STEPS` bars ahead and its own number of
    paths; forecasts in turn, so that a busy machine is busy for all. The first of each is not counted."""
    calls = [_timed_call(package) for package in packages]
    seconds: list[list[float]] = [[] for _ in packages]
    for turn in range(ROUNDS + 1):
        for own, call in zip(seconds, calls, strict=True):
            start = clock()
            call()
            if turn:
                own.append(clock() - start)
    return [statistics.median(own) for own in seconds]


def _timed_call(package: Loaded) -> Callable[[], object]:
    facts, networks = package.facts, package.networks
    golden = read_golden(facts.folder)
    bars = np.resize(np.array(golden.bars, dtype=np.float32), (facts.lookback, len(FEATURES)))[None]
    first = np.array(golden.dates[:1], dtype="datetime64[s]")
    steps = max(1, min(STEPS, facts.max_context - 1))
    dates = facts.next_sessions(first, facts.lookback + steps)
    stamps = calendar_stamps(dates)[None]
    known, ahead = stamps[:, : facts.lookback], stamps[:, facts.lookback :]
    forecaster = forecaster_of(facts, networks, device=package.device)
    return lambda: forecaster.forecast(bars, known, ahead, SERIES)


def _replay(new: Loaded, old: Loaded, state: Path | None) -> str:
    if state is None:
        return "no kept requests given (--state DIR of the service)"
    requests = read_kept(state)
    if not requests:
        return f"no kept requests in {state}"
    found = replay(new, old, requests)
    if found.failed:
        raise KitError(
            f"expected an answer to every kept request, found {len(found.failed)} without, e.g. {found.failed[0]}"
        )
    if not 1 / WIDEST <= found.width <= WIDEST:
        raise KitError(
            f"expected bands at most {WIDEST:g} times as wide or as narrow as production's, found {found.line()}"
        )
    return found.line()
