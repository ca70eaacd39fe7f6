"""KronosTokenizer: bars to pairs of tokens and back.

In: normalised bars (B, T, 6). Out: tokens s1 (coarse), s2 (fine) (B, T) int64; reconstructions (B, T, 6).
Source: Kronos paper (arXiv 2508.02739), section 3.1; state-dict names of the published checkpoints.

Letters: B series, T time steps, K = s1_bits + s2_bits, D width.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.networks.hub import Bits, Pretrained, check_geometry
from kronos.networks.layers import BlockStack, TransformerBlock
from kronos.networks.quantizer import BinarySphericalQuantizer


@dataclass(frozen=True)
class TokenizerConfig:
    """The keys of a tokenizer's config.json. Raises KitError on a geometry that cannot be built."""

    d_in: int
    d_model: int
    n_heads: int
    ff_dim: int
    n_enc_layers: int
    """One more than the encoder's blocks."""
    n_dec_layers: int
    """One more than the decoder's blocks."""
    ffn_dropout_p: float
    attn_dropout_p: float
    resid_dropout_p: float
    s1_bits: Bits
    s2_bits: Bits
    beta: float
    gamma0: float
    gamma: float
    zeta: float
    group_size: int
    """Sizes a stored buffer; has to divide s1_bits + s2_bits."""

    def __post_init__(self) -> None:
        bits = self.s1_bits + self.s2_bits
        check_geometry(
            self,
            {
                f"d_model divisible by 2 x n_heads ({2 * self.n_heads}), found {self.d_model}": self.n_heads
                > 0
                and self.d_model % (2 * self.n_heads) == 0,
                f"group_size dividing s1_bits + s2_bits ({bits}), found {self.group_size}": self.group_size
                > 0
                and bits % self.group_size == 0,
            },
        )


class TokenizerOutput(NamedTuple):
    """What `KronosTokenizer.forward` computes."""

    coarse: Tensor
    """(B, T, 6) float32 reconstruction from the first s1_bits entries of the code"""
    full: Tensor
    """(B, T, 6) float32 reconstruction from all of it"""
    z: Tensor
    """(B, T, K) float32 unit vectors before binarisation"""
    code: Tensor
    """(B, T, K) float32 +-1/sqrt(K), with a straight-through gradient"""


class TokenizerLoss(NamedTuple):
    """The training loss and its parts, each a scalar."""

    total: Tensor
    coarse: Tensor
    full: Tensor
    quantizer: Tensor


def quantizer_of(c: TokenizerConfig) -> BinarySphericalQuantizer:
    """The quantizer that a tokenizer's configuration describes."""
    return BinarySphericalQuantizer(
        c.s1_bits,
        c.s2_bits,
        beta=c.beta,
        gamma0=c.gamma0,
        gamma=c.gamma,
        zeta=c.zeta,
        group_size=c.group_size,
    )


class KronosTokenizer(Pretrained[TokenizerConfig], nn.Module):
    """Causal transformer auto-encoder around a binary spherical quantiser.

    Parameters are the keys of `TokenizerConfig`. A new network has PyTorch's default initialisation.
    """

    config_class = TokenizerConfig

    @classmethod
    def count_parameters(cls, config: TokenizerConfig) -> int:
        """Parameters of a network of that configuration, by arithmetic."""
        from kronos.networks import cost  # which reads the networks' configurations

        return sum(cost.tokenizer_parameters(config).values())

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        c = self.config = TokenizerConfig(**settings)
        self.embed = nn.Linear(c.d_in, c.d_model)
        self.encoder = BlockStack(self._block() for _ in range(c.n_enc_layers - 1))
        self.quant_embed = nn.Linear(c.d_model, c.s1_bits + c.s2_bits)
        self.tokenizer = nn.ModuleDict(
            {"bsq": quantizer_of(c)}
        )  # published checkpoints name its buffers tokenizer.bsq.*
        self.post_quant_embed_pre = nn.Linear(c.s1_bits, c.d_model)
        self.post_quant_embed = nn.Linear(c.s1_bits + c.s2_bits, c.d_model)
        self.decoder = BlockStack(self._block() for _ in range(c.n_dec_layers - 1))
        self.head = nn.Linear(c.d_model, c.d_in)

    @property
    def quantizer(self) -> BinarySphericalQuantizer:
        """The quantiser: its loss, and the way between vectors and tokens."""
        return cast(BinarySphericalQuantizer, self.tokenizer["bsq"])

    def _block(self) -> TransformerBlock:
        c = self.config
        return TransformerBlock(
            c.d_model, c.n_heads, c.ff_dim, c.ffn_dropout_p, c.attn_dropout_p, c.resid_dropout_p
        )

    def forward(self, x: Tensor) -> TokenizerOutput:
        """Reconstruct normalised bars. x: (B, T, 6)."""
        z, code = self.quantize(x)
        c = code.type_as(self.post_quant_embed.weight)
        coarse = self.post_quant_embed_pre(c[..., : self.config.s1_bits])
        # The decoder is the same for both, so one pass over a doubled batch gives both.
        coarse, full = self._decode(torch.cat((coarse, self.post_quant_embed(c)))).chunk(2)
        return TokenizerOutput(coarse, full, z, code)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens s1, s2 (B, T) int64 of normalised bars (B, T, 6). Causal: a token depends on its bar and
        earlier ones.
        """
        return self.quantizer.indices(self.quantize(x)[0])

    def decode(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Normalised bars (B, T, 6) float32 of tokens (B, T) int64. Causal."""
        codes = self.quantizer.codes(s1, s2).type_as(self.post_quant_embed.weight)
        return self._decode(self.post_quant_embed(codes))

    def loss(self, x: Tensor) -> TokenizerLoss:
        """The published training loss of one batch of normalised bars (B, T, 6): (mse coarse + mse full +
        quantiser) / 2.

        Its total may be negative: the codebook entropy is subtracted. For sums over weighted positions and
        several micro-batches see `BinarySphericalQuantizer.terms` and `.loss`.
        """
        out = self(x)
        coarse, full = F.mse_loss(out.coarse, x.float()), F.mse_loss(out.full, x.float())
        quantizer = self.quantizer.loss(self.quantizer.terms(out.z, out.code))
        return TokenizerLoss((coarse + full + quantizer) / 2, coarse, full, quantizer)

    def quantize(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors and codes (B, T, K) float32 of normalised bars (B, T, 6): `forward` without the
        reconstructions.
        """
        hidden = self.encoder(self.embed(x.type_as(self.embed.weight)))
        return self.quantizer(self.quant_embed(hidden))

    def _decode(self, hidden: Tensor) -> Tensor:
        return self.head(self.decoder(hidden)).float()
