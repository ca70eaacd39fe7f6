"""Bars to paths, on tiny real networks."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from kronos.bars import CLOSE, FEATURES, calendar_stamps, denormalise, normalise, window_stats
from kronos.errors import KitError
from kronos.forecasting import decode
from kronos.forecasting.forecaster import Forecaster, anchored
from kronos.forecasting.generate import generate, generate_reference
from kronos.forecasting.memory import Fits
from kronos.forecasting.result import Forecast
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos, KronosTokenizer, preset

LENGTH, HORIZON, SERIES = 20, 4, 5


def tiny_networks(dropout: float = 0.0, seed: int = 0) -> tuple[Kronos, KronosTokenizer]:
    torch.manual_seed(seed)
    tokenizer, predictor = preset("nano")
    drop = {name: dropout for name in ("ffn_dropout_p", "attn_dropout_p", "resid_dropout_p")}
    tokenizer |= {"d_model": 16, "n_heads": 2, "ff_dim": 16, "n_enc_layers": 2, "n_dec_layers": 2} | drop
    predictor |= {"d_model": 16, "n_heads": 2, "ff_dim": 16, "n_layers": 1, "token_dropout_p": dropout} | drop
    networks = Kronos(**predictor), KronosTokenizer(**tokenizer)
    with torch.no_grad():
        networks[
            1
        ].head.weight *= (
            8  # untrained, all tokens mean nearly the same bar: spread them, so that paths differ
        )
    return networks


def make(
    sample_count: int = 6, dropout: float = 0.0, seed: int = 11, device: str = "cpu", **settings: Any
) -> Forecaster:
    settings = {"max_context": 64, "batch_size": 3} | settings
    sampling = Sampling(sample_count=sample_count, seed=seed)
    return Forecaster(*tiny_networks(dropout), Settings(sampling=sampling, **settings), torch.device(device))


def make_bars(count: int = SERIES, length: int = LENGTH, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal((count, length)), axis=1))
    spread = 1 + 0.01 * rng.random((2, count, length))
    volume = 1e5 * rng.random((count, length))
    bars = np.stack([close, close * spread[0], close / spread[1], close, volume, volume * close], axis=-1)
    return bars.astype(np.float32)


def inputs(count: int = SERIES, length: int = LENGTH, horizon: int = HORIZON) -> dict[str, np.ndarray]:
    days = np.datetime64("2024-01-01T00:00:00") + np.arange(length + horizon) * np.timedelta64(86400, "s")
    stamps = np.broadcast_to(calendar_stamps(days), (count, length + horizon, 5))
    return {
        "bars": make_bars(count, length),
        "stamps": stamps[:, :length],
        "future_stamps": stamps[:, length:],
        "series": np.arange(count, dtype=np.int64) * 7919,
    }


def some(given: dict[str, np.ndarray], rows: list[int]) -> dict[str, np.ndarray]:
    return {name: values[rows] for name, values in given.items()}


@pytest.mark.parametrize("anchor", [True, False])
def test_paths_are_those_of_the_slow_clear_way(anchor: bool) -> None:
    """Tokens, decoding, de-normalising and anchoring, a series and a path at a time, without cache, batches
    or chunks.
    """
    own, given = make(anchor=anchor), inputs()
    result = own.forecast(**given)
    assert result.paths.shape == (SERIES, 6, HORIZON, 6) and result.paths.dtype == np.float32
    for row in range(SERIES):
        bars = given["bars"][[row]]
        stats = window_stats(bars)
        s1, s2 = own.tokenizer.encode(torch.from_numpy(normalise(bars, stats, 5.0)))
        stamps = [
            torch.from_numpy(np.ascontiguousarray(given[name][[row]])) for name in ("stamps", "future_stamps")
        ]
        keys = torch.from_numpy(given["series"][[row]])
        future = generate_reference(
            own.model, s1, s2, *stamps, sampling=own.sampling, series=keys, max_context=64
        )
        for path in range(6):
            both = [
                torch.cat([known, drawn[:, path]], dim=1)
                for known, drawn in zip((s1, s2), future[:2], strict=True)
            ]
            with torch.no_grad():
                decoded = denormalise(own.tokenizer.decode(*both).numpy(), stats)[0]
            expected = decoded[-HORIZON:]
            if anchor:
                expected[:, : CLOSE + 1] += bars[0, -1, CLOSE] - decoded[LENGTH - 1, CLOSE]
            np.testing.assert_allclose(result.paths[row, path], expected, rtol=1e-4)
    np.testing.assert_array_equal(result.last_close, given["bars"][:, -1, CLOSE])


def test_the_tokenizers_error_on_the_last_bar_is_no_move() -> None:
    """A forecast that says "no change" in tokens once began with a jump, and P(rise) answered the tokenizer's
    error.
    """
    paths = np.full(
        (1, 3, 2, 6), 98.0, np.float32
    )  # the tokenizer renders the last close of 100 as 98, and so all that follow
    moved = anchored(paths, np.array([98.0], np.float32), np.array([100.0]))
    np.testing.assert_array_equal(moved[..., : CLOSE + 1], 100.0)
    np.testing.assert_array_equal(moved[..., CLOSE + 1 :], 98.0)
    np.testing.assert_array_equal(paths, 98.0)


def test_no_series_depends_on_its_batch_mates_or_the_batch_size() -> None:
    """One random stream for a batch made an answer depend on who shared the batch."""
    given = inputs()
    whole = make(batch_size=5).forecast(**given).paths
    for size in (1, 2, 64):
        np.testing.assert_allclose(make(batch_size=size).forecast(**given).paths, whole, rtol=1e-4)
    shuffled = [3, 0, 4, 2, 1]
    np.testing.assert_allclose(make().forecast(**some(given, shuffled)).paths, whole[shuffled], rtol=1e-4)
    np.testing.assert_allclose(make().forecast(**some(given, [2])).paths, whole[[2]], rtol=1e-4)


def test_decoding_in_small_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by decoding in pieces; their borders must not show."""
    given = inputs()
    whole = make().forecast(**given).paths
    monkeypatch.setattr(decode, "DECODE_BARS", 1)
    np.testing.assert_allclose(make().forecast(**given).paths, whole, rtol=1e-4)


