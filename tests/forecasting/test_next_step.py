"""P(rise) of the next bar by enumeration: against every pair there is, against many samples, within its
bounds.
"""

from typing import Any

import numpy as np
import pytest
import torch
from test_forecaster import inputs, tiny_networks

from kronos.bars import CLOSE
from kronos.errors import KitError
from kronos.forecasting import next_step as module
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.next_step import Enumeration, NextStep, likeliest_pairs
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos

ALL = Enumeration(mass=1.0, pairs=1 << 14)
"""Every pair of the tiny networks, whose tokens have 7 + 7 bits."""
SERIES = 4


def sharp_networks() -> tuple[Any, Any]:
    """Tiny networks that prefer some tokens: fresh ones find all alike."""
    model, tokenizer = tiny_networks()
    with torch.no_grad():
        model.head.proj_s1.weight *= 6
        model.head.proj_s2.weight *= 6
    return model, tokenizer


def make(
    enumeration: Enumeration = ALL, probability: Any = "auto", anchor: bool = True, **sampling: Any
) -> Forecaster:
    networks = sharp_networks()
    settings = {
        "max_context": 64,
        "batch_size": 3,
        "enumeration": enumeration,
        "probability": probability,
        "anchor": anchor,
    }
    return Forecaster(*networks, Settings(sampling=Sampling(**{"seed": 5} | sampling), **settings))


def ask(own: Forecaster, count: int = SERIES) -> NextStep:
    return own.next_step(**inputs(count, horizon=1))


@pytest.mark.parametrize(
    ("sampling", "anchor"),
    [
        ({}, True),
        ({}, False),
        ({"temperature": 0.7, "top_k": 20, "top_p": 0.9}, True),
        ({"decode_rope": "original"}, True),
    ],
)
def test_it_is_what_twenty_thousand_paths_say(sampling: dict[str, Any], anchor: bool) -> None:
    """Another filter, rotation, anchor or context than the paths' would answer another question."""
    given, paths = inputs(SERIES, horizon=1), 20_000
    found = ask(make(anchor=anchor, **sampling))
    sampled = make(probability="sampled", anchor=anchor, sample_count=paths, **sampling).prob_up(**given)
    assert np.isnan(sampled.mass).all()
    np.testing.assert_allclose(found.mass, 1, atol=1e-5)
    error = np.sqrt(np.maximum(found.prob_up * (1 - found.prob_up), 1e-4) / paths)
    assert (np.abs(found.prob_up - sampled.prob_up) < 4 * error).all()
    if anchor:  # an untrained tokenizer's own error is larger than any move
        assert ((found.prob_up > 0.02) & (found.prob_up < 0.98)).any(), (
            "the comparison needs an open question"
        )


def every_pair(model: Kronos, state: Any, row: int) -> np.ndarray:
    """p(s1, s2) of one series, (V1, V2), one s1 at a time."""
    p1 = model.s1_logits(state.hidden[:, 0]).softmax(-1)[row]
    rows = [
        model.decode_s2_logits(state, torch.full((SERIES, 1), s1))[row, 0].softmax(-1)
        for s1 in range(len(p1))
    ]
    return (p1[:, None] * torch.stack(rows)).numpy()


@pytest.mark.parametrize("limit", [1, 40, 128])
def test_the_listed_pairs_are_the_likeliest(limit: int) -> None:
    """A list that misses a likely pair claims a mass that it could have had."""
    own, given = make(), inputs(SERIES, horizon=1)
    with torch.inference_mode():
        s1, s2, *_ = own.encode(given["bars"])
        state = own.model.prefill(s1, s2, own.tensor(given["stamps"]), paths=1, steps=0)
        pairs = likeliest_pairs(own.model, state, own.sampling, Enumeration(1.0, limit))
        for row in range(SERIES):
            joint = every_pair(own.model, state, row)
            np.testing.assert_allclose(
                pairs.probability[row], np.sort(joint.ravel())[::-1][:limit], rtol=1e-4
            )
            np.testing.assert_allclose(joint[pairs.s1[row], pairs.s2[row]], pairs.probability[row], rtol=1e-4)


