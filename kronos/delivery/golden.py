"""A package's networks as a forecaster, and one small forecast that it has to repeat wherever it is loaded.

In: a packaged folder. Out: its networks, a `Forecaster` set up as its facts say, `golden.json` and how far a
forecast made now is from it.

    golden.json   bars and dates of one series (a synthetic walk on days of the package's calendar), seed,
                  the bars of every path, and the predictor's state at the last known bar

The bars are synthetic, so that a package that is given away holds no prices. The paths say whether all of it
works: reading, normalising, both networks, sampling, decoding. Sampled tokens are whole numbers, so a small
error may leave every path as it was: the state, before any sampling, moves with every weight that it passes.

A server uses it like this, before it says that it is ready and before it swaps a version in:

    facts, networks = read_facts(folder), load_networks(folder)
    if golden_difference(folder, networks, device) > GATE: keep the old version

Loading the networks takes most of the time of it. The check always computes in float32; a server that answers
in half precision checks first and then casts, since half precision differs by more than the gate.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kronos import files
from kronos.bars import FEATURES, calendar_stamps
from kronos.delivery.package_facts import GOLDEN, REMEDY, Facts, Golden, read_facts, read_golden
from kronos.errors import KitError
from kronos.forecasting.context import room
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.next_step import Enumeration
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos, KronosTokenizer

GATE = 1e-4
"""Largest relative difference from the golden forecast with which a version may serve."""
PATHS, STEPS, MOST_BARS, SEED = 5, 5, 256, 20_240_101
START = "2001-01-02"
"""The walk begins with the first session after it: a day that every calendar knows, also 400 months later."""
SERIES = np.array([7], dtype=np.int64)


@dataclass(frozen=True)
class Networks:
    """A package's pair."""

    model: Kronos
    tokenizer: KronosTokenizer


def load_networks(folder: str | Path) -> Networks:
    """Both networks of a package, on the processor, ready to forecast. Raises KitError where one is not."""
    folder = Path(folder)
    return Networks(
        Kronos.from_pretrained(folder / "predictor"), KronosTokenizer.from_pretrained(folder / "tokenizer")
    )


def forecaster_of(
    facts: Facts,
    networks: Networks,
    *,
    device: str | torch.device = "cpu",
    sample_count: int | None = None,
    seed: int | None = None,
    autocast: torch.dtype | None = None,
    integers: bool = False,
    batch_size: int | None = None,
) -> Forecaster:
    """A forecaster that normalises and samples as the package says.

    sample_count, seed: None, as the package says. autocast, integers: see `Settings`. Networks
    are moved to `device` and may be shared by several forecasters. Raises KitError as `Forecaster` does.
    """
    own = facts.sampling
    settings = Settings(
        max_context=facts.max_context,
        clip=facts.normalisation.clip,
        epsilon=facts.normalisation.epsilon,
        sampling=Sampling(
            temperature=own.temperature,
            top_k=own.top_k,
            top_p=own.top_p,
            sample_count=sample_count or own.sample_count,
            seed=own.seed if seed is None else seed,
            decode_rope=own.decode_rope,
        ),
        batch_size=batch_size,
        overflow=own.overflow,
        autocast=autocast,
        integers=integers,
        anchor=own.anchor == "last_close",
        probability=own.probability,
        enumeration=Enumeration(own.enumeration_mass, own.enumeration_pairs),
    )
    return Forecaster(networks.model, networks.tokenizer, settings, torch.device(device))


