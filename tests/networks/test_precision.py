"""What a precision means on a device, decided in one place; products of integers."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from test_forecaster import inputs, make, some
from tiny import tiny_config, tiny_store

from kronos.config import Config
from kronos.errors import KitError
from kronos.forecasting.pair import autocast_of, find_pair, load_forecaster, pick_autocast
from kronos.networks import products
from kronos.networks.products import FloatProduct, IntegerProduct, product, rounded_rows
from kronos.planning import devices
from kronos.planning.devices import this_cpu
from kronos.training import device
from kronos.training.device import precision, processor_has_bf16
from kronos.training.stages import run_stage

CPU = torch.device("cpu")


def configured(training: str = "auto", answers: str = "auto") -> Config:
    config = Config()
    return replace(
        config,
        training=replace(config.training, mixed_precision=training),  # type: ignore[arg-type]
        inference=replace(config.inference, precision=answers),  # type: ignore[arg-type]
    )


# -- one decision --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("has", [False, True])
def test_training_planning_and_answers_agree(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    """Each of them once asked in its own way, and only GPUs."""
    monkeypatch.setattr(device, "processor_has_bf16", lambda: has)
    monkeypatch.setattr(devices, "matmul_rate", lambda *_: 1e9)
    half = "bf16" if has else "no"
    assert precision("auto", CPU) == half
    plan = this_cpu(1)
    assert plan.precision("auto") == half and plan.rate(half, tf32=False)
    assert pick_autocast(configured(), CPU) == (torch.bfloat16 if has else None)


def test_exact_figures_stay_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "processor_has_bf16", lambda: True)
    assert precision("no", CPU) == "no"
    for training, answers in (("no", "auto"), ("auto", "float32"), ("auto", "int8")):
        assert pick_autocast(configured(training, answers), CPU) is None
    assert pick_autocast(configured("no", "bf16"), CPU) == torch.bfloat16


def test_answers_are_never_emulated(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """bfloat16 without its instructions is slower than float32 and less exact."""
    monkeypatch.setattr(device, "processor_has_bf16", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert autocast_of("fp16", CPU) is None and not caplog.records
        assert autocast_of("bf16", CPU) is None
    assert "no bfloat16" in caplog.text
    with pytest.raises(KitError, match="found fp16, which needs a GPU"):
        precision("fp16", CPU)


@pytest.mark.parametrize(
    ("avx", "amx", "limit", "expected"),
    [
        (False, False, "", False),
        (True, False, "", True),
        (False, True, "", True),
        (True, True, "avx2", False),
        (True, True, "AVX512_CORE_BF16", True),
    ],
)
def test_hardware_decides(
    monkeypatch: pytest.MonkeyPatch, avx: bool, amx: bool, limit: str, expected: bool
) -> None:
    found = SimpleNamespace(_is_avx512_bf16_supported=lambda: avx, _is_amx_tile_supported=lambda: amx)
    monkeypatch.setattr(device.torch, "cpu", found)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert processor_has_bf16() is expected


def test_bfloat16_answers_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same P(rise) but for rounding, whatever the processor has."""
    given = inputs(horizon=1)
    exact = make().next_step(**given).prob_up
    half = make(autocast=torch.bfloat16).next_step(**given).prob_up
    np.testing.assert_allclose(half, exact, atol=0.02)


@pytest.fixture
def own_accelerate() -> Iterator[None]:
    """accelerate keeps the first precision of a process: neither earlier tests nor later ones may meet it."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("own_accelerate")
def test_a_run_on_a_processor_with_bfloat16(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both stages and an answer, as `auto` makes them there; here the products are emulated."""
    monkeypatch.setattr(device, "processor_has_bf16", lambda: True)
    config = tiny_config(tmp_path, training__max_steps=2)
    store = tiny_store(tmp_path / "store")
    with caplog.at_level(logging.INFO):
        for stage in ("tokenizer", "basemodel"):
            assert run_stage(config, stage, store) == "complete"  # type: ignore[arg-type]
    assert "precision bf16" in caplog.text
    own = load_forecaster(config, find_pair(config))
    assert own.settings.precision == "bfloat16"
    given = inputs(length=12, horizon=1)
    found, exact = own.next_step(**given).prob_up, own.using(autocast=None).next_step(**given).prob_up
    np.testing.assert_allclose(found, exact, atol=0.05)


