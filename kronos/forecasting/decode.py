"""From tokens of context and paths to bars: the tokenizer's decoder over S futures that share one past.

In: tokens of the context (B, T) and of its paths (B, S, H). Out: normalised bars of the paths, (B, S, H, 6),
and of the last context bar. Equal to `KronosTokenizer.decode` of every path behind its context, which runs
the context S times and took most of a forecast.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kronos.networks import KronosTokenizer
from kronos.networks.decoding import PackedStack
from kronos.networks.packed import packed_blocks

DECODE_BARS = 1 << 14
"""Bars of paths that are decoded at once: bounds the memory, whatever the number of series, paths and
steps.
"""


class Decoded(NamedTuple):
    """Normalised bars, float32."""

    paths: Tensor
    """(B, S, H, 6)"""
    last: Tensor
    """(B, 6) the last context bar as its tokens say it: differs from the true one by the tokenizer's error"""


@torch.inference_mode()
def decode_paths(
    tokenizer: KronosTokenizer, s1: Tensor, s2: Tensor, future_s1: Tensor, future_s2: Tensor
) -> Decoded:
    """Bars of paths and of the bar before them. s1, s2: (B, T) context; future_s1, future_s2: (B, S, H); all
    int64.

    The context is what the decoder looks back on, as in training; of its own bars only the last is decoded.
    """
    _, samples, horizon = future_s1.shape
    chunk = max(1, DECODE_BARS // (samples * horizon))
    pieces = zip(*(tokens.split(chunk) for tokens in (s1, s2, future_s1, future_s2)), strict=True)
    paths, last = zip(*(_decode(tokenizer, *piece) for piece in pieces), strict=True)
    return Decoded(torch.cat(paths), torch.cat(last))


def _decode(
    tokenizer: KronosTokenizer, s1: Tensor, s2: Tensor, future_s1: Tensor, future_s2: Tensor
) -> Decoded:
    """All steps of a path at once: its tokens are known, and the decoder is causal. Many paths in several
    passes.
    """
    batch, samples, horizon = future_s1.shape
    at_once = min(samples, max(1, DECODE_BARS // (batch * horizon)))
    weights = packed_blocks(tokenizer.decoder, torch.float32)
    own = PackedStack(weights, tokenizer.decoder.rope(s1.shape[1] + horizon))
    last = own.prefill(_embed(tokenizer, s1, s2), at_once, horizon, last=True)[:, 0]
    found = []
    for first in range(0, samples, at_once):
        part1, part2 = (tokens[:, first : first + at_once] for tokens in (future_s1, future_s2))
        if first:
            own.restart(part1.shape[1], horizon)
        found.append(tokenizer.head(own.extend(_embed(tokenizer, part1, part2))).float())
    return Decoded(torch.cat(found, dim=1), tokenizer.head(last).float())


def _embed(tokenizer: KronosTokenizer, s1: Tensor, s2: Tensor) -> Tensor:
    return tokenizer.post_quant_embed(
        tokenizer.quantizer.codes(s1, s2).type_as(tokenizer.post_quant_embed.weight)
    )
