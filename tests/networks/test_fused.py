"""The faster training operations against the formulas that they stand for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kronos.networks import fused
from kronos.networks.layers import NORM_EPSILON, Dropout, RMSNorm, RotaryEmbedding


def gradients(y: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    grad = torch.linspace(-1, 2, y.numel()).reshape(y.shape).sin()
    return torch.autograd.grad(y, inputs, grad)


def test_norm() -> None:
    """A wrong derivative trains something, only worse, and nobody sees why."""
    norm, x = RMSNorm(24), torch.randn(3, 5, 24, requires_grad=True)
    torch.nn.init.normal_(norm.weight)
    reference = F.rms_norm(x, (24,), eps=NORM_EPSILON) * norm.weight
    torch.testing.assert_close(norm(x), reference, rtol=1e-6, atol=1e-6)
    assert "RMSNormFunction" in type(norm(x).grad_fn).__name__
    for found, wanted in zip(
        gradients(norm(x), x, norm.weight), gradients(reference, x, norm.weight), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_norm_of_zeros_is_zero() -> None:
    """A window without any movement must not end a run with infinite gradients."""
    norm, x = RMSNorm(8), torch.zeros(2, 8, requires_grad=True)
    assert norm(x).abs().sum() == 0
    assert gradients(norm(x), x)[0].isfinite().all()


def test_rotation() -> None:
    """Queries and keys that turn the wrong way in the backward pass learn wrong positions."""
    rope = RotaryEmbedding(12).table(7)
    x = torch.randn(2, 7, 3, 12).transpose(1, 2).requires_grad_()
    a, b = x.chunk(2, dim=-1)
    reference = x * rope.cos + torch.cat((-b, a), dim=-1) * rope.sin
    torch.testing.assert_close(rope.rotate(x), reference)
    torch.testing.assert_close(gradients(rope.rotate(x), x), gradients(reference, x))
    with torch.no_grad():
        torch.testing.assert_close(rope.rotate(x), reference)


def test_rotation_of_half_precision_is_computed_in_float32() -> None:
    """Angles or products in bfloat16 would blur late positions."""
    rope = RotaryEmbedding(12).table(600)
    x = torch.randn(2, 600, 12)
    expected = rope.rotate(x.bfloat16().float()).bfloat16()
    assert torch.equal(rope.rotate(x.bfloat16()), expected)


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
def test_compiled_steps_drop_out_as_eager_ones() -> None:
    """torch.compile must neither merge the masks of two layers nor draw them twice."""
    layers = torch.nn.ModuleList([Dropout(0.5), Dropout(0.5)])

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return layers[0](x), layers[1](x)

    x = torch.ones(30, 40, requires_grad=True)
    torch.manual_seed(1)
    eager = both(x)
    torch.manual_seed(1)
    compiled = torch.compile(both)(x)
    assert not torch.equal(*compiled)
    for a, b in zip(eager, compiled, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(torch.autograd.grad(b.sum(), x, retain_graph=True)[0], b.detach())


@pytest.mark.parametrize("p", [0.1, 0.2, 0.25, 0.9])
def test_dropout(p: float) -> None:
    """The share of zeros, the scale, independence of neighbours, and the same mask in the backward pass."""
    torch.manual_seed(0)
    x = torch.ones(400, 500, requires_grad=True)
    y = Dropout(p)(x)
    zero = y.detach() == 0
    n = x.numel()
    assert abs(int(zero.sum()) - p * n) < 5 * (n * p * (1 - p)) ** 0.5
    assert abs(int((zero[:, 1:] & zero[:, :-1]).sum()) - p * p * n) < 5 * (n * p * p) ** 0.5
    torch.testing.assert_close(y[~zero], torch.full_like(y[~zero], 1 / (1 - p)), rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], y.detach())


def test_dropout_follows_the_seed() -> None:
    """A resumed run draws the masks of the uninterrupted one; two layers and two steps draw different
    ones.
    """
    x = torch.ones(50, 50)
    torch.manual_seed(3)
    first, second = fused.dropout(x, 0.5), fused.dropout(x, 0.5)
    torch.manual_seed(3)
    assert torch.equal(fused.dropout(x, 0.5), first) and not torch.equal(first, second)


def test_dropout_of_everything_and_of_nothing() -> None:
    """The borders of the probability."""
    x = torch.randn(10, 10)
    assert torch.equal(Dropout(0.0)(x), x) and torch.equal(Dropout(0.3).eval()(x), x)
    assert Dropout(1.0)(x).abs().sum() == 0
