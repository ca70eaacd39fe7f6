"""Exact gradients: the same whatever the batch is cut into, over micro-batches and processes, in both
stages.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_store
from training_worker import record, work

from kronos.config import Config

STAGES = ["tokenizer", "basemodel"]


def cut(folder: Path, batch: int, accumulation: int, processes: int, **settings: Any) -> Config:
    """The same steps of 8 windows, the last of an epoch of 22 having 6, cut in another way."""
    settings = {"training__history_loss_weight": 0.5, "training__checkpoint_steps": 1000, **settings}
    return tiny_config(
        folder,
        training__batch_size=batch,
        training__accumulation_steps=accumulation,
        distributed__num_processes=processes,
        **settings,
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each stage in one process, one batch per step: the reference, and the folder with the store."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_store(folder / "store")
    return {"folder": folder} | {s: record(cut(folder, 8, 1, 1), s, folder / s) for s in STAGES}


@pytest.fixture(scope="module")
def pairs(whole: dict[str, Any]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """What each of two real processes recorded, by stage and accumulation."""
    cuts = {(stage, k): whole["folder"] / f"two-{stage}-{k}" for stage in STAGES for k in (1, 2)}
    jobs = []
    for (stage, k), out in cuts.items():
        out.mkdir()
        jobs.append(
            {"do": "record", "config": cut(whole["folder"], 4 // k, k, 2), "stage": stage, "out": out}
        )
    work(whole["folder"], jobs)
    return {name: [torch.load(out / f"rank{rank}.pt") for rank in (0, 1)] for name, out in cuts.items()}


def assert_same_training(ours: dict[str, Any], reference: dict[str, Any]) -> None:
    assert len(ours["grads"]) == len(reference["grads"]) == 6
    for step, (grads, expected) in enumerate(zip(ours["grads"], reference["grads"], strict=True)):
        for a, b in zip(grads, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9, msg=f"gradient of step {step}")
    for name, value in ours["weights"].items():
        torch.testing.assert_close(value, reference["weights"][name], rtol=0, atol=1e-6, msg=name)
    assert ours["rates"] == reference["rates"], (
        "the learning rate counts optimiser steps, not micro-batches or processes"
    )
    assert ours["best"]["value"] == pytest.approx(reference["best"]["value"], rel=1e-7)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4)])
def test_accumulation_equals_one_joined_batch(
    whole: dict[str, Any], tmp_path: Path, stage: str, batch: int, accumulation: int
) -> None:
    """Keeps out accumulation that slices a batch, weighs micro-batches equally (the tail of 6 in 4 + 2), or
    takes the tokenizer's codebook entropy per micro-batch."""
    ours = record(cut(whole["folder"], batch, accumulation, 1), stage, tmp_path)
    assert ours["rows"] == whole[stage]["rows"]
    assert_same_training(ours, whole[stage])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_equal_one_on_the_joined_batch(
    whole: dict[str, Any], pairs: dict[tuple[str, int], list[dict[str, Any]]], stage: str, accumulation: int
) -> None:
    """Keeps out gradients that stay on their own rank because the inner module was called, and sums scaled by
    the wrong number of processes."""
    first, second = pairs[stage, accumulation]
    assert all(a != b for a, b in zip(first["rows"], second["rows"], strict=True)), (
        "both ranks saw the same windows"
    )
    joined = [sorted(a + b) for a, b in zip(first["rows"], second["rows"], strict=True)]
    assert joined == whole[stage]["rows"]
    for a, b in zip(first["grads"], second["grads"], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), "gradients differ between ranks"
    assert_same_training(first, whole[stage])
    assert first["best"] == second["best"]


@pytest.fixture(scope="module")
def of_eight(whole: dict[str, Any]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """What the processes recorded that were told the windows of a step only, by stage and their number."""
    outs = {
        (stage, count): whole["folder"] / f"{stage}-of-{count}" for stage in STAGES for count in (1, 2, 3)
    }
    jobs = []
    for (stage, count), out in outs.items():
        out.mkdir()
        config = cut(whole["folder"], 3, 1, count, training__windows_per_step=8)
        jobs.append({"do": "record", "config": config, "stage": stage, "out": out})
    work(whole["folder"], jobs)
    found = {}
    for (stage, count), out in outs.items():
        found[stage, count] = [torch.load(out / f"rank{rank}.pt") for rank in range(count)]
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_step_keeps_its_windows_whatever_the_number_of_processes(
    whole: dict[str, Any], of_eight: dict[tuple[str, int], list[dict[str, Any]]], stage: str, count: int
) -> None:
    """training.windows_per_step: one process takes micro-batches of 3, 3 and 2, two take 2 and 2 each, three
    take 3, 3 and 2. Keeps out windows that are trained twice or left out where the division leaves a rest."""
    ranks = of_eight[stage, count]
    for step, expected in enumerate(whole[stage]["rows"]):
        rows = [rank["rows"][step] for rank in ranks]
        assert sorted(row for share in rows for row in share) == expected
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
    for rank in ranks:
        assert_same_training(rank, whole[stage])


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_are_summed_once_a_step_however_many_micro_batches(
    pairs: dict[tuple[str, int], list[dict[str, Any]]], stage: str
) -> None:
    """Without `no_sync` on all but the last micro-batch every one of them waits for the network: the same
    gradient, k times the traffic."""
    for rank in (0, 1):
        whole, cut_in_two = (pairs[stage, k][rank]["sums"] for k in (1, 2))
        assert len(whole) == 6 and all(
            after > before for before, after in zip([0, *whole], whole, strict=False)
        )
        assert cut_in_two == whole, "sums over processes after each step"


def test_the_tail_really_is_ragged(whole: dict[str, Any]) -> None:
    """Guards the tests above: without a short last step they would not see a wrong normalisation."""
    assert [len(rows) for rows in whole["tokenizer"]["rows"]] == [8, 8, 6, 8, 8, 6]