def test_it_stops_at_the_mass_and_says_what_it_holds() -> None:
    """Decoding pairs that do not matter costs the time that the method was made to save."""
    full, enough = ask(make()), ask(make(Enumeration(0.9, 1 << 14)))
    assert (enough.mass >= 0.9).all() and (enough.pairs < full.pairs / 2).all()
    one_less = [
        ask(make(Enumeration(1.0, int(count) - 1))).mass[row] for row, count in enumerate(enough.pairs)
    ]
    assert max(one_less) < 0.9
    for part in (enough, ask(make(Enumeration(1.0, 30)))):
        assert (part.lower <= full.prob_up + 1e-6).all() and (full.prob_up <= part.upper + 1e-6).all()
        np.testing.assert_allclose(part.upper - part.lower, 1 - part.mass)


def test_no_series_depends_on_its_mates_or_on_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting and grouping by the number of pairs must not mix series up."""
    enumeration = Enumeration(0.8, 4000)
    whole = ask(make(enumeration))
    alone = make(enumeration).next_step(
        **{name: values[[2]] for name, values in inputs(SERIES, horizon=1).items()}
    )
    np.testing.assert_allclose(alone.prob_up[0], whole.prob_up[2], atol=2e-4)
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 1)
    monkeypatch.setattr(module, "COARSE_AT_ONCE", 3)
    pieces = ask(make(enumeration))
    np.testing.assert_allclose(pieces.prob_up, whole.prob_up, atol=2e-4)
    np.testing.assert_allclose(pieces.mass, whole.mass, atol=1e-4)


def test_zero_temperature_is_one_pair() -> None:
    """Argmax has no distribution: all mass is on the likeliest pair of the greedy path."""
    own = make(temperature=0.0)
    found, path = ask(own), own.forecast(**inputs(SERIES, horizon=1))
    np.testing.assert_array_equal(found.pairs, 1)
    np.testing.assert_array_equal(found.mass, 1.0)
    np.testing.assert_array_equal(found.prob_up, path.paths[:, 0, 0, CLOSE] > path.last_close)


def test_horizon_one_is_enumerated_and_more_is_sampled() -> None:
    """`auto` that always samples brings the noise back; one that always enumerates answers another
    horizon.
    """
    one, more = inputs(SERIES, horizon=1), inputs(SERIES, horizon=3)
    auto = make(sample_count=9)
    np.testing.assert_array_equal(auto.prob_up(**one).prob_up, ask(auto).prob_up)
    sampled = auto.prob_up(**more)
    np.testing.assert_array_equal(sampled.prob_up, auto.forecast(**more).prob_up())
    assert np.isnan(sampled.mass).all()
    with pytest.raises(KitError, match="expected one step ahead to enumerate, found 3"):
        make(probability="enumerated").prob_up(**more)


def test_a_window_that_slides_is_seen_as_the_paths_see_it() -> None:
    """Enumeration that cut its context before normalising would answer for other tokens than the paths."""
    given = inputs(SERIES, length=40, horizon=1)
    for overflow in ("cut", "slide"):
        settings = Settings(max_context=33, sampling=Sampling(temperature=0), overflow=overflow)
        own = Forecaster(*sharp_networks(), settings)
        paths = own.forecast(**given)
        np.testing.assert_array_equal(
            own.next_step(**given).prob_up, paths.paths[:, 0, 0, CLOSE] > paths.last_close
        )


def test_what_is_not_finite_is_no_probability() -> None:
    """NaN is above nothing and would count as a fall."""
    own = make()
    with torch.no_grad():
        own.tokenizer.head.bias[CLOSE] = torch.nan
    assert np.isnan(own.prob_up(**inputs(SERIES, horizon=1)).prob_up).all()
    own = own.using(probability="sampled")
    assert np.isnan(own.prob_up(**inputs(SERIES, horizon=1)).prob_up).all()


@pytest.mark.parametrize("values", [(0.0, 10), (1.1, 10), (0.9, 0)])
def test_settings_that_mean_nothing_are_refused(values: tuple[float, int]) -> None:
    """A mass of 0 would list nothing and answer 0/0."""
    with pytest.raises(KitError, match="expected 0 < mass"):
        Enumeration(*values)
