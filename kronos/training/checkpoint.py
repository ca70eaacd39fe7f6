"""Resumable states on disk: complete and checked, or not there.

In: weights, optimiser state, the trainer's own few numbers. Out: `checkpoints/step_N/` with
model.safetensors, optimizer.pt, trainer.json and checksums.json, written beside its name and renamed. No
random state is kept: seeds, windows and learning rate are functions of the step (docs/architecture.md).
"""

import io
import json
import logging
import os
import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from kronos import files, records
from kronos.errors import KitError
from kronos.training.folder import (
    CHECKSUMS,
    CONTENTS,
    TRAINER,
    Best,
    SavedProgress,
    checkpoint_folders,
    checkpoint_problem,
)

log = logging.getLogger(__name__)

KEEP = 2
WEIGHTS, OPTIMIZER, _ = CONTENTS


@dataclass
class Progress:
    """What a run knows beside its weights."""

    step: Annotated[int, ">= 0"] = 0
    """Optimiser steps done."""
    validated: bool = False
    """The validation that is due at this step has been made."""
    best: dict[str, Any] | None = None
    """step, value, metric of the best validation so far, and all its values."""
    start_value: float | None = None
    """The validation metric of pretrained weights before the first step."""
    history: list[float] = field(default_factory=list)
    """The metric of every validation since the first step: what the learning rate and an early end may depend
    on.
    """
    pieces: Annotated[int, "> 0"] = 1
    """How many pieces a micro-batch is cut into, since a GPU's memory was too small for it whole."""
    skipped: Annotated[int, ">= 0"] = 0
    """Optimiser steps that the loss scaler of fp16 left out."""
    seconds: float = 0.0
    """Spent in the loop, over all interrupted parts of the run."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Settings and digests that must not change between two starts of one run."""


@dataclass
class Checkpoint:
    """A state read back from disk."""

    folder: Path
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: Progress

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """While the state is put into a network or an optimiser: KitError where it is another one's."""
        try:
            yield
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            text = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
            raise KitError(
                f"{self.folder}: expected the state of this stage's network, found another's: {text}; "
                "remove this checkpoint, or start the stage anew with --fresh"
            ) from error


def save(root: Path, weights: dict[str, Tensor], optimizer: dict[str, Any], progress: Progress) -> Path:
    """Write `root/step_N`, make it durable, then remove all but the newest `KEEP`.

    Raises KitError when it cannot be written (a full disk); older checkpoints are untouched then.
    """
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    contents = {
        WEIGHTS: save_tensors({name: t.detach().cpu().contiguous() for name, t in weights.items()}),
        OPTIMIZER: buffer.getvalue(),
        TRAINER: json.dumps(asdict(progress), indent=2, allow_nan=False).encode(),
    }
    target, temporary = root / f"step_{progress.step:09d}", root / f".step_{progress.step:09d}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _fill(temporary, contents)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        _sync_folder(root)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = [p.name for p in checkpoint_folders(root)][-1:] or ["none"]
        raise KitError(
            f"{target}: could not write the checkpoint ({error.strerror or error}); the last good one is {kept[0]}; "
            "free some space; the same command goes on from there"
        ) from error
    for old in checkpoint_folders(root)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load_newest(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose checksums hold and whose files can be read; damaged ones that are newer are
    named in the log and removed, since rotation would keep them, by their step, and remove good ones.

    None when there is none. Raises KitError when there are checkpoints and all are damaged; they stay.
    """
    damaged: list[Path] = []
    problem: str | None = None
    for folder in reversed(checkpoint_folders(root)):
        problem = checkpoint_problem(folder)
        if problem is None:
            try:
                found = _read(folder)
            except _Unreadable as error:
                problem = str(error)
            else:
                for passed in damaged:
                    shutil.rmtree(passed, ignore_errors=True)
                    log.warning("%s: removed", passed)
                return found
        log.warning("%s is damaged (%s): falling back to the checkpoint before it", folder, problem)
        damaged.append(folder)
    if damaged:
        raise KitError(
            f"{root}: expected a good checkpoint, found {len(damaged)} damaged ({damaged[-1].name}: {problem}); "
            "start it anew with --fresh"
        )
    return None


# -- files ---------------------------------------------------------------------------------------------------
def _fill(folder: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        _write(folder / name, content)
    sums = {name: files.digest(folder / name) for name in contents}
    _write(folder / CHECKSUMS, json.dumps(sums, indent=2).encode())
    _sync_folder(folder)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Unreadable(Exception):
    """Files that are those that were written, by their checksums, and say something else than they should."""


def _read(folder: Path) -> Checkpoint:
    progress = _read_progress(folder)
    try:
        optimizer = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        weights = load_tensors((folder / WEIGHTS).read_bytes())
    except (pickle.UnpicklingError, RuntimeError, EOFError, TypeError, SafetensorError) as error:
        text = next(iter(str(error).splitlines()), "")[:100] or type(error).__name__
        raise _Unreadable(f"expected the state of a training, found another's: {text}") from error
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("optimizer"), dict):
        raise _Unreadable(f"{OPTIMIZER}: expected the state of an optimiser, found another object")
    return Checkpoint(folder, weights, optimizer, progress)


def _read_progress(folder: Path) -> Progress:
    try:
        records.read(folder / TRAINER, SavedProgress)
        progress = records.read(folder / TRAINER, Progress, strict=True)
        if progress.best is not None:
            records.check(progress.best, Best, f"{folder / TRAINER}: best")
    except records.WrongShape as error:
        raise _Unreadable(str(error)) from error
    return progress
