"""`TablePredictor`: DataFrames in, DataFrames out, with the calls of the published predictor.

In: tables of bars and stamps (`frames`). Out: a `Forecast` with every path, or the mean path as a table. A
user of the original changes one import (`kronos.KronosPredictor`, which also decides rise or fall, is made of
this one); `compatibility="original"` gives the original's numbers under greedy decoding.
Source: interface of the public repository shiyu-coder/Kronos (MIT), written anew.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from kronos.bars import FEATURES, EpsilonKind, FloatArray, calendar_stamps
from kronos.errors import KitError
from kronos.forecasting.context import Overflow
from kronos.forecasting.forecaster import Forecaster, check_networks
from kronos.forecasting.frames import Ahead, Known, read_series
from kronos.forecasting.result import Forecast
from kronos.forecasting.rows import series_keys
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.normalisation import agreed

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

HISTORY = 120
"""Known bars that a forecast keeps for its plots."""


class TablePredictor:
    """A tokenizer and a predictor that forecast tables.

    By default a forecast depends on the last `max_context` rows only, which are normalised with their own
    statistics, starts from the true last close, and holds candles that can exist. compatibility="original"
    does as the published
    code: statistics over all rows given, in float32; its decoding, its sliding window, top_k in place of
    top_p; nothing anchored or repaired. Its random numbers are not reproduced, only what does not depend on
    them.
    """

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        device: str | torch.device | None = None,
        max_context: int = 512,
        clip: float | None = None,
        *,
        compatibility: Literal["original"] | None = None,
        overflow: Overflow = "cut",
        epsilon: EpsilonKind | None = None,
        anchor: bool = True,
        seed: int = 0,
        batch_size: int | None = None,
        autocast: torch.dtype | None = None,
        calendar: str = "NYSE",
    ) -> None:
        """Moves both networks to `device` (None: a CUDA GPU where there is one, else the processor), where
        they stay.

        overflow: when rows and horizon exceed max_context, "cut" the oldest rows, or "slide" the window at
        every step, which is slow. seed: equal seeds give equal forecasts, call after call. anchor, autocast:
        see `Settings`. epsilon, clip: None, as the networks were trained (their folder says so); another
        value than theirs is refused. calendar: the exchange (as in `data.calendar`) whose sessions follow,
        where no y_timestamp is given.
        """
        if compatibility not in (None, "original"):
            raise KitError(
                f"KronosPredictor: expected compatibility None or 'original', found {compatibility!r}"
            )
        check_networks(model, tokenizer)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model, self.tokenizer = model.to(self.device), tokenizer.to(self.device)
        self.max_context = max_context
        wanted: EpsilonKind | None = "absolute" if compatibility == "original" else epsilon
        normalisation = agreed(model.normalisation or tokenizer.normalisation, wanted, clip)
        self.clip, self.epsilon = normalisation.clip, normalisation.epsilon
        self.original = compatibility == "original"
        self.seed = seed
        own: dict[str, Any] = {"overflow": overflow, "anchor": anchor}
        theirs: dict[str, Any] = {"overflow": "slide", "anchor": False, "published_statistics": True}
        self._settings = {
            **(theirs if self.original else own),
            "batch_size": batch_size,
            "autocast": autocast,
        }
        self.calendar = calendar
        self._warned = False

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        mode = ", as the original" if self.original else ""
        return f"KronosPredictor({size / 1e6:.1f} M parameters, {self.device}, max_context {self.max_context}{mode})"

    # -- the published calls ---------------------------------------------------------------------------------
    def predict(
        self,
        df: "pd.DataFrame",
        x_timestamp: Any = None,
        y_timestamp: Any = None,
        pred_len: int = 1,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.9,
        sample_count: int = 1,
        verbose: bool = True,
    ) -> "pd.DataFrame":
        """The mean over `sample_count` paths, `pred_len` rows of the six features, indexed by y_timestamp.

        df: rows of history of one ticker, oldest first, of pandas or polars; columns open, high, low, close,
        and volume and amount if known. x_timestamp: its stamps, the name of the column that holds them, or
        None for the table's index.
        y_timestamp: the `pred_len` stamps to forecast; None: the next sessions of the predictor's `calendar`.
        Stamps are an index, a column, an array or a list, of dates or of text. T: temperature, 0 for the
        likeliest tokens. verbose: show a progress bar. Raises KitError before any computation, naming row and
        column, when something is wrong with the input; and afterwards when no series got finite numbers (of
        several, those without are NaN, and a warning names them).
        """
        stamps = [x_timestamp], None if y_timestamp is None else [y_timestamp]
        return self.predict_batch([df], *stamps, pred_len, T, top_k, top_p, sample_count, verbose)[0]

    def predict_batch(
        self,
        df_list: "Sequence[pd.DataFrame]",
        x_timestamp_list: Sequence[Any] | None = None,
        y_timestamp_list: Sequence[Any] | None = None,
        pred_len: int = 1,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 0.9,
        sample_count: int = 1,
        verbose: bool = True,
    ) -> "list[pd.DataFrame]":
        """`predict` for several series, which may be of unequal length, in their order."""
        import pandas as pd

        known = self._read(df_list, x_timestamp_list, y_timestamp_list, pred_len, None)
        result = self._forecast(known, None, self._sampling(T, top_k, top_p, sample_count), verbose)
        asked = y_timestamp_list or [None] * len(known)
        tables = []
        for mean, one, given in zip(result.mean(), known, asked, strict=True):
            kept = given if isinstance(given, (pd.Index, pd.Series)) else one.given
            tables.append(pd.DataFrame(mean, columns=list(FEATURES), index=kept))
        return tables

    # -- everything that is known ----------------------------------------------------------------------------
    def forecast(
        self,
        df: "pd.DataFrame | Sequence[pd.DataFrame]",
        x_timestamp: Any = None,
        y_timestamp: Any = None,
        pred_len: int = 1,
        *,
        T: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        sample_count: int = 33,
        names: Sequence[str] | None = None,
        verbose: bool = False,
    ) -> Forecast:
        """Every sampled path of one table, or of a list of tables with lists of stamps: `Forecast.paths` (B,
        S, H, 6).

        names: (B,) what the series are called; a name fixes the random numbers of its series, whoever else is
        forecast.
        None: their positions, so the first one has always the same. Other arguments as in `predict`, but for
        top_p: truncation sharpens probabilities. Candles are repaired (`Forecast.repaired`) unless
        compatibility="original".
        """
        known = self._read(df, x_timestamp, y_timestamp, pred_len, names)
        return self._forecast(known, names, self._sampling(T, top_k, top_p, sample_count), verbose)

    def _forecast(
        self, known: list[Known], names: Sequence[str] | None, sampling: Sampling, verbose: bool
    ) -> Forecast:
        """Paths of series that have been read."""
        labels = [str(i) for i in range(len(known))] if names is None else [str(name) for name in names]
        used = self._used(known)
        with tqdm(total=len(known), desc="forecast", unit="series", disable=not verbose) as bar:
            result = self._forecaster(sampling).forecast(
                [one.bars for one in used],
                [calendar_stamps(one.dates) for one in used],
                np.stack([calendar_stamps(one.future) for one in known]),
                series_keys(labels),
                progress=lambda done: _advance(bar, done),
            )
        dates, history = np.stack([one.future for one in known]), _tails([one.bars for one in known])
        result = replace(result, names=np.array(labels), dates=dates, history=history)
        self._look(result)
        return result if self.original else result.repaired()

    def hidden_states(
        self, df: "pd.DataFrame | Sequence[pd.DataFrame]", x_timestamp: Any = None, last: bool = True
    ) -> FloatArray | list[FloatArray]:
        """What the predictor makes of the known bars, for a head of your own (`Forecaster.hidden_states`).

        One table or a list of tables with a list of stamps, as in `forecast`. last: the state of the last
        bar, (B, D) float32; otherwise the states of the bars that fit max_context, a list of B times (L_i,
        D).
        """
        used = self._used(self._read(df, x_timestamp, None, None, None))
        forecaster = self._forecaster(Sampling())
        states = [
            forecaster.hidden_states(one.bars[None], calendar_stamps(one.dates)[None], last)[0]
            for one in used
        ]
        return np.stack(states) if last else states

    # -- what they share -------------------------------------------------------------------------------------
    def _read(
        self, df: Any, x_timestamp: Any, y_timestamp: Any, pred_len: int | None, names: Sequence[str] | None
    ) -> list[Known]:
        """Checked series of one table or of a list of them; pred_len None: only what is known."""
        if not isinstance(df, Sequence):
            df, x_timestamp, y_timestamp = [df], [x_timestamp], None if y_timestamp is None else [y_timestamp]
        if x_timestamp is None:
            x_timestamp = [None] * len(df)
        ahead = y_timestamp
        if ahead is None:
            ahead = [() if pred_len is None else Ahead(pred_len, self.calendar)] * len(df)
        sizes = (len(df), len(x_timestamp), len(ahead), len(df if names is None else names))
        if min(sizes) != max(sizes) or not sizes[0]:
            raise KitError(
                f"forecast: expected as many tables as stamps (and names), found {', '.join(map(str, sizes))}"
            )
        known = []
        for i, (table, x, y) in enumerate(zip(df, x_timestamp, ahead, strict=True)):
            name = "df" if len(df) == 1 else f"df_list[{i}]"
            if pred_len is not None and pred_len < 1:
                raise KitError(f"{name}: expected pred_len >= 1 and as many y_timestamp, found {pred_len}")
            known.append(read_series(table, x, y, drop_lone_amount=self.original, name=name))
            if pred_len is not None and len(known[-1].future) != pred_len:
                found = f"{len(known[-1].future)} for {pred_len}"
                raise KitError(f"{name}: expected pred_len >= 1 and as many y_timestamp, found {found}")
        self._warn(known)
        return known

    def _warn(self, known: list[Known]) -> None:
        alone = sum(one.amount_alone for one in known)
        if alone and not self._warned:
            done = (
                "both are set to 0, as the original does"
                if self.original
                else "volume is taken to be amount / mean price"
            )
            log.warning("%d of %d tables have an amount but no volume: %s", alone, len(known), done)
            self._warned = True

    def _look(self, result: Forecast) -> None:
        """Say which forecasts are no answer. Raises KitError when none is one."""
        bad = np.flatnonzero(~result.finite)
        if not len(bad):
            return
        which = ", ".join(result.name(i) for i in bad[:5].tolist()) + (", ..." if len(bad) > 5 else "")
        if len(bad) == len(result.finite):
            raise KitError(
                "forecast: expected finite numbers from the networks, found NaN or infinity for every series "
                f"({which}); a weight is not finite, or numbers overflow: load the networks again, without autocast"
            )
        log.warning(
            "%d of %d series have no forecast: the networks gave NaN or infinity for %s; their numbers are NaN",
            *(len(bad), len(result.finite), which),
        )

    def _used(self, known: list[Known]) -> list[Known]:
        """The rows that a forecast may depend on: the last max_context; the original's statistics and tokens
        are of all.
        """
        keep = slice(None) if self.original else slice(-self.max_context, None)
        return [Known(one.bars[keep], one.dates[keep], one.future, one.given) for one in known]

    def _sampling(self, T: float, top_k: int, top_p: float, sample_count: int) -> Sampling:
        if self.original:
            return Sampling(T, top_k, 1.0 if top_k > 0 else top_p, sample_count, self.seed, "original")
        return Sampling(T, top_k, top_p, sample_count, self.seed)

    def _forecaster(self, sampling: Sampling) -> Forecaster:
        settings = Settings(
            max_context=self.max_context,
            clip=self.clip,
            epsilon=self.epsilon,
            sampling=sampling,
            **self._settings,
        )
        return Forecaster(self.model, self.tokenizer, settings, self.device)


def _advance(bar: tqdm, done: int) -> None:
    bar.update(done)


def _tails(bars: list[FloatArray]) -> NDArray[np.float32]:
    """The last K <= HISTORY bars of each series, (B, K, 6), NaN in front of shorter ones."""
    width = min(HISTORY, max(map(len, bars)))
    tails = np.full((len(bars), width, len(FEATURES)), np.nan, np.float32)
    for tail, own in zip(tails, bars, strict=True):
        kept = own[-width:]
        tail[width - len(kept) :] = kept
    return tails