def test_the_tokenizer_keeps_its_precision_in_a_callers_autocast() -> None:
    """A token is a row of signs: in half precision one in a hundred was another, and the forecast of other
    bars.
    """
    own, given = make(), inputs(count=40, length=60)
    s1, s2, stats, _ = own.encode(given["bars"])
    future, close = s1[:, None, -2:], given["bars"][:, -1, CLOSE]
    plain = own.decode(s1, s2, future, future, stats, close)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again1, again2, *_ = own.encode(given["bars"])
        assert torch.equal(again1, s1) and torch.equal(again2, s2)
        np.testing.assert_array_equal(own.decode(s1, s2, future, future, stats, close), plain)


def test_answers_do_not_change_from_call_to_call() -> None:
    """Dropout was left on in inference elsewhere: two calls gave two answers. Each call puts it off again."""
    own, given = make(dropout=0.5), inputs()
    first = own.forecast(**given).paths
    own.model.train()
    own.tokenizer.train()
    torch.manual_seed(99)  # the global generator plays no part
    np.testing.assert_array_equal(own.forecast(**given).paths, first)
    assert not own.model.training and not own.tokenizer.training


def test_another_seed_gives_other_paths() -> None:
    """A seed that nobody reads would make every run look reproducible."""
    given = inputs()
    assert (make(seed=1).forecast(**given).paths != make(seed=2).forecast(**given).paths).any()


def test_more_paths_keep_the_first_ones() -> None:
    """Paths are keyed one by one: raising sample_count refines an answer and does not redraw it."""
    given = inputs()
    np.testing.assert_allclose(
        make(sample_count=9).forecast(**given).paths[:, :6], make().forecast(**given).paths, rtol=1e-4
    )


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20, 1e-6, 1e6])
def test_forecast_scales_with_the_prices(factor: float) -> None:
    """An absolute epsilon distorts cheap series; with the relative one forecast(c x) = c forecast(x)."""
    given = inputs()
    plain = make(epsilon="relative").forecast(**given)
    scaled = make(epsilon="relative").forecast(**given | {"bars": given["bars"] * np.float32(factor)})
    np.testing.assert_allclose(scaled.paths, plain.paths * np.float32(factor), rtol=2e-3)
    np.testing.assert_array_equal(scaled.prob_up(), plain.prob_up())


def test_a_constant_series_stays_where_it_is() -> None:
    """Zero variance once became a division by zero, or noise blown up to the size of the price."""
    given = inputs(count=2)
    given["bars"] = np.full_like(given["bars"], 25.0)
    for epsilon in ("absolute", "relative"):
        paths = make(epsilon=epsilon).forecast(**given).paths
        np.testing.assert_allclose(paths, 25.0, rtol=1e-3)


