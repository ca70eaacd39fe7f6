"""What a calibration is and how it is applied: honest probabilities, band width and threshold.

In: raw P(rise), sampled closes, a calibration.json beside the predictor. Out: P(rise), closes with calibrated bands.
How one is fitted: `kronos.evaluation.calibration`. NumPy only.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kronos import files
from kronos.config import Config
from kronos.errors import KitError
from kronos.forecasting.decide import enumerates

FILE = "calibration.json"
EDGE = 1e-3
"""A listed probability is taken as at least this far from 0 and 1: one certain row would bend a whole logistic fit."""
Method = Literal["temperature", "platt", "isotonic"]

FloatArray = NDArray[np.float64]


def smoothed(share: FloatArray, count: int) -> FloatArray:
    """k / S of S = count paths as (k + 0.5) / (S + 1): finitely many paths know nothing for certain."""
    return (share * count + 0.5) / (count + 1)


def uncertain(prob: FloatArray, mass: FloatArray, count: int) -> FloatArray:
    """P(rise) strictly between 0 and 1, (n,): of S = count paths `smoothed`, of a list (mass (n,) is its probability, else NaN)
    at least `EDGE` away from either end; NaN stays NaN."""
    return np.where(np.isnan(mass), smoothed(prob, count), np.clip(prob, EDGE, 1 - EDGE))


def logit(prob: FloatArray) -> FloatArray:
    """ln(p / (1 - p)); p strictly between 0 and 1, else ValueError."""
    if not ((prob > 0) & (prob < 1)).all():
        raise ValueError("logit: a probability is not strictly between 0 and 1; see uncertain")
    return np.log(prob) - np.log1p(-prob)


def sigmoid(x: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x))."""
    return 0.5 * (1 + np.tanh(x / 2))


@dataclass(frozen=True)
class Calibration:
    """P = sigmoid(slope logit(p) + intercept), or a monotone table; paths spread by `width` about their median."""

    method: Method
    horizon: int
    """Trading days ahead that it is for."""
    key: dict[str, Any]
    """What it belongs to (`key_of`)."""
    slope: float = 1.0
    """1 / temperature."""
    intercept: float = 0.0
    width: float = 1.0
    """Factor of the paths' log distance from their median."""
    threshold: float = 0.5
    """Rise above it; not 0.5 only where that survived the date bootstrap on dates it was not chosen on."""
    knots: list[list[float]] = field(default_factory=list)
    """Of an isotonic one: [logit(p), P] pairs, both rising."""
    fitted: dict[str, Any] = field(default_factory=dict)
    """Dates, rows, what was found: for a reader."""

    def prob(self, raw: FloatArray) -> FloatArray:
        """Calibrated P(rise) of `uncertain` values, (n,); both of a price that moves."""
        if self.method == "isotonic":
            x, y = np.array(self.knots, np.float64).T
            return np.interp(logit(raw), x, y)
        return sigmoid(self.slope * logit(raw) + self.intercept)

    def widen(self, closes: NDArray) -> NDArray[np.float32]:
        """Closes (n, S), all positive, with their log distance from the median multiplied by `width`."""
        return widened(closes, self.width)

    def save(self, folder: Path) -> Path:
        """Write calibration.json into a stage's folder."""
        files.write_json(folder / FILE, asdict(self))
        return folder / FILE

    def difference(self, horizon: int, key: dict[str, Any]) -> list[str]:
        """Why it does not fit a forecast with this horizon and key; empty where it does."""
        found = {"horizon": self.horizon, **self.key}
        asked = {"horizon": horizon, **key}
        return [f"{k} {found.get(k)!r} instead of {asked[k]!r}" for k in asked if found.get(k) != asked[k]]


def key_of(config: Config, horizon: int, digest: str, tokenizer_digest: str) -> dict[str, Any]:
    """What forecasts depend on beside bars and random numbers: digests of both networks, context, normalisation, sampling, and
    how P(rise) is found so many steps ahead."""
    own, data = config.inference, config.data
    names = ("temperature", "top_k", "top_p", "sample_count", "decode_rope", "overflow", "anchor")
    key = {"model": digest, "tokenizer": tokenizer_digest, "lookback": data.lookback_window, "max_context": data.max_context}
    listed = enumerates(own.probability, horizon)
    key |= {"mass": own.enumeration_mass, "pairs": own.enumeration_pairs} if listed else {}
    key |= {"probability": "enumerated" if listed else "sampled"}
    key |= {"ties": "apart"}  # of a price that moves; older ones were fitted with ties among the falls
    return key | {"clip": data.clip, "norm_epsilon": data.norm_epsilon} | {name: getattr(own, name) for name in names}


def threshold_of(given: float, calibration: Calibration | None) -> float:
    """inference.threshold where it is set, else the calibration's, else 0.5."""
    return calibration.threshold if calibration is not None and given == 0.5 else given


def widened(closes: NDArray, width: float) -> NDArray[np.float32]:
    """Closes (n, S) spread by `width` about their median in logs; a path at or below 0 has no log and keeps its row as it is."""
    if width == 1:
        return closes.astype(np.float32)
    positive = (closes > 0).all(axis=1)
    result = closes.astype(np.float64)
    logs = np.log(result[positive])
    middle = np.median(logs, axis=1, keepdims=True)
    result[positive] = np.exp(middle + width * (logs - middle))
    return result.astype(np.float32)


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration of a stage's folder, None where there is none. Raises KitError when it cannot be read."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return Calibration(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise KitError(f"{path}: expected a calibration of this version, found {error}; run the backtest again") from error
