"""The head: a trained read-out of what is known at the last bar. One pass answers all horizons; nothing is
sampled.

In: the predictor's tokens of the last bars, raw bars as channels, or both. Out: a score and the logit of a
rise per horizon. Scores are trained to rank the stocks of a date and mean nothing between dates. Stored as
`Pretrained`: one folder holds the head, and with tokens the tokenizer and the predictor ("trunk") that it
reads.

Letters: B rows, T bars of tokens, L bars of channels, C channels, S figures of a row, P bars of a patch, D
width, K horizons.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kronos import records
from kronos.errors import KitError
from kronos.networks import cost
from kronos.networks.hub import Pretrained, check_geometry, check_pair
from kronos.networks.layers import BlockStack, Dropout, RMSNorm, TransformerBlock, settled
from kronos.networks.predictor import Kronos, PredictorConfig
from kronos.networks.quantizer import sound_vectors
from kronos.networks.tokenizer import KronosTokenizer, TokenizerConfig

INPUTS = ("tokens", "bars", "both")


@dataclass(frozen=True)
class HeadSettings:
    """The keys of a head's config.json. Raises KitError on a geometry that cannot be built."""

    inputs: str
    """tokens: the predictor's hidden state; bars: channels of raw bars; both."""
    horizons: list
    """Trading days ahead, rising."""
    asked: int
    """The horizon that the best network was chosen by."""
    lookback: int
    """L; a multiple of `patch`."""
    patch: int
    channels: int
    figures: int
    width: int
    layers: int
    heads: int
    ff_dim: int
    dropout_p: float
    token_lookback: int
    """T, as trained; rows with fewer bars are read with those they have."""
    clip: float
    """Of the normalised bars that the tokenizer reads."""
    norm_epsilon: str
    frozen: bool
    """The trunk was not trained with the head."""
    trunk: dict
    """The predictor's configuration; empty without tokens."""
    tokenizer: dict
    """The tokenizer's; empty without tokens."""

    def __post_init__(self) -> None:
        fits = self.patch > 0 and self.lookback % self.patch == 0
        even = self.heads > 0 and self.width % (2 * self.heads) == 0
        rising = bool(self.horizons) and all(type(h) is int and h > 0 for h in self.horizons)
        rising = rising and sorted(set(self.horizons)) == list(self.horizons)
        known = self.inputs in INPUTS
        check_geometry(
            self,
            {
                f"inputs one of {', '.join(INPUTS)}, found {self.inputs!r}": known,
                f"head.bar_lookback a multiple of head.patch, found {self.lookback} and {self.patch}": fits,
                f"width divisible by 2 x heads ({2 * self.heads}), found {self.width}": even,
                f"horizons whole, positive and rising, found {self.horizons}": rising,
                f"asked among the horizons, found {self.asked}": self.asked in self.horizons,
                "a trunk and a tokenizer where tokens are read": bool(self.trunk)
                == bool(self.tokenizer)
                == self.reads_tokens,
            },
        )

    @property
    def reads_tokens(self) -> bool:
        """Whether it reads states of the predictor."""
        return self.inputs in ("tokens", "both")

    @property
    def reads_bars(self) -> bool:
        """Whether it reads bars as channels."""
        return self.inputs in ("bars", "both")


class HeadOutput(NamedTuple):
    """What a head says about B rows."""

    score: Tensor
    """(B, K) float32; larger: likelier to rise more than the other stocks of the date."""
    sign: Tensor
    """(B, K) float32 logit of a rise; its level is a rough one, see `kronos.training.head`."""