def test_views_agree_with_the_paths() -> None:
    """Earlier code kept the mean only; every view is computed from the same kept paths."""
    rng = np.random.default_rng(0)
    result = Forecast(rng.random((3, 7, 2, len(FEATURES)), dtype=np.float32), np.full(3, 0.5, np.float32))
    np.testing.assert_allclose(result.mean(), result.paths.mean(1))
    np.testing.assert_allclose(result.median(), result.quantile(0.5), rtol=1e-6)
    assert (result.quantile(0.1) <= result.quantile(0.9)).all() and result.quantile(0.1).shape == (3, 2, 6)
    np.testing.assert_allclose(result.prob_up(0), (result.paths[:, :, 0, CLOSE] > 0.5).mean(1))


def test_the_longest_context_that_fits() -> None:
    """A horizon that cannot fit beside even the shortest context is refused before any work."""
    own = make(max_context=LENGTH + HORIZON - 1)
    assert np.isfinite(own.forecast(**inputs()).paths).all()
    with watched(own) as calls, pytest.raises(KitError, match=r"max_context 23.* 21 \+ 4.*overflow=slide"):
        own.forecast(**inputs(length=LENGTH + 1))
    assert not calls


@contextlib.contextmanager
def watched(own: Forecaster) -> Iterator[list[int]]:
    """Sizes of the batches that the tokenizer encodes."""
    calls: list[int] = []
    handle = own.tokenizer.embed.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    yield calls
    handle.remove()


def test_a_context_that_overflows_is_cut() -> None:
    """Cut beforehand, the forecast is exactly that of the bars that fit: no statistic and no token of an
    older bar.
    """
    own, given = make(max_context=40), inputs(length=60)
    found = own.forecast(**given)
    fitting = given | {name: given[name][:, -37:] for name in ("bars", "stamps")}  # 37 + 4 - 1 = 40
    np.testing.assert_array_equal(found.paths, own.forecast(**fitting).paths)
    assert found.shortened is not None and found.shortened.all()
    assert not own.forecast(**fitting).shortened.any()  # type: ignore[union-attr]
    with (
        watched(own) as calls,
        pytest.raises(KitError, match=r"room for 32 context bars.* 60 \+ 10 - 1; forecast at most 9 steps"),
    ):
        own.forecast(**inputs(length=60, horizon=10))
    assert not calls


def test_a_window_slides_when_it_is_asked_to() -> None:
    """All given bars are normalised and encoded, then only the last max_context tokens are seen, as in the
    original.
    """
    own, given = make(max_context=12, overflow="slide", anchor=False), inputs()
    result = own.forecast(**given)
    stats = window_stats(given["bars"])
    s1, s2 = own.tokenizer.encode(torch.from_numpy(normalise(given["bars"], stats, 5.0)))
    stamps = [torch.from_numpy(np.ascontiguousarray(given[name])) for name in ("stamps", "future_stamps")]
    keys = torch.from_numpy(given["series"])
    future = generate_reference(
        own.model, s1, s2, *stamps, sampling=own.sampling, series=keys, max_context=12
    )
    both = [
        torch.cat([known, drawn[:, 2]], dim=1)[:, -12:]
        for known, drawn in zip((s1, s2), future[:2], strict=True)
    ]
    with torch.no_grad():
        scaled = own.tokenizer.decode(*both)[:, -HORIZON:].numpy()
    np.testing.assert_allclose(result.paths[:, 2], denormalise(scaled, stats), rtol=1e-4)
    assert not result.shortened.any()  # type: ignore[union-attr]
    with pytest.raises(KitError, match="horizon below max_context 12, found 12"):
        own.forecast(**inputs(horizon=12))


def test_series_of_unequal_length_equal_single_calls() -> None:
    """Padding that leaks into an attention or a statistic, or results in the order of the batches."""
    own, lengths = make(max_context=40), [20, 33, 20, 50, 7, 33]
    given = inputs(count=6, length=50)
    bars, stamps = ([given[name][i, -n:] for i, n in enumerate(lengths)] for name in ("bars", "stamps"))
    found = own.forecast(bars, stamps, given["future_stamps"], given["series"])
    assert found.shortened is not None and found.shortened.tolist() == [n > 37 for n in lengths]
    for i in range(6):
        alone = own.forecast([bars[i]], [stamps[i]], given["future_stamps"][[i]], given["series"][[i]])
        np.testing.assert_allclose(found.paths[[i]], alone.paths, rtol=1e-4)
        np.testing.assert_array_equal(found.last_close[i], bars[i][-1, CLOSE])


