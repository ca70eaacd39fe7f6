"""From tokens of context and paths to bars: the tokenizer's decoder over S futures that share one past.

In: tokens of the context (B, T) and of its paths (B, S, H). Out: normalised bars of the paths, (B, S, H, 6), and of the
last context bar. Equal to `KronosTokenizer.decode` of every path behind its context, which runs the context S times and
took most of a forecast.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from kronos.networks import KronosTokenizer
from kronos.networks.layers import Rope, SharedPrefixCache, TransformerBlock

DECODE_BARS = 1 << 16
"""Bars of paths that are decoded at once: bounds the memory, whatever the number of paths and steps."""


class Decoded(NamedTuple):
    """Normalised bars, float32."""

    paths: Tensor
    """(B, S, H, 6)"""
    last: Tensor
    """(B, 6) the last context bar as its tokens say it: differs from the true one by the tokenizer's error"""


@torch.inference_mode()
def decode_paths(tokenizer: KronosTokenizer, s1: Tensor, s2: Tensor, future_s1: Tensor, future_s2: Tensor) -> Decoded:
    """Bars of paths and of the bar before them. s1, s2: (B, T) context; future_s1, future_s2: (B, S, H); all int64.

    The context is what the decoder looks back on, as in training; of its own bars only the last is decoded.
    """
    _, samples, horizon = future_s1.shape
    chunk = max(1, DECODE_BARS // (samples * horizon))
    pieces = zip(*(tokens.split(chunk) for tokens in (s1, s2, future_s1, future_s2)), strict=True)
    paths, last = zip(*(_decode(tokenizer, *piece) for piece in pieces), strict=True)
    return Decoded(torch.cat(paths), torch.cat(last))


def _decode(tokenizer: KronosTokenizer, s1: Tensor, s2: Tensor, future_s1: Tensor, future_s2: Tensor) -> Decoded:
    caches, ropes, last = _prefill(tokenizer, s1, s2, *future_s1.shape[1:])
    embedded = _embed(tokenizer, future_s1, future_s2)
    bars = []
    for step in range(future_s1.shape[2]):
        here = slice(s1.shape[1] + step, s1.shape[1] + step + 1)
        x = embedded[:, :, step]
        for block, cache, rope in zip(_blocks(tokenizer), caches, ropes, strict=True):
            x = block.decode_one(x, cache, rope[here])
        bars.append(tokenizer.head(x))
    return Decoded(torch.stack(bars, dim=2).float(), tokenizer.head(last).float())


def _prefill(
    tokenizer: KronosTokenizer, s1: Tensor, s2: Tensor, samples: int, horizon: int
) -> tuple[list[SharedPrefixCache], list[Rope], Tensor]:
    """Each decoder block's keys and values of the context, once per series, its rotary table, and (B, D) the last state."""
    caches, ropes = [], []
    x = _embed(tokenizer, s1, s2)
    for block in _blocks(tokenizer):
        rope = block.self_attn.rotary.table(s1.shape[1] + horizon)
        x, keys, values = block.with_keys_values(x, rope[: s1.shape[1]])
        caches.append(SharedPrefixCache.of(keys, values, samples, horizon))
        ropes.append(rope)
    return caches, ropes, x[:, -1]


def _blocks(tokenizer: KronosTokenizer) -> list[TransformerBlock]:
    return cast(list[TransformerBlock], list(tokenizer.decoder))


def _embed(tokenizer: KronosTokenizer, s1: Tensor, s2: Tensor) -> Tensor:
    return tokenizer.post_quant_embed(tokenizer.quantizer.codes(s1, s2).type_as(tokenizer.post_quant_embed.weight))
