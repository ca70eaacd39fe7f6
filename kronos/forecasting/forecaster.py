"""From bars to sampled futures: the public face of a trained pair of networks.

In: the known bars of some series (price units), the calendar stamps of those bars and of the bars to come.
Out: a `Forecast` with every sampled path, in price units. Runs without polars: a GPU machine needs torch and
NumPy only.
Source: Kronos paper (arXiv 2508.02739), section 3.3, autoregressive inference.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kronos.bars import (
    CLOSE,
    FEATURES,
    OPEN,
    FloatArray,
    WindowStats,
    denormalise,
    normalise,
    published_stats,
    window_stats,
)
from kronos.errors import KitError
from kronos.forecasting.context import plan_contexts, slides
from kronos.forecasting.decide import enumerates
from kronos.forecasting.decode import decode_paths
from kronos.forecasting.generate import Paths, generate, generate_reference
from kronos.forecasting.memory import Fits, MemoryPlan, free_memory, plan_memory
from kronos.forecasting.next_step import SERIES_AT_ONCE, NextStep, next_step
from kronos.forecasting.request import Arrays, Request, batches
from kronos.forecasting.result import Forecast, Rise
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.networks.normalisation import agreed
from kronos.networks.quantizer import sound_vectors
from kronos.training.device import in_halves

log = logging.getLogger(__name__)

Work = TypeVar("Work")
Progress = Callable[[int], None]
"""Called after each batch with the number of series just finished."""


@dataclass(frozen=True, eq=False)
class Forecaster:
    """A tokenizer and the predictor that was trained on its tokens, ready to forecast.

    Frozen: a call changes nothing and may come from several threads. Weights are packed once per network
    (`networks/packed.py`). The predictor computes in the type that `settings.autocast` names; the tokenizer
    always in float32, because a token is a row of signs and half precision turns those near zero.
    """

    model: Kronos
    tokenizer: KronosTokenizer
    settings: Settings = field(default_factory=Settings)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        """Moves both networks to `device` and settles how bars are normalised.

        Raises KitError when the two networks do not belong together or were trained with another
        normalisation, on a device that is neither a processor nor a CUDA GPU, and on cuda_graphs without a
        GPU or with a sliding window.
        """
        check_networks(self.model, self.tokenizer)
        own = self.settings
        own.check(self.device)
        known = agreed(self.model.normalisation or self.tokenizer.normalisation, own.epsilon, own.clip)
        filled = replace(own, epsilon=known.epsilon, clip=known.clip)
        object.__setattr__(self, "settings", filled)
        self.model.to(self.device)
        self.tokenizer.to(self.device)

    def using(self, **changes: Any) -> "Forecaster":
        """The same networks with some settings changed. Raises TypeError on an unknown name."""
        return replace(self, settings=replace(self.settings, **changes))

    @property
    def sampling(self) -> Sampling:
        """How paths are drawn."""
        return self.settings.sampling

    @property
    def _clip(self) -> float:
        assert self.settings.clip is not None  # settled when the forecaster was made
        return self.settings.clip

    def memory_plan(self, context: int, horizon: int) -> MemoryPlan:
        """What is computed at once for contexts of at most that length, chosen by the memory that is free
        now.
        """
        own = self.settings
        return plan_memory(
            self.model.config,
            self.tokenizer.config,
            context=context,
            horizon=horizon,
            paths=own.sampling.sample_count,
            element=own.autocast.itemsize if own.autocast else 4,
            free=free_memory(self.device, own.processes),
            kind=self.device.type,
            series=own.batch_size,
            slides=own.overflow == "slide" and slides(context, horizon, own.max_context),
        )

    def forecast(
        self,
        bars: Arrays,
        stamps: Arrays,
        future_stamps: NDArray,
        series: NDArray[np.int64],
        progress: Progress | None = None,
        fits: Fits | None = None,
    ) -> Forecast:
        """Sample the futures of B series, of equal or unequal length.

        bars: (B, L, 6), or B arrays (L_i, 6): known bars in price units, oldest first; stamps: the same with
        5 calendar fields, and future_stamps (B, H, 5), as `bars.calendar_stamps` gives them; series (B,)
        int64 keys: a key fixes the random numbers of its series, so that a forecast depends on neither its
        batch mates nor the batch size (beyond float rounding). Series are computed in batches of one length
        and returned in the caller's order. A path is NaN where the networks gave something that is not finite
        (see `Forecast.finite`). Raises KitError before any computation when the input is not finite or the
        horizon does not fit max_context (`context`). fits: what calls before this one found to fit, where
        memory ran out; it is noted there, too.
        """
        asked, used = self._plan(bars, stamps, future_stamps, series)
        paths = np.empty((len(used), self.sampling.sample_count, asked.horizon, len(FEATURES)), np.float32)
        for rows, found in self._in_batches(asked, used, self._batch, progress, fits=fits):
            paths[rows] = found
        return Forecast(paths, asked.last_close, shortened=used < asked.lengths)

    def paths(
        self, bars: Arrays, stamps: Arrays, future_stamps: NDArray, series: NDArray[np.int64]
    ) -> FloatArray:
        """`forecast(...).paths`, (B, S, H, 6) float32."""
        return self.forecast(bars, stamps, future_stamps, series).paths

    def prob_up(
        self,
        bars: Arrays,
        stamps: Arrays,
        future_stamps: NDArray,
        series: NDArray[np.int64],
        progress: Progress | None = None,
        fits: Fits | None = None,
    ) -> Rise:
        """P(the last close ahead is strictly above the last known one); arguments of `forecast`.

        Enumerated (`next_step`) for one step ahead and sampled for more, unless `probability` names one of
        the two. NaN where the networks gave something that is not finite. Raises KitError when more than one
        step is to be enumerated.
        """
        if self.enumerates(np.asarray(future_stamps).shape[1]):
            found = self.next_step(bars, stamps, future_stamps, series, progress, fits)
            return Rise(found.prob_up, found.mass)
        forecast = self.forecast(bars, stamps, future_stamps, series, progress, fits)
        prob = np.full(len(forecast.paths), np.nan)
        finite = np.flatnonzero(forecast.finite)
        prob[finite] = forecast.only(finite).prob_up()
        return Rise(prob, np.full(len(prob), np.nan))

    def enumerates(self, horizon: int) -> bool:
        """Whether `prob_up` lists outcomes and does not sample, so many steps ahead."""
        return enumerates(self.settings.probability, horizon)

    def next_step(
        self,
        bars: Arrays,
        stamps: Arrays,
        future_stamps: NDArray,
        series: NDArray[np.int64],
        progress: Progress | None = None,
        fits: Fits | None = None,
    ) -> NextStep:
        """P(rise) of the next bar without sampling noise (`kronos.forecasting.next_step`); arguments of
        `forecast`, horizon 1.
        """
        asked, used = self._plan(bars, stamps, future_stamps, series)
        if asked.horizon != 1:
            steps = asked.horizon
            raise KitError(
                f"forecast: expected one step ahead to enumerate, found {steps}; set inference.probability=sampled"
            )
        prob, mass, pairs = np.empty(len(used)), np.empty(len(used)), np.empty(len(used), np.int64)
        most = SERIES_AT_ONCE if self.device.type == "cpu" else None
        for rows, found in self._in_batches(asked, used, self._enumerate, progress, most, fits):
            prob[rows], mass[rows], pairs[rows] = found.prob_up, found.mass, found.pairs
        return NextStep(prob, mass, pairs)

    def hidden_states(self, bars: NDArray, stamps: NDArray, last: bool = True) -> FloatArray:
        """What the predictor makes of known bars: its states after the last norm, which the logits are read
        from.

        bars (B, L, 6), stamps (B, L, 5). last: of the last bar only, (B, D) float32; otherwise of all, (B, L,
        D). The state of a bar depends on that bar and earlier ones, but all bars are normalised with the
        statistics of all L. Of more than max_context bars the last max_context are seen by the predictor. NaN
        where the networks gave something that is not finite. Raises KitError on bars that are not finite.
        """
        asked = Request.of(bars, stamps, np.asarray(stamps)[:, :1], np.arange(len(bars)))
        count, length, _ = np.shape(bars)
        shape = (count,) if last else (count, min(length, self.settings.max_context))
        states = np.empty((*shape, self.model.config.d_model), np.float32)
        for rows, found in self._in_batches(
            asked, asked.lengths, functools.partial(self._states, last), None
        ):
            states[rows] = found
        return states

    def _states(self, last: bool, _: int, bars: NDArray, stamps: NDArray, *__: NDArray) -> FloatArray:
        """One batch of `hidden_states`."""
        with torch.inference_mode():
            s1, s2, _stats, sound = self.encode(bars)
            with self.precision():
                seen = (x[:, -self.settings.max_context :] for x in (s1, s2, self.tensor(stamps)))
                states = self.model.context(*seen).float().masked_fill(~sound[:, None, None], torch.nan)
        return np.asarray((states[:, -1] if last else states).cpu().numpy())

    # -- batches ---------------------------------------------------------------------------------------------
    def _plan(
        self, bars: Arrays, stamps: Arrays, future_stamps: NDArray, series: NDArray[np.int64]
    ) -> tuple[Request, NDArray[np.int64]]:
        """The checked request and the bars of each context that are used."""
        asked = Request.of(bars, stamps, future_stamps, series)
        used = plan_contexts(asked.lengths, asked.horizon, self.settings.max_context, self.settings.overflow)
        if (shortened := used < asked.lengths).any():
            log.info(
                "%d of %d contexts are cut to leave room for the horizon in max_context",
                shortened.sum(),
                len(used),
            )
        return asked, used

    def _in_batches(
        self,
        asked: Request,
        used: NDArray[np.int64],
        work: Callable[..., Work],
        progress: Progress | None,
        most: int | None = None,
        fits: Fits | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], Work]]:
        """Rows and what `work` makes of them, in batches of one length (of `most` series), halved when memory
        runs out.

        work: called with the most paths of a series to hold at once, then bars, stamps, future stamps, keys.
        """
        plan, known = self.memory_plan(int(used.max()), asked.horizon), fits or Fits()
        paths_at_once = min(plan.paths, known.paths or plan.paths)
        size = min(plan.series, most or plan.series, known.series or plan.series)

        def one(rows: NDArray[np.int64]) -> Work:
            return work(paths_at_once, *asked.take(rows, int(used[rows[0]])))

        def fewer(count: int) -> int:
            nonlocal paths_at_once
            left = known.fewer(count, paths_at_once, self.device)
            paths_at_once = known.paths or paths_at_once
            return left

        for rows, found in in_halves(batches(used, size), one, fewer):
            yield rows, found
            if progress:
                progress(len(rows))

    def _enumerate(self, _: int, bars: NDArray, stamps: NDArray, *__: NDArray) -> NextStep:
        return next_step(self, bars, stamps, self.settings.enumeration)

    def _batch(
        self, paths_at_once: int, bars: NDArray, stamps: NDArray, future_stamps: NDArray, series: NDArray
    ) -> FloatArray:
        """One batch: (B, L, 6) bars to (B, S, H, 6) paths."""
        with torch.inference_mode():
            s1, s2, stats, sound = self.encode(bars)
            future = self._generate(s1, s2, stamps, future_stamps, series, paths_at_once)
            paths = self.decode(s1, s2, future.s1, future.s2, stats, bars[:, -1, CLOSE])
            paths[~(future.sound & sound[:, None]).cpu().numpy()] = np.nan
            return paths

    def encode(self, bars: NDArray) -> tuple[Tensor, Tensor, WindowStats, Tensor]:
        """Tokens s1, s2 (B, L) of bars (B, L, 6), the statistics that they were normalised with, and whether
        each series is sound (B,) bool: a vector that is not finite, or whose length overflowed, has signs,
        too.

        Dropout is off from here on, whatever the caller did to the networks.
        """
        self.model.eval()
        self.tokenizer.eval()
        stats = self._statistics(bars)
        with self._full_precision():
            z, _ = self.tokenizer.quantize(self.tensor(normalise(bars, stats, self._clip)))
            sound = sound_vectors(z).all(dim=1)
            return *self.tokenizer.quantizer.indices(z), stats, sound

    def close_scale(self, bars: NDArray) -> NDArray[np.floating]:
        """(B,) the deviation of closes that bars (B, L, 6) are normalised with, in price units."""
        return self._statistics(bars).scale[:, CLOSE]

    def _statistics(self, bars: NDArray) -> WindowStats:
        own = self.settings
        if own.published_statistics:
            return published_stats(bars)
        assert own.epsilon is not None  # settled when the forecaster was made
        return window_stats(bars, own.epsilon)

    def _generate(
        self,
        s1: Tensor,
        s2: Tensor,
        stamps: NDArray,
        future_stamps: NDArray,
        series: NDArray,
        paths_at_once: int,
    ) -> Paths:
        own = self.settings
        keys = torch.from_numpy(np.array(series, dtype=np.int64)).to(self.device)
        given: dict[str, Any] = {
            "sampling": own.sampling,
            "series": keys,
            "max_context": own.max_context,
            "paths_at_once": paths_at_once,
        }
        with self.precision():
            known = (self.model, s1, s2, self.tensor(stamps), self.tensor(future_stamps))
            if slides(s1.shape[1], future_stamps.shape[1], own.max_context):
                return generate_reference(*known, **given)
            return generate(*known, **given, replayed=own.cuda_graphs, integers=own.integers)

    def decode(
        self,
        s1: Tensor,
        s2: Tensor,
        future_s1: Tensor,
        future_s2: Tensor,
        stats: WindowStats,
        last_close: NDArray,
    ) -> FloatArray:
        """Known (B, L) and future (B, S, H) tokens to bars (B, S, H, 6) in price units, anchored at
        last_close (B,) if so set.

        A sampled token is decoded behind its context, as in training: the decoder looks back, but never
        ahead. It sees max_context tokens at most, like the predictor.
        """
        past = max(1, self.settings.max_context - future_s1.shape[2])
        with self._full_precision():
            decoded = decode_paths(self.tokenizer, s1[:, -past:], s2[:, -past:], future_s1, future_s2)
        paths, last = (denormalise(scaled.cpu().numpy(), stats) for scaled in decoded)
        return anchored(paths, last[:, CLOSE], last_close) if self.settings.anchor else paths

    def precision(self) -> torch.autocast:
        """The context in which the predictor computes; the tokenizer never does."""
        kind = self.settings.autocast
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)

    def _full_precision(self) -> torch.autocast:
        """The tokenizer's context: also within an autocast of the caller's."""
        return torch.autocast(self.device.type, enabled=False)

    def tensor(self, array: NDArray) -> Tensor:
        """A float32 copy on the networks' device."""
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(self.device)


