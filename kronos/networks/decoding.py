"""Cached decoding: the context once per series, then one position of every path at a time.

In: a stack of `TransformerBlock`s and a context (B, T, D). Out: hidden states of the context, and of the S
paths that go on from it. `Kronos.prefill`, `decode_s2_logits` and `decode_many` and the tokenizer's decoder
(`forecasting/decode.py`) are built of it; the plain forward stays in `layers`, and tests compare the two.

The step of a few series costs as much in calls as in arithmetic, so the weights are packed, once per network
(`networks/packed.py`): query, key and value in one product, both halves of the feed-forward in one, the weight of a norm and the
scale of the attention folded into what follows, and the rows of query and key ordered so that the two entries
that rotate together are neighbours (a rotation is then one complex product). Scores do not change, since
queries and keys are ordered alike.

Letters: B series, T context steps, S sample paths, n new positions per path, D width, H heads, E = D / H.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kronos.networks.layers import NORM_EPSILON, Attention, RMSNorm, Rope, TransformerBlock, attend
from kronos.networks.products import product


def compute_type(like: Tensor) -> torch.dtype:
    """The type of matrix products: autocast's where it is on, else that of the weight `like`."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


# -- what paths share and what is their own ------------------------------------------------------------------
@dataclass
class SharedPrefixCache:
    """Keys and values of one attention while S paths of each series are decoded.

    The context is held once per series, whatever S: `keys`, `values` (B, H, T, E), keys transposed in memory.
    What the paths add is held per path in a buffer of fixed size, `own` (2, B, H, S, steps, E), of which
    `filled` steps are valid; of a cache whose shapes are fixed (`fix`), `filled` steps are looked at and
    `valid` (1,) of them count.
    """

    keys: Tensor
    values: Tensor
    own: Tensor
    filled: int = 0
    valid: Tensor | None = None

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, paths: int, steps: int) -> "SharedPrefixCache":
        """A cache of the context's keys and values (B, T, H, E) with room for `steps` positions of `paths`
        paths.
        """
        batch, _, heads, width = keys.shape
        own = keys.new_empty(2, batch, heads, paths, steps, width)
        packed = keys.permute(0, 2, 3, 1).contiguous().transpose(-1, -2)
        return cls(packed, values.transpose(1, 2).contiguous(), own)

    def restart(self, paths: int, steps: int) -> None:
        """Room for other paths behind the same context; the old ones are forgotten."""
        batch, heads, _, width = self.keys.shape
        shape = (2, batch, heads, paths, steps, width)
        self.own = self.own if self.own.shape == shape else self.keys.new_empty(shape)
        self.filled, self.valid = 0, None

    def fix(self, visible: int) -> None:
        """Look at the first `visible` steps from now on, mask those that are not filled yet, and count on the
        device: no shape and no number on the host changes with a step any more."""
        if self.valid is None:
            self.own[..., self.filled :, :] = (
                0.0  # what is masked has weight 0, and 0 times a stray NaN is NaN
            )
            self.valid = torch.full((1,), self.filled, device=self.own.device)
        self.filled = visible

    @property
    def own_keys(self) -> Tensor:
        """Keys of each path's own steps."""
        return self.own[0]

    @property
    def own_values(self) -> Tensor:
        """Values of each path's own steps."""
        return self.own[1]

    def append(self, keys_values: Tensor) -> None:
        """Add n positions of every path, one where shapes are fixed; (B, S, n, 2, H, E)."""
        count, added = keys_values.shape[2], keys_values.permute(3, 0, 4, 1, 2, 5)
        if self.valid is not None:
            self.own.index_copy_(-2, self.valid, added)
            self.valid += 1
        else:
            self.own[..., self.filled : self.filled + count, :] = added
            self.filled += count

    def attend(self, query: Tensor) -> Tensor:
        """Softmax attention (scaled already) of each path's last n positions, (B, S, n, H, E) -> (B, S, n,
        D).

        They see the context and their own path up to themselves. One matrix product serves all queries of a
        series against their common context, so that the context is read once instead of S times.
        """
        batch, paths, count, heads, width = query.shape
        flat = query.permute(0, 3, 1, 2, 4).reshape(batch * heads, paths * count, width)
        keys, values = self.keys.flatten(0, 1), self.values.flatten(0, 1)
        scores = torch.bmm(flat, keys.transpose(1, 2))
        if self.filled == 0:
            mixed = torch.bmm(_softmax(scores), values)
        else:
            own_keys, own_values = (own.flatten(0, 2)[:, : self.filled] for own in self.own.unbind())
            own = torch.bmm(flat.reshape(-1, count, width), own_keys.transpose(1, 2))
            if (unseen := self._unseen(count)) is not None:
                own = own.masked_fill(unseen, float("-inf"))
            weights = _softmax(torch.cat((scores, own.view(batch * heads, paths * count, -1)), dim=-1))
            shared, rest = weights.split((keys.shape[1], self.filled), dim=-1)
            mixed = torch.bmm(shared, values).view(-1, count, width)
            mixed = torch.baddbmm(mixed, rest.view(-1, count, self.filled), own_values)
        return mixed.view(batch, heads, paths, count, width).permute(0, 2, 3, 1, 4).flatten(-2)

    def _unseen(self, count: int) -> Tensor | None:
        """(n or 1, filled): which of the path's positions lie after each of its last n; None: none does."""
        if self.valid is not None:
            return torch.arange(self.filled, device=self.own.device)[None] >= self.valid
        if count == 1:
            return None
        every = torch.ones(self.filled, self.filled, dtype=torch.bool, device=self.own.device)
        return every.triu(1)[-count:]


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(dim=-1, dtype=torch.float32).type_as(scores)


