"""The learning rate and the early end: functions of the step and of the validations so far."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_store

from kronos.errors import KitError
from kronos.training.folder import read_records, read_summary
from kronos.training.optim import Schedule, plateau_share
from kronos.training.stages import run_stage


@pytest.mark.parametrize(("total", "ratio"), [(1000, 0.03), (77, 0.3), (200, 0.03), (12, 0.5)])
def test_onecycle_is_torchs(total: int, ratio: float) -> None:
    """Keeps out a schedule that differs from the published fine-tuning's."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-5, total_steps=total, pct_start=ratio, div_factor=10
    )
    schedule = Schedule("onecycle", total, 4e-5, ratio)
    for step in range(total):
        assert schedule.rate(step, []) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        optimizer.step()
        if step < total - 1:
            torchs.step()


@pytest.mark.parametrize("total", [1, 2, 3, 33, 34])
def test_short_runs_have_positive_rates_and_end_low(total: int) -> None:
    """Keeps out a division by zero in smoke runs, whose warm-up is shorter than a step."""
    rates = [Schedule("onecycle", total, 1.0, 0.03).rate(step, []) for step in range(total)]
    assert all(0 < rate <= 1 for rate in rates) and max(rates) > 0.2
    assert total == 1 or rates[-1] < 1e-4


@pytest.mark.parametrize(
    ("kind", "end"), [("onecycle", 1e-5), ("cosine", 0.1), ("constant", 1.0), ("plateau", 1.0)]
)
def test_every_scheduler_warms_up_and_ends_where_it_says(kind: Any, end: float) -> None:
    """Keeps out a scheduler without warm-up: the first steps of a pretrained network at full rate undo it."""
    schedule = Schedule(kind, 200, 2.0, 0.1)
    rates = [schedule.rate(step, []) for step in range(200)]
    assert (
        rates[0] == pytest.approx(0.2)
        and rates[:20] == sorted(rates[:20])
        and rates[19] == pytest.approx(2.0)
    )
    assert rates[19:] == sorted(rates[19:], reverse=True) and rates[-1] == pytest.approx(2.0 * end)


def test_an_unknown_scheduler_is_refused() -> None:
    """Keeps out a misspelt scheduler that trains as another one: a saved configuration is not checked again."""
    with pytest.raises(KitError, match=r"training\.scheduler: expected onecycle, .*, found 'linear'"):
        Schedule("linear", 10, 1.0, 0.0)  # type: ignore[arg-type]


def test_plateau_is_torchs_and_needs_only_the_history() -> None:
    """Keeps out a rate that a resumed run does not find again: every prefix of the history gives what torch
    had then.
    """
    dice = random.Random(0)
    for patience in (0, 1, 3):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.3, patience=patience, threshold=0.0
        )
        history: list[float] = []
        for _ in range(40):
            history.append(dice.choice([-2.0, -1.0, 0.5, 1.0]) / (1 + len(history)))
            torchs.step(history[-1])
            assert plateau_share(tuple(history), patience, 0.3) == optimizer.param_groups[0]["lr"]
        assert optimizer.param_groups[0]["lr"] < 1.0


def test_early_end_counts_validations_in_a_row() -> None:
    """Keeps out an end after scattered bad validations, and one that a tie postpones for ever."""
    schedule = Schedule("constant", 100, 1.0, 0.0, early_stopping_patience=2)
    assert not any(
        schedule.ends_early(h)
        for h in ([], [3.0], [3.0, 4.0], [3.0, 4.0, 2.0], [3.0, 4.0, 2.0, 5.0], [2.0, 5.0, 1.9])
    )
    assert schedule.ends_early([3.0, 4.0, 2.0, 5.0, 2.0]) and schedule.ends_early([1.0, 1.0, 1.0])
    assert not Schedule("constant", 100, 1.0, 0.0).ends_early([1.0] * 50)


def test_a_stage_ends_early_complete_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Keeps out epochs that make nothing better, and an early end that looks like an interruption."""
    store = tiny_store(tmp_path / "store")
    early = {
        "training__scheduler": "plateau",
        "training__plateau_patience": 0,
        "training__tokenizer_learning_rate": 0.3,
        "training__tokenizer_epochs": 40,
        "training__early_stopping_patience": 2,
        "training__log_interval": 6,
    }
    config = tiny_config(tmp_path, **early)
    with caplog.at_level("INFO"):
        assert run_stage(config, "tokenizer", store) == "complete"
    summary = read_summary(config.tokenizer_dir)
    assert summary is not None and summary["status"] == "complete" and summary["stopped_early"] is True
    assert 0 < summary["step"] < summary["total_steps"] == 240
    assert "early: 2 validations in a row without improvement" in caplog.text
    records = read_records(config.tokenizer_dir / "metrics.jsonl")
    values = [r["full_mse"] for r in records if r["kind"] == "validation"]
    assert min(values[-2:]) >= min(values[:-2]) and summary["best"]["value"] == min(values)
    rates = [r["learning_rate"] for r in records if r["kind"] == "train"]
    assert rates[-1] < max(rates), "validation got worse and the rate was not cut"