class Head(Pretrained[HeadSettings], nn.Module):
    """Patches of channels through a small causal transformer, and the trunk's last state, into one linear
    read-out.

    Parameters are the keys of `HeadSettings`. The trunk and the tokenizer are parts of the network; the
    tokenizer never learns.
    """

    config_class = HeadSettings

    @classmethod
    def count_parameters(cls, config: HeadSettings) -> int:
        """Parameters of the blocks, the trunk and its tokenizer, by arithmetic."""
        held = config.layers * cost.block_parameters(config.width, config.ff_dim) if config.reads_bars else 0
        if config.reads_tokens:
            held += sum(
                cost.predictor_parameters(records.check(config.trunk, PredictorConfig, "trunk")).values()
            )
            held += sum(
                cost.tokenizer_parameters(
                    records.check(config.tokenizer, TokenizerConfig, "tokenizer")
                ).values()
            )
        return held

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        c = self.config = HeadSettings(**settings)
        read = 0
        if c.reads_bars:
            self.patches = nn.Linear(c.patch * c.channels, c.width)
            self.figures = nn.Linear(c.figures, c.width)
            dropouts = (c.dropout_p, 0.0, c.dropout_p)
            self.blocks = BlockStack(
                TransformerBlock(c.width, c.heads, c.ff_dim, *dropouts) for _ in range(c.layers)
            )
            self.norm = RMSNorm(c.width)
            read += c.width
        if c.reads_tokens:
            self.trunk = Kronos(**c.trunk)
            self.tokenizer = KronosTokenizer(**c.tokenizer).requires_grad_(False)
            check_pair(self.tokenizer, self.trunk)
            self._leave_unread_parts()
            read += self.trunk.config.d_model
        self.dropout = Dropout(c.dropout_p)
        self.score = nn.Linear(read, len(c.horizons))
        self.sign = nn.Linear(read, len(c.horizons))
        nn.init.zeros_(self.sign.weight)
        nn.init.zeros_(self.sign.bias)

    def _leave_unread_parts(self) -> None:
        """What the head does not read gets no gradient: several processes would wait for one."""
        parts = [self.trunk] if self.config.frozen else [self.trunk.dep_layer, self.trunk.head]
        for part in parts:
            part.requires_grad_(False)

    @classmethod
    def on(cls, trunk: Kronos | None, tokenizer: KronosTokenizer | None, **settings: Any) -> "Head":
        """A new head that reads copies of a predictor and its tokenizer; both None: of raw bars only."""
        if (trunk is None) != (tokenizer is None):
            raise KitError(
                "head: expected a predictor together with its tokenizer, found one of them; give both or neither"
            )
        parts: dict[str, dict[str, Any]] = {"trunk": {}, "tokenizer": {}}
        if trunk is not None and tokenizer is not None:
            parts = {"trunk": asdict(trunk.config), "tokenizer": asdict(tokenizer.config)}
        head = cls(**settings, **parts)
        if trunk is not None and tokenizer is not None:
            head.trunk.load_state_dict(trunk.state_dict())
            head.tokenizer.load_state_dict(tokenizer.state_dict())
        return head

    def train(self, mode: bool = True) -> "Head":
        """Train mode; the tokenizer stays in evaluation mode, and a frozen trunk too."""
        super().train(mode)
        if self.config.reads_tokens:
            self.tokenizer.eval()
            if self.config.frozen:
                self.trunk.eval()
        return self

    def state(self, x: Tensor, stamp: Tensor) -> Tensor:
        """The trunk's hidden state at the last bar, (B, D) float32; NaN where tokens or states are not finite.

        x: (B, T, 6) normalised bars; stamp: (B, T, 5).
        """
        with (
            torch.no_grad(),
            torch.autocast(x.device.type, enabled=False),
        ):  # a bit near zero would flip in half precision
            z, _ = self.tokenizer.quantize(x)
            s1, s2 = self.tokenizer.quantizer.indices(z)
        trunk = self.trunk
        x = trunk.token_dropout(trunk.embedding(s1, s2) + trunk.time_emb(stamp))
        state = self._normed(trunk.norm, last_state(trunk.transformer, x)).float()
        return state.masked_fill(~sound_vectors(z).all(dim=1, keepdim=True), torch.nan)

    def forward(self, series: Tensor | None, figures: Tensor | None, state: Tensor | None) -> HeadOutput:
        """Answers of B rows. series (B, L, C) and figures (B, S) where bars are read, state (B, D) where
        tokens are.
        """
        read = []
        if series is not None and figures is not None:
            read.append(self._bars(series, figures))
        if state is not None:
            read.append(state)
        known = self.dropout(torch.cat(read, dim=-1))
        return HeadOutput(self.score(known).float(), self.sign(known).float())

    def _bars(self, series: Tensor, figures: Tensor) -> Tensor:
        """(B, D) state after the last patch."""
        c = self.config
        series, figures = series.type_as(self.patches.weight), figures.type_as(self.patches.weight)
        patches = self.patches(series.unflatten(1, (c.lookback // c.patch, c.patch)).flatten(2))
        return self._normed(self.norm, last_state(self.blocks, patches + self.figures(figures)[:, None]))

    def _normed(self, norm: RMSNorm, x: Tensor) -> Tensor:
        """norm(x); in an answer NaN of what overflowed (see `layers.settled`)."""
        return norm(x) if self.training else settled(norm, x)


def last_state(stack: BlockStack, x: Tensor) -> Tensor:
    """The last position of what a stack makes of x: (B, T, D) -> (B, D). Equal to `stack(x)[:, -1]` up to
    rounding.

    The last block computes that position only, which saves most of its work.
    """
    if len(stack) == 0:
        return x[:, -1]
    *others, last = stack.blocks()
    rope = stack.rope(x.shape[1])
    recompute = stack.recompute and torch.is_grad_enabled()
    for block in others:
        x = checkpoint(block, x, rope, use_reentrant=False) if recompute else block(x, rope)
    normed = last.norm1(x)
    keys, values = last.self_attn.keys_values(normed, rope)
    x = x[:, -1:] + last.self_attn(normed[:, -1:], keys, values, rope[-1:], causal=False)
    return (x + last.ffn(last.norm2(x)))[:, 0]
