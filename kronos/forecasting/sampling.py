"""Drawing tokens: temperature, top-k, top-p, and random numbers that belong to a series and not to a batch.

In: logits (..., V). Out: tokens (...,) int64, and whether the logits that they come from were finite.
Source: nucleus sampling (arXiv 1904.09751); the Gumbel-max trick; SplitMix64 (Steele, Lea, Flood 2014) as the
hash.

A draw is the argmax of logits + Gumbel noise, and the noise of token v is a hash of (seed, series, path,
step, kind of token, v). So a series gets the same paths whoever shares its batch and in any order, and path p
does not depend on how many paths there are. Of the ways to turn a uniform number into a token this one minds
rounding
least: a token changes only if two perturbed logits are equal to within the rounding of the logits, while with
an inverse distribution function every token's border moves.

Letters: B series, S sample paths, V tokens.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kronos.errors import KitError
from kronos.networks.predictor import DecodeRope

COARSE, FINE = 0, 1  # the kinds of token, s1 and s2, in the key of a random number
_GOLDEN = -7046029254386353131  # 2^64 / golden ratio, odd, as a signed number
_MIX_1, _MIX_2 = -4658895280553007687, -7723592293110705685
COLDEST = 1e-30
"""Below this a temperature is 0: float32 logits that differ at all differ by more than any noise, and
dividing could overflow.
"""


class Drawn(NamedTuple):
    """One token per distribution."""

    token: Tensor
    """(...,) int64"""
    sound: Tensor
    """(...,) bool: every logit was finite. Otherwise the token is a number like any other and means
    nothing.
    """


@dataclass(frozen=True)
class Sampling:
    """How paths are drawn. Raises KitError on values that mean nothing."""

    temperature: float = 1.0
    """0, or below `COLDEST`: the likeliest token, always."""
    top_k: int = 0
    """Only the k likeliest tokens; 0: all."""
    top_p: float = 1.0
    """Only the likeliest tokens that together hold this probability, after top_k; 1: all."""
    sample_count: int = 1
    """Paths per series."""
    seed: int = 0
    decode_rope: DecodeRope = "trained"
    """'original' reproduces the published generation, which rotates nothing in the dependency layer."""

    def __post_init__(self) -> None:
        expected = {
            f"temperature >= 0, found {self.temperature}": math.isfinite(self.temperature)
            and self.temperature >= 0,
            f"top_k >= 0, found {self.top_k}": self.top_k >= 0,
            f"0 < top_p <= 1, found {self.top_p}": 0 < self.top_p <= 1,
            f"sample_count >= 1, found {self.sample_count}": self.sample_count >= 1,
            f"decode_rope trained or original, found {self.decode_rope}": self.decode_rope
            in ("trained", "original"),
        }
        broken = [rule for rule, holds in expected.items() if not holds]
        if broken:
            raise KitError(f"sampling: expected {'; '.join(broken)}")

    @property
    def greedy(self) -> bool:
        """The likeliest token is taken, nothing is drawn."""
        return self.temperature < COLDEST


def filter_logits(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """-inf on the tokens that may not be drawn; (..., V) -> (..., V), a new one if anything is filtered.

    First top-k (tokens equal to the k-th stay), then top-p on what is left: the shortest run of likeliest
    tokens whose probability exceeds top_p, the token that crosses it included. The likeliest token always
    stays.
    """
    if 0 < top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1.0:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        beyond = ordered.softmax(dim=-1).cumsum(dim=-1) > top_p
        surplus = beyond.roll(1, dims=-1)  # the token that crosses the border stays
        surplus[..., 0] = False
        logits = logits.masked_fill(torch.empty_like(surplus).scatter_(-1, order, surplus), -math.inf)
    return logits


def draw(logits: Tensor, sampling: Sampling, keys: Tensor) -> Drawn:
    """One token per distribution. logits: (..., V); keys: (...,) int64 from `draw_keys`. Returns tokens and
    soundness (...,).
    """
    logits = logits.float()
    sound = finite(logits)
    if sampling.greedy:
        return Drawn(logits.argmax(dim=-1), sound)
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
        sound = sound & finite(logits)
    allowed = filter_logits(logits, sampling.top_k, sampling.top_p)
    token = gumbel(keys, logits.shape[-1]).add_(allowed).max(dim=-1).indices  # faster than argmax
    return Drawn(token, sound)


def finite(logits: Tensor) -> Tensor:
    """Whether all of (..., V) are: (...,) bool, without waiting for the device.

    By their sum, which any NaN or infinity among them makes one; a tenth of what looking at each costs.
    Logits so large that only their sum overflows count as infinite.
    """
    return logits.sum(dim=-1).isfinite()


# -- keyed random numbers ------------------------------------------------------------------------------------
def draw_keys(
    seed: int, series: Tensor, paths: int, step: int | Tensor, kind: int | Tensor, first_path: int = 0
) -> Tensor:
    """Keys (..., B, S) int64 of draws: a hash of seed, series (B,) int64, path, step and kind of token
    (numbers, or tensors (..., 1, 1)). first_path: where paths of a series are drawn in several calls, the
    number of these paths' first."""
    path = torch.arange(first_path, first_path + paths, device=series.device)
    key = torch.full_like(series, seed)[:, None]
    for part in (series[:, None], path, step, kind):
        key = _mix(key + _GOLDEN) ^ part
    return _mix(key + _GOLDEN)


def horizon_keys(seed: int, series: Tensor, paths: int, horizon: int, first_path: int = 0) -> Tensor:
    """`draw_keys` of all steps and both kinds, (H, 2, B, S)."""
    step = torch.arange(horizon, device=series.device)[:, None, None, None]
    kind = torch.tensor((COARSE, FINE), device=series.device)[:, None, None]
    return draw_keys(seed, series, paths, step, kind, first_path)


def gumbel(keys: Tensor, count: int) -> Tensor:
    """Standard Gumbel noise (..., count) float32, a function of keys (...,) int64 and the position."""
    position = torch.arange(1, count + 1, device=keys.device)
    return exponential(_mix(keys.unsqueeze(-1) + position * _GOLDEN)).log_().neg_()


def exponential(bits: Tensor) -> Tensor:
    """Standard exponential float32 numbers of 64 random bits each (int64). Never 0: near 0 their resolution
    is 2^-54.
    """
    minus_uniform = (bits & (2**53 - 1)).float().mul_(-(2.0**-53)).clamp_(-1 + 2.0**-24, -(2.0**-54))
    return minus_uniform.log1p_().neg_()


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around: every bit of x moves every bit of the
    result.
    """
    x = _shift_right(x, 30).bitwise_xor_(x).mul_(_MIX_1)
    x = _shift_right(x, 27).bitwise_xor_(x).mul_(_MIX_2)
    return _shift_right(x, 31).bitwise_xor_(x)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift that brings in zeros, as for unsigned numbers; a new tensor."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)
