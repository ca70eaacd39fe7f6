"""No error becomes an answer: weights, logits and prices that are not finite are seen on every way to a
forecast.

A network with one NaN weight once drew sound-looking tokens: the maximum over NaN is a valid index. It
submitted with "fallbacks none" and 5 to 17 % rises instead of 42.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_forecaster import inputs, make_bars, tiny_networks

from kronos import Kronos, KronosPredictor, KronosTokenizer
from kronos.bars import FEATURES
from kronos.errors import KitError
from kronos.forecasting import forecaster as forecaster_module
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.generate import generate
from kronos.forecasting.next_step import _probabilities
from kronos.forecasting.sampling import Sampling, draw, draw_keys, finite
from kronos.forecasting.settings import Settings

BAD = [math.nan, math.inf, -math.inf]
NETWORKS: list[Any] = [Kronos, KronosTokenizer]


def networks() -> tuple[Kronos, KronosTokenizer]:
    model, tokenizer = tiny_networks()
    return model.eval(), tokenizer.eval()


# -- loading -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weight_that_is_not_finite_is_not_loaded(
    tmp_path: Path, kind: Any, value: float, dtype: torch.dtype
) -> None:
    """Every tensor of both networks, also of a file in half precision."""
    networks()[NETWORKS.index(kind)].save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = {name: tensor.clone() for name, tensor in load_file(path).items()}
    weights = {name: t.to(dtype) if t.is_floating_point() else t for name, t in weights.items()}
    constants = ("basis", "inv_freq")
    for name in [name for name, tensor in weights.items() if tensor.is_floating_point()]:
        kept = weights[name]
        weights[name] = kept.clone()
        weights[name].view(-1)[-1] = value
        save_file(weights, path)
        words = "of another value" if name.endswith(constants) else r"1 with NaN or infinity in it"
        with pytest.raises(KitError, match=rf"model\.safetensors: expected .*{words} \({name}\)"):
            kind.from_pretrained(tmp_path)
        weights[name] = kept


def test_a_weight_that_the_wanted_type_cannot_hold_is_not_loaded(tmp_path: Path) -> None:
    """1e6 is finite in float32 and bfloat16, and infinite in float16."""
    model, _ = networks()
    with torch.no_grad():
        model.head.proj_s1.weight[0, 0] = 1e6
    model.save_pretrained(tmp_path)
    Kronos.from_pretrained(tmp_path, torch_dtype="bfloat16")
    with pytest.raises(
        KitError,
        match=r"that torch\.float16 can hold, found 1 that become infinite \(head\.proj_s1\.weight\)",
    ):
        Kronos.from_pretrained(tmp_path, torch_dtype="float16")


def test_large_weights_whose_sum_overflows_are_loaded(tmp_path: Path) -> None:
    """The quick look is at a sum: a sum that overflows is looked at again, number by number."""
    model, _ = networks()
    with torch.no_grad():
        model.time_emb.minute_embed.weight.fill_(1e37)  # type: ignore[union-attr, operator]
    model.save_pretrained(tmp_path)
    Kronos.from_pretrained(tmp_path)


# -- every way to a forecast ---------------------------------------------------------------------------------
WAYS = ["sampled", "passes", "slid", "replayed", "enumerated", "greedy", "original"]


def forecaster(
    way: str, model: Kronos, tokenizer: KronosTokenizer, monkeypatch: pytest.MonkeyPatch
) -> Forecaster:
    """One that answers by one of the ways."""
    settings: dict[str, Any] = {"max_context": 64, "batch_size": 3, "sampling": Sampling(sample_count=5)}
    if way == "slid":
        settings |= {"max_context": 10, "overflow": "slide"}
    if way == "greedy":
        settings |= {"sampling": Sampling(temperature=0)}
    if way == "original":
        settings |= {
            "sampling": Sampling(sample_count=3, decode_rope="original"),
            "published_statistics": True,
        }
    own = Forecaster(model, tokenizer, Settings(**settings))
    if way == "passes":
        plan = forecaster_module.plan_memory
        monkeypatch.setattr(
            forecaster_module, "plan_memory", lambda *args, **given: replace(plan(*args, **given), paths=2)
        )
    if way == "replayed":
        monkeypatch.setattr(
            forecaster_module,
            "generate",
            lambda *args, **given: generate(*args, **given | {"replayed": True}),
        )
    return own


def answer(way: str, own: Forecaster) -> np.ndarray:
    """P(rise) of three series, NaN for none."""
    return own.prob_up(**inputs(3, horizon=1 if way == "enumerated" else 3)).prob_up


def tensors() -> list[str]:
    model, tokenizer = networks()
    return [f"model {n}" for n, _ in model.named_parameters()] + [
        f"tokenizer {n}" for n, _ in tokenizer.named_parameters()
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_weight_that_breaks_in_memory_gives_no_answer(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tensor is broken (all of it: a single number may lie where nothing looks, such as a token that
    never occurs).
    """
    model, tokenizer = networks()
    own = forecaster(way, model, tokenizer, monkeypatch)
    assert np.isfinite(answer(way, own)).all()
    for value in BAD if way == "sampled" else BAD[:1]:
        for name in tensors():
            which, key = name.split()
            network: Any = model if which == "model" else tokenizer
            weight = network.get_parameter(key).data
            kept = weight.clone()
            weight.fill_(value)
            found = answer(way, own)
            weight.copy_(kept)
            if not key.startswith("post_quant_embed_pre"):  # this one is read in training only
                assert np.isnan(found).all(), f"{name} filled with {value}"
    assert np.isfinite(answer(way, own)).all()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("factor", [1e20, 1e30, 3e37])
