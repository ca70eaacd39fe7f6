"""Binary spherical quantisation: a vector on the unit sphere becomes K signs, and the loss that shapes it.

In: the encoder's vectors (B, T, K). Out: codes of +-1/sqrt(K), token indices, and the quantiser loss as sums.
Source: Kronos paper (arXiv 2508.02739), section 3.1; binary spherical quantisation (arXiv 2406.07548).

The loss over all weighted positions i of an optimiser step, W = sum w_i, z_i the unit vector and c_i its
code:

    C   = 1/W sum_i w_i |c_i - z_i|^2                          commitment (c without gradient)
    p_i = sigmoid(-4 z_i / sqrt(K)),  h(p) = -p log(p + 1e-8) - (1 - p) log(1 - p + 1e-8)
    Hs  = 1/W sum_i w_i sum_k h(p_ik)                          entropy of each position, wanted small
    Hc  = sum_k h(m_k),  m = 1/W sum_i w_i p_i                 entropy of the mean, wanted large
    L   = beta C + zeta (gamma0 Hs - gamma Hc)

C and Hs are sums over positions divided by W: micro-batches add up. Hc is not, it is a function of the mean m
over *all* of them. But its gradient is one: with g = h'(m), taken once m is known for the whole step,

    dHc/dtheta = sum_k g_k dm_k/dtheta = 1/W sum_i w_i sum_k g_k dp_ik/dtheta

so every micro-batch contributes g . sum_i w_i p_i / W with g held constant, and the sum of their gradients is
exact (`BinarySphericalQuantizer.loss`). The price is that m must be known before the backward pass: one pass
without gradient over the step's micro-batches when there are several.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ENTROPY_EPSILON = 1e-8
SHORTEST = 0.25
"""Least squared length of the tokenizer's vectors, which is 1: a vector that overflowed is NaN or 0."""


def sound_vectors(z: Tensor) -> Tensor:
    """Whether each vector of (..., K) is one of the unit sphere, (...,) bool.

    A vector that is not finite, or whose length overflowed, has signs, too: its token means nothing.
    """
    return z.square().sum(dim=-1) > SHORTEST


@dataclass(frozen=True)
class QuantizerTerms:
    """Weighted sums over positions. Those of micro-batches and of processes add up with `+` (or an
    all-reduce).
    """

    commitment: Tensor
    """() sum of w |c - z|^2"""
    entropy: Tensor
    """() sum of w sum_k h(p_k)"""
    probability: Tensor
    """(K,) sum of w p"""
    weight: Tensor
    """() sum of w"""

    def __add__(self, other: "QuantizerTerms") -> "QuantizerTerms":
        return QuantizerTerms(
            self.commitment + other.commitment,
            self.entropy + other.entropy,
            self.probability + other.probability,
            self.weight + other.weight,
        )

    def detach(self) -> "QuantizerTerms":
        """The same numbers without gradients."""
        return QuantizerTerms(
            self.commitment.detach(), self.entropy.detach(), self.probability.detach(), self.weight.detach()
        )


class BinarySphericalQuantizer(nn.Module):
    """Signs of the entries of a unit vector, with a straight-through gradient.

    `basis` (K,) and `group_basis` (group_size,) are powers of two that published checkpoints hold; nothing
    reads them.
    """

    def __init__(
        self,
        s1_bits: int,
        s2_bits: int,
        *,
        beta: float,
        gamma0: float,
        gamma: float,
        zeta: float,
        group_size: int,
    ) -> None:
        super().__init__()
        self.s1_bits, self.s2_bits, self.bits = s1_bits, s2_bits, s1_bits + s2_bits
        self.beta, self.gamma0, self.gamma, self.zeta = beta, gamma0, gamma, zeta
        self.register_buffer("basis", 2 ** torch.arange(self.bits - 1, -1, -1))
        self.register_buffer("group_basis", 2 ** torch.arange(group_size - 1, -1, -1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(..., K) of any type -> unit vector z and code c of +-1/sqrt(K), float32; dc/dz = 1/sqrt(K)."""
        z = F.normalize(x.float(), dim=-1)
        signs = torch.where(z > 0, 1.0, -1.0)
        return z, (signs + (z - z.detach())) * self.bits**-0.5

    def indices(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens s1, s2 (...,) int64 of (..., K) vectors or codes: positive entries are bits, least
        significant first.
        """
        bits = (z > 0).long()
        coarse, fine = bits.split((self.s1_bits, self.s2_bits), dim=-1)
        return (coarse << self._shifts(self.s1_bits, z)).sum(-1), (fine << self._shifts(self.s2_bits, z)).sum(
            -1
        )

    def codes(self, s1: Tensor, s2: Tensor) -> Tensor:
        """Codes (..., K) of +-1/sqrt(K), float32, of tokens s1, s2 (...,) int64; undoes `indices`."""
        coarse = s1.unsqueeze(-1) >> self._shifts(self.s1_bits, s1)
        fine = s2.unsqueeze(-1) >> self._shifts(self.s2_bits, s2)
        bits = torch.cat((coarse, fine), dim=-1) & 1
        return (bits * 2 - 1).float() * self.bits**-0.5

    # -- loss ------------------------------------------------------------------------------------------------
    def terms(self, z: Tensor, code: Tensor, weight: Tensor | None = None) -> QuantizerTerms:
        """Sums of the loss over the positions of z, code (B, T, K), each counted `weight` (B, T) times (None:
        once).
        """
        if weight is None:
            weight = z.new_ones(z.shape[:-1])
        p = torch.sigmoid(z * (-4.0 / math.sqrt(self.bits)))
        return QuantizerTerms(
            commitment=(weight * (code.detach() - z).square().sum(-1)).sum(),
            entropy=(weight * _entropy(p).sum(-1)).sum(),
            probability=(weight.unsqueeze(-1) * p).flatten(0, -2).sum(0),
            weight=weight.sum(),
        )

    def loss(self, terms: QuantizerTerms, step: QuantizerTerms | None = None) -> Tensor:
        """This micro-batch's share () of the quantiser loss of a whole optimiser step.

        terms: of the micro-batch. step: the sum over all micro-batches and processes of the step; None when
        this is the only one. Shares add up to the loss, and their gradients to its gradient (see the top of
        this file).
        """
        step = (terms if step is None else step).detach()
        total = step.weight
        mean = step.probability / total
        slope = _entropy_slope(mean)
        moving = (slope * (terms.probability - terms.probability.detach())).sum() / total
        codebook = _entropy(mean).sum() * (terms.weight / total) + moving
        return self.beta * terms.commitment / total + self.zeta * (
            self.gamma0 * terms.entropy / total - self.gamma * codebook
        )

    def _shifts(self, bits: int, like: Tensor) -> Tensor:
        return torch.arange(bits, device=like.device)


def _entropy(p: Tensor) -> Tensor:
    """Entropy of {p, 1 - p} in nats, elementwise."""
    q = 1 - p
    return -(p * torch.log(p + ENTROPY_EPSILON) + q * torch.log(q + ENTROPY_EPSILON))


def _entropy_slope(p: Tensor) -> Tensor:
    """Derivative of `_entropy`, epsilon included."""
    q = 1 - p
    return (
        torch.log(q + ENTROPY_EPSILON)
        + q / (q + ENTROPY_EPSILON)
        - torch.log(p + ENTROPY_EPSILON)
        - p / (p + ENTROPY_EPSILON)
    )
