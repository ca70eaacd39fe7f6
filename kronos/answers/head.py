"""The answerer of a trained head: one pass through the network answers a row for every horizon; nothing is
sampled.

In: a head's folder, rows. Out: the score of the trained horizon that is nearest to the one asked for, and
P(rise) of its sign.
Source of the network: `kronos.training.head`.
"""

import functools
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kronos.answers.answerer import SIMPLICITY, Answer, Kind, Rows
from kronos.bars import EpsilonKind
from kronos.config import Config
from kronos.data.channels import ChannelReader
from kronos.data.store import BarStore
from kronos.data.windows import WindowReader
from kronos.errors import KitError
from kronos.forecasting.context import MIN_BARS
from kronos.forecasting.rows import BAD_BARS, BAD_FORECAST, FEW_BARS
from kronos.networks.head import Head
from kronos.training.device import in_halves
from kronos.training.folder import read_summary

log = logging.getLogger(__name__)

LARGEST_LOGIT = 30.0
"""P(rise) stays strictly between 0 and 1."""
BARS_AT_ONCE = (8192, 262_144)
"""Bars of one pass, on a processor (what stays in its cache) and on a GPU."""
CHUNK = 4096
"""Samples whose bars are looked at together."""


class _Found(NamedTuple):
    """What a head says about n samples at all of its horizons."""

    score: NDArray[np.float64]
    """(n, K)"""
    sign: NDArray[np.float64]
    """(n, K) log odds of a rise."""


