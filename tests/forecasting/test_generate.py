"""Cached generation: equal to the slow loop, the same whoever shares the batch, never sliding unnoticed."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from kronos.errors import KitError
from kronos.forecasting.generate import decode, decode_reference, generate, generate_reference
from kronos.forecasting.replay import ReplayedSteps
from kronos.forecasting.sampling import Sampling, horizon_keys
from kronos.networks import Kronos

BATCH, CONTEXT, HORIZON = 4, 11, 6
CONFIG = {
    "s1_bits": 5,
    "s2_bits": 3,
    "n_layers": 2,
    "d_model": 32,
    "n_heads": 2,
    "ff_dim": 48,
    "ffn_dropout_p": 0.2,
    "attn_dropout_p": 0.2,
    "resid_dropout_p": 0.2,
    "token_dropout_p": 0.2,
    "learn_te": True,
}


@pytest.fixture(scope="module")
def model() -> Kronos:
    torch.manual_seed(0)
    network = Kronos(**CONFIG)
    for parameter in network.parameters():
        # Sharper than a fresh network, so that a wrong hidden state changes tokens; at 1.5 the slow loop
        # itself is further than 1e-5 from its own result in float64.
        parameter.data.mul_(1.25)
    return network.eval()


def batch(size: int = BATCH, context: int = CONTEXT, horizon: int = HORIZON) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(7)
    stamps = torch.stack(
        [torch.randint(0, n, (size, context + horizon), generator=g) for n in (60, 24, 7, 32, 13)], -1
    )
    return {
        "s1": torch.randint(0, 32, (size, context), generator=g),
        "s2": torch.randint(0, 8, (size, context), generator=g),
        "stamp": stamps[:, :context].float(),
        "future_stamp": stamps[:, context:].float(),
        "series": torch.arange(100, 100 + size),
    }


def rows(inputs: dict[str, Tensor], index: Any) -> dict[str, Tensor]:
    return {name: value[index] for name, value in inputs.items()}


SAMPLINGS = [
    Sampling(temperature=0, sample_count=2),
    Sampling(sample_count=3, seed=5),
    Sampling(temperature=0.8, top_k=7, top_p=0.9, sample_count=3, seed=1),
    Sampling(sample_count=3, decode_rope="original"),
]


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_cache_equals_the_slow_loop(model: Kronos, sampling: Sampling) -> None:
    """A cache that is off by one position, or mixes paths, gives plausible but wrong forecasts."""
    inputs = batch()
    fast = list(decode(model, **inputs, sampling=sampling))
    slow = list(decode_reference(model, **inputs, sampling=sampling, max_context=64))
    assert len(fast) == len(slow) == HORIZON
    for one, other in zip(fast, slow, strict=True):
        assert torch.equal(one.s1, other.s1) and torch.equal(one.s2, other.s2)
        torch.testing.assert_close(one.s1_logits, other.s1_logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.s2_logits, other.s2_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("visible", [1, 4, 64])
def test_replayed_steps_are_the_same(model: Kronos, sampling: Sampling, visible: int) -> None:
    """A recorded step counts on the device and masks what is not filled yet: one off, and it attends to stale
    memory.
    """
    inputs = batch()
    expected = generate(model, **inputs, sampling=sampling, max_context=64)
    with torch.inference_mode():
        keys = horizon_keys(sampling.seed, inputs["series"], sampling.sample_count, HORIZON)
        context = (inputs["s1"], inputs["s2"], inputs["stamp"])
        state = model.prefill(
            *context, paths=sampling.sample_count, steps=HORIZON, decode_rope=sampling.decode_rope
        )
        for cache in (*state.blocks, state.dependency):
            cache.own.fill_(torch.nan)  # as memory that nobody wrote may be
        found = ReplayedSteps(model, state, model.time_emb(inputs["future_stamp"]), sampling, keys).run(
            visible
        )
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("at_once", [None, 2])
def test_generation_by_replayed_steps(model: Kronos, at_once: int | None) -> None:
    """Paths in several passes start from a clean state; one step has nothing to replay."""
    for horizon in (1, HORIZON):
        settings: dict[str, Any] = {
            **batch(horizon=horizon),
            "sampling": Sampling(sample_count=5),
            "max_context": 64,
        }
        expected = generate(model, **settings)
        found = generate(model, **settings, paths_at_once=at_once, replayed=True)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("autocast", [False, True])
def test_recorded_steps_on_a_gpu(model: Kronos, monkeypatch: pytest.MonkeyPatch, autocast: bool) -> None:
    """A recording that misses an operation repeats the first bar for ever. Beside the same steps without a
    recording, which round alike; in float32 also beside `generate`."""
    network = copy.deepcopy(model).cuda()
    given: dict[str, Any] = {name: value.cuda() for name, value in batch(horizon=40).items()}
    given |= {"sampling": Sampling(sample_count=3), "max_context": 64}
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        recorded = torch.stack(generate(network, **given, replayed=True)[:2])
        monkeypatch.setattr(
            "kronos.forecasting.replay.repeat", lambda action, times, _: [action() for _ in range(times)]
        )
        called = torch.stack(generate(network, **given, replayed=True)[:2])
        plain = torch.stack(generate(network, **given)[:2])
    assert (recorded == called).float().mean() > 0.99
    assert autocast or (recorded == plain).float().mean() > 0.99


def test_tokens_have_the_promised_shape(model: Kronos) -> None:
    """(B, S, H) int64, also for one step, which never decodes from the cache."""
    for horizon in (1, HORIZON):
        inputs = batch(horizon=horizon)
        s1, s2, _ = generate(model, **inputs, sampling=Sampling(sample_count=5), max_context=64)
        assert s1.shape == s2.shape == (BATCH, 5, horizon) and s1.dtype == s2.dtype == torch.int64
        assert s1.min() >= 0 and s1.max() < 32 and s2.min() >= 0 and s2.max() < 8


def test_a_series_does_not_depend_on_its_batch(model: Kronos) -> None:
    """Order, batch mates, batch size and the number of paths used to change the random numbers of a
    series.
    """
    inputs, sampling = batch(), Sampling(sample_count=4, seed=3)
    s1, s2, _ = generate(model, **inputs, sampling=sampling, max_context=64)
    back = generate(model, **rows(inputs, [3, 1, 0, 2]), sampling=sampling, max_context=64)
    assert torch.equal(back[0], s1[[3, 1, 0, 2]]) and torch.equal(back[1], s2[[3, 1, 0, 2]])
    for i in range(BATCH):
        alone = generate(model, **rows(inputs, slice(i, i + 1)), sampling=sampling, max_context=64)
        assert torch.equal(alone[0][0], s1[i]) and torch.equal(alone[1][0], s2[i])
    fewer = generate(model, **inputs, sampling=Sampling(sample_count=2, seed=3), max_context=64)
    assert torch.equal(fewer[0], s1[:, :2])


def test_paths_and_seeds_differ(model: Kronos) -> None:
    """One random number for all paths, or a seed that nothing reads, would make P(up) 0 or 1."""
    inputs = batch()
    s1, *_ = generate(model, **inputs, sampling=Sampling(sample_count=8), max_context=64)
    assert all(len({tuple(path) for path in row}) > 4 for row in s1.tolist())
    other, *_ = generate(model, **inputs, sampling=Sampling(sample_count=8, seed=1), max_context=64)
    assert not torch.equal(s1, other)


def test_dropout_is_off_and_the_mode_is_kept(model: Kronos) -> None:
    """Dropout left on made every forecast differ; a network left in evaluation mode would train without
    it.
    """
    inputs, sampling = batch(), Sampling(sample_count=2)
    expected = generate(model, **inputs, sampling=sampling, max_context=64)
    model.train()
    for way in (generate, generate_reference):
        found = way(model, **inputs, sampling=sampling, max_context=64)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert model.training
    model.eval()


def test_a_window_that_must_slide_is_refused(model: Kronos) -> None:
    """Past max_context a cache gives other hidden states than the published networks: refuse before any
    work.
    """
    inputs = batch()
    generate(model, **inputs, sampling=Sampling(), max_context=CONTEXT + HORIZON - 1)
    calls: list[object] = []
    handle = model.time_emb.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(KitError, match=r"max_context 15, found 11 \+ 6 - 1"):
        generate(model, **inputs, sampling=Sampling(), max_context=CONTEXT + HORIZON - 2)
    handle.remove()
    assert not calls


def test_the_slow_loop_slides_as_the_original_does(model: Kronos) -> None:
    """Past max_context only the last tokens count, with positions from 0 again."""
    inputs, limit = batch(), CONTEXT - 2
    sampling = Sampling(temperature=0)
    s1, s2, _ = generate_reference(model, **inputs, sampling=sampling, max_context=limit)
    stamps = torch.cat((inputs["stamp"], inputs["future_stamp"]), 1)
    known1, known2 = torch.cat((inputs["s1"], s1[:, 0]), 1), torch.cat((inputs["s2"], s2[:, 0]), 1)
    for step in range(HORIZON):
        window = slice(CONTEXT + step - limit, CONTEXT + step)
        one = {
            "s1": known1[:, window],
            "s2": known2[:, window],
            "stamp": stamps[:, window],
            "series": inputs["series"],
        }
        future = stamps[:, CONTEXT + step : CONTEXT + step + 1]
        next1, next2, _ = generate(model, **one, future_stamp=future, sampling=sampling, max_context=limit)
        assert torch.equal(next1[:, 0, 0], s1[:, 0, step]) and torch.equal(next2[:, 0, 0], s2[:, 0, step])


def test_generation_is_causal(model: Kronos) -> None:
    """The stamp of a later bar must not change an earlier draw, cached or not."""
    inputs, sampling = batch(), Sampling(sample_count=3)
    changed = dict(inputs, future_stamp=inputs["future_stamp"].clone())
    changed["future_stamp"][:, 3] = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    for way in (generate, generate_reference):
        a = way(model, **inputs, sampling=sampling, max_context=64)
        b = way(model, **changed, sampling=sampling, max_context=64)
        assert torch.equal(a[0][..., :4], b[0][..., :4]) and torch.equal(a[1][..., :4], b[1][..., :4])
        assert not torch.equal(a[0][..., 4:], b[0][..., 4:])


def test_context_is_held_once_per_series(model: Kronos) -> None:
    """Copying the context for every path would multiply time and memory by the number of paths."""
    inputs = batch()
    tokens: list[int] = []
    handle = model.norm.register_forward_hook(lambda _, args, __: tokens.append(args[0].shape[:-1].numel()))
    generate(model, **inputs, sampling=Sampling(sample_count=50), max_context=64)
    handle.remove()
    assert tokens == [BATCH * CONTEXT] + [BATCH * 50] * (HORIZON - 1)
    state = model.prefill(inputs["s1"], inputs["s2"], inputs["stamp"], paths=50, steps=2)
    assert all(cache.keys.shape[:1] + cache.keys.shape[2:3] == (BATCH, CONTEXT) for cache in state.blocks)


def test_bfloat16_autocast_generates(model: Kronos) -> None:
    """Caches of another type than their contents failed, or silently fell back to float32."""
    inputs = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        s1, s2, _ = generate(model, **inputs, sampling=Sampling(sample_count=2), max_context=64)
        state = model.prefill(inputs["s1"], inputs["s2"], inputs["stamp"], paths=2, steps=2)
    assert s1.shape == s2.shape == (BATCH, 2, HORIZON)
    assert state.blocks[0].keys.dtype == torch.bfloat16


@pytest.mark.parametrize("at_once", [1, 3, 4, 99])
def test_paths_in_passes_are_the_paths_of_one(model: Kronos, at_once: int) -> None:
    """What fits into memory at a time must not decide which future is sampled; a pass that read the cache of
    the one before it would change the tokens of the second."""
    settings: dict[str, Any] = {"sampling": Sampling(sample_count=7, seed=3), "max_context": 32}
    expected = generate(model, **batch(), **settings)
    found = generate(model, **batch(), **settings, paths_at_once=at_once)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("rope", ["trained", "original"])
def test_many_tokens_at_once_are_a_longer_context(model: Kronos, rope: Any) -> None:
    """Known bars fed into a cache, in pieces, must leave what a prefill of the joined context leaves: its
    logits of both tokens, also for paths that go different ways."""
    paths, known = 3, batch()
    g = torch.Generator().manual_seed(1)
    new1, new2 = (torch.randint(0, n, (BATCH, paths, HORIZON), generator=g) for n in (32, 8))
    future, next1 = known["future_stamp"], new1[..., 0]
    state = model.prefill(
        known["s1"], known["s2"], known["stamp"], paths=paths, steps=HORIZON, decode_rope=rope
    )
    parts = [
        model.decode_many(state, new1[..., p], new2[..., p], future[:, p])
        for p in (slice(0, 4), slice(4, HORIZON))
    ]
    for path in range(paths):
        joined = [torch.cat((known[name], new[:, path]), dim=1) for name, new in (("s1", new1), ("s2", new2))]
        stamps = torch.cat((known["stamp"], future), dim=1)
        whole = model.prefill(*joined, stamps, paths=1, steps=0, decode_rope=rope)
        assert_close(model.s1_logits(state.hidden[:, path]), model.s1_logits(whole.hidden[:, 0]))
        assert_close(
            model.decode_s2_logits(state, next1)[:, path],
            model.decode_s2_logits(whole, next1[:, path, None])[:, 0],
        )
        assert_close(torch.cat(parts, dim=2)[:, path], model.context(*joined, stamps)[:, CONTEXT:])


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
