"""What one stage keeps in the run folder: the right to write there, its summary, which of its checkpoints are
good, and its records, as a table at the end.

In: the run folder. Out: a lock that a killed run does not leave behind, and summary.json, which alone says
whether a stage is complete. No torch. Layout: docs/architecture.md.
"""

import fcntl
import math
import os
import shutil
import socket
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kronos import files, records
from kronos.errors import KitError
from kronos.progress import clock

if TYPE_CHECKING:
    from kronos.training.checkpoint import Progress

SUMMARY = "summary.json"
CHECKPOINTS, TRAINER, CHECKSUMS = "checkpoints", "trainer.json", "checksums.json"
CONTENTS = ("model.safetensors", "optimizer.pt", TRAINER)
"""The files of a checkpoint that its checksums cover."""


class RunLock:
    """The only right to train into a run folder.

    A POSIX record lock: the kernel drops it with the process however that ends, and unlike flock's it does
    not live on in the loader's worker processes.
    """

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / ".lock"
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises KitError when another run has it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "unknown process"
            os.close(handle)
            raise KitError(
                f"{self.path.parent}: another run is training in this folder ({holder}); wait for it or stop it, "
                "or choose another model_paths.exp_name"
            ) from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._handle = handle

    def release(self) -> None:
        """Give the lock back, where this process has it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a stage's folder: it is temporary by name. Needs the
    lock.
    """
    for left in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@dataclass(frozen=True)
class Best:
    """The validation that chose `best_model`."""

    value: float
    metric: str = ""
    step: Annotated[int, ">= 0"] = 0
    values: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What summary.json says. Runs of earlier versions may lack some of it."""

    status: Literal["complete", "interrupted", "running"]
    reason: str | None = None
    """Why an interrupted stage stopped."""
    stage: str = ""
    step: Annotated[int, ">= 0"] = 0
    total_steps: Annotated[int, ">= 0"] = 0
    epoch: float = 0.0
    stopped_early: bool = False
    best: Best | None = None
    start_value: float | None = None
    worse_than_start: bool | None = None
    pieces: Annotated[int, "> 0"] = 1
    skipped_steps: Annotated[int, ">= 0"] = 0
    seconds: float = 0.0
    processes: Annotated[int, "> 0"] = 1
    tokenizer_digest: str | None = None
    model_digest: str | None = None
    data_digest: str | None = None
    train_end: str | None = None
    """Last day that was trained on, YYYY-MM-DD."""
    train_end_session: int | None = None
    commit: str | None = None
    """Commit of the hub repository that the start was loaded from; None: a folder, or random weights."""
    facts: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def summary_of(folder: Path) -> Summary | None:
    """A stage's summary.json, or None where there is none. Raises KitError when it does not say what it
    should.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    return records.read(
        path, Summary, remedy="remove the file, and the stage goes on from its last checkpoint"
    )


def read_summary(folder: Path) -> dict[str, Any] | None:
    """`summary_of` as a dictionary, with what other versions wrote beside it."""
    summary = summary_of(folder)
    if summary is None:
        return None
    return records.read_json(folder / SUMMARY) | asdict(summary)


def write_summary(folder: Path, tree: dict[str, Any]) -> None:
    """Write a stage's summary.json atomically."""
    files.write_json(folder / SUMMARY, tree)


# -- checkpoints, without their weights ----------------------------------------------------------------------
@dataclass(frozen=True)
class SavedProgress:
    """What is read of a checkpoint's trainer.json without its weights."""

    step: Annotated[int, ">= 0"]
    facts: dict[str, Any]


def checkpoint_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        sums = records.read(folder / CHECKSUMS, dict[str, str])
        for name in CONTENTS:
            if name not in sums:
                return f"{CHECKSUMS} does not name {name}"
            if files.digest(folder / name) != sums[name]:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (records.WrongShape, OSError) as error:
        return f"{CHECKSUMS} is not readable ({error})"
    return None


def checkpoint_folders(root: Path) -> list[Path]:
    """Checkpoints of a stage, oldest step first; half-written ones are hidden by their dot."""
    return sorted(path for path in root.glob("step_*") if path.is_dir())


