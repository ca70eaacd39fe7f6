"""What a bar is: six features, five calendar fields, and how a window of bars is normalised.

In: raw prices and volumes, dates. Out: float32 windows on the scale that the networks were trained on, and
back. Everything else in the kit takes column order, epsilon and stamps from here. NumPy only.
Source: Kronos paper (arXiv 2508.02739), section 3; the published loader's epsilon and clip.

Letters used everywhere: B batch, T time steps, S sample paths, H horizon steps, K code bits, D model width.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FEATURES = ("open", "high", "low", "close", "volume", "amount")
OPEN, HIGH, LOW, CLOSE, VOLUME, AMOUNT = range(6)
STAMP_FIELDS = ("minute", "hour", "weekday", "day", "month")
NORM_EPSILON = 1e-5

EpsilonKind = Literal["absolute", "relative"]
FloatArray = NDArray[np.float32]


def amount_from(volume: NDArray, prices: NDArray) -> NDArray:
    """Turnover of bars that came without one: volume x mean(open, high, low, close).

    volume: (...,) shares; prices: (..., 4) open, high, low, close in currency. Returns (...,) in currency.
    """
    return volume * prices.mean(axis=-1)


def calendar_stamps(dates: NDArray[np.datetime64]) -> FloatArray:
    """Calendar fields of each bar: minute 0-59, hour 0-23, weekday 0-6 (Monday 0), day 1-31, month 1-12.

    dates: (...,) datetime64 of any unit, in the exchange's local time. Returns (..., 5) float32,
    `STAMP_FIELDS` order. Raises ValueError on NaT, which has no calendar.
    """
    if np.isnat(dates).any():
        raise ValueError("calendar_stamps: a date is missing (NaT)")
    seconds = dates.astype("datetime64[s]")
    days = seconds.astype("datetime64[D]")
    months = seconds.astype("datetime64[M]")
    minute_of_day = (seconds - days).astype(np.int64) // 60
    fields = (
        minute_of_day % 60,
        minute_of_day // 60,
        (days.astype(np.int64) + 3) % 7,  # 1970-01-01 was a Thursday
        (days - months.astype("datetime64[D]")).astype(np.int64) + 1,
        months.astype(np.int64) % 12 + 1,
    )
    return np.stack(fields, axis=-1).astype(np.float32)


@dataclass(frozen=True)
class WindowStats:
    """Mean and standard deviation of the lookback, per window and feature; each (B, 6) float64.

    `scale` is what a window is divided by: std + epsilon, with 1 where a relative epsilon leaves nothing.
    Windows are normalised in the type of their statistics (float32 only from `published_stats`).
    """

    mean: NDArray[np.floating]
    scale: NDArray[np.floating]


def window_stats(context: NDArray, epsilon: EpsilonKind = "absolute") -> WindowStats:
    """Statistics of the lookback only, computed in float64 with ddof 0.

    context: (B, L, 6) bars that are known at the origin; later bars must never be passed.
    epsilon: 'absolute' adds 1e-5 to every std, as the published weights saw it; 'relative' adds 1e-5 of the
    feature's own magnitude, so that c*x normalises like x for any c > 0.
    """
    wide = np.array(
        context.swapaxes(-1, -2), dtype=np.float64, order="C"
    )  # time last: sums over contiguous memory, 6 x faster
    mean = wide.mean(axis=-1)
    magnitude = np.abs(wide).mean(axis=-1) if epsilon == "relative" else 1.0
    wide -= mean[..., None]
    scale = np.sqrt(np.square(wide, out=wide).mean(axis=-1)) + NORM_EPSILON * magnitude
    return WindowStats(mean, np.where(scale > 0, scale, 1.0))


def published_stats(context: NDArray) -> WindowStats:
    """Statistics as the published loader computes them, in float32: (B, L, 6) -> (B, 6) float32.

    Rounding puts them up to 8e-5 standard deviations off the true ones on ordinary prices. Only for
    reproducing its outputs.
    """
    narrow = context.astype(np.float32)
    return WindowStats(narrow.mean(axis=-2), narrow.std(axis=-2) + np.float32(NORM_EPSILON))


def normalise(bars: NDArray, stats: WindowStats, clip: float) -> FloatArray:
    """(bars - mean) / scale, clipped to +-clip. bars: (B, T, 6) -> (B, T, 6) float32."""
    scaled = bars.astype(stats.mean.dtype)
    scaled -= stats.mean[..., None, :]
    scaled /= stats.scale[..., None, :]
    return np.clip(scaled, -clip, clip, out=scaled).astype(np.float32, copy=False)


def denormalise(scaled: NDArray, stats: WindowStats) -> FloatArray:
    """Undo `normalise` (but for what the clip cut). scaled: (B, ..., 6) -> same shape, float32 price
    units.
    """
    extra = scaled.ndim - stats.mean.ndim
    shape = stats.mean.shape[:-1] + (1,) * extra + stats.mean.shape[-1:]
    wide = scaled.astype(np.float64) * stats.scale.reshape(shape) + stats.mean.reshape(shape)
    with np.errstate(over="ignore"):  # too large for float32 is infinite: callers look, and count it
        return wide.astype(np.float32)
