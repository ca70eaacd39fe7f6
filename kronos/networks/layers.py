"""Building blocks of both networks: RMSNorm, rotary positions, causal attention, SwiGLU. Decoding:
`decoding`.

In: hidden states (B, T, D). Out: hidden states of the same shape. Attribute names are the published
checkpoints'.
Source: Kronos paper (arXiv 2508.02739) and its published weights; RoFormer (arXiv 2104.09864) for the
rotation.

Letters: B series, T time steps, D width, H heads, E = D / H width of a head.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kronos.networks import fused

ROPE_BASE = 10000.0
NORM_EPSILON = 1e-5


class RMSNorm(nn.Module):
    """x / rms(x) in float32, cast back to x's type, times the weight. (..., D) -> (..., D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., d) over its root mean square, times the weights."""
        if fused.norm_applies(x):
            return cast(Tensor, fused.RMSNormFunction.apply(x, self.weight, NORM_EPSILON))
        if x.dtype == self.weight.dtype == torch.float32:
            return F.rms_norm(x, x.shape[-1:], self.weight, NORM_EPSILON)  # a GPU has one kernel for it
        return F.rms_norm(x.float(), x.shape[-1:], eps=NORM_EPSILON).type_as(x) * self.weight


def settled(norm: RMSNorm, x: Tensor) -> Tensor:
    """norm(x) of (..., D), for answers: NaN where the sum of squares of x is not finite.

    A norm makes 0 of numbers whose squares overflow, and logits of zeros look sound. What overflows inside a
    block stays in the residual stream, so it is enough to look before the last norm.
    """
    length = torch.linalg.vector_norm(
        x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32)
    )
    return norm(x) + (length.square() * 0).type_as(x)


class Dropout(nn.Dropout):
    """nn.Dropout; masks of a CPU tensor are drawn faster."""

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.place = next(_PLACES)

    def forward(self, x: Tensor) -> Tensor:
        """x with a share of its numbers set to 0 in training; same shape."""
        if self.training and self.p > 0 and x.device.type == "cpu":
            return fused.dropout(x, self.p, self.place)
        return super().forward(x)


_PLACES = itertools.count()
"""Numbers the dropout layers: torch.compile merges equal operations, also random ones that are not its
own.
"""


# -- rotary positions ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rope:
    """Cosines and sines of consecutive positions; each (T, E) float32. One table serves all blocks of a
    forward.
    """

    cos: Tensor
    sin: Tensor

    def rotate(self, x: Tensor) -> Tensor:
        """Rotate (..., T, E) by the table's positions: x cos + (-b, a) sin, with (a, b) the halves of x."""
        if fused.rotation_applies(x):
            return cast(Tensor, fused.RotateFunction.apply(x, self.cos, self.sin))
        a, b = x.float().chunk(2, dim=-1)
        return (x * self.cos + torch.cat((-b, a), dim=-1) * self.sin).type_as(x)

    def __getitem__(self, positions: slice) -> "Rope":
        return Rope(self.cos[positions], self.sin[positions])


class RotaryEmbedding(nn.Module):
    """Angles position x 10000^(-2i/E).

    `inv_freq` (E/2,) is a buffer because published checkpoints hold it. The tables are computed from the
    formula and
    not from the buffer: a network cast to bfloat16 would round the frequencies, and late positions would be
    wrong.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.inv_freq: Tensor
        self.register_buffer("inv_freq", self._frequencies(torch.device("cpu")))

    def _frequencies(self, device: torch.device) -> Tensor:
        exponent = torch.arange(0, self.head_width, 2, dtype=torch.float32, device=device) / self.head_width
        return 1.0 / ROPE_BASE**exponent

    def table(self, length: int) -> Rope:
        """Rope of positions 0..length-1, float32 whatever the network's type or autocast."""
        device = self.inv_freq.device
        positions = torch.arange(length, dtype=torch.float32, device=device)
        angles = positions[:, None] * self._frequencies(device)
        angles = torch.cat((angles, angles), dim=-1)
        return Rope(angles.cos(), angles.sin())


# -- attention -----------------------------------------------------------------------------------------------
def attend(query: Tensor, keys: Tensor, values: Tensor, **options: Any) -> Tensor:
    """F.scaled_dot_product_attention, (B, H, T, E) each, in memory that grows with T and not with T^2 on
    every GPU.

    Before compute capability 8.0 (T4) the kernels for half types take no E that is not a multiple of 8
    (`base` has 52).
    """
    half_on_gpu = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if half_on_gpu and query.shape[-1] % 8:
        return attend_in_eights(query, keys, values, **options)
    return F.scaled_dot_product_attention(query, keys, values, **options)


