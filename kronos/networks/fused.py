"""Training operations of the blocks with fewer passes over memory than autograd would make of them.

In: hidden states. Out: the values and gradients of the formulas in `layers`, which stay beside them and are
used under torch.compile (it fuses them itself, but for masks) and wherever an operation here does not apply;
`tests/networks/test_fused.py`.
Source: derivatives of the formulas by hand; dropout masks from SFC64 (numpy), since torch draws its own on
one CPU thread.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

STEPS = 1 << 16
"""Probabilities of dropout are rounded to one part in this."""


def norm_applies(x: Tensor) -> bool:
    """Whether `RMSNormFunction` is the better way for x: eager float32 on a CPU; a GPU has a kernel for
    it.
    """
    return x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling()


def rotation_applies(x: Tensor) -> bool:
    """Whether `RotateFunction` is the better way for x: eager, and no float64, which the formula keeps."""
    return x.dtype in (torch.float32, torch.bfloat16, torch.float16) and not torch.compiler.is_compiling()


class RMSNormFunction(torch.autograd.Function):
    """x / rms(x) times weight. Keeps x, which a residual stream holds anyway, and 1 / rms(x) for the backward
    pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """x: (..., D), weight: (D,) -> (..., D)."""
        inverse = (
            torch.linalg.vector_norm(x, dim=-1, keepdim=True)
            .square_()
            .div_(x.shape[-1])
            .add_(epsilon)
            .rsqrt_()
        )
        ctx.save_for_backward(x, inverse, weight)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """With u = x / rms and g = grad: d weight = sum g u, d x = (g w - u mean(g w u)) / rms."""
        x, inverse, weight = ctx.saved_tensors
        unit = x * inverse
        product = grad * unit
        share = (product @ weight).div_(x.shape[-1]).unsqueeze(-1)
        grad_x = (grad * weight).sub_(unit.mul_(share)).mul_(inverse)
        return grad_x, product.flatten(0, -2).sum(0), None


class RotateFunction(torch.autograd.Function):
    """x cos + (-b, a) sin in float32, with (a, b) the halves of x. Its gradient is the rotation back: nothing
    of x is kept.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x: (..., T, E), cos and sin (T, E) -> (..., T, E)."""
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """By the opposite angle: both halves of an angle's sine are equal."""
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    half, wide = x.shape[-1] // 2, x.float()
    out = wide * cos
    out[..., :half].addcmul_(wide[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(wide[..., :half], sin[..., half:], value=sign)
    return out.type_as(x)


@torch.library.custom_op("kronos::dropout_mask", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def dropout_mask(x: Tensor, p: float, place: int) -> Tensor:
    """Zeros with probability p (to 2^-16), else what keeps the mean; the shape and type of the CPU tensor x.

    The mask follows from torch's global generator, as that of F.dropout does: one number of it seeds a faster
    one. An operation of its own, because torch.compile would make slow random numbers of its own and cannot
    look into numpy.
    """
    zeros = round(p * STEPS)
    if zeros == STEPS:
        return x.new_zeros(x.shape)
    seed = int(torch.randint(2**63 - 1, ()))
    draws = (
        np.random.Generator(np.random.SFC64(seed))
        .integers(0, STEPS, x.numel(), dtype=np.uint16)
        .view(np.int16)
    )
    kept = torch.from_numpy(draws).view(x.shape) >= zeros - STEPS // 2
    return kept.to(x.dtype).mul_(STEPS / (STEPS - zeros))


@dropout_mask.register_fake
def _(x: Tensor, p: float, place: int) -> Tensor:
    return x.new_empty(x.shape)


def dropout(x: Tensor, p: float, place: int = 0) -> Tensor:
    """Zero each entry of a CPU tensor with probability p and scale the others up; (...) -> (...).

    place: tells the layers apart; it does not change what is drawn.
    """
    mask: Tensor = dropout_mask(x.detach(), p, place)
    return x * mask
