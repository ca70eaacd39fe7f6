"""From bars to sampled futures: the public face of a trained pair of networks.

In: the known bars of some series (price units), the calendar stamps of those bars and of the bars to come. Out: a
`Forecast` with every sampled path, in price units. Runs without polars: a GPU machine needs torch and NumPy only.
Source: Kronos paper (arXiv 2508.02739), section 3.3, autoregressive inference.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kronos.bars import CLOSE, OPEN, EpsilonKind, FloatArray, WindowStats, denormalise, normalise, window_stats
from kronos.errors import KitError
from kronos.forecasting.decode import decode_paths
from kronos.forecasting.generate import check_fits, generate
from kronos.forecasting.result import Forecast
from kronos.forecasting.sampling import Sampling
from kronos.networks import Kronos, KronosTokenizer, check_pair

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
        autocast: torch.dtype | None = None,
        anchor: bool = True,
    ) -> None:
        """Moves both networks to `device`. anchor: paths start from the true last close (see `anchored`).

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
        self.autocast = autocast
        self.anchor = anchor

    def forecast(
        self,
        bars: NDArray,
        stamps: NDArray,
        future_stamps: NDArray,
        series: NDArray[np.int64],
        progress: Progress | None = None,
    ) -> Forecast:
        """Sample the future of series of one length: group series of unequal length by the caller.

        bars (B, L, 6) known bars in price units, oldest first; stamps (B, L, 5) and future_stamps (B, H, 5) calendar
        fields as `bars.calendar_stamps` gives them; series (B,) int64 keys: a key fixes the random numbers of its
        series, so that a forecast depends on neither its batch mates nor the batch size (beyond float rounding).
        Raises KitError before any computation when the input is not finite or the horizon does not fit max_context.
        """
        self.check(bars, stamps, future_stamps, series)
        parts = []
        for first in range(0, len(bars), self.batch_size):
            rows = slice(first, first + self.batch_size)
            parts.append(self._batch(bars[rows], stamps[rows], future_stamps[rows], series[rows]))
            if progress:
                progress(len(parts[-1]))
        return Forecast(np.concatenate(parts), bars[:, -1, CLOSE].astype(np.float32))

    def paths(self, bars: NDArray, stamps: NDArray, future_stamps: NDArray, series: NDArray[np.int64]) -> FloatArray:
        """`forecast(...).paths`, (B, S, H, 6) float32."""
        return self.forecast(bars, stamps, future_stamps, series).paths

    def check(self, bars: NDArray, stamps: NDArray, future_stamps: NDArray, series: NDArray[np.int64]) -> None:
        """Refuse input that cannot give a forecast. Raises KitError."""
        count, length, horizon = len(bars), bars.shape[1], future_stamps.shape[1]
        shapes = (bars.shape, stamps.shape, future_stamps.shape, series.shape)
        if shapes != ((count, length, 6), (count, length, 5), (count, horizon, 5), (count,)) or 0 in (count, length, horizon):
            raise KitError(f"forecast: expected bars (B, L, 6), stamps (B, L, 5), (B, H, 5) and keys (B,), found {shapes}")
        check_fits(length, horizon, self.max_context)
        if (bad := ~np.isfinite(bars).all(axis=(1, 2))).any():
            raise KitError(f"forecast: series {int(bad.argmax())} holds a value that is missing or infinite")

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
            return generate(
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
