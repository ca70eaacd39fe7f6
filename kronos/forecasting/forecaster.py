"""From bars to sampled futures: the public face of a trained pair of networks.

In: the known bars of some series (price units), the calendar stamps of those bars and of the bars to come.
Out: a `Forecast` with every sampled path, in price units. Runs without polars: a GPU machine needs torch and
NumPy only.
Source: Kronos paper (arXiv 2508.02739), section 3.3, autoregressive inference.
"""

import functools
import logging
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kronos.bars import (
    CLOSE,
    FEATURES,
    OPEN,
    EpsilonKind,
    FloatArray,
    WindowStats,
    denormalise,
    normalise,
    published_stats,
    window_stats,
)
from kronos.errors import KitError
from kronos.forecasting.context import Overflow, plan_contexts, slides
from kronos.forecasting.decide import Probability, enumerates
from kronos.forecasting.decode import decode_paths
from kronos.forecasting.generate import Paths, generate, generate_reference
from kronos.forecasting.memory import MemoryPlan, free_memory, plan_memory
from kronos.forecasting.next_step import SERIES_AT_ONCE, Enumeration, NextStep, next_step
from kronos.forecasting.request import Arrays, Request, batches
from kronos.forecasting.result import Forecast, Rise
from kronos.forecasting.sampling import Sampling
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.networks.normalisation import agreed
from kronos.networks.quantizer import sound_vectors
from kronos.training.device import attempt

log = logging.getLogger(__name__)

Work = TypeVar("Work")
Progress = Callable[[int], None]
"""Called after each batch with the number of series just finished."""