# -- products of integers ------------------------------------------------------------------------------------
@pytest.mark.parametrize("inner", [8, 1024, 1500, 2048])
def test_both_ways_of_multiplying_integers_are_one(inner: int) -> None:
    """Answers must not depend on whether a processor has VNNI."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(16, inner), torch.randn(16), 3 * torch.randn(2, 5, inner)
    fast, slow = IntegerProduct(weight, bias, fast=True), IntegerProduct(weight, bias, fast=False)
    assert torch.equal(fast(x), slow(x))
    near = FloatProduct(weight, bias, torch.float32)(x)
    assert ((fast(x) - near).norm() / near.norm()).item() < 0.02


def test_the_largest_sums_are_exact() -> None:
    """1,024 products of 127 and 127 are below 2^24; float32 holds every whole number up to there."""
    assert products.EXACT * products.LARGEST**2 < 2**24
    weight = torch.ones(3, 2048)
    weight[:, ::7] = -1
    x = torch.ones(1, 2048)
    for fast in (True, False):
        assert torch.equal(IntegerProduct(weight, None, fast)(x), (x @ weight.t()))


def test_what_is_not_finite_stays_so() -> None:
    own = IntegerProduct(torch.randn(4, 8), None, fast=False)
    for bad in (torch.nan, torch.inf):
        x = torch.ones(3, 8)
        x[1, 2] = bad
        found = own(x)
        assert found[[0, 2]].isfinite().all() and found[1].isnan().all()
    weight = torch.randn(4, 8)
    weight[2, 0] = torch.nan
    assert product(weight, None, torch.int8)(torch.ones(1, 8))[0].isnan().tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_zeros_stay_zeros() -> None:
    rounded, scale = rounded_rows(torch.zeros(2, 8))
    assert torch.equal(rounded, torch.zeros(2, 8)) and (scale > 0).all()


def test_integer_answers_do_not_depend_on_batch_mates() -> None:
    """One scale for a whole batch, as libraries have it, moved P(rise) by up to 0.005."""
    given = inputs(horizon=1)
    together = make(integers=True, batch_size=5).next_step(**given).prob_up
    for row in range(len(together)):
        assert make(integers=True).next_step(**some(given, [row])).prob_up[0] == together[row]
    many = inputs()
    paths = make(integers=True, batch_size=5).forecast(**many).paths
    np.testing.assert_allclose(make(integers=True, batch_size=2).forecast(**many).paths, paths, rtol=1e-4)
    exact = make().next_step(**given).prob_up
    np.testing.assert_allclose(together, exact, atol=0.02)
    assert not np.array_equal(together, exact)


@pytest.mark.parametrize("fast", [False, True])
def test_integers_generate_the_same_with_and_without_vnni(
    monkeypatch: pytest.MonkeyPatch, fast: bool
) -> None:
    given = inputs()
    expected = make(integers=True).forecast(**given).paths
    monkeypatch.setattr("kronos.networks.products.fast_integers", lambda _: fast)
    np.testing.assert_array_equal(make(integers=True).forecast(**given).paths, expected)


def test_integers_are_refused_where_they_cannot_be() -> None:
    with pytest.raises(KitError, match="expected int8 with overflow: cut, found slide"):
        make(integers=True, overflow="slide")
    settings: Any = make().settings
    with pytest.raises(KitError, match="expected int8 on a processor only, found cuda"):
        replace(settings, integers=True).check(torch.device("cuda"))


def test_precisions_have_names() -> None:
    assert make().settings.precision == "float32"
    assert make(autocast=torch.bfloat16).settings.precision == "bfloat16"
    assert make(integers=True).settings.precision == "int8"