def attend_in_eights(
    query: Tensor, keys: Tensor, values: Tensor, scale: float | None = None, **options: Any
) -> Tensor:
    """The same with heads filled with zeros to a multiple of 8. Zeros add nothing to a score, and what they
    make is cut off.
    """
    width = query.shape[-1]
    q, k, v = (F.pad(t, (0, -width % 8)) for t in (query, keys, values))
    return F.scaled_dot_product_attention(q, k, v, scale=width**-0.5 if scale is None else scale, **options)[
        ..., :width
    ]


class Attention(nn.Module):
    """Multi-head attention with biased projections, rotary positions and dropout on weights and output."""

    def __init__(self, width: int, heads: int, attn_dropout_p: float, resid_dropout_p: float) -> None:
        super().__init__()
        self.heads = heads
        self.attn_dropout_p = attn_dropout_p
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.rotary = RotaryEmbedding(width // heads)
        self.resid_dropout = Dropout(resid_dropout_p)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, rope: Rope | None, causal: bool = True
    ) -> Tensor:
        """Attention of queries (B, T, D), rotated unless `rope` is None, over `keys_values`; (B, T, D).

        causal: queries and keys stand at the same T positions and see none that follow; otherwise all keys
        are seen.
        """
        dropout = self.attn_dropout_p if self.training else 0.0
        return self._merge(
            attend(self._queries(query, rope), keys, values, dropout_p=dropout, is_causal=causal)
        )

    def keys_values(self, memory: Tensor, rope: Rope | None) -> tuple[Tensor, Tensor]:
        """Keys, rotated unless `rope` is None, and values of (B, T, D); each (B, H, T, E)."""
        keys, values = self._split(self.k_proj(memory)), self._split(self.v_proj(memory))
        return (keys if rope is None else rope.rotate(keys)), values

    def _queries(self, x: Tensor, rope: Rope | None) -> Tensor:
        queries = self._split(self.q_proj(x))
        return queries if rope is None else rope.rotate(queries)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _merge(self, x: Tensor) -> Tensor:
        return self.resid_dropout(self.out_proj(x.transpose(1, 2).flatten(-2)))


# -- block ---------------------------------------------------------------------------------------------------
class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x), without biases, dropout on the output."""

    def __init__(self, width: int, ff_dim: int, dropout_p: float) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, ff_dim, bias=False)
        self.w3 = nn.Linear(width, ff_dim, bias=False)
        self.w2 = nn.Linear(ff_dim, width, bias=False)
        self.dropout = Dropout(dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


def _for_products(x: Tensor) -> Tensor:
    """x in autocast's type, if that is on: else each of the layers that read x would make and keep a copy of
    its own.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class TransformerBlock(nn.Module):
    """Pre-norm block: x += attention(norm1(x)); x += feed-forward(norm2(x)). (B, T, D) -> (B, T, D),
    causal.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ff_dim: int,
        ffn_dropout_p: float,
        attn_dropout_p: float,
        resid_dropout_p: float,
    ) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.self_attn = Attention(width, heads, attn_dropout_p, resid_dropout_p)
        self.norm2 = RMSNorm(width)
        self.ffn = FeedForward(width, ff_dim, ffn_dropout_p)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        normed = _for_products(self.norm1(x))
        keys, values = self.self_attn.keys_values(normed, rope)
        x = x + self.self_attn(normed, keys, values, rope)
        return x + self.ffn(_for_products(self.norm2(x)))


class BlockStack(nn.ModuleList):
    """`TransformerBlock`s one after another, (B, T, D) -> (B, T, D); one rotary table serves them all."""

    recompute = False
    """Keep only each block's input for the backward pass and compute the rest again there, dropout included:
    the same gradients, bit for bit, for less memory and about a third more time."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d) through all blocks."""
        if len(self) == 0:
            return x
        rope = self.rope(x.shape[1])
        recompute = self.recompute and torch.is_grad_enabled()
        for block in self.blocks():
            x = checkpoint(block, x, rope, use_reentrant=False) if recompute else block(x, rope)
        return x

    def blocks(self) -> Iterator[TransformerBlock]:
        """The blocks, first to last."""
        return cast(Iterator[TransformerBlock], iter(self))

    def rope(self, length: int) -> Rope:
        """The blocks' rotary table for positions 0..length-1."""
        return next(self.blocks()).self_attn.rotary.table(length)