# -- packed weights ------------------------------------------------------------------------------------------
def rotation(rope: Rope) -> Tensor:
    """A rotary table (T, E) as complex numbers (T, 1, 1, E / 2), for `rotate_`."""
    half = rope.cos.shape[-1] // 2
    return torch.complex(rope.cos[:, :half], rope.sin[:, :half])[:, None, None]


def rotate_(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate (..., n, k, H, E), paired entries side by side, in place; turn (n, 1, 1, E / 2)."""
    if x.dtype == torch.float32:
        torch.view_as_complex(x.unflatten(-1, (-1, 2))).mul_(turn)
        return x
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return x.copy_(torch.view_as_real(pairs * turn).flatten(-2))


def paired(weight: Tensor, heads: int) -> Tensor:
    """Rows (D, ...) of a query or key projection, reordered so that entries i and i + E/2 of a head are
    neighbours.
    """
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(weight.shape)


def unit(x: Tensor) -> Tensor:
    """x / rms(x) in float32; (..., D)."""
    x = x.float()
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * norm.square_().div_(x.shape[-1]).add_(NORM_EPSILON).rsqrt_()


class PackedAttention:
    """Projections of one `Attention` behind an optional norm, packed."""

    def __init__(self, attention: Attention, kind: torch.dtype, norm: RMSNorm | None = None) -> None:
        """kind: of its products, see `networks/products.py`."""
        a, scale = attention, (attention.q_proj.out_features // attention.heads) ** -0.5
        self.heads = a.heads
        query = paired(a.q_proj.weight.float() * scale, a.heads)
        query_bias = paired(a.q_proj.bias.float() * scale, a.heads)
        memory = torch.cat((paired(a.k_proj.weight.float(), a.heads), a.v_proj.weight.float()))
        memory_bias = torch.cat((paired(a.k_proj.bias.float(), a.heads), a.v_proj.bias.float()))
        if norm is None:  # queries come from elsewhere
            self.query_weight, self.query_bias = query, query_bias
            self.inward = product(memory, memory_bias, kind)
        else:
            weight = torch.cat((query, memory)) * norm.weight.float()
            self.inward = product(weight, torch.cat((query_bias, memory_bias)), kind)
        self.out = product(a.out_proj.weight.float(), a.out_proj.bias.float(), kind)

    def project(self, x: Tensor, turn: Tensor | None) -> Tensor:
        """(B, ..., n, D), normalised, to query (behind a norm), key and value: (B, ..., n, 3 or 2, H, E),
        rotated by `turn`.
        """
        packed = self.inward(x).unflatten(-1, (-1, self.heads, x.shape[-1] // self.heads))
        if turn is not None:
            rotate_(packed[..., :-1, :, :], turn)
        return packed


class PackedBlock:
    """One `TransformerBlock` in evaluation mode."""

    def __init__(self, block: TransformerBlock, kind: torch.dtype) -> None:
        """kind: of its products, see `networks/products.py`."""
        self.attention = PackedAttention(block.self_attn, kind, block.norm1)
        f, scale = block.ffn, block.norm2.weight.float()
        self.gates = product(torch.cat((f.w1.weight.float(), f.w3.weight.float())) * scale, None, kind)
        self.down = product(f.w2.weight.float(), None, kind)

    def prefill(self, x: Tensor, turn: Tensor, last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The output (B, T, D) for a context, of its last position only (B, 1, D) if so wanted, and all keys
        and values (B, T, H, E). The tensor x is used up."""
        query, keys, values = self.attention.project(unit(x), turn).unbind(-3)
        if last:
            x, query = x[:, -1:], query[:, -1:]
        q, k, v = (t.transpose(1, 2) for t in (query, keys, values))
        mixed = attend(q, k, v, is_causal=not last, scale=1.0)
        return self._rest(x, mixed.transpose(1, 2).flatten(-2)), keys, values

    def extend(self, x: Tensor, cache: SharedPrefixCache, turn: Tensor) -> Tensor:
        """The next n positions of every path, (B, S, n, D) -> (B, S, n, D). The tensor x is used up."""
        packed = self.attention.project(unit(x), turn)
        cache.append(packed[..., 1:, :, :])
        return self._rest(x, cache.attend(packed[..., 0, :, :]))

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x.add_(self.attention.out(mixed))
        gate, up = self.gates(unit(x)).chunk(2, dim=-1)
        return x.add_(self.down(F.silu(gate, inplace=True).mul_(up)))


class PackedStack:
    """Blocks one after another, with the caches of one context and its paths."""

    def __init__(self, blocks: Sequence[PackedBlock], rope: Rope) -> None:
        """rope: of all positions of context and paths."""
        self.blocks = blocks
        self.turn = rotation(rope)
        self.caches: list[SharedPrefixCache] = []
        self.position = 0
        self.at: Tensor | None = None
        """(1,) `position` on the device, where shapes are fixed"""

    def prefill(self, x: Tensor, paths: int, steps: int, last: bool = False) -> Tensor:
        """Run a context (B, T, D), which is used up, and make room for `steps` positions of `paths` paths.

        Returns (B, T, D), or of the last position only, (B, 1, D): of the others the last block then finds
        keys and values alone.
        """
        self.position = x.shape[1]
        for number, block in enumerate(self.blocks, start=1):
            x, keys, values = block.prefill(
                x, self.turn[: self.position], last and number == len(self.blocks)
            )
            self.caches.append(SharedPrefixCache.of(keys, values, paths, steps))
        return x[:, -1:] if last else x

    def restart(self, paths: int, steps: int) -> None:
        """Forget the paths; the context stays."""
        for cache in self.caches:
            cache.restart(paths, steps)
        self.position, self.at = self.caches[0].keys.shape[2] if self.caches else 0, None

    def fix(self, visible: int) -> None:
        """Fix all shapes: see `SharedPrefixCache.fix`."""
        if self.at is None:
            self.at = torch.full((1,), self.position, device=self.turn.device)
        for cache in self.caches:
            cache.fix(visible)

    def rows(self, table: Tensor, count: int = 1, back: int = 0) -> Tensor:
        """A table's rows of the next n = `count` positions, (n, ...), or of those `back` positions before."""
        if self.at is not None:
            return table.index_select(0, self.at - back)
        first = self.position - back
        return table[first : first + count]

    def extend(self, x: Tensor) -> Tensor:
        """The next n positions of every path, (B, S, n, D) -> (B, S, n, D); n is 1 where shapes are fixed."""
        here = self.rows(self.turn, x.shape[2])
        if self.at is None:
            self.position += x.shape[2]
        else:
            self.at += 1
        for block, cache in zip(self.blocks, self.caches, strict=True):
            x = block.extend(x, cache, here)
        return x