def newest_checkpoint(root: Path) -> tuple[tuple[int, dict[str, Any]] | None, list[str]]:
    """Step and facts of the newest good checkpoint, and a line for each damaged one that is newer."""
    damaged: list[str] = []
    for folder in reversed(checkpoint_folders(root)):
        problem = checkpoint_problem(folder)
        if problem is None:
            try:
                progress = records.read(folder / TRAINER, SavedProgress)
                return (progress.step, progress.facts), damaged
            except records.WrongShape as error:
                problem = str(error)
        damaged.append(f"{folder}: damaged ({problem})")
    return None, damaged


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a metrics file; none where there is no file."""
    if not path.is_file():
        return []
    logged = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        logged.append(record_of(line, path, number))
    return logged


@dataclass(frozen=True)
class _Record:
    """What every line of a metrics file says."""

    kind: str
    step: Annotated[int, ">= 0"]


def record_of(line: str, path: Path, number: int) -> dict[str, Any]:
    """A line of a metrics file. Raises KitError where it is none."""
    where, remedy = f"{path}: line {number}", "remove the line"
    tree = records.parse(line, where, remedy=remedy)
    records.check(tree, _Record, where, remedy=remedy)
    return dict(tree)


# -- the table at the end ------------------------------------------------------------------------------------
Records = list[dict[str, Any]]
HIDDEN = ("weight", "history_weight", "s1_uniform", "s2_uniform")


def table(folder: Path, title: str, metric: str, logged: Records, progress: "Progress") -> list[str]:
    """The stage's values before training, at its best and at its last validation, and where everything lies.

    metric: the value that chose the best network; it comes first.
    """
    validations = [r for r in logged if r["kind"] == "validation"]
    first = next((r for r in validations if r["step"] == 0), {})
    best = progress.best or {"step": "-", "values": {}}
    last = next((r for r in reversed(validations) if r["step"] > 0), {"step": "-"})
    columns = (first, best["values"], last, uniform_values(logged, metric))
    heads = ("before", f"best ({best['step']})", f"last ({last['step']})", "knowing nothing")
    names = [n for n in {metric: 0, **best["values"]} if n not in HIDDEN]
    lines = [title, _line(("validation (step)", *heads))]
    for name in names:
        cells = [_shown(column.get(name)) for column in columns]
        lines.append(_line((name, *cells)))
    if not first:
        lines.append("  before: not measured, the weights were random")
    return lines + _verdict(metric, progress) + _speed(logged, progress) + _places(folder)


def uniform_values(logged: Records, metric: str) -> dict[str, float]:
    """What a predictor that knows nothing would reach, by name of the value."""
    seen = next((r for r in reversed(logged) if r["kind"] == "validation" and "s1_uniform" in r), None)
    loss = uniform_loss(logged)
    if seen is None or loss is None:
        return {}
    parts = {"s1": seen["s1_uniform"], "s2": seen["s2_uniform"]}
    return {metric: loss, **parts, **{f"{name}_perplexity": math.exp(value) for name, value in parts.items()}}


def worse_than_start(progress: "Progress") -> bool | None:
    """Whether the best network is no better than the pretrained one it started from; None where that was not
    measured.
    """
    if progress.start_value is None or progress.best is None:
        return None
    return progress.best["value"] >= progress.start_value


def _verdict(metric: str, progress: "Progress") -> list[str]:
    worse = worse_than_start(progress)
    if worse is None or progress.best is None:
        return []
    reached = min(progress.history, default=progress.best["value"])
    found = f"best {metric} {reached:.6g}, before training {progress.start_value:.6g}"
    if worse:
        advice = "best_model is the start, unchanged; a smaller learning rate (1e-5 or below) usually helps"
        return [f"  fine-tuning made it WORSE than the pretrained weights: {found}; {advice}"]
    return [f"  better than the pretrained weights: {found}"]


def _speed(logged: Records, progress: "Progress") -> list[str]:
    rates = [r["windows_per_s"] for r in logged if r["kind"] == "train" and r.get("windows_per_s")]
    line = f"  {progress.step} steps in {clock(progress.seconds)}"
    if rates:
        line += f", {statistics.median(rates):,.0f} windows/s (median of the logged)"
    if progress.skipped:
        line += f", {progress.skipped} steps skipped by the loss scaler"
    return [line]


def _places(folder: Path) -> list[str]:
    places = ("best_model", "metrics.jsonl", "loss.png", "tensorboard", "summary.json")
    return [f"  in {folder}: " + ", ".join(name for name in places if (folder / name).exists())]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.5g}"


def _line(cells: tuple[str, ...]) -> str:
    return f"  {cells[0]:<22}" + "".join(f"{cell:>18}" for cell in cells[1:])


def uniform_loss(logged: list[dict[str, Any]]) -> float | None:
    """The predictor's loss if all tokens were equally likely; None where a stage has none."""
    for record in reversed(logged):
        if record["kind"] == "validation" and "s1_uniform" in record:
            return (record["s1_uniform"] + record["s2_uniform"]) / 2
    return None
