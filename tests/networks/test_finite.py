"""The loss scaler of fp16: overflows are expected, counted and logged; a run that only skips ends with one
line.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tiny import tiny_config, tiny_store
from training_worker import tiny_objective

from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.training import distributed
from kronos.training.checkpoint import Progress
from kronos.training.device import StepBatches
from kronos.training.distributed import Runtime
from kronos.training.facts import StageData
from kronos.training.folder import read_records
from kronos.training.loop import Keepers, Trainer
from kronos.training.optim import MOST_SKIPS
from kronos.training.start import loop_settings, streams


@pytest.fixture(autouse=True)
def fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate gives a CPU neither autocast nor scaler for fp16; torch has both."""
    Accelerator(cpu=True, mixed_precision="no")
    monkeypatch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")
    monkeypatch.setattr(distributed, "precision", lambda wanted, on_cpu: "fp16")


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return tiny_store(tmp_path / "store")


def scaled_trainer(store: BarStore, folder: Path, scale: float, **settings: Any) -> Trainer:
    """A run on the CPU with torch's own GradScaler, as a GPU has it under fp16."""
    config = tiny_config(folder, training__tokenizer_epochs=6, training__log_interval=6, **settings)
    runtime = Runtime.start(config)
    runtime.accelerator.native_amp = True
    runtime.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    data = StageData.of(config, "tokenizer", store)
    reader = streams(config, data, store, runtime)
    loop = loop_settings(config, "tokenizer", data.plan)
    return Trainer(tiny_objective(config, "tokenizer"), loop, reader, runtime, folder / "stage", Progress())


def test_skipped_steps_move_no_weight_and_are_counted(store: BarStore, tmp_path: Path) -> None:
    """Keeps out steps that are lost in silence: a scale far too large comes down, each skipped step is in the
    log.
    """
    trainer = scaled_trainer(store, tmp_path, 2.0**24)
    before = {name: value.clone() for name, value in trainer.objective.state_dict().items()}
    moved: list[bool] = []
    take_step = trainer._step

    def watched(step: int, batches: StepBatches) -> None:
        take_step(step, batches)
        now = trainer.objective.state_dict()
        moved.append(any(not torch.equal(now[name], value) for name, value in before.items()))

    trainer._step = watched  # type: ignore[method-assign]
    assert trainer.fit(None, Keepers(lambda: None), measure_start=False) == "complete"
    skipped = trainer.progress.skipped
    assert 0 < skipped < MOST_SKIPS and moved == [False] * skipped + [True] * (36 - skipped)
    logged = [
        r["skipped_steps"] for r in read_records(tmp_path / "stage" / "metrics.jsonl") if r["kind"] == "train"
    ]
    assert logged[-1] == skipped and logged == sorted(logged)


def test_endless_skipping_ends_the_run(store: BarStore, tmp_path: Path) -> None:
    """Keeps out hours in which the scale sinks to nothing and no weight moves: the loss is finite, its
    gradient never is.
    """
    trainer = scaled_trainer(store, tmp_path, 2.0**16)
    network = trainer.objective.network()
    next(network.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(
        KitError,
        match=rf"{MOST_SKIPS} optimiser steps in a row were skipped up to step {MOST_SKIPS - 1}: .*fp16",
    ):
        trainer.fit(None, Keepers(lambda: None), measure_start=False)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_bad_loss_ends_a_scaled_run_at_once(store: BarStore, tmp_path: Path) -> None:
    """Keeps out a NaN loss that passes for an overflow of the scaler."""
    trainer = scaled_trainer(store, tmp_path, 1.0)
    clean = trainer.streams.train

    def poisoned(start: int) -> Any:
        for step, batch in enumerate(clean(start)):
            if step == 2:
                batch["x"][0, 0, 0] = float("nan")
            yield batch

    object.__setattr__(trainer.streams, "train", poisoned)
    with pytest.raises(KitError, match=r"not finite at step 2; .*tickers in that step: T\d"):
        trainer.fit(None, Keepers(lambda: None), measure_start=False)
