"""The plain loops: how a straightforward program trains and generates, one obvious operation after another.

In: networks of `kronos.networks`, whose weights they copy. Out: a training step, and sampled tokens, to be
timed. They are what `scripts/bench/bench_train.py` and `scripts/bench/bench_generate.py` measure the kit's loops against,
and the slow clear versions that `tests/networks/test_plain.py` compares these with; nothing trains or forecasts with
them.

As published, norms, rotation and feed-forward are separate operations, and the attention kernel is torch's.
Training: two decoder passes, the s1 of the second head sampled with multinomial, losses over both heads'
whole logits, AdamW parameter by parameter, and the loss read (`.item()`) after every step. Generation:
`PlainPredictor.generate`.
Source: the public training and generation code of Kronos, described in our words; formulas of `networks`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.layers import NORM_EPSILON, ROPE_BASE
from kronos.networks.predictor import DEPENDENCY_HEADS, CalendarEmbedding, TokenHead
from kronos.networks.quantizer import BinarySphericalQuantizer
from kronos.networks.tokenizer import quantizer_of


class PlainNorm(nn.Module):
    """x / rms(x) times weight, in three operations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + NORM_EPSILON)).type_as(
            x
        ) * self.weight


class PlainRotary(nn.Module):
    """Angles computed anew in every call."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.inv_freq: Tensor
        self.register_buffer(
            "inv_freq", 1.0 / ROPE_BASE ** (torch.arange(0, head_width, 2).float() / head_width)
        )

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(q.shape[-2], device=q.device).float()
        angles = torch.outer(positions, self.inv_freq).repeat(1, 2)
        cos, sin = angles.cos(), angles.sin()
        return q * cos + self._half(q) * sin, k * cos + self._half(k) * sin

    @staticmethod
    def _half(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((-b, a), dim=-1)


class PlainAttention(nn.Module):
    """Query from one input, keys and values from another."""

    def __init__(self, width: int, heads: int, attn_dropout_p: float, resid_dropout_p: float) -> None:
        super().__init__()
        self.heads, self.attn_dropout_p = heads, attn_dropout_p
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.rotary = PlainRotary(width // heads)
        self.resid_dropout = nn.Dropout(resid_dropout_p)

    def forward(self, query: Tensor, memory: Tensor, causal: bool = True) -> Tensor:
        """A single query rotates nothing: its angle, which turns the keys as well, is 0."""
        projected = (self.q_proj(query), self.k_proj(memory), self.v_proj(memory))
        q, k, v = (p.view(*p.shape[:2], self.heads, -1).transpose(1, 2) for p in projected)
        q, k = self.rotary(q, k)
        p = self.attn_dropout_p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=causal)
        return self.resid_dropout(self.out_proj(mixed.transpose(1, 2).contiguous().view(query.shape)))


class PlainFeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, ff_dim: int, dropout_p: float) -> None:
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, ff_dim, bias=False), nn.Linear(width, ff_dim, bias=False)
        self.w2 = nn.Linear(ff_dim, width, bias=False)
        self.dropout = nn.Dropout(dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.w2(F.silu(self.w1(x)) * self.w3(x)))


class PlainBlock(nn.Module):
    """Pre-norm block of a configuration `c`."""

    def __init__(self, c: Any) -> None:
        super().__init__()
        self.norm1, self.norm2 = PlainNorm(c.d_model), PlainNorm(c.d_model)
        self.self_attn = PlainAttention(c.d_model, c.n_heads, c.attn_dropout_p, c.resid_dropout_p)
        self.ffn = PlainFeedForward(c.d_model, c.ff_dim, c.ffn_dropout_p)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.self_attn(normed, normed)
        return x + self.ffn(self.norm2(x))


class PlainTokenizer(nn.Module):
    """`KronosTokenizer` with the same weights; `loss` of a batch and `encode`."""

    def __init__(self, network: KronosTokenizer) -> None:
        super().__init__()
        c = self.config = network.config
        bits = c.s1_bits + c.s2_bits
        self.embed, self.head = nn.Linear(c.d_in, c.d_model), nn.Linear(c.d_model, c.d_in)
        self.encoder = nn.ModuleList(PlainBlock(c) for _ in range(c.n_enc_layers - 1))
        self.decoder = nn.ModuleList(PlainBlock(c) for _ in range(c.n_dec_layers - 1))
        self.quant_embed = nn.Linear(c.d_model, bits)
        self.post_quant_embed_pre, self.post_quant_embed = (
            nn.Linear(c.s1_bits, c.d_model),
            nn.Linear(bits, c.d_model),
        )
        self.tokenizer = nn.ModuleDict({"bsq": quantizer_of(c)})
        self.load_state_dict(network.state_dict())

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.embed(x)
        for block in self.encoder:
            hidden = block(hidden)
        found: tuple[Tensor, Tensor] = self.tokenizer["bsq"](self.quant_embed(hidden))
        return found

    def decode(self, hidden: Tensor) -> Tensor:
        for block in self.decoder:
            hidden = block(hidden)
        reconstructed: Tensor = self.head(hidden)
        return reconstructed

    def loss(self, x: Tensor) -> Tensor:
        z, code = self.quantize(x)
        coarse = self.decode(self.post_quant_embed_pre(code[..., : self.config.s1_bits]))
        full = self.decode(self.post_quant_embed(code))
        bsq = self.tokenizer["bsq"]
        assert isinstance(bsq, BinarySphericalQuantizer)
        return (F.mse_loss(coarse, x) + F.mse_loss(full, x) + bsq.loss(bsq.terms(z, code))) / 2

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bsq = self.tokenizer["bsq"]
        assert isinstance(bsq, BinarySphericalQuantizer)
        return bsq.indices(self.quantize(x)[0])


class PlainPredictor(nn.Module):
    """`Kronos` with the same weights."""

    def __init__(self, network: Kronos, sampled: bool = True) -> None:
        super().__init__()
        c, self.sampled = network.config, sampled
        d = c.d_model
        self.embedding = nn.ModuleDict(
            {
                "emb_s1": nn.Embedding(2**c.s1_bits, d),
                "emb_s2": nn.Embedding(2**c.s2_bits, d),
                "fusion_proj": nn.Linear(2 * d, d),
            }
        )
        self.time_emb = CalendarEmbedding(d, c.learn_te)
        self.token_dropout = nn.Dropout(c.token_dropout_p)
        self.transformer = nn.ModuleList(PlainBlock(c) for _ in range(c.n_layers))
        self.norm = PlainNorm(d)
        attention = PlainAttention(d, DEPENDENCY_HEADS, c.attn_dropout_p, c.resid_dropout_p)
        self.dep_layer = nn.ModuleDict({"cross_attn": attention, "norm": PlainNorm(d)})
        self.head = TokenHead(c.s1_bits, c.s2_bits, d)
        self.load_state_dict(network.state_dict())

    def context(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> Tensor:
        """Hidden states (B, T, D) after the last norm; s1, s2 (B, T), stamp (B, T, 5)."""
        embed, scale = self.embedding, self.norm.weight.shape[0] ** 0.5
        pair = torch.cat((embed["emb_s1"](s1) * scale, embed["emb_s2"](s2) * scale), dim=-1)
        h = self.token_dropout(embed["fusion_proj"](pair) + self.time_emb(stamp))
        for block in self.transformer:
            h = block(h)
        normed: Tensor = self.norm(h)
        return normed

    def loss(self, s1: Tensor, s2: Tensor, stamp: Tensor) -> Tensor:
        """Mean of both heads' cross entropies; s1, s2 (B, T), stamp (B, T, 5)."""
        h = self.context(s1[:, :-1], s2[:, :-1], stamp[:, :-1])
        logits1 = self.head.proj_s1(h)
        query = self.embedding["emb_s1"](self._sample(logits1) if self.sampled else s1[:, 1:])
        h = self.dep_layer["norm"](h + self.dep_layer["cross_attn"](query, h))
        losses = [
            F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())
            for logits, target in ((logits1, s1), (self.head.proj_s2(h), s2))
        ]
        return (losses[0] + losses[1]) / 2

    @torch.no_grad()
    def generate(
        self,
        s1: Tensor,
        s2: Tensor,
        stamp: Tensor,
        future_stamp: Tensor,
        paths: int = 1,
        temperature: float = 1.0,
        max_context: int = 512,
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, S, H) of S paths by the published loop, in evaluation mode: every step runs the whole
        window of every path.

        s1, s2: (B, T) int64; stamp (B, T, 5), future_stamp (B, H, 5). temperature 0: the likeliest token. A
        window longer than max_context loses its oldest tokens. Both heads compute every position, and the
        last is used; the second head's attention has one query, the s1 just drawn, which sees every position
        and is added to every position.
        """
        shape = (len(s1), paths, -1)
        s1, s2, stamp, future_stamp = (
            given.repeat_interleave(paths, 0) for given in (s1, s2, stamp, future_stamp)
        )
        stamps, length = torch.cat((stamp, future_stamp), dim=1), s1.shape[1]
        for end in range(length, stamps.shape[1]):
            start = max(end - max_context, 0)
            h = self.context(s1[:, start:], s2[:, start:], stamps[:, start:end])
            s1 = torch.cat((s1, self._draw(self.head.proj_s1(h), temperature)), dim=1)
            query = self.embedding["emb_s1"](s1[:, -1:])
            h = self.dep_layer["norm"](h + self.dep_layer["cross_attn"](query, h, causal=False))
            s2 = torch.cat((s2, self._draw(self.head.proj_s2(h), temperature)), dim=1)
        return s1[:, length:].reshape(shape), s2[:, length:].reshape(shape)

    @classmethod
    def _draw(cls, logits: Tensor, temperature: float) -> Tensor:
        """A token after the last position of (N, T, V) logits, (N, 1)."""
        last = logits[:, -1:]
        return last.argmax(-1) if temperature == 0 else cls._sample(last / temperature)

    @staticmethod
    def _sample(logits: Tensor) -> Tensor:
        probabilities = logits.detach().softmax(-1)
        return torch.multinomial(probabilities.flatten(0, 1), 1).view(logits.shape[:-1])


class PlainStage:
    """A stage as the plain loop trains it. predictor None: the tokenizer stage."""

    def __init__(self, tokenizer: KronosTokenizer, predictor: Kronos | None, clip: float) -> None:
        self.tokenizer, self.clip = PlainTokenizer(tokenizer), clip
        self.predictor = None if predictor is None else PlainPredictor(predictor)
        self.trained: nn.Module = self.predictor or self.tokenizer
        if self.predictor:
            self.tokenizer.requires_grad_(False).eval()
        self.trained.train()

    def to(self, device: torch.device) -> "PlainStage":
        """Move the networks; the optimiser is made after that."""
        self.tokenizer.to(device)
        self.trained.to(device)
        self.optimizer = torch.optim.AdamW(self.trained.parameters(), lr=1e-5, foreach=False, fused=False)
        return self

    def step(self, batch: dict[str, Tensor]) -> float:
        """One optimiser step; returns the loss."""
        self.optimizer.zero_grad()
        if self.predictor is None:
            loss = self.tokenizer.loss(batch["x"])
        else:
            with torch.no_grad():
                s1, s2 = self.tokenizer.encode(batch["x"])
            loss = self.predictor.loss(s1, s2, batch["stamp"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.clip, foreach=False)
        self.optimizer.step()
        return loss.item()
