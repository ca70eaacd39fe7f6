"""A batch that does not fit into the memory: cut into pieces, or computed twice. What is learnt stays the
same.
"""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from test_distributed import STAGES, assert_same_training, cut
from test_training import interrupt_after
from tiny import tiny_config, tiny_store
from training_worker import cramp, record, tiny_objective, work

from kronos.config import Config
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.training import device, stages
from kronos.training.checkpoint import load_newest
from kronos.training.folder import read_summary
from kronos.training.stages import run_stage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory")
    tiny_store(path / "store")
    return path


@pytest.fixture(scope="module")
def roomy(folder: Path) -> dict[str, Any]:
    """Each stage with memory enough: the reference."""
    return {stage: record(cut(folder, 8, 1, 1), stage, folder / stage) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_out_of_memory_halves_the_batch_and_keeps_the_gradient(
    folder: Path, roomy: dict[str, Any], tmp_path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Keeps out a run that dies of a batch size, and one that silently goes on with another effective
    batch.
    """
    ours = record(cut(folder, 8, 1, 1), stage, tmp_path, room=3)
    assert ours["pieces"] == 4 and ours["rows"] == roomy[stage]["rows"]
    assert_same_training(ours, roomy[stage])
    said = [line for line in caplog.text.splitlines() if f"{stage}: out of memory" in line]
    assert (
        len(said) == 2 and "micro-batches of 8 windows are now computed in 4 pieces of at most 2" in said[-1]
    ), said


def test_all_processes_halve_when_one_is_out_of_memory(folder: Path, roomy: dict[str, Any]) -> None:
    """Keeps out processes that wait for ever in a sum over gradients for the one that ran out of memory
    before it.
    """
    jobs = [
        {
            "do": "record",
            "config": cut(folder, 4, 1, 2),
            "stage": stage,
            "out": folder / f"two-{stage}",
            "rooms": {"1": 2},
        }
        for stage in STAGES
    ]
    for job in jobs:
        job["out"].mkdir()
    work(folder, jobs)
    for job in jobs:
        first, second = (torch.load(job["out"] / f"rank{rank}.pt") for rank in (0, 1))
        assert first["pieces"] == second["pieces"] == 2
        assert_same_training(first, roomy[job["stage"]])
        assert_same_training(second, roomy[job["stage"]])


def test_the_rehearsal_meets_the_gradients_of_an_earlier_micro_batch(
    folder: Path, roomy: dict[str, Any]
) -> None:
    """Keeps out a run that rehearses without gradients and then dies in its first real step of several
    micro-batches.
    """
    job = {"do": "record", "config": cut(folder, 2, 2, 2), "stage": "basemodel", "out": folder / "beside"}
    job["out"].mkdir()  # type: ignore[attr-defined]
    work(folder, [{**job, "rooms": {"0": 9, "1": 9}, "beside": {"1": 1}}])
    for rank in (0, 1):
        found = torch.load(folder / "beside" / f"rank{rank}.pt")
        assert found["pieces"] == 2
        assert_same_training(found, roomy["basemodel"])


def test_an_error_of_all_processes_is_said_once(folder: Path) -> None:
    """Keeps out a page that says the same as often as there are GPUs."""
    narrow = cut(folder, 4, 1, 2, data__lookback_window=200)
    jobs: list[dict[str, Any]] = [
        {"do": "refused", "config": narrow, "stage": "tokenizer", "out": folder / "short"}
    ]
    jobs += [
        {
            "do": "refused",
            "config": cut(folder, 4, 1, 2),
            "stage": "tokenizer",
            "out": folder / "full",
            "room": 0,
        }
    ]
    work(folder, jobs)
    for job, words in zip(jobs, ("expected", "one window does not fit into the GPU's memory"), strict=True):
        lines = [line for line in job["out"].read_text().splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and words in lines[0], job["out"].read_text()


def test_a_resumed_run_goes_on_in_the_pieces_that_fitted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out a resumed run with other dropout masks, or one that has to run out of memory again first."""
    store = BarStore.open(folder / "store")
    real = stages.build_objective
    settings: dict[str, Any] = {"data__store": str(folder / "store"), "experiment__skip_existing": True}
    whole, parted = (tiny_config(tmp_path / name, **settings) for name in ("whole", "parted"))
    monkeypatch.setattr(stages, "build_objective", lambda *arguments: cramp(real(*arguments), 2))
    run_stage(whole, "tokenizer", store)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        assert run_stage(parted, "tokenizer", store) == "interrupted"
    monkeypatch.setattr(stages, "build_objective", real)
    assert run_stage(parted, "tokenizer", store) == "complete"
    summaries = [read_summary(c.tokenizer_dir) for c in (whole, parted)]
    assert [s and s["pieces"] for s in summaries] == [2, 2]
    ours, theirs = (load_newest(c.tokenizer_dir / "checkpoints") for c in (parted, whole))
    assert ours is not None and theirs is not None
    assert all(torch.equal(value, theirs.weights[name]) for name, value in ours.weights.items())


def test_a_library_that_finds_no_memory_is_out_of_memory_too() -> None:
    """cuBLAS takes its own workspace and fails in words of its own; a bug must keep its traceback."""
    words = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    for text, known in ((words, True), ("shapes do not match", False)):

        def fail(text: str = text) -> None:
            raise RuntimeError(text)

        with nullcontext() if known else pytest.raises(RuntimeError, match="shapes"):
            assert device.attempt(fail) is None


def test_one_window_that_does_not_fit_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    """Keeps out an endless halving."""
    with pytest.raises(KitError, match=r"one window does not fit .*use_checkpoint"):
        record(cut(folder, 8, 1, 1), "basemodel", tmp_path, room=0)


@pytest.mark.parametrize(
    ("windows", "pieces", "sizes"), [(5, 4, [2, 1, 1, 1]), (3, 8, [1, 1, 1]), (4, 1, [4])]
)
def test_pieces_hold_every_window_once(windows: int, pieces: int, sizes: list[int]) -> None:
    """Keeps out windows that are lost where a batch cannot be halved evenly."""
    batch = {
        "x": torch.arange(windows),
        "weight": torch.ones(windows, 2),
        "real": torch.ones(windows, dtype=torch.bool),
    }
    found = device.cut([batch], pieces)
    assert [len(piece["x"]) for piece in found] == sizes
    assert torch.equal(torch.cat([piece["x"] for piece in found]), batch["x"])


# -- computing blocks again ----------------------------------------------------------------------------------
def tiny_batch(windows: int = 5, bars: int = 14) -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    stamp = torch.stack([torch.randint(0, size, (windows, bars)) for size in (60, 24, 7, 31, 12)], -1).float()
    return {"x": torch.randn(windows, bars, 6), "stamp": stamp, "weight": torch.ones(windows, bars)}


def gradients(stage: str, recompute: bool) -> list[torch.Tensor]:
    dropout = {"ffn_dropout_p": 0.3, "attn_dropout_p": 0.2, "resid_dropout_p": 0.3}
    objective = tiny_objective(Config(), stage, **dropout).train()
    if recompute:
        objective.recompute_blocks()
    torch.manual_seed(6)
    objective(tiny_batch(), lambda own: own)["loss"].backward()
    return [p.grad for p in objective.parameters() if p.grad is not None]


@pytest.mark.parametrize("stage", STAGES)
def test_gradient_checkpointing_changes_no_bit_of_a_gradient(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out blocks that are computed again with other dropout masks than the loss has seen; and a switch
    without effect.
    """
    from kronos.networks import layers

    calls = []
    real = layers.checkpoint
    monkeypatch.setattr(layers, "checkpoint", lambda *a, **k: calls.append(1) or real(*a, **k))
    plain = gradients(stage, recompute=False)
    assert not calls
    again = gradients(stage, recompute=True)
    assert calls and all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert any((g != 0).any() for g in again)