def check_networks(model: Kronos, tokenizer: KronosTokenizer) -> None:
    """Raise KitError unless these are a predictor and the tokenizer of its tokens, in this order."""
    found = f"{type(model).__name__} and {type(tokenizer).__name__}"
    if isinstance(model, KronosTokenizer) and isinstance(tokenizer, Kronos):
        raise KitError(
            f"forecast: expected (model, tokenizer), a Kronos and a KronosTokenizer, found {found}; swap the two"
        )
    if not (isinstance(model, Kronos) and isinstance(tokenizer, KronosTokenizer)):
        raise KitError(
            f"forecast: expected (model, tokenizer), a Kronos and a KronosTokenizer, found {found}; load them with "
            "Kronos.from_pretrained(...) and KronosTokenizer.from_pretrained(...)"
        )
    check_pair(tokenizer, model)


def anchored(paths: FloatArray, rebuilt_close: FloatArray, last_close: NDArray) -> FloatArray:
    """Paths (B, S, H, 6) moved so that the tokenizer's error on the last known bar does not look like a price
    move.

    rebuilt_close, last_close (B,): that bar's close as its tokens say it, and the true one; all in price
    units. The predictor
    knows the tokens only: a path goes on from the rebuilt close. Open, high, low and close move by the same
    amount of currency, so that candles keep their shape (each feature has a scale of its own in normalised
    space); volume and amount stay.
    """
    moved = paths.copy()
    with np.errstate(
        invalid="ignore"
    ):  # inf - inf, of a forecast that overflowed, is NaN: a reason further up, no answer
        moved[..., OPEN : CLOSE + 1] += (last_close - rebuilt_close).astype(np.float32)[:, None, None, None]
    return moved
