"""The answerer of a trained head: one pass through the network answers a row for every horizon; nothing is sampled.

In: a head's folder, rows. Out: the score of the trained horizon that is nearest to the one asked for, and P(rise) of its sign.
Source of the network: `kronos.training.head`.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from kronos.answers.answerer import SIMPLICITY, Answer, Kind, Rows
from kronos.bars import calendar_stamps, normalise, window_stats
from kronos.data.channels import ChannelReader
from kronos.data.store import BarStore
from kronos.forecasting.context import MIN_BARS
from kronos.forecasting.rows import BAD_BARS, BAD_FORECAST, FEW_BARS
from kronos.networks.head import Head

log = logging.getLogger(__name__)

LARGEST_LOGIT = 30.0
"""P(rise) stays strictly between 0 and 1."""


@dataclass(eq=False)
class HeadAnswerer:
    """A head on a device. Rows are read `batch_size` at a time; no answer depends on it beyond rounding."""

    head: Head
    device: torch.device
    batch_size: int = 256
    autocast: torch.dtype | None = None
    """Type of the matrix products on a GPU; the tokenizer always runs in float32. None: float32."""
    name: str = "head"
    kind: ClassVar[Kind] = "head"

    def __post_init__(self) -> None:
        self.head = self.head.to(self.device).eval()
        self._channels: ChannelReader | None = None

    @classmethod
    def open(cls, folder: str | Path, device: torch.device, autocast: torch.dtype | None = None) -> "HeadAnswerer":
        """The head that a training stage left (`RUN/head/best_model`). Raises KitError where there is none."""
        return cls(Head.from_pretrained(folder), device, autocast=autocast)

    @property
    def simplicity(self) -> int:
        return SIMPLICITY[self.kind]

    def trained_horizon(self, horizon: int) -> int:
        """The trained horizon nearest to the one asked for, by its ratio; of two equally near ones the shorter."""
        return min(self.head.config.horizons, key=lambda h: (abs(np.log(h / horizon)), h))

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Scores and P(rise) of the rows; a row with fewer than 32 bars or with bars that are not finite has none."""
        score, sign = np.full((2, len(rows)), np.nan)
        reason = rows.reason.astype(np.dtypes.StringDType()) if False else rows.reason.astype("<U64")
        have = rows.last - store.offsets[np.maximum(rows.ticker, 0)] + 1
        reason[rows.open & (have < self._least())] = FEW_BARS
        todo = np.flatnonzero(reason == "")
        column = self._columns(rows.horizon[todo])
        found_score, found_sign = self._read(store, rows.last[todo], have[todo])
        places = np.arange(len(todo))
        score[todo], sign[todo] = found_score[places, column], found_sign[places, column]
        reason[todo[~self._sound(store, rows.last[todo])]] = BAD_BARS
        bad = (reason == "") & ~(np.isfinite(score) & np.isfinite(sign))
        reason[bad] = BAD_FORECAST
        score[reason != ""] = np.nan
        prob = 1 / (1 + np.exp(-np.clip(sign, -LARGEST_LOGIT, LARGEST_LOGIT)))
        return Answer(score, np.where(reason == "", prob, np.nan), reason)