class Forecaster:
    """A tokenizer and the predictor that was trained on its tokens, ready to forecast.

    The predictor runs under autocast on a GPU when `autocast` names a type; the tokenizer always runs in
    float32, because a token is a row of signs and half precision turns those near zero.
    """

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        *,
        device: str | torch.device = "cpu",
        max_context: int = 512,
        clip: float | None = None,
        epsilon: EpsilonKind | None = None,
        sampling: Sampling | None = None,
        batch_size: int | None = None,
        overflow: Overflow = "cut",
        autocast: torch.dtype | None = None,
        anchor: bool = True,
        published_statistics: bool = False,
        probability: Probability = "auto",
        enumeration: Enumeration | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        """Moves both networks to `device`. batch_size: series at once; None: what fits (`memory_plan`).

        epsilon, clip: how bars are normalised; None: as the networks were trained, where they say so, else as
        published.
        overflow: what becomes of a context that does not fit beside the horizon (see `context`). anchor:
        paths start from the true last close (see `anchored`). published_statistics: normalise by
        `bars.published_stats`, not `window_stats`.
        probability, enumeration: how `prob_up` finds it, and how far it looks. cuda_graphs: a GPU repeats the
        decoding steps by itself (`replay`).

        Raises KitError when the two networks do not belong together or were trained with another
        normalisation, on a device that is neither a processor nor a CUDA GPU, and on cuda_graphs without a
        GPU or with a sliding window.
        """
        check_networks(model, tokenizer)
        self.device = torch.device(device)
        _check_device(self.device, overflow, cuda_graphs)
        self.cuda_graphs = cuda_graphs
        self.model = model.to(self.device)
        self.tokenizer = tokenizer.to(self.device)
        self.max_context = max_context
        normalisation = agreed(model.normalisation or tokenizer.normalisation, epsilon, clip)
        self.clip = normalisation.clip
        self.epsilon: EpsilonKind = normalisation.epsilon
        self.sampling = sampling or Sampling()
        self.batch_size = batch_size
        self.overflow: Overflow = overflow
        self.autocast = autocast
        self.anchor = anchor
        self.published_statistics = published_statistics
        self.probability: Probability = probability
        self.enumeration = enumeration or Enumeration()
        self._short_of_memory = False
        self._fewer_paths: int | None = None
        self.processes = 1
        """that share this machine's memory"""
        self._paths_at_once = self.sampling.sample_count

    def memory_plan(self, context: int, horizon: int) -> MemoryPlan:
        """What is computed at once for contexts of at most that length, chosen by the memory that is free
        now.
        """
        made = plan_memory(
            self.model.config,
            self.tokenizer.config,
            context=context,
            horizon=horizon,
            paths=self.sampling.sample_count,
            element=self.autocast.itemsize if self.autocast else 4,
            free=free_memory(self.device, self.processes),
            kind=self.device.type,
            series=self.batch_size,
            slides=self.overflow == "slide" and slides(context, horizon, self.max_context),
        )
        return made if self._fewer_paths is None else replace(made, paths=min(made.paths, self._fewer_paths))

    def forecast(
        self,
        bars: Arrays,
        stamps: Arrays,
        future_stamps: NDArray,
        series: NDArray[np.int64],
        progress: Progress | None = None,
    ) -> Forecast:
        """Sample the futures of B series, of equal or unequal length.

        bars: (B, L, 6), or B arrays (L_i, 6): known bars in price units, oldest first; stamps: the same with
        5 calendar fields, and future_stamps (B, H, 5), as `bars.calendar_stamps` gives them; series (B,)
        int64 keys: a key fixes the random numbers of its series, so that a forecast depends on neither its
        batch mates nor the batch size (beyond float rounding). Series are computed in batches of one length
        and returned in the caller's order. A path is NaN where the networks gave something that is not finite
        (see `Forecast.finite`). Raises KitError before any computation when the input is not finite or the
        horizon does not fit max_context (`context`).
        """
        asked, used = self._plan(bars, stamps, future_stamps, series)
        paths = np.empty((len(used), self.sampling.sample_count, asked.horizon, len(FEATURES)), np.float32)
        for rows, found in self._in_batches(asked, used, self._batch, progress):
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
    ) -> Rise:
        """P(the last close ahead is strictly above the last known one); arguments of `forecast`.

        Enumerated (`next_step`) for one step ahead and sampled for more, unless `probability` names one of
        the two. NaN where the networks gave something that is not finite. Raises KitError when more than one
        step is to be enumerated.
        """
        if self.enumerates(np.asarray(future_stamps).shape[1]):
            found = self.next_step(bars, stamps, future_stamps, series, progress)
            return Rise(found.prob_up, found.mass)
        forecast = self.forecast(bars, stamps, future_stamps, series, progress)
        prob = np.full(len(forecast.paths), np.nan)
        finite = np.flatnonzero(forecast.finite)
        prob[finite] = forecast.only(finite).prob_up()
        return Rise(prob, np.full(len(prob), np.nan))

    def enumerates(self, horizon: int) -> bool:
        """Whether `prob_up` lists outcomes and does not sample, so many steps ahead."""
        return enumerates(self.probability, horizon)

    def next_step(
        self,
        bars: Arrays,
        stamps: Arrays,
        future_stamps: NDArray,
        series: NDArray[np.int64],
        progress: Progress | None = None,
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
        for rows, found in self._in_batches(asked, used, self._enumerate, progress, most):
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
        shape = (count,) if last else (count, min(length, self.max_context))
        states = np.empty((*shape, self.model.config.d_model), np.float32)
        for rows, found in self._in_batches(
            asked, asked.lengths, functools.partial(self._states, last), None
        ):
            states[rows] = found
        return states

    def _states(self, last: bool, bars: NDArray, stamps: NDArray, *_: NDArray) -> FloatArray:
        """One batch of `hidden_states`."""
        with torch.inference_mode():
            s1, s2, _stats, sound = self.encode(bars)
            with self.precision():
                seen = (x[:, -self.max_context :] for x in (s1, s2, self.tensor(stamps)))
                states = self.model.context(*seen).float().masked_fill(~sound[:, None, None], torch.nan)
        return np.asarray((states[:, -1] if last else states).cpu().numpy())

    # -- batches ---------------------------------------------------------------------------------------------
    def _plan(
        self, bars: Arrays, stamps: Arrays, future_stamps: NDArray, series: NDArray[np.int64]
    ) -> tuple[Request, NDArray[np.int64]]:
        """The checked request and the bars of each context that are used."""
        asked = Request.of(bars, stamps, future_stamps, series)
        used = plan_contexts(asked.lengths, asked.horizon, self.max_context, self.overflow)
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
    ) -> Iterator[tuple[NDArray[np.int64], Work]]:
        """Rows and what `work` makes of them, in batches of one length (of `most` series), halved when memory
        runs out.
        """
        plan = self.memory_plan(int(used.max()), asked.horizon)
        self._paths_at_once = plan.paths
        todo = deque(batches(used, min(plan.series, most or plan.series)))
        while todo:
            rows = todo.popleft()
            given = asked.take(rows, int(used[rows[0]]))
            found = attempt(functools.partial(work, *given))
            if found is None:
                self._halve(len(rows))
                todo.extendleft(reversed(np.array_split(rows, min(2, len(rows)))))
                continue
            yield rows, found
            if progress:
                progress(len(rows))

    def _halve(self, size: int) -> None:
        """From now on batches are half as large as the one of `size` that did not fit, or the paths of one
        series. Said once.
        """
        if size == 1 and self._paths_at_once == 1:
            raise KitError(
                f"forecast: out of memory on {self.device} with one path of one series; lower data.max_context "
                "or inference.enumeration_pairs"
            )
        if not self._short_of_memory:
            log.warning(
                "out of memory on %s with %d series at once: going on with halves; no answer changes",
                self.device,
                size,
            )
        self._short_of_memory = True
        self.batch_size = max(1, size // 2)
        if size == 1:
            self._fewer_paths = self._paths_at_once = self._paths_at_once // 2

    def _enumerate(self, bars: NDArray, stamps: NDArray, *_: NDArray) -> NextStep:
        return next_step(self, bars, stamps, self.enumeration)

    def _batch(
        self, bars: NDArray, stamps: NDArray, future_stamps: NDArray, series: NDArray[np.int64]
    ) -> FloatArray:
        """One batch: (B, L, 6) bars to (B, S, H, 6) paths."""
        with torch.inference_mode():
            s1, s2, stats, sound = self.encode(bars)
            future = self._generate(s1, s2, stamps, future_stamps, series)
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
            z, _ = self.tokenizer.quantize(self.tensor(normalise(bars, stats, self.clip)))
            sound = sound_vectors(z).all(dim=1)
            return *self.tokenizer.quantizer.indices(z), stats, sound

    def close_scale(self, bars: NDArray) -> NDArray[np.floating]:
        """(B,) the deviation of closes that bars (B, L, 6) are normalised with, in price units."""
        return self._statistics(bars).scale[:, CLOSE]

    def _statistics(self, bars: NDArray) -> WindowStats:
        return published_stats(bars) if self.published_statistics else window_stats(bars, self.epsilon)

    def _generate(
        self, s1: Tensor, s2: Tensor, stamps: NDArray, future_stamps: NDArray, series: NDArray
    ) -> Paths:
        keys = torch.from_numpy(np.array(series, dtype=np.int64)).to(self.device)
        with self.precision():
            cached = functools.partial(generate, replayed=self.cuda_graphs)
            way = (
                generate_reference
                if slides(s1.shape[1], future_stamps.shape[1], self.max_context)
                else cached
            )
            return way(
                self.model,
                *(s1, s2, self.tensor(stamps), self.tensor(future_stamps)),
                sampling=self.sampling,
                series=keys,
                max_context=self.max_context,
                paths_at_once=self._paths_at_once,
            )

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
        past = max(1, self.max_context - future_s1.shape[2])
        with self._full_precision():
            decoded = decode_paths(self.tokenizer, s1[:, -past:], s2[:, -past:], future_s1, future_s2)
        paths, last = (denormalise(scaled.cpu().numpy(), stats) for scaled in decoded)
        return anchored(paths, last[:, CLOSE], last_close) if self.anchor else paths

    def precision(self) -> torch.autocast:
        """The context in which the predictor computes; the tokenizer never does."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

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


def _check_device(device: torch.device, overflow: Overflow, cuda_graphs: bool) -> None:
    """Raise KitError for a device that cannot do what is asked of it."""
    if device.type not in ("cpu", "cuda"):  # an Apple GPU lacks float64, which adds up probabilities
        raise KitError(f"forecast: expected the device cpu or cuda, found {device.type}; set it to cpu")
    if not cuda_graphs:
        return
    if device.type != "cuda":
        found = "a processor"
    elif overflow == "slide":
        found = "overflow: slide, which keeps no cache"
    else:
        return
    raise KitError(f"inference.cuda_graphs: expected a GPU and overflow: cut, found {found}; set it to false")