def test_finite_weights_whose_numbers_overflow_give_no_answer(
    way: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A norm makes 0 of what overflowed, and then the heads' biases alone make sound-looking logits."""
    for key in (
        "head.proj_s1.weight",
        "head.proj_s2.weight",
        "transformer.0.ffn.w2.weight",
        "embedding.fusion_proj.weight",
    ):
        model, tokenizer = networks()
        with torch.no_grad():
            weight = model.get_parameter(key)
            weight.copy_(weight.sign() * factor)
        if key.startswith("head") and factor < 1e37:
            continue  # large logits, but finite ones
        assert np.isnan(answer(way, forecaster(way, model, tokenizer, monkeypatch))).all(), (
            f"{key} times {factor}"
        )
    model, tokenizer = networks()
    with torch.no_grad():
        tokenizer.quant_embed.weight.mul_(
            factor * 1e5
        )  # its vector's length overflows; infinite where the product is
    assert np.isnan(answer(way, forecaster(way, model, tokenizer, monkeypatch))).all()


@pytest.mark.parametrize("horizon", [1, 3])
def test_half_precision_that_overflows_gives_no_answer(horizon: int) -> None:
    """Weights that are fine in float32 and bfloat16 overflow in float16, as on a GPU of the T4's kind."""
    model, tokenizer = networks()
    with torch.no_grad():
        model.head.proj_s1.weight.mul_(1e6)
    settings: dict[str, Any] = {"max_context": 64, "sampling": Sampling(sample_count=3)}
    for kind, sound in ((None, True), (torch.bfloat16, True), (torch.float16, False)):
        own = Forecaster(model, tokenizer, Settings(autocast=kind, **settings))
        found = own.prob_up(**inputs(2, horizon=horizon)).prob_up
        assert np.isfinite(found).all() if sound else np.isnan(found).all(), kind


def test_hidden_states_of_broken_networks_are_not_finite() -> None:
    """A head of the user's reads them: zeros of an overflow would be features like any other."""
    for key, value in (("transformer.0.ffn.w2.weight", 1e30), ("embedding.fusion_proj.bias", math.nan)):
        model, tokenizer = networks()
        with torch.no_grad():
            model.get_parameter(key).fill_(value)
        own = Forecaster(model, tokenizer, Settings(max_context=64))
        given = inputs(2)
        assert np.isnan(own.hidden_states(given["bars"], given["stamps"])).all(), key
    model, tokenizer = networks()
    with torch.no_grad():
        tokenizer.embed.bias.fill_(math.nan)
    assert np.isnan(Forecaster(model, tokenizer).hidden_states(given["bars"], given["stamps"])).all()


# -- one series of several, and the table API ----------------------------------------------------------------
def spoilt_for_one() -> tuple[Kronos, KronosTokenizer, dict[str, np.ndarray]]:
    """Networks that break on one series of three only: its month's embedding is not finite."""
    model, tokenizer = networks()
    given = inputs(3)
    given["stamps"], given["future_stamps"] = given["stamps"].copy(), given["future_stamps"].copy()
    given["stamps"][1, :, 4] = 9
    with torch.no_grad():
        model.time_emb.month_embed.weight[9] = math.nan  # type: ignore[union-attr, index]
    return model, tokenizer, given


def test_one_broken_series_leaves_the_others_alone() -> None:
    """A fallback is a row's, not a batch's: the others keep their answers to the last bit."""
    model, tokenizer, given = spoilt_for_one()
    own = Forecaster(model, tokenizer, Settings(max_context=64, sampling=Sampling(sample_count=4)))
    found = own.forecast(**given)
    assert found.finite.tolist() == [True, False, True]
    whole = Forecaster(*networks(), Settings(max_context=64, sampling=Sampling(sample_count=4))).forecast(
        **given
    )
    np.testing.assert_array_equal(found.paths[[0, 2]], whole.paths[[0, 2]])
    assert np.isnan(found.paths[1]).all()


def test_the_table_api_refuses_or_says_it(caplog: pytest.LogCaptureFixture) -> None:
    """`predict` of a broken network gave a table of prices."""
    import pandas as pd

    model, tokenizer, _ = spoilt_for_one()
    own = KronosPredictor(model, tokenizer, device="cpu", max_context=64)
    frame = pd.DataFrame(make_bars(1, 20)[0], columns=list(FEATURES))
    good, bad = pd.date_range("2024-01-02", periods=25), pd.date_range("2024-09-02", periods=25)
    with pytest.raises(
        KitError, match="expected finite numbers from the networks, found NaN or infinity for every series"
    ):
        own.predict(frame, bad[:20], bad[20:], 5, verbose=False)
    tables = own.predict_batch([frame, frame], [good[:20], bad[:20]], [good[20:], bad[20:]], 5, verbose=False)
    assert np.isfinite(tables[0].to_numpy()).all() and np.isnan(tables[1].to_numpy()).all()
    assert "1 of 2 series have no forecast" in caplog.text


# -- drawing -------------------------------------------------------------------------------------------------
def test_soundness_is_each_distributions_own() -> None:
    """One bad number in one row; a single -inf, which a maximum would not show."""
    logits = torch.randn(2, 3, 64)
    logits[0, 1, 5], logits[1, 0, 7], logits[1, 2, 0] = math.nan, -math.inf, math.inf
    expected = torch.tensor([[True, False, True], [False, True, False]])
    assert torch.equal(finite(logits), expected)
    assert torch.equal(_probabilities(logits, Sampling())[1], expected), "the enumerated way looks, too"
    keys = draw_keys(0, torch.arange(2), 3, 0, 0)
    for sampling in (Sampling(), Sampling(temperature=0), Sampling(temperature=0.5, top_k=5, top_p=0.9)):
        token, sound = draw(logits, sampling, keys)
        assert torch.equal(sound, expected) and token.shape == (2, 3)


@pytest.mark.parametrize("temperature", [1e-320, 5e-324, 1e-45, 1e-31, 1e-29, 1e-12])
def test_a_tiny_temperature_takes_the_likeliest(temperature: float) -> None:
    """1e-320 is 0 in float32: every logit became infinite, and token 0 was drawn for every bar."""
    cold, tiny = Sampling(temperature=0), Sampling(temperature=temperature)
    logits, keys = torch.randn(4, 3, 64), draw_keys(0, torch.arange(4), 3, 0, 0)
    expected, found = draw(logits, cold, keys), draw(logits, tiny, keys)
    assert torch.equal(found.token, expected.token) and found.sound.all()
    for horizon in (1, 4):
        given = inputs(3, horizon=horizon)
        same = [_rise(s, given) for s in (cold, tiny)]
        np.testing.assert_array_equal(same[0], same[1])


def _rise(sampling: Sampling, given: dict[str, np.ndarray]) -> np.ndarray:
    return Forecaster(*networks(), Settings(max_context=64, sampling=sampling)).prob_up(**given).prob_up