def make_golden(facts: Facts, networks: Networks) -> Golden:
    """The golden forecast of a package. Raises KitError where it is not finite, or not the same twice."""
    steps = max(1, min(STEPS, facts.max_context - 1))
    length = max(1, min(facts.lookback, MOST_BARS, room(steps, facts.max_context)))
    dates = facts.next_sessions(np.array([START], dtype="datetime64[s]"), length + steps)
    asked = Golden(SEED, PATHS, steps, [str(date) for date in dates], _walk(length).tolist(), [], [])
    (found, state), (again, _) = (_compute(facts, networks, asked, "cpu") for _ in range(2))
    if not (np.isfinite(found).all() and np.isfinite(state).all() and np.array_equal(found, again)):
        raise KitError(
            f"{facts.folder}: expected a finite forecast that is the same twice, found another; "
            "train the network again"
        )
    return Golden(
        asked.seed, asked.paths, asked.horizon, asked.dates, asked.bars, found.tolist(), state.tolist()
    )


def golden_difference(
    folder: str | Path, networks: Networks, device: str | torch.device = "cpu", facts: Facts | None = None
) -> float:
    """How far the networks, as loaded here, are from the package's golden forecast: the largest difference of
    a number, relative to the root mean square of its feature (open, close, volume, ..., or the state).

    At most `GATE`: the version may serve. Infinity where a number is not finite. facts: where they are read
    already. Raises KitError where golden.json is missing or is not what it should be.
    """
    facts = facts or read_facts(folder)
    golden = read_golden(folder)
    expected = [*np.array(golden.forecast).reshape(-1, len(FEATURES)).T, np.array(golden.state)]
    forecast, state = _compute(facts, networks, golden, device)
    found = [*forecast.reshape(-1, len(FEATURES)).T, state]
    largest = 0.0
    for one, own in zip(expected, found, strict=True):
        if one.shape != own.shape:
            raise KitError(
                f"{Path(folder) / GOLDEN}: expected {own.shape} numbers, found {one.shape}; {REMEDY}"
            )
        if not np.isfinite(own).all():
            return float("inf")
        size = max(float(np.sqrt(np.mean(one**2))), float(np.finfo(np.float32).tiny))
        largest = max(largest, float(np.abs(own - one).max()) / size)
    return largest


def write_golden(folder: Path, golden: Golden) -> None:
    """Write golden.json into a package that is being made."""
    tree: dict[str, Any] = vars(golden)
    files.write_json(folder / GOLDEN, tree)


def _compute(
    facts: Facts, networks: Networks, golden: Golden, device: str | torch.device
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Paths (S, H, 6) and the state (D,) of the golden series, by the networks as they are."""
    forecaster = forecaster_of(facts, networks, device=device, sample_count=golden.paths, seed=golden.seed)
    bars = np.array(golden.bars, dtype=np.float32)[None]
    stamps = calendar_stamps(np.array(golden.dates, dtype="datetime64[s]"))[None]
    length = bars.shape[1]
    found = forecaster.forecast(bars, stamps[:, :length], stamps[:, length:], SERIES)
    state = forecaster.hidden_states(bars, stamps[:, :length])
    return found.paths[0].astype(np.float64), state[0].astype(np.float64)


def _walk(length: int) -> NDArray[np.float32]:
    """(L, 6) bars of a random walk around 100, with volume."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, length)))
    open_ = close * np.exp(rng.normal(0, 0.003, length))
    high = np.maximum(open_, close) * np.exp(np.abs(rng.normal(0, 0.003, length)))
    low = np.minimum(open_, close) * np.exp(-np.abs(rng.normal(0, 0.003, length)))
    volume = 1e5 * np.exp(rng.normal(0, 0.3, length))
    return np.stack([open_, high, low, close, volume, volume * close], axis=1).astype(np.float32)


def check_golden(folder: Path) -> str:
    """That the golden forecast is repeated, in words. Raises KitError where it is not."""
    difference = golden_difference(folder, load_networks(folder))
    if difference > GATE:
        raise KitError(
            f"{folder / GOLDEN}: expected the golden forecast within {GATE:g}, found a difference of "
            f"{difference:.2g}; compare the versions of torch and numpy with metadata.json, or {REMEDY} here"
        )
    return f"golden, largest difference {difference:.2g} of {GATE:g} allowed"
