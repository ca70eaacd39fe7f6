"""P(rise) of the next bar without sampling noise: the likeliest pairs of tokens, decoded and added up.

In: known bars, as a forecaster takes them. Out: `NextStep`: the probability, the mass it rests on, and hard
bounds.
Source: the chain rule p(s1, s2) = p(s1) p(s2 | s1) over Kronos' two tokens (arXiv 2508.02739, section 3.2).

The next bar has 2^(s1_bits + s2_bits) possible values, each with a probability that the network states.
Sampling S paths draws S of them; here the N likeliest are listed and decoded, each once. What is not listed,
1 - mass, is not looked at: the probability is that of a rise *given* that the bar is one of those listed, and
with everything else falling or rising the true one lies in [lower, upper].

Letters: B series, T context steps, N pairs, C candidates for s1, V1 and V2 tokens, H heads, E width of a
head.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kronos.bars import CLOSE
from kronos.errors import KitError
from kronos.forecasting.memory import COARSE_AT_ONCE
from kronos.forecasting.sampling import Sampling, filter_logits
from kronos.forecasting.sampling import finite as logits_finite
from kronos.networks import Kronos
from kronos.networks.predictor import DecodeState

if TYPE_CHECKING:
    from kronos.forecasting.forecaster import Forecaster

SERIES_AT_ONCE = 16
"""Series of a batch on a processor: more of them only fall out of its cache."""
PAIRS_AT_ONCE = 1 << 12
"""Pairs that are decoded together, over all series: bounds the memory."""


@dataclass(frozen=True)
class Enumeration:
    """How far the list of pairs goes. Raises KitError on values that mean nothing."""

    mass: float = 0.995
    """Stop when the listed pairs hold this probability."""
    pairs: int = 512
    """Stop after this many pairs per series, whatever their mass."""

    def __post_init__(self) -> None:
        if not (0 < self.mass <= 1 and self.pairs >= 1):
            raise KitError(
                f"enumeration: expected 0 < mass <= 1 and pairs >= 1, found {self.mass} and {self.pairs}"
            )


@dataclass(frozen=True)
class NextStep:
    """P(rise) of B series, each (B,) float64; NaN where the networks gave something that is not finite."""

    prob_up: NDArray[np.float64]
    """Share of the listed mass whose close is strictly above the last known close."""
    mass: NDArray[np.float64]
    """Probability of all listed pairs together, after temperature and filters."""
    pairs: NDArray[np.int64]
    """How many pairs are listed."""

    @property
    def lower(self) -> NDArray[np.float64]:
        """P(rise) if everything that is not listed fell."""
        return self.prob_up * self.mass

    @property
    def upper(self) -> NDArray[np.float64]:
        """P(rise) if everything that is not listed rose."""
        return self.lower + (1 - self.mass)


class Pairs(NamedTuple):
    """The likeliest pairs, best first, padded with probability 0; each (B, N)."""

    s1: Tensor
    s2: Tensor
    probability: Tensor
    """float32"""
    sound: Tensor
    """(B,) bool: every logit that was looked at is finite; the pairs of the other series mean nothing"""


def next_step(forecaster: "Forecaster", bars: NDArray, stamps: NDArray, enumeration: Enumeration) -> NextStep:
    """One batch of series of one length: bars (B, L, 6), stamps (B, L, 5).

    Temperature, top-k and top-p of the forecaster's sampling hold as they do for paths; its seed plays no
    part. The next bar's
    own calendar does not enter: the network learns of it only with the bar after.
    """
    return _summed(*listed(forecaster, bars, stamps, enumeration))


def listed(
    forecaster: "Forecaster", bars: NDArray, stamps: NDArray, enumeration: Enumeration
) -> tuple[Pairs, Tensor, NDArray[np.bool_]]:
    """The pairs that `next_step` adds up, which of them close above the last known close (B, N), which series
    are finite (B,).
    """
    with torch.inference_mode():
        s1, s2, stats, sound = forecaster.encode(bars)
        with forecaster.precision():
            seen = (x[:, -forecaster.settings.max_context :] for x in (s1, s2, forecaster.tensor(stamps)))
            state = forecaster.model.prefill(
                *seen,
                paths=1,
                steps=0,
                decode_rope=forecaster.sampling.decode_rope,
                integers=forecaster.settings.integers,
            )
            pairs = likeliest_pairs(forecaster.model, state, forecaster.sampling, enumeration)
        del state
        up = torch.zeros_like(pairs.probability, dtype=torch.bool)
        finite = (sound & pairs.sound & torch.isfinite(pairs.probability).all(dim=1)).cpu().numpy()
        for rows, count in _groups((pairs.probability > 0).sum(dim=1)):
            future1, future2 = pairs.s1[rows, :count, None], pairs.s2[rows, :count, None]
            index = rows.cpu().numpy()
            part = type(stats)(stats.mean[index], stats.scale[index])
            close = forecaster.decode(s1[rows], s2[rows], future1, future2, part, bars[index, -1, CLOSE])[
                :, :, 0, CLOSE
            ]
            up[rows, :count] = torch.from_numpy(
                close > bars[index, -1, CLOSE].astype(np.float32)[:, None]
            ).to(up.device)
            finite[index] &= np.isfinite(close).all(axis=1)
    return pairs, up, finite


def likeliest_pairs(model: Kronos, state: DecodeState, sampling: Sampling, enumeration: Enumeration) -> Pairs:
    """The likeliest pairs of the next step, as many as the series that needs most of them. state: prefilled
    for one path.

    Exact among the `enumeration.pairs` likeliest s1: a pair is no likelier than its s1, so the search goes
    through s1 from the likeliest on and ends when the next one could not enter the list.
    """
    p1, sound = _probabilities(model.decode_s1_logits(state)[:, 0], sampling)
    p1, order = p1.sort(dim=-1, descending=True, stable=True)
    before = p1.cumsum(dim=-1) - p1
    nothing = order[:, :0]
    best = Pairs(nothing, nothing, p1[:, :0], sound)
    for first in range(0, min(p1.shape[1], enumeration.pairs), COARSE_AT_ONCE):
        if best.s1.shape[1] and not _worth_more(best, p1[:, first], before[:, first], enumeration):
            break
        s1, own = order[:, first : first + COARSE_AT_ONCE], p1[:, first : first + COARSE_AT_ONCE]
        p2, sound = _probabilities(model.decode_s2_logits(state, s1), sampling)
        best = _merged(best, s1, own.unsqueeze(-1) * p2, sound.all(dim=1), enumeration.pairs)
    return _cut(best, enumeration.mass)


def _worth_more(best: Pairs, next_p1: Tensor, before: Tensor, enumeration: Enumeration) -> bool:
    """Whether any series' list could still change: the next s1 is likelier than its last pair, and mass is
    missing.

    before (B,): the probability of all s1 looked at. A full list only changes for a pair likelier than its
    last; a list that already holds the wanted mass is left, since `_cut` keeps no more than that (its pairs
    are the likeliest unless the next s1 beats the last one that is kept).
    """
    held = best.probability.double().cumsum(dim=1)
    enough = (held >= enumeration.mass).int().argmax(dim=1, keepdim=True)
    reached = held[:, -1] >= enumeration.mass
    full = torch.full_like(reached, best.s1.shape[1] >= enumeration.pairs)
    last = torch.where(reached, best.probability.gather(1, enough)[:, 0], best.probability[:, -1])
    settled = (reached | full) & (next_p1 <= last)
    return bool((~settled & (before < 1) & (next_p1 > 0)).any())


def _merged(best: Pairs, s1: Tensor, joint: Tensor, sound: Tensor, limit: int) -> Pairs:
    """The list with the pairs of some more s1 (B, C), joint (B, C, V2), sound (B,), cut to the `limit`
    likeliest.
    """
    count = joint.shape[-1]
    probability, place = joint.flatten(1).topk(min(limit, joint[0].numel()), dim=1)
    joined1 = torch.cat((best.s1, s1.gather(1, place // count)), dim=1)
    joined2 = torch.cat((best.s2, place % count), dim=1)
    top = torch.cat((best.probability, probability), dim=1).topk(min(limit, joined1.shape[1]), dim=1)
    return Pairs(
        joined1.gather(1, top.indices), joined2.gather(1, top.indices), top.values, best.sound & sound
    )


def _cut(pairs: Pairs, mass: float) -> Pairs:
    """Each series' shortest run of likeliest pairs that holds `mass`; probability 0 behind it."""
    wide = pairs.probability.double()
    surplus = wide.cumsum(dim=1) - wide >= mass
    kept = pairs.probability.masked_fill(surplus, 0.0)
    most = max(1, int((kept > 0).sum(dim=1).max()))
    return Pairs(pairs.s1[:, :most], pairs.s2[:, :most], kept[:, :most], pairs.sound)


