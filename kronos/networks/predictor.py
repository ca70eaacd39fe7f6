"""Kronos: the next pair of tokens from the pairs so far and their calendar.

In: tokens s1, s2 (B, T) int64, calendar stamps (B, T, 5). Out: logits of the next s1 and, given it, of the
next s2.
Source: Kronos paper (arXiv 2508.02739), section 3.2; state-dict names of the published checkpoints.

Letters: B series, T time steps, S sample paths, D width, V1 = 2^s1_bits, V2 = 2^s2_bits.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.bars import STAMP_FIELDS
from kronos.networks.decoding import PackedStack, SharedPrefixCache, compute_type, rotate_, rotation
from kronos.networks.hub import Bits, Pretrained, check_geometry
from kronos.networks.layers import Attention, BlockStack, Dropout, RMSNorm, TransformerBlock, settled
from kronos.networks.packed import PackedPredictor, packed_predictor

CALENDAR_SIZES = dict(zip(STAMP_FIELDS, (60, 24, 7, 32, 13), strict=True))
DEPENDENCY_HEADS = 4  # whatever n_heads says: the published networks were trained so

DecodeRope = Literal["trained", "original"]


@dataclass(frozen=True)
class PredictorConfig:
    """The keys of a predictor's config.json. Raises KitError on a geometry that cannot be built."""

    s1_bits: Bits
    s2_bits: Bits
    n_layers: int
    d_model: int
    n_heads: int
    ff_dim: int
    ffn_dropout_p: float
    attn_dropout_p: float
    resid_dropout_p: float
    token_dropout_p: float
    learn_te: bool
    """Calendar embeddings are learned; false: fixed sinusoids."""

    def __post_init__(self) -> None:
        d = self.d_model
        check_geometry(
            self,
            {
                f"d_model divisible by 2 x n_heads ({2 * self.n_heads}), found {d}": self.n_heads > 0
                and d % (2 * self.n_heads) == 0,
                f"d_model divisible by {2 * DEPENDENCY_HEADS} (the dependency layer's heads), found {d}": d
                % (2 * DEPENDENCY_HEADS)
                == 0,
            },
        )


class PredictorLoss(NamedTuple):
    """The training loss and its parts, each a scalar mean over bars, in nats; log(2^bits) is the loss of
    knowing nothing.
    """

    total: Tensor
    s1: Tensor
    s2: Tensor


# -- parts, named as in the published checkpoints ------------------------------------------------------------
class TokenEmbedding(nn.Module):
    """A pair of tokens as one vector: fusion_proj(concat(emb_s1 sqrt(D), emb_s2 sqrt(D)))."""

    def __init__(self, s1_bits: int, s2_bits: int, width: int) -> None:
        super().__init__()
        self.emb_s1 = nn.Embedding(2**s1_bits, width)
        self.emb_s2 = nn.Embedding(2**s2_bits, width)
        self.fusion_proj = nn.Linear(2 * width, width)
        self.scale = width**0.5

    def forward(self, s1: Tensor, s2: Tensor) -> Tensor:
        """s1, s2 (B, T) int64 -> (B, T, d)."""
        return self.fusion_proj(torch.cat((self.emb_s1(s1), self.emb_s2(s2)), dim=-1) * self.scale)