def test_unequal_series_draw_the_tokens_of_single_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices within rounding could hide another token: the tokens are equal bit for bit."""
    drawn: dict[int, Any] = {}

    def kept(*args: Any, **settings: Any) -> Any:
        tokens = generate(*args, **settings)
        drawn.update(zip(settings["series"].tolist(), torch.stack(tokens[:2], -1).tolist(), strict=True))
        return tokens

    monkeypatch.setattr("kronos.forecasting.forecaster.generate", kept)
    own, lengths, given = make(), [20, 33, 20, 25, 7], inputs(length=33)
    bars, stamps = ([given[name][i, -n:] for i, n in enumerate(lengths)] for name in ("bars", "stamps"))
    own.forecast(bars, stamps, given["future_stamps"], given["series"])
    together = dict(drawn)
    for i in range(5):
        own.forecast([bars[i]], [stamps[i]], given["future_stamps"][[i]], given["series"][[i]])
    assert drawn == together and len(drawn) == 5


SHORT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:125] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
]
"""What torch, cuBLAS, the driver and the processor's allocator say."""


def small_memory(own: Forecaster, limit: int, error: RuntimeError = SHORT_OF_MEMORY[0]) -> None:
    """The tokenizer runs out of memory, as on a GPU, when more than `limit` series come at once."""

    def check(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if len(args[0]) > limit:
            raise error

    own.tokenizer.embed.register_forward_pre_hook(check)


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_out_of_memory_halves_the_batch(error: RuntimeError, caplog: pytest.LogCaptureFixture) -> None:
    """One batch too large for the device ended a run of an hour, a driver's own words in a traceback; the
    answers do not depend on the batch."""
    given = inputs(count=9)
    whole = make(batch_size=9).forecast(**given).paths
    own = make(batch_size=9)
    small_memory(own, 3, error)
    np.testing.assert_allclose(
        make(batch_size=9).hidden_states(given["bars"], given["stamps"]),
        own.hidden_states(given["bars"], given["stamps"]),
        rtol=1e-4,
        atol=1e-6,
    )
    caplog.clear()
    fits = Fits()
    with caplog.at_level("INFO"):
        np.testing.assert_allclose(own.forecast(**given, fits=fits).paths, whole, rtol=1e-4)
        own.forecast(**given, fits=fits)
    assert fits.series is not None and fits.series <= 3 and own.settings.batch_size == 9
    assert (
        [r.message for r in caplog.records].count(
            "out of memory on cpu with 9 series at once: going on with halves; no answer changes"
        )
        == len([r for r in caplog.records if "memory" in r.message])
        == 1
    )
    small_memory(own, 0, error)
    with pytest.raises(KitError, match="out of memory on cpu with one path of one series"):
        own.forecast(**given)


def test_another_error_is_no_lack_of_memory() -> None:
    """A handler that halves on any error would hide a bug behind a thousand small batches."""
    own = make()
    own.tokenizer.embed = torch.nn.Linear(5, 16)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        own.forecast(**inputs())


def test_cuda_graphs_without_a_gpu_are_refused() -> None:
    """A setting that is ignored leaves a user waiting for a speed that never comes."""
    with pytest.raises(
        KitError, match=r"inference\.cuda_graphs: expected a GPU and overflow: cut, found a processor"
    ):
        make(cuda_graphs=True)


def test_a_device_that_cannot_add_up_probabilities_is_refused() -> None:
    """On an Apple GPU every call ended in a KeyError of the memory plan."""
    with pytest.raises(KitError, match="expected the device cpu or cuda, found mps"):
        make(device="mps")


def test_bad_input_is_refused_before_any_work() -> None:
    """NaN in, plausible numbers out: refused with the series that holds it."""
    given = inputs()
    given["bars"][3, 5, CLOSE] = np.nan
    with pytest.raises(KitError, match="series 3"):
        make().forecast(**given)
    with pytest.raises(KitError, match="expected bars"):
        make().forecast(**inputs() | {"series": np.arange(2)})


def test_networks_that_do_not_fit_together_are_refused() -> None:
    """A predictor read through another tokenizer's tokens gives numbers that mean nothing."""
    model, _ = tiny_networks()
    settings = preset("nano")[0] | {"s1_bits": 4, "s2_bits": 10}
    with pytest.raises(KitError, match="do not fit"):
        Forecaster(model, KronosTokenizer(**settings))


def test_progress_counts_every_series() -> None:
    """A bar that stops short of its total looks like a hang."""
    seen: list[int] = []
    make(batch_size=2).forecast(**inputs(), progress=seen.append)
    assert seen == [2, 2, 1]