@dataclass(eq=False)
class HeadAnswerer:
    """A head on a device."""

    head: Head
    device: torch.device
    autocast: torch.dtype | None = None
    """Type of the matrix products of everything but the tokenizer; None: float32."""
    batch_size: int | None = None
    """Samples in one pass; no answer depends on it beyond rounding. None: as many as suit the device.

    A pass holds samples of one date only, so no bit of a date's answers depends on which other dates are
    asked."""
    name: str = "head"
    kind: ClassVar[Kind] = "head"

    def __post_init__(self) -> None:
        self.head = self.head.to(self.device).eval()
        self._channels: ChannelReader | None = None

    @classmethod
    def open(
        cls, folder: str | Path, device: torch.device, autocast: torch.dtype | None = None
    ) -> "HeadAnswerer":
        """The head that its stage left (`RUN/head/best_model`). Raises KitError where there is none."""
        return cls(Head.from_pretrained(folder), device, autocast)

    @classmethod
    def of_run(
        cls, config: Config, device: torch.device, autocast: torch.dtype | None = None
    ) -> "HeadAnswerer":
        """The head of a run. Raises KitError where its stage has not been trained to its end."""
        summary = read_summary(config.head_dir)
        if summary is None:
            raise KitError(
                f"{config.head_dir}: expected a trained head, found none; train it: experiment.train_head: true, or "
                "kaggle/train_stage.py --stage head"
            )
        if summary["status"] != "complete":
            raise KitError(
                f"{config.head_dir}: expected a complete head stage, found it {summary['status']} at step {summary['step']} of "
                f"{summary['total_steps']}; finish it first"
            )
        return cls.open(config.head_dir / "best_model", device, autocast)

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return SIMPLICITY[self.kind]

    @property
    def horizons(self) -> tuple[int, ...]:
        """Trading days ahead that it was trained for, rising."""
        return tuple(self.head.config.horizons)

    def trained_horizon(self, horizon: int) -> int:
        """The trained horizon whose ratio to the one asked for is nearest to 1; of two equally near ones the
        shorter.
        """
        return min(self.head.config.horizons, key=lambda trained: (abs(math.log(trained / horizon)), trained))

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Scores and P(rise) of the rows. A row with too few bars, or with bars that are not finite, has none
        and a reason.
        """
        reason = rows.reason.astype(
            f"<U{max(len(text) for text in (*rows.reason.tolist(), BAD_FORECAST, FEW_BARS))}"
        )
        known = rows.last - store.offsets[np.maximum(rows.ticker, 0)] + 1
        reason[rows.open & (known < MIN_BARS)] = FEW_BARS
        reason[(reason == "") & ~self._finite(store, rows.last, known, reason == "")] = BAD_BARS
        todo = np.flatnonzero(reason == "")
        found = self._read(store, rows.last[todo], known[todo], rows.asof[todo])
        column = self._columns(rows.horizon[todo])
        score, sign = np.full((2, len(rows)), np.nan)
        score[todo] = found.score[np.arange(len(todo)), column]
        sign[todo] = found.sign[np.arange(len(todo)), column]
        reason[(reason == "") & ~(np.isfinite(score) & np.isfinite(sign))] = BAD_FORECAST
        prob = 1 / (1 + np.exp(-np.clip(sign, -LARGEST_LOGIT, LARGEST_LOGIT)))
        answered = reason == ""
        terms = np.full((len(rows), len(self.head.config.horizons)), np.nan, np.float32)
        terms[todo] = found.score
        terms[~answered] = np.nan
        return Answer(
            np.where(answered, score, np.nan), np.where(answered, prob, np.nan), reason, terms=terms
        )

    def _columns(self, horizon: NDArray[np.int64]) -> NDArray[np.int64]:
        """The output of each sample's horizon, (n,); says where another horizon than the asked one
        answers.
        """
        trained = list(self.head.config.horizons)
        column = np.zeros(len(horizon), np.int64)
        for asked in np.unique(horizon).tolist():
            near = self.trained_horizon(asked)
            if near != asked:
                log.warning(
                    "head: was not trained for %d trading days ahead; the answer is that for %d", asked, near
                )
            column[horizon == asked] = trained.index(near)
        return column

    def _lookback(self) -> int:
        """Bars that are read at most."""
        c = self.head.config
        return max(c.lookback if c.reads_bars else 0, c.token_lookback if c.reads_tokens else 0)

    def _finite(
        self, store: BarStore, last: NDArray[np.int64], known: NDArray[np.int64], which: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """Whether all bars that a sample is read from are finite, (N,); False beyond `which`."""
        result = np.zeros(len(last), bool)
        places = np.flatnonzero(which)
        for start in range(0, len(places), CHUNK):
            part = places[start : start + CHUNK]
            back = np.minimum(known[part], self._lookback() + 1)
            where = last[part][:, None] - np.minimum(np.arange(self._lookback() + 1), back[:, None] - 1)
            result[part] = np.isfinite(store.bars[where]).all(axis=(1, 2))
        return result

    def _read(
        self, store: BarStore, last: NDArray[np.int64], known: NDArray[np.int64], date: NDArray[np.int64]
    ) -> _Found:
        """Answers to n samples: last (n,) store rows, known (n,) bars of each, date (n,).

        One pass answers samples of one date and one length.
        """
        c = self.head.config
        shape = (len(last), len(c.horizons))
        found = _Found(np.full(shape, np.nan), np.full(shape, np.nan))
        if c.reads_bars and (self._channels is None or self._channels.store is not store):
            self._channels = ChannelReader(store, c.lookback)
        length = np.minimum(known, c.token_lookback) if c.reads_tokens else np.zeros(len(last), np.int64)
        order = np.lexsort((np.arange(len(last)), date, length))
        starts = np.flatnonzero((np.diff(length[order]) != 0) | (np.diff(date[order]) != 0)) + 1
        tokens: WindowReader | None = None
        for group in np.split(order, starts) if len(order) else []:
            bars = int(length[group[0]])
            if c.reads_tokens and (tokens is None or tokens.lookback != bars):
                epsilon: EpsilonKind = "relative" if c.norm_epsilon == "relative" else "absolute"
                tokens = WindowReader(store, bars, 0, clip=c.clip, epsilon=epsilon, first_session=0)
            size = self.batch_size or max(1, BARS_AT_ONCE[self.device.type == "cuda"] // self._lookback())
            batches = np.split(group, range(size, len(group), size))
            for part, answered in in_halves(batches, functools.partial(self._pass, last, tokens), _fewer):
                found.score[part], found.sign[part] = answered
        return found

    @torch.inference_mode()
    def _pass(
        self, every: NDArray[np.int64], tokens: WindowReader | None, part: NDArray[np.int64]
    ) -> tuple[NDArray, NDArray]:
        """Scores and log odds (n, K) of a part of the samples, whose tokens have one length."""
        last = every[part]
        series = figures = state = None
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            if self.head.config.reads_bars and self._channels is not None:
                channels = self._channels(last)
                series, figures = self._tensor(channels.series), self._tensor(channels.figures)
            if tokens is not None:
                windows = tokens(last - tokens.lookback + 1)
                state = self.head.state(self._tensor(windows.x), self._tensor(windows.stamp))
            out = self.head(series, figures, state)
        return out.score.double().cpu().numpy(), out.sign.double().cpu().numpy()

    def _tensor(self, values: NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(values).to(self.device)


def _fewer(size: int) -> int:
    """Half as many samples at once. Raises KitError when there was one."""
    if size == 1:
        raise KitError(
            "head: one sample does not fit into the GPU's memory; use the processor: device.use_cuda: false"
        )
    log.warning(
        "head: out of memory with %d samples at once, now %d; the answers stay the same", size, size // 2
    )
    return size // 2