class FixedEmbedding(nn.Module):
    """Sinusoids: sin on even, cos on odd columns, base 10000. A parameter without gradient, as in the
    checkpoints.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        position = torch.arange(size, dtype=torch.float32)[:, None]
        angles = position * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        self.emb = nn.Embedding(size, width)
        self.emb.weight = nn.Parameter(
            torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1), requires_grad=False
        )

    def forward(self, index: Tensor) -> Tensor:
        """index (...,) int64 -> (..., d)."""
        return self.emb(index)


class CalendarEmbedding(nn.Module):
    """Sum of the embeddings of minute, hour, weekday, day and month. stamp (..., 5) -> (..., D)."""

    def __init__(self, width: int, learned: bool) -> None:
        super().__init__()
        kind = nn.Embedding if learned else FixedEmbedding
        for name, size in CALENDAR_SIZES.items():
            setattr(self, f"{name}_embed", kind(size, width))

    def forward(self, stamp: Tensor) -> Tensor:
        """stamp (B, T, 5) -> (B, T, d)."""
        fields = stamp.long().unbind(-1)
        embedded = [
            getattr(self, f"{name}_embed")(index) for name, index in zip(CALENDAR_SIZES, fields, strict=True)
        ]
        return torch.stack(embedded).sum(0)


class DependencyLayer(nn.Module):
    """Lets the fine token know the coarse one: norm(h + attention(query = coarse token, memory = h)),
    causal.
    """

    def __init__(self, width: int, attn_dropout_p: float, resid_dropout_p: float) -> None:
        super().__init__()
        self.cross_attn = Attention(width, DEPENDENCY_HEADS, attn_dropout_p, resid_dropout_p)
        self.norm = RMSNorm(width)

    def forward(self, h: Tensor, query: Tensor) -> Tensor:
        """h and query (B, T, d) -> (B, T, d)."""
        rope = self.cross_attn.rotary.table(h.shape[1])
        keys, values = self.cross_attn.keys_values(h, rope)
        x = h + self.cross_attn(query, keys, values, rope)
        return self.norm(x) if self.training else settled(self.norm, x)

    def last_unrotated(self, h: Tensor, query: Tensor) -> Tensor:
        """The last position as the published generation computes it: one query (B, 1, D), nothing rotated;
        (B, 1, D).
        """
        keys, values = self.cross_attn.keys_values(h, None)
        return settled(self.norm, h[:, -1:] + self.cross_attn(query, keys, values, None, causal=False))


class TokenHead(nn.Module):
    """Logits of both tokens."""

    def __init__(self, s1_bits: int, s2_bits: int, width: int) -> None:
        super().__init__()
        self.proj_s1 = nn.Linear(width, 2**s1_bits)
        self.proj_s2 = nn.Linear(width, 2**s2_bits)


# -- the network ---------------------------------------------------------------------------------------------
@dataclass
class DecodeState:
    """Everything that decoding S paths of B series keeps between two steps."""

    stack: PackedStack
    dependency: SharedPrefixCache
    """of the dependency layer"""
    weights: PackedPredictor
    turn: Tensor | None
    """the dependency layer's rotation; None: 'original' decoding, nothing is rotated there"""
    hidden: Tensor
    """(B, S, D) context of the last position of every path"""
    first: Tensor
    """(B, 1, D) `hidden` of the context's last position"""

    @property
    def blocks(self) -> list[SharedPrefixCache]:
        """The blocks' caches."""
        return self.stack.caches

    def restart(self, paths: int, steps: int) -> None:
        """Make room for `steps` positions of other `paths` paths behind the same context."""
        self.stack.restart(paths, steps)
        self.dependency.restart(paths, steps)
        self.hidden = self.first.expand(-1, paths, -1)

    def fix(self, visible: int) -> None:
        """Fix all shapes and addresses for steps of one position: the first `visible` steps of the paths'
        room are looked at.
        """
        if self.stack.at is None:
            self.hidden = self.hidden.clone()
        self.stack.fix(visible)
        self.dependency.fix(visible)

    def move(self, hidden: Tensor) -> None:
        """The paths' last position is now `hidden`, (B, S, D)."""
        self.hidden = hidden if self.stack.at is None else self.hidden.copy_(hidden)