def _probabilities(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """What `sampling.draw` draws from: (..., V) logits to (..., V) float32 probabilities, and their soundness
    (...,).
    """
    logits = logits.float()
    if sampling.greedy:
        certain = torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        return certain, logits_finite(logits)
    scaled = logits / sampling.temperature
    sound = logits_finite(logits) & logits_finite(scaled)
    return filter_logits(scaled, sampling.top_k, sampling.top_p).softmax(dim=-1), sound


def _groups(counts: Tensor) -> list[tuple[Tensor, int]]:
    """Series with similar numbers of pairs together, (rows, largest number), at most PAIRS_AT_ONCE pairs
    each.
    """
    order = counts.argsort(descending=True, stable=True)
    groups, first = [], 0
    while first < len(order):
        count = max(1, int(counts[order[first]]))
        rows = order[first : first + max(1, PAIRS_AT_ONCE // count)]
        groups.append((rows, count))
        first += len(rows)
    return groups


def _summed(pairs: Pairs, up: Tensor, finite: NDArray[np.bool_]) -> NextStep:
    wide = pairs.probability.double()
    mass = wide.sum(dim=1)
    prob_up = ((wide * up).sum(dim=1) / mass).cpu().numpy()
    held = mass.clamp(max=1.0).cpu().numpy()
    counts = (pairs.probability > 0).sum(dim=1).cpu().numpy()
    return NextStep(np.where(finite, prob_up, np.nan), np.where(finite, held, np.nan), counts)
