"""From bars to sampled futures: the public face of a trained pair of networks.

In: the known bars of some series (price units), the calendar stamps of those bars and of the bars to come. Out: a
`Forecast` with every sampled path, in price units. Runs without polars: a GPU machine needs torch and NumPy only.
Source: Kronos paper (arXiv 2508.02739), section 3.3, autoregressive inference.
"""

import logging
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from numpy.typing import NDArray
from torch import Tensor

from kronos.bars import CLOSE, FEATURES, OPEN, EpsilonKind, FloatArray, WindowStats, denormalise, normalise, window_stats
from kronos.errors import KitError
from kronos.forecasting.context import Overflow, plan_contexts, slides
from kronos.forecasting.decode import decode_paths
from kronos.forecasting.generate import generate, generate_reference
from kronos.forecasting.request import Arrays, Request, batches
from kronos.forecasting.result import Forecast
from kronos.forecasting.sampling import Sampling
from kronos.networks import Kronos, KronosTokenizer, check_pair

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
"""Called after each batch with the number of series just finished."""


class Forecaster:
    """A tokenizer and the predictor that was trained on its tokens, ready to forecast.

    The predictor runs under autocast on a GPU when `autocast` names a type; the tokenizer always runs in float32,
    because a token is a row of signs and half precision turns those near zero.
    """

    def __init__(
        self,
        model: Kronos,
        tokenizer: KronosTokenizer,
        *,
        device: str | torch.device = "cpu",
        max_context: int = 512,
        clip: float = 5.0,
        epsilon: EpsilonKind = "absolute",
        sampling: Sampling | None = None,
        batch_size: int = 64,
        overflow: Overflow = "cut",
        autocast: torch.dtype | None = None,
        anchor: bool = True,
    ) -> None:
        """Moves both networks to `device`. overflow: what becomes of a context that does not fit beside the horizon (see
        `context`). anchor: paths start from the true last close (see `anchored`).

        Raises KitError when the two networks do not belong together.
        """
        check_pair(tokenizer, model)
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.tokenizer = tokenizer.to(self.device)
        self.max_context = max_context
        self.clip = clip
        self.epsilon: EpsilonKind = epsilon
        self.sampling = sampling or Sampling()
        self.batch_size = batch_size
        self.overflow: Overflow = overflow
        self.autocast = autocast
        self.anchor = anchor
        self._short_of_memory = False

    def forecast(
        self,
        bars: Arrays,
        stamps: Arrays,
        future_stamps: NDArray,
        series: NDArray[np.int64],
        progress: Progress | None = None,
    ) -> Forecast:
        """Sample the futures of B series, of equal or unequal length.

        bars: (B, L, 6), or B arrays (L_i, 6): known bars in price units, oldest first; stamps: the same with 5 calendar
        fields, and future_stamps (B, H, 5), as `bars.calendar_stamps` gives them; series (B,) int64 keys: a key fixes the
        random numbers of its series, so that a forecast depends on neither its batch mates nor the batch size (beyond
        float rounding). Series are computed in batches of one length and returned in the caller's order. Raises KitError
        before any computation when the input is not finite or the horizon does not fit max_context (`context`).
        """
        asked = Request.of(bars, stamps, future_stamps, series)
        used = plan_contexts(asked.lengths, asked.horizon, self.max_context, self.overflow)
        shortened = used < asked.lengths
        if shortened.any():
            log.info("%d of %d contexts are cut to leave room for the horizon in max_context", shortened.sum(), len(used))
        paths = np.empty((len(used), self.sampling.sample_count, asked.horizon, len(FEATURES)), np.float32)
        todo = deque(batches(used, self.batch_size))
        while todo:
            rows = todo.popleft()
            found = self._attempt(asked.take(rows, int(used[rows[0]])))
            if found is None:
                self._halve(len(rows))
                todo.extendleft(reversed(np.array_split(rows, 2)))
                continue
            paths[rows] = found
            if progress:
                progress(len(rows))
        return Forecast(paths, asked.last_close, shortened=shortened)

    def paths(self, bars: Arrays, stamps: Arrays, future_stamps: NDArray, series: NDArray[np.int64]) -> FloatArray:
        """`forecast(...).paths`, (B, S, H, 6) float32."""
        return self.forecast(bars, stamps, future_stamps, series).paths

    # -- one batch -----------------------------------------------------------------------------------------------------
    def _attempt(self, batch: tuple[NDArray, NDArray, NDArray, NDArray[np.int64]]) -> FloatArray | None:
        """`_batch`, or None when the memory did not suffice."""
        try:
            return self._batch(*batch)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        # Past the handler the error and the tensors that its frames held are gone.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _halve(self, size: int) -> None:
        """From now on batches are half as large as the one of `size` that did not fit. Said once."""
        if size == 1:
            raise KitError(
                f"forecast: out of memory on {self.device} with one series of {self.sampling.sample_count} paths; lower "
                "inference.sample_count or data.max_context"
            )
        if not self._short_of_memory:
            log.warning("out of memory on %s with %d series at once: going on with halves; no answer changes", self.device, size)
        self._short_of_memory = True
        self.batch_size = max(1, size // 2)

    def _batch(self, bars: NDArray, stamps: NDArray, future_stamps: NDArray, series: NDArray[np.int64]) -> FloatArray:
        """One batch: (B, L, 6) bars to (B, S, H, 6) paths. Dropout is off whatever the caller did to the networks."""
        self.model.eval()
        self.tokenizer.eval()
        stats = window_stats(bars, self.epsilon)
        with torch.inference_mode():
            s1, s2 = self.tokenizer.encode(self._tensor(normalise(bars, stats, self.clip)))
            future = self._generate(s1, s2, stamps, future_stamps, series)
            paths, last = self._decode(s1, s2, *future, stats)
        return anchored(paths, last[:, CLOSE], bars[:, -1, CLOSE]) if self.anchor else paths

    def _generate(
        self, s1: Tensor, s2: Tensor, stamps: NDArray, future_stamps: NDArray, series: NDArray
    ) -> tuple[Tensor, Tensor]:
        keys = torch.from_numpy(np.array(series, dtype=np.int64)).to(self.device)
        with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            way = generate_reference if slides(s1.shape[1], future_stamps.shape[1], self.max_context) else generate
            return way(
                self.model,
                *(s1, s2, self._tensor(stamps), self._tensor(future_stamps)),
                sampling=self.sampling,
                series=keys,
                max_context=self.max_context,
            )

    def _decode(
        self, s1: Tensor, s2: Tensor, future_s1: Tensor, future_s2: Tensor, stats: WindowStats
    ) -> tuple[FloatArray, FloatArray]:
        """Known (B, L) and sampled (B, S, H) tokens to bars (B, S, H, 6) and the last known bar (B, 6) in price units.

        A sampled token is decoded behind its context, as in training: the decoder looks back, but never ahead. It sees
        max_context tokens at most, like the predictor.
        """
        past = max(1, self.max_context - future_s1.shape[2])
        decoded = decode_paths(self.tokenizer, s1[:, -past:], s2[:, -past:], future_s1, future_s2)
        paths, last = (denormalise(scaled.cpu().numpy(), stats) for scaled in decoded)
        return paths, last

    def _tensor(self, array: NDArray) -> Tensor:
        return torch.from_numpy(np.array(array, dtype=np.float32)).to(self.device)


def anchored(paths: FloatArray, rebuilt_close: FloatArray, last_close: NDArray) -> FloatArray:
    """Paths (B, S, H, 6) moved so that the tokenizer's error on the last known bar does not look like a price move.

    rebuilt_close, last_close (B,): that bar's close as its tokens say it, and the true one; all in price units. The predictor
    knows the tokens only: a path goes on from the rebuilt close. Open, high, low and close move by the same amount of
    currency, so that candles keep their shape (each feature has a scale of its own in normalised space); volume and amount stay.
    """
    moved = paths.copy()
    moved[..., OPEN : CLOSE + 1] += (last_close - rebuilt_close).astype(np.float32)[:, None, None, None]
    return moved
