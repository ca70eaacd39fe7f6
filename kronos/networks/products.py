"""Matrix products of packed weights: in the weights' own type, in half precision, or of eight-bit integers.

In: a weight (N, K) and a bias (N,). Out: a product, called with (..., K) and giving (..., N).

Integers: each row of the weight and each token of the input is scaled to -127..127 by its largest number and
rounded. The sum of their products is exact, so a token's result depends on nothing else in its batch, bit for
bit. Where the processor multiplies integers fast (VNNI), torch's integer product is used; elsewhere the same
whole numbers as float32, in pieces of 1,024, whose sums float32 holds exactly: the same bits at float32's
speed.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Product = Callable[[Tensor], Tensor]

LARGEST = 127
EXACT = 1024
"""Products of two numbers up to 127 that add up to less than 2^24."""
TINY = 1e-30
"""Stands for the scale of a row of zeros."""


def product(weight: Tensor, bias: Tensor | None, kind: torch.dtype) -> Product:
    """The product of a float32 weight (N, K) in numbers of that kind; torch.int8: of integers."""
    if kind == torch.int8:
        return IntegerProduct(weight, bias, fast_integers(weight.device))
    return FloatProduct(weight, bias, kind)


def plain_kind(kind: torch.dtype) -> torch.dtype:
    """The type of the numbers between products of that kind."""
    if kind == torch.int8:
        return torch.float32
    return kind


def fast_integers(device: torch.device) -> bool:
    """Whether torch's integer product is fast there; without VNNI it is fifty times slower than float32's."""
    return device.type == "cpu" and torch.cpu._is_vnni_supported()


def columns(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight (N, K) of F.linear whose columns lie together: the product of a few rows is a fifth faster on
    a processor.
    """
    return weight.to(dtype).t().contiguous().t()


class FloatProduct:
    """F.linear in one type."""

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: torch.dtype) -> None:
        self.weight = columns(weight, kind)
        self.bias: Tensor | None = None
        if bias is not None:
            self.bias = bias.to(kind)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class IntegerProduct:
    """The same of rounded numbers, float32 in and out. What is not finite makes its tokens NaN."""

    def __init__(self, weight: Tensor, bias: Tensor | None, fast: bool) -> None:
        rounded, scale = rounded_rows(weight)
        self.scale, self.bias, self.fast = scale.flatten(), bias, fast
        if fast:
            self.pieces = [rounded.to(torch.int8).t()]
        else:
            self.pieces = [columns(piece, torch.float32) for piece in rounded.split(EXACT, dim=1)]

    def __call__(self, x: Tensor) -> Tensor:
        rounded, scale = rounded_rows(x.float())
        if self.fast:
            whole = torch._int_mm(rounded.to(torch.int8).flatten(0, -2), self.pieces[0]).float()
            whole = whole.view(*x.shape[:-1], -1)
        else:
            whole = self._of_floats(rounded)
        found = whole.mul_(scale).mul_(self.scale)
        if self.bias is None:
            return found
        return found.add_(self.bias)

    def _of_floats(self, rounded: Tensor) -> Tensor:
        """The integer product from sums that float32 holds exactly."""
        parts = rounded.split(EXACT, dim=-1)
        whole = F.linear(parts[0], self.pieces[0])
        for part, piece in zip(parts[1:], self.pieces[1:], strict=True):
            whole += F.linear(part, piece)
        return whole


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers of -127..127 (..., K) as floats, and what they were divided by, (..., 1); float32."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp_min(TINY).div_(LARGEST)
    return (x / scale).round_(), scale