class Kronos(Pretrained[PredictorConfig], nn.Module):
    """Causal transformer over token pairs, with a dependency-aware second head.

    Parameters are the keys of `PredictorConfig`. A new network: Linear Xavier-normal with zero bias,
    embeddings normal with standard deviation D^-1/2, norms 1.
    """

    config_class = PredictorConfig

    @classmethod
    def count_parameters(cls, config: PredictorConfig) -> int:
        """Parameters of a network of that configuration, by arithmetic."""
        from kronos.networks import cost  # which reads the networks' configurations

        return sum(cost.predictor_parameters(config).values())

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        c = self.config = PredictorConfig(**settings)
        dropouts = (c.ffn_dropout_p, c.attn_dropout_p, c.resid_dropout_p)
        self.embedding = TokenEmbedding(c.s1_bits, c.s2_bits, c.d_model)
        self.time_emb = CalendarEmbedding(c.d_model, c.learn_te)
        self.token_dropout = Dropout(c.token_dropout_p)
        self.transformer = BlockStack(
            TransformerBlock(c.d_model, c.n_heads, c.ff_dim, *dropouts) for _ in range(c.n_layers)
        )
        self.norm = RMSNorm(c.d_model)
        self.dep_layer = DependencyLayer(c.d_model, c.attn_dropout_p, c.resid_dropout_p)
        self.head = TokenHead(c.s1_bits, c.s2_bits, c.d_model)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding) and module.weight.requires_grad:
            nn.init.normal_(module.weight, std=self.config.d_model**-0.5)

    # -- training --------------------------------------------------------------------------------------------
    def forward(
        self,
        s1: Tensor,
        s2: Tensor,
        stamp: Tensor,
        s1_query: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of the pair that follows each position. Causal in training and in evaluation mode.

        s1, s2: (B, T) int64; stamp: (B, T, 5). s1_query: (B, T) int64, the s1 that follows each position
        (teacher forcing); None: sampled from its own softmax, without gradient, with `generator`. Returns (B,
        T, V1), (B, T, V2).
        """
        h = self.context(s1, s2, stamp)
        s1_logits = self.s1_logits(h)
        if s1_query is None:
            s1_query = sample_categorical(s1_logits.detach(), generator)
        return s1_logits, self.s2_logits(h, s1_query)

    def context(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> Tensor:
        """Hidden states h (B, T, D) after the last norm, positions counted from 0 at the first token
        given.
        """
        x = self.transformer(self.token_dropout(self.embedding(s1, s2) + self.time_emb(stamp)))
        return self.norm(x) if self.training else settled(self.norm, x)

    def s1_logits(self, h: Tensor) -> Tensor:
        """(..., D) -> (..., V1)."""
        return self.head.proj_s1(h)

    def s2_logits(self, h: Tensor, s1_query: Tensor) -> Tensor:
        """Logits (B, T, V2) of s2 given h (B, T, D) and the s1 (B, T) that follows each position."""
        return self.head.proj_s2(self.dep_layer(h, self.embedding.emb_s1(s1_query)))

    def last_s2_logits(self, h: Tensor, s1_query: Tensor, decode_rope: DecodeRope) -> Tensor:
        """Logits (B, V2) of the s2 that follows the last position, without a cache.

        h: (B, T, D); s1_query: (B, T), the s1 that follows each position. decode_rope: see `prefill`.
        """
        if decode_rope == "trained":
            return self.s2_logits(h, s1_query)[:, -1]
        query = self.embedding.emb_s1(s1_query[:, -1:])
        return self.head.proj_s2(self.dep_layer.last_unrotated(h, query))[:, -1]

    def nll(
        self,
        s1: Tensor,
        s2: Tensor,
        stamp: Tensor,
        *,
        teacher_forcing: bool = True,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Negative log-likelihoods of s1 and s2 of bars 1..T-1, each (B, T-1) float32, in nats.

        Bar t is predicted from bars 0..t-1. s1, s2: (B, T) int64; stamp: (B, T, 5). teacher_forcing: s2 is
        conditioned on the true s1; otherwise on a sampled one, as in the published training.
        """
        target1, target2 = s1[:, 1:], s2[:, 1:]
        query = target1 if teacher_forcing else None
        logits1, logits2 = self(s1[:, :-1], s2[:, :-1], stamp[:, :-1], query, generator)
        return _cross_entropy(logits1, target1), _cross_entropy(logits2, target2)

    def loss(
        self,
        s1: Tensor,
        s2: Tensor,
        stamp: Tensor,
        *,
        teacher_forcing: bool = True,
        generator: torch.Generator | None = None,
    ) -> PredictorLoss:
        """The published training loss, (CE(s1) + CE(s2)) / 2; arguments of `nll`."""
        nll1, nll2 = self.nll(s1, s2, stamp, teacher_forcing=teacher_forcing, generator=generator)
        mean1, mean2 = nll1.mean(), nll2.mean()
        return PredictorLoss((mean1 + mean2) / 2, mean1, mean2)

    # -- decoding with a cache -------------------------------------------------------------------------------
    @torch.no_grad()
    def prefill(
        self,
        s1: Tensor,
        s2: Tensor,
        stamp: Tensor,
        *,
        paths: int,
        steps: int,
        decode_rope: DecodeRope = "trained",
        integers: bool = False,
    ) -> DecodeState:
        """Run the context once and make room for `steps` more positions of `paths` sample paths per series.

        s1, s2: (B, T) int64; stamp: (B, T, 5). decode_rope: how the dependency layer rotates; 'trained': as
        in training, 'original': not at all, as the published generation does. integers: products
        of eight-bit integers (`networks/products.py`), here and in all steps behind it.
        """
        length = s1.shape[1]
        kind = torch.int8 if integers else compute_type(self.head.proj_s1.weight)
        weights = packed_predictor(self, kind)
        rope = self.dep_layer.cross_attn.rotary.table(length + steps)
        turn = rotation(rope) if decode_rope == "trained" else None
        stack = PackedStack(weights.blocks, self.transformer.rope(length + steps))
        embedded = weights.tokens[0][s1] + weights.tokens[1][s2] + self.time_emb(stamp)
        h = settled(self.norm, stack.prefill(embedded, paths, steps).float())
        keys, values = weights.attention.project(h, turn if turn is None else turn[:length]).unbind(-3)
        dependency, last = SharedPrefixCache.of(keys, values, paths, steps), h[:, -1:].clone()
        return DecodeState(stack, dependency, weights, turn, last.expand(-1, paths, -1), last)

    @torch.no_grad()
    def decode_s1_logits(self, state: DecodeState) -> Tensor:
        """Logits (B, S, V1) of the next s1 of every path."""
        return state.weights.coarse(state.hidden)

    @torch.no_grad()
    def decode_s2_logits(self, state: DecodeState, s1: Tensor) -> Tensor:
        """Logits (B, S, V2) of the next s2 of every path, given its next s1 (B, S).

        Of a state that has just been prefilled for one path: of any number of candidates s1 for the one next
        step.
        """
        query = state.weights.queries[s1].unflatten(-1, (1, 1, DEPENDENCY_HEADS, -1))
        if state.turn is not None:
            rotate_(query, state.stack.rows(state.turn, back=1))
        mixed = state.weights.attention.out(state.dependency.attend(query[:, :, :, 0])).squeeze(2)
        return state.weights.fine(settled(self.dep_layer.norm, state.hidden + mixed.float()))

    @torch.no_grad()
    def decode_one(self, state: DecodeState, s1: Tensor, s2: Tensor, stamp: Tensor) -> None:
        """Append one pair of tokens to every path and advance `state`. s1, s2: (B, S) int64; stamp: (B, 5) of
        that bar.
        """
        self.decode_many(state, s1.unsqueeze(-1), s2.unsqueeze(-1), stamp.unsqueeze(1))

    @torch.no_grad()
    def decode_many(self, state: DecodeState, s1: Tensor, s2: Tensor, stamp: Tensor) -> Tensor:
        """Append n known pairs of tokens to every path at once and advance `state` to the last of them.

        s1, s2: (B, S, n) int64; stamp: (B, n, 5) of those bars. Returns the context after each of them, (B,
        S, n, D).
        """
        return self.advance(state, s1, s2, self.time_emb(stamp))

    @torch.no_grad()
    def advance(self, state: DecodeState, s1: Tensor, s2: Tensor, time: Tensor) -> Tensor:
        """`decode_many` with the bars' calendar embeddings (B, n, D) at hand."""
        turn = None if state.turn is None else state.stack.rows(state.turn, s1.shape[2])
        x = state.weights.tokens[0][s1].add_(state.weights.tokens[1][s2]).add_(time[:, None])
        x = settled(self.norm, state.stack.extend(x).float())
        state.move(x[:, :, -1])
        state.dependency.append(state.weights.attention.project(x, turn))
        return x


def sample_categorical(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """One draw per softmax of (..., V) logits: (...,) int64. Unlike torch.multinomial it never waits for the
    device.
    """
    waiting = torch.empty_like(logits, dtype=torch.float32).exponential_(generator=generator)
    waiting = waiting.clamp_min(2.0**-25)  # a drawn 0 would win against any logit
    return (logits.float() - waiting.log()).argmax(-1)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), reduction="none").view(
        target.shape
    )
