"""Checkpoints: complete and checked, or not there."""

import io
import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kronos.errors import KitError
from kronos.training import checkpoint
from kronos.training.checkpoint import Progress
from kronos.training.folder import RunLock, read_records


def save(root: Path, step: int, **facts: Any) -> Path:
    weights = {"w": torch.full((4,), float(step))}
    optimizer = {
        "optimizer": {
            "state": {0: {"exp_avg": torch.ones(4) * step}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        }
    }
    return checkpoint.save(root, weights, optimizer, Progress(step=step, facts=facts))


def test_round_trip_and_rotation(tmp_path: Path) -> None:
    """Keeps out lost state, and a disk that fills with old checkpoints."""
    for step in (1, 2, 3):
        save(tmp_path, step, seed=7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_000000002", "step_000000003"]
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress == Progress(step=3, facts={"seed": 7})
    assert torch.equal(found.weights["w"], torch.full((4,), 3.0))
    assert torch.equal(found.optimizer["optimizer"]["state"][0]["exp_avg"], torch.ones(4) * 3)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer.json", "checksums.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_newest_falls_back_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    """Keeps out a resume from half a file, and a silent jump back."""
    save(tmp_path, 1)
    path = save(tmp_path, 2) / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress.step == 1
    assert "step_000000002 is damaged" in caplog.text


def test_what_was_passed_by_takes_no_place_in_the_rotation(tmp_path: Path) -> None:
    """Keeps out a rotation that removes the good checkpoints of an earlier step and keeps the damaged ones of
    a later.
    """
    for step in (100, 200):
        save(tmp_path, step)
    (tmp_path / "step_000000200" / "model.safetensors").write_bytes(b"bad")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress.step == 100
    for step in (150, 175):
        save(tmp_path, step)
    (tmp_path / "step_000000175" / "model.safetensors").write_bytes(b"bad")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress.step == 150


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    """Keeps out hours of training that silently begin again."""
    (save(tmp_path, 1) / "trainer.json").write_text("{}")
    with pytest.raises(KitError, match="1 damaged"):
        checkpoint.load_newest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1, "a user may still mend it"


def test_leftovers_of_a_killed_save_are_no_checkpoint(tmp_path: Path) -> None:
    """Keeps out the half-written folder of a save that was killed; the next save of that step replaces it."""
    save(tmp_path, 1)
    half = tmp_path / ".step_000000002.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress.step == 1
    save(tmp_path, 2)
    assert not half.exists()


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Keeps out the loss of everything when the disk is full: the system refuses the write in the middle of
    the file.
    """
    save(tmp_path, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(
            KitError, match=r"could not write the checkpoint .*step_000000001.*the same command goes on"
        ):
            checkpoint.save(tmp_path, {"w": torch.zeros(10_000)}, {"optimizer": {}}, Progress(step=2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["step_000000001"]
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress.step == 1


def test_optimizer_file_runs_no_code(tmp_path: Path) -> None:
    """Keeps out arbitrary code from a checkpoint that was passed on: objects are refused on reading."""
    folder = save(tmp_path, 1)
    respelled(folder, "optimizer.pt", pickled({"optimizer": Path("/")}))
    with pytest.raises(KitError, match="found another's: Weights only load failed"):
        checkpoint.load_newest(tmp_path)


def respelled(folder: Path, name: str, content: bytes) -> None:
    """Another content, and checksums that fit it."""
    (folder / name).write_bytes(content)
    sums = json.loads((folder / "checksums.json").read_text())
    sums[name] = checkpoint.files.digest(folder / name)
    (folder / "checksums.json").write_text(json.dumps(sums))


def pickled(tree: Any) -> bytes:
    held = io.BytesIO()
    torch.save(tree, held)
    return held.getvalue()


EMPTY = pickled({})
TREES = [
    b"null",
    b"[]",
    b"3",
    b"{}",
    b'{"step": -1, "facts": {}}',
    b'{"step": NaN, "facts": {}}',
    b"[" * 100_000,
    b'{"step": 1, "facts": {}, "best": {}}',
]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("trainer.json", tree) for tree in TREES),
        *(("optimizer.pt", content) for content in (b"", b"no pickle", b"PK\x03\x04" + bytes(80), EMPTY)),
        *(("model.safetensors", content) for content in (b"", b"{}", b"\xff" * 200)),
    ],
    ids=range(len(TREES) + 7),
)
def test_right_checksums_and_another_inside_is_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    """Checksums say that the files are those that were written, not that they can be read."""
    folder = save(tmp_path, 1)
    respelled(folder, name, content)
    with pytest.raises(KitError, match=r"1 damaged \(step_000000001: .*expected .*--fresh") as caught:
        checkpoint.load_newest(tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    save(tmp_path, 2)
    respelled(tmp_path / "step_000000002", name, content)
    shutil.rmtree(tmp_path / "step_000000001")
    save(tmp_path, 1)
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress.step == 1


@pytest.mark.parametrize("tree", [b"null", b"[]", b"3", b'{"model.safetensors": 3}', b"{}", b"[" * 100_000])
def test_checksums_of_another_shape_are_damage(tmp_path: Path, tree: bytes) -> None:
    """The checkpoint before is taken."""
    save(tmp_path, 1)
    (save(tmp_path, 2) / "checksums.json").write_bytes(tree)
    found = checkpoint.load_newest(tmp_path)
    assert found is not None and found.progress.step == 1


@pytest.mark.parametrize(
    "line", ["null", "[]", "3", "{}", '{"kind": "training", "step": -1}', '{"kind": ', "[" * 9999]
)
def test_metrics_of_another_shape_are_one_line(tmp_path: Path, line: str) -> None:
    """A traceback of the report at the end of a training."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "training", "step": 3}\n' + line + "\n")
    with pytest.raises(KitError, match=r"metrics\.jsonl: line 2.* expected .*; remove the line") as caught:
        read_records(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_lock_is_taken_again_after_release(tmp_path: Path) -> None:
    """Keeps out a lock file that blocks the next run for ever (between processes: test_resume)."""
    for _ in range(2):
        lock = RunLock(tmp_path / "run")
        lock.acquire()
        lock.release()
