"""How many series and paths are forecast at once: as many as fit into the memory that is free.

In: two networks' configurations, the longest context and horizon, free bytes. Out: `MemoryPlan`. Estimated
from shapes: the key/value cache exactly (`networks/cost.py`), the largest tensors of each step from above. No
answer depends on the plan (beyond float rounding): random numbers are keyed by series, path and step.

Letters as in `networks/decoding.py`: T context bars, H steps, S paths of a series.
"""

import logging
from dataclasses import dataclass

import psutil
import torch

from kronos.errors import KitError
from kronos.forecasting.decode import DECODE_BARS
from kronos.networks.cost import cache_bytes_per_token
from kronos.networks.predictor import PredictorConfig
from kronos.networks.tokenizer import TokenizerConfig

log = logging.getLogger(__name__)

SHARE = {"cpu": 0.3, "cuda": 0.7}
"""Of the free memory that is planned with: other programs want some of a machine's, fragments take some of a
GPU's.
"""
MOST_SERIES = {"cpu": 64, "cuda": 1024}
"""More at once are no faster: a processor's cache is full long before."""
NOISE_BYTES = 40
"""Of each token's draw: logits, their copy in float32, random bits and noise, at their most."""
COARSE_AT_ONCE = 32
"""Candidates for s1 of a listed next bar whose s2 logits are computed together: (B, 32, V2) floats are
held.
"""
ACTIVATIONS = 4
"""Tensors as wide as the feed-forward layer that one layer holds of a context at a time."""


@dataclass(frozen=True)
class MemoryPlan:
    """What is computed at once."""

    series: int
    paths: int
    """of each series"""
    total_paths: int
    series_bytes: int
    """One series' share: its context, and `paths` paths."""
    fixed_bytes: int
    """What does not grow with the series: the tokenizer's decoder."""
    free: int
    """Bytes free when it was made."""

    @property
    def bytes(self) -> int:
        """Bytes that the forecast needs."""
        return self.series * self.series_bytes + self.fixed_bytes

    def __str__(self) -> str:
        passes = -(-self.total_paths // self.paths)
        way = f"{self.total_paths} paths" + (f" in {passes} passes of {self.paths}" if passes > 1 else "")
        return f"{self.series} series at once, {way}: at most about {_size(self.bytes)} of {_size(self.free)} free"


@dataclass
class Fits:
    """What was found to fit when memory ran out. Of one call, or of the many calls of one caller.

    No answer depends on it (beyond float rounding).
    """

    series: int | None = None
    """At most so many at once; None: no batch was too large."""
    paths: int | None = None
    """At most so many of each series at once."""

    def fewer(self, size: int, paths: int, device: torch.device) -> int:
        """Take half of a batch of `size` series from now on, or half of the `paths` of a single one. Said
        once.

        Returns the series to take at once. Raises KitError when there was one path of one series.
        """
        if size == 1 and paths == 1:
            raise KitError(
                f"forecast: out of memory on {device} with one path of one series; lower data.max_context "
                "or inference.enumeration_pairs"
            )
        if self.series is None:
            log.warning(
                "out of memory on %s with %d series at once: going on with halves; no answer changes",
                device,
                size,
            )
        self.series = max(1, size // 2)
        if size == 1:
            self.paths = paths // 2
        return self.series


def plan_memory(
    model: PredictorConfig,
    tokenizer: TokenizerConfig,
    *,
    context: int,
    horizon: int,
    paths: int,
    element: int,
    free: int,
    kind: str = "cpu",
    series: int | None = None,
    slides: bool = False,
) -> MemoryPlan:
    """Choose series and paths for contexts of at most T bars and H steps.

    element: bytes of a number of the cache. free: bytes; of them a share of the device's `kind` is used.
    series: a number that was asked for, kept; else a power of two, so that a little more free memory gives
    the same batches. slides: the window slides, every step runs it anew for every path, without a cache. If
    not even one series fits, its paths take several passes; one path is always tried.
    """
    room, fixed = int(free * SHARE[kind]), _decoder_bytes(tokenizer, context)
    shared, each = _series_bytes(model, context, horizon, element, slides)
    spare = max(0, room - fixed)
    at_once = paths if shared + paths * each <= spare else max(1, min(paths, (spare - shared) // each))
    own = shared + at_once * each
    fitting = max(1, min(MOST_SERIES[kind], spare // own))
    fitting = 1 << (fitting.bit_length() - 1)
    return MemoryPlan(series or fitting, at_once, paths, own, fixed, free)


def free_memory(device: torch.device, processes: int = 1) -> int:
    """Bytes that one of so many processes on this machine may count with: of a GPU all that is free, of main
    memory a part.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return psutil.virtual_memory().available // processes


def _series_bytes(
    c: PredictorConfig, context: int, horizon: int, element: int, slides: bool
) -> tuple[int, int]:
    """Bytes of a series, and of each of its paths."""
    running = context * 4 * max(ACTIVATIONS * c.ff_dim, 6 * c.d_model)
    listing = COARSE_AT_ONCE * 2**c.s2_bits * 4 * 4 if horizon == 1 else 0
    drawing = NOISE_BYTES * 2 ** max(c.s1_bits, c.s2_bits)
    tokens = horizon * (4 * 8 + 6 * 4)  # two tokens and their keys, six prices
    if slides:
        return listing, running + drawing + tokens
    token = cache_bytes_per_token(c, element)
    scores = (context + horizon) * 4 * 4 * c.n_heads
    return running + context * token + listing, horizon * token + scores + drawing + tokens


def _decoder_bytes(c: TokenizerConfig, context: int) -> int:
    """The tokenizer's decoder, which takes DECODE_BARS bars of paths at a time, of at least one series: each
    bar's scores of the context, three times (joined with those of its own path, and their softmax)."""
    held = (DECODE_BARS + context) * (ACTIVATIONS * c.ff_dim + (2 * c.n_dec_layers + 6) * c.d_model)
    return 4 * (held + 3 * DECODE_BARS * c.n_heads * context)


def _size(count: float) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
