"""Temperature, top-k, top-p, and random numbers that belong to a series."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kronos.errors import KitError
from kronos.forecasting.sampling import (
    COARSE,
    FINE,
    Sampling,
    draw,
    draw_keys,
    exponential,
    filter_logits,
    gumbel,
)


@st.composite
def some_logits(draw: st.DrawFn) -> Tensor:
    """Logits of any leading shape, with ties."""
    shape = [*draw(st.lists(st.integers(1, 3), max_size=2)), draw(st.integers(1, 12))]
    values = draw(st.lists(st.integers(-6, 6), min_size=math.prod(shape), max_size=math.prod(shape)))
    return torch.tensor(values, dtype=torch.float32).view(shape) * draw(st.sampled_from([0.1, 0.7, 3.0]))


PROBABILITIES = st.sampled_from([1e-6, 0.1, 0.5, 0.7, 0.95, 1.0])


@given(some_logits(), st.integers(0, 14), PROBABILITIES)
@settings(max_examples=200, deadline=None)
def test_filters_keep_what_they_should(logits: Tensor, top_k: int, top_p: float) -> None:
    """A filter that empties a distribution, or changes its input, makes every draw after it nonsense."""
    before = logits.clone()
    out = filter_logits(logits, top_k, top_p)
    assert torch.equal(logits, before)
    kept = out > -math.inf
    assert torch.equal(out[kept], logits[kept])
    assert kept.gather(-1, logits.argmax(-1, keepdim=True)).all()
    if top_k == 0 and top_p == 1:
        assert kept.all()
    removed_best = logits.masked_fill(kept, -math.inf).amax(-1)
    assert (removed_best <= out.masked_fill(~kept, math.inf).amin(-1)).all()


@given(some_logits(), st.integers(1, 14), PROBABILITIES)
@settings(max_examples=200, deadline=None)
def test_filters_are_applied_in_order(logits: Tensor, top_k: int, top_p: float) -> None:
    """`top_k > 0` used to switch top_p off: both must count, top-k first, against a slow clear version."""
    found = filter_logits(logits, top_k, top_p) > -math.inf
    for row, kept in zip(
        logits.reshape(-1, logits.shape[-1]), found.reshape(-1, logits.shape[-1]), strict=True
    ):
        least = row.sort(descending=True).values[min(top_k, len(row)) - 1]
        allowed = [v for v in row.sort(descending=True, stable=True).indices.tolist() if row[v] >= least]
        p = torch.softmax(row[allowed].double(), 0)
        mass, nucleus = 0.0, []
        for token, share in zip(allowed, p.tolist(), strict=True):
            if nucleus and mass > top_p + 1e-6:
                break
            nucleus.append(token)
            if abs(mass + share - top_p) < 1e-6:  # the border itself: float32 may fall on either side
                return
            mass += share
        assert sorted(nucleus) == kept.nonzero().flatten().tolist()


def test_nucleus_keeps_the_token_that_crosses() -> None:
    """Without it top_p = 0.7 over (0.6, 0.3, 0.1) would leave one token: too little mass."""
    logits = torch.tensor([0.3, 0.6, 0.1]).log()
    assert (filter_logits(logits, 0, 0.7) > -math.inf).tolist() == [True, True, False]
    assert (filter_logits(logits, 1, 0.7) > -math.inf).tolist() == [False, True, False]


def test_zero_temperature_is_argmax() -> None:
    """Division by a temperature of 0 would give NaN and token 0."""
    logits = torch.randn(4, 3, 9, generator=torch.Generator().manual_seed(0))
    keys = draw_keys(0, torch.arange(4), 3, 0, COARSE)
    assert torch.equal(draw(logits, Sampling(temperature=0), keys).token, logits.argmax(-1))
    assert torch.equal(draw(logits, Sampling(temperature=2.0, top_k=1), keys).token, logits.argmax(-1))


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 200,000 draws: a biased hash or a wrong Gumbel would shift every probability that is
    reported.

    With 15 degrees of freedom a fair sampler exceeds 44.3 once in 10,000 seeds; the seed is fixed.
    """
    count, vocabulary = 200_000, 16
    logits = torch.randn(vocabulary, generator=torch.Generator().manual_seed(1)) * 1.5
    keys = draw_keys(3, torch.arange(count // 8), 8, 5, FINE).flatten()
    for temperature in (1.0, 0.5):
        tokens = draw(logits.expand(count, -1), Sampling(temperature=temperature), keys).token
        expected = torch.softmax(logits / temperature, 0) * count
        found = torch.bincount(tokens, minlength=vocabulary)
        assert ((found - expected) ** 2 / expected).sum() < 44.3


def test_noise_is_independent_across_every_part_of_the_key() -> None:
    """Correlated paths, steps or kinds of token would make the spread of the paths meaningless (|r| < 5 /
    sqrt(n)).
    """
    n, tokens = 20_000, 4
    series = torch.arange(n)

    def noise(seed: int = 0, shift: int = 0, path: int = 0, step: int = 0, kind: int = COARSE) -> Tensor:
        return gumbel(draw_keys(seed, series + shift, path + 1, step, kind)[:, path], tokens)

    base = noise()
    others = [
        noise(seed=1),
        noise(shift=1),
        noise(path=1),
        noise(step=1),
        noise(kind=FINE),
        noise().roll(1, dims=-1),
    ]
    for other in others:
        r = torch.corrcoef(torch.stack((base[:, 0], other[:, 0])))[0, 1]
        assert abs(r) < 5 / math.sqrt(n)
    assert abs(base.mean() - 0.5772) < 0.02 and abs(base.var() - math.pi**2 / 6) < 0.05


def test_noise_is_always_finite() -> None:
    """An infinite Gumbel would win against any logit, or make NaN of a removed token."""
    extremes = torch.tensor([0, 1, -1, 2**53 - 1, 2**62, -(2**63)])
    e = exponential(extremes)
    assert (e > 0).all() and e.isfinite().all() and e.log().isfinite().all()


@given(
    st.integers(-(2**62), 2**62),
    st.lists(st.integers(-(2**62), 2**62), min_size=2, max_size=6, unique=True),
    st.integers(1, 4),
)
@settings(max_examples=50, deadline=None)
def test_keys_belong_to_a_series(seed: int, series: list[int], paths: int) -> None:
    """Order, batch mates and the number of paths must not change what a series draws; different series must
    differ.
    """
    keys = draw_keys(seed, torch.tensor(series), paths, 2, COARSE)
    backwards = draw_keys(seed, torch.tensor(series[::-1]), paths, 2, COARSE)
    alone = draw_keys(seed, torch.tensor(series[:1]), paths + 3, 2, COARSE)
    assert torch.equal(keys, backwards.flip(0))
    assert torch.equal(keys[:1], alone[:, :paths])
    assert len(set(keys.flatten().tolist())) == keys.numel()


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"sample_count": 0},
    ],
)
def test_senseless_settings_are_refused(wrong: dict[str, float]) -> None:
    """A negative temperature turns the distribution over without a word."""
    with pytest.raises(KitError, match=next(iter(wrong))):
        Sampling(**wrong)  # type: ignore[arg-type]
