"""Our networks against measured outputs of the original code: see tests/golden/README.md for every array.

Integers are compared for equality, floats with rtol 1e-5 + atol 1e-5, as that file asks.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kronos.bars import normalise, window_stats
from kronos.forecasting.generate import Step, decode, decode_reference
from kronos.forecasting.sampling import Sampling, filter_logits
from kronos.networks import Kronos, KronosTokenizer

GOLDEN = Path(__file__).parents[1] / "golden"
CONTEXT, STEPS = 16, 8


class Case(NamedTuple):
    """One pair of networks and what the original computed with the same weights."""

    tokenizer: KronosTokenizer
    predictor: Kronos
    expected: dict[str, NDArray]
    names: dict[str, list[str]]

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.expected[name])

    def check(self, name: str, found: Tensor) -> None:
        value, expected = found.detach().numpy(), self.expected[name]
        if expected.dtype.kind == "i":
            np.testing.assert_array_equal(value, expected, err_msg=name)
        else:
            np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def fill_by_formula(network: nn.Module, salt: float) -> None:
    """The weights of `a`, computed: only parameters count, in the order of their names."""
    for p, (name, parameter) in enumerate(sorted(network.named_parameters())):
        i = np.arange(parameter.numel(), dtype=np.float64)
        product = np.sin(12.9898 * i + 78.233 * p + salt) * 43758.5453
        u = product - np.trunc(product)
        if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")):
            u = 1 + 0.1 * u
        elif parameter.ndim == 1:
            u = 0.1 * u
        else:
            u = 1.5 * u * np.sqrt(3 / parameter.shape[-1])
        parameter.data.copy_(torch.from_numpy(u).view(parameter.shape))


@cache
def load(source: str) -> Case:
    folder = GOLDEN / source[0]
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "golden.npz") as arrays:
        expected = dict(arrays)
    if source == "a by formula":
        tokenizer, predictor = KronosTokenizer(**config["tokenizer"]), Kronos(**config["predictor"])
        fill_by_formula(tokenizer, 2.3)
        fill_by_formula(predictor, 2.8)
    else:
        tokenizer = KronosTokenizer.from_pretrained(folder / "tokenizer")
        predictor = Kronos.from_pretrained(folder / "predictor")
    names = {kind: config[f"param_names_{kind}"] for kind in ("tokenizer", "predictor")}
    return Case(tokenizer, predictor, expected, names)


@pytest.fixture(params=["a", "a by formula", "b"])
def case(request: pytest.FixtureRequest) -> Case:
    return load(request.param)


def gradient_norms(network: nn.Module, names: list[str]) -> Tensor:
    found = dict(network.named_parameters())
    assert sorted(found) == names
    zero = torch.zeros(())
    return torch.stack([zero if (grad := found[name].grad) is None else grad.norm() for name in names])


def test_bars_become_the_published_tokens(case: Case) -> None:
    """Another epsilon, clip or order of features would shift every token.

    `normalise` computes in float64 and the original in float32, whose statistics are off by up to 8e-5 here.
    """
    raw = np.stack([case.expected[f"raw_{j}"] for j in range(3)])
    x = normalise(raw, window_stats(raw), 5.0)
    np.testing.assert_allclose(x, case.expected["x"], rtol=0, atol=1e-4)
    s1, s2 = case.tokenizer.encode(torch.from_numpy(x))
    case.check("enc_s1", s1)
    case.check("enc_s2", s2)


def test_tokenizer_forward_and_loss(case: Case) -> None:
    """A different sign, scale, entropy or averaging trains another tokenizer than the published one."""
    x = case.tensor("x")
    out = case.tokenizer(x)
    case.check("tok_train_z_pre", out.coarse)
    case.check("tok_train_z", out.full)
    case.check("tok_quantized", out.code)
    case.tokenizer.zero_grad()
    loss = case.tokenizer.loss(x)
    loss.total.backward()
    case.check("tok_bsq_loss", loss.quantizer)
    case.check("tok_loss", loss.total)
    case.check("tok_grad_norms", gradient_norms(case.tokenizer, case.names["tokenizer"]))


def test_tokenizer_encode_and_decode(case: Case) -> None:
    """Bits in another order would give published predictors tokens that mean something else."""
    bits = case.tokenizer.config.s1_bits
    s1, s2 = case.tokenizer.encode(case.tensor("x"))
    case.check("enc_s1", s1)
    case.check("enc_s2", s2)
    case.check("enc_full", s1 + (s2 << bits))
    case.check("dec_full", case.tokenizer.decode(s1, s2))
    random = case.tensor("rand_full")
    case.check("rand_dec", case.tokenizer.decode(random % 2**bits, random >> bits))


def test_predictor_loss(case: Case) -> None:
    """Logits, loss per position and every gradient of the published training step, with teacher forcing."""
    s1, s2, stamp = case.tensor("enc_s1"), case.tensor("enc_s2"), case.tensor("stamp")[:, :24]
    logits1, logits2 = case.predictor(s1[:, :-1], s2[:, :-1], stamp[:, :-1], s1[:, 1:])
    case.check("lm_train_s1_logits", logits1)
    case.check("lm_train_s2_logits", logits2)
    nll1, nll2 = case.predictor.nll(s1, s2, stamp)
    case.check("lm_nll_s1", nll1)
    case.check("lm_nll_s2", nll2)
    case.predictor.zero_grad()
    loss = case.predictor.loss(s1, s2, stamp)
    loss.total.backward()
    case.check("lm_loss", torch.stack(loss))
    case.check("lm_grad_norms", gradient_norms(case.predictor, case.names["predictor"]))


def test_predictor_decodes_the_last_position(case: Case) -> None:
    """Context, s1 logits, and s2 logits of the last position in both ways of rotating, with and without a
    cache.
    """
    s1, s2, stamp = case.tensor("enc_s1"), case.tensor("enc_s2"), case.tensor("stamp")[:, :24]
    h = case.predictor.context(s1, s2, stamp)
    case.check("dec_context", h)
    logits = case.predictor.s1_logits(h)
    case.check("dec_s1_logits", logits)
    pick = logits[:, -1:].argmax(-1)
    case.check("dec_s1_pick", pick)
    queries = torch.cat((s1[:, 1:], pick), dim=1)
    for rope in ("original", "trained"):
        case.check(f"dec_s2_logits_last_{rope}", case.predictor.last_s2_logits(h, queries, rope))
        state = case.predictor.prefill(s1, s2, stamp, paths=2, steps=0, decode_rope=rope)
        found = case.predictor.decode_s2_logits(state, pick.expand(-1, 2))
        for path in (0, 1):
            case.check(f"dec_s2_logits_last_{rope}", found[:, path])


@pytest.mark.parametrize("rope", ["original", "trained"])
@pytest.mark.parametrize("way", [decode, decode_reference])
def test_greedy_generation(case: Case, way: Any, rope: Any) -> None:
    """Tokens and logits of eight greedy steps: published forecasts come out of the cache and of the slow loop
    alike.
    """
    s1, s2 = case.tensor(f"gen_{rope}_s1")[:, :CONTEXT], case.tensor(f"gen_{rope}_s2")[:, :CONTEXT]
    stamp = case.tensor("stamp")
    extra = {"max_context": CONTEXT + STEPS} if way is decode_reference else {}
    sampling = Sampling(temperature=0, sample_count=2, decode_rope=rope)
    series = torch.arange(3)
    future = stamp[:, CONTEXT : CONTEXT + STEPS]
    steps = list(
        way(case.predictor, s1, s2, stamp[:, :CONTEXT], future, sampling=sampling, series=series, **extra)
    )
    for path in (0, 1):
        check_path(case, steps, rope, path)


def check_path(case: Case, steps: list[Step], rope: str, path: int) -> None:
    for kind in ("s1", "s2"):
        tokens = torch.stack([getattr(step, kind)[:, path] for step in steps], dim=1)
        np.testing.assert_array_equal(tokens.numpy(), case.expected[f"gen_{rope}_{kind}"][:, CONTEXT:])
        case.check(
            f"gen_{rope}_{kind}_logits",
            torch.stack([getattr(s, f"{kind}_logits")[:, path] for s in steps], dim=1),
        )


def test_filters(case: Case) -> None:
    """Another rule for the token that crosses the border changes what can be drawn at all."""
    logits = case.tensor("dec_s1_logits")[:, -1] * 3
    case.check("filter_k3_p1.0", filter_logits(logits, 3, 1.0))
    case.check("filter_k0_p0.7", filter_logits(logits, 0, 0.7))
