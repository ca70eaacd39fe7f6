"""What a run tells: a line per logged step, metrics.jsonl, trackers of other makers, loss.png, and a table at
its end.

In: named numbers, on the main process. Out: log lines through `logging`, one JSON object per line in the
stage's folder, TensorBoard's event files beside it; W&B, Comet and MLflow through accelerate. metrics.jsonl
stays the record. matplotlib is loaded for the picture only. No torch: the launcher asks for trackers.
"""

import hashlib
import importlib.util
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kronos import files, records
from kronos.errors import KitError
from kronos.palette import BLUE, GREY, INK
from kronos.progress import bars_wanted, clock, duration
from kronos.training.folder import read_records, record_of, uniform_loss

if TYPE_CHECKING:
    from torch import Tensor

    from kronos.training.checkpoint import Progress
    from kronos.training.distributed import Runtime
    from kronos.training.objectives import Objective

# -- lines and metrics.jsonl ---------------------------------------------------------------------------------
log = logging.getLogger(__name__)

SURE_AFTER = 10.0
"""Seconds of steps after which the time of a whole stage is told, if no line was due before."""


class RunLog(AbstractContextManager["RunLog"]):
    """Lines, bar and metrics file of one stage. On processes other than the main one it does nothing.

    folder: the stage's. progress: where the run starts, and whether the validation of that step is behind it.
    trackers: opens those that are asked for. Records of what is still to come, left by a run that was cut
    off after its last checkpoint,
    are removed: a step appears once.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        progress: "Progress",
        total_steps: int,
        active: bool,
        trackers: "Callable[[], Trackers] | None" = None,
    ) -> None:
        self.path = path = folder / "metrics.jsonl"
        self.stage, self.active, self.total_steps = stage, active, total_steps
        self._first: tuple[int, float] | None = None
        self._told = False
        self._stack = ExitStack()
        self._bar: tqdm | None = None
        self._trackers: Trackers | None = None
        if active:
            _forget_after(path, progress.step, progress.validated)
            if trackers is not None:
                self._trackers = trackers()
                self._stack.callback(self._trackers.close)
                self._trackers.replay(path)
            if bars_wanted():
                self._bar = tqdm(
                    total=total_steps, initial=progress.step, desc=stage, unit="step", dynamic_ncols=True
                )
                self._stack.enter_context(logging_redirect_tqdm())
                self._stack.callback(self._bar.close)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def advance(self, step: int, seconds: float) -> None:
        """One more optimiser step is done: the `step`th, `seconds` after the stage's first began, pauses
        between starts left out.
        """
        if self._bar is not None:
            self._bar.update()
        if self._first is None:
            self._first = (step, seconds)  # not counted: it warms up, and compiles
        elif seconds - self._first[1] >= SURE_AFTER:
            self._tell_total(step, seconds)

    def _tell_total(self, step: int, seconds: float) -> None:
        """Say once how long the whole stage takes at the present rate."""
        if self._told or not self.active or self._first is None or step == self._first[0]:
            return
        self._told = True
        rate = (seconds - self._first[1]) / (step - self._first[0])
        left = (self.total_steps - step) * rate
        whole = f"{self.total_steps} steps take about {duration(seconds + left)} in all"
        log.info("%s: %s, %s of them are left; validations come on top", self.stage, whole, duration(left))

    def record_step(self, step: int, values: Mapping[str, float], objective: "Objective") -> None:
        """A line and a record of the steps since the last one.

        values: those of `objective.report`, grad_norm, learning_rate, windows_per_s, seconds; and
        skipped_steps where a loss scaler may skip some.
        """
        self._tell_total(step, values["seconds"])
        text = f"{self.stage} step {step}/{self.total_steps}  {numbers(values, objective.shown)}"
        text += f"  grad_norm {values['grad_norm']:.4g}  rate {values['learning_rate']:.3g}"
        text += f"  {values['windows_per_s']:,.4g} {objective.unit}/s"
        if values.get("skipped_steps"):
            text += f"  skipped {values['skipped_steps']}"
        left = (self.total_steps - step) * values["seconds"] / step
        self.record("train", step, values, f"{text}  left {clock(left)}")

    def record_validation(
        self, step: int, values: Mapping[str, float], objective: "Objective", note: str
    ) -> None:
        """A line and a record of a validation. note: what it means for the best network."""
        where = f"{self.stage} validation at step {step}/{self.total_steps}"
        text = f"{where}  {numbers(values, objective.shown)}  ({note})"
        self.record("validation", step, values, text)

    def record(self, kind: str, step: int, values: Mapping[str, float], text: str) -> None:
        """Log `text` and append the values to the metrics file; a value that is not finite is written as
        null.
        """
        if not self.active:
            return
        log.info("%s", text)
        tree: dict[str, Any] = {"kind": kind, "stage": self.stage, "step": step}
        for name, value in values.items():
            tree[name] = None
            if math.isfinite(value):
                tree[name] = value
        line = json.dumps(tree)
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        if self._trackers is not None:
            self._trackers.record(kind, step, values)


class Meter:
    """Sums of the steps since the last logged line, kept on the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums: dict[str, Any] = {}
        self.steps = self.windows = 0
        self.started = time.monotonic()

    def count(self, sums: "Mapping[str, Tensor]", tickers: "Sequence[Tensor]") -> None:
        """One more step. sums: its own. tickers: of its windows, by micro-batch."""
        self.add(sums)
        self.steps += 1
        for those in tickers:
            self.windows += len(those)

    def add(self, sums: "Mapping[str, Tensor]") -> None:
        """Add sums of a step."""
        added(self.sums, sums)

    def means(self, objective: "Objective", runtime: "Runtime") -> dict[str, float]:
        """What the steps since the last line came to, over all processes. Every process has to call it."""
        norm = float(self.sums.pop("grad_norm")) / self.steps
        shares = runtime.gather((as_lists(self.sums), self.windows))
        windows = sum(share[1] for share in shares)
        values = objective.report(over_processes([share[0] for share in shares]))
        values["grad_norm"] = norm
        values["windows_per_s"] = windows / max(time.monotonic() - self.started, 1e-9)
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training time: validating, saving."""
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began


def added(sums: "dict[str, Tensor]", more: "Mapping[str, Tensor]") -> None:
    """Add `more` to `sums`, name by name, without gradient."""
    for name, value in more.items():
        value = value.detach()
        if name in sums:
            value = sums[name] + value
        sums[name] = value


def as_lists(sums: "Mapping[str, Tensor]") -> dict[str, list[float]]:
    """Sums as plain numbers, which processes can give each other."""
    lists = {}
    for name, value in sums.items():
        lists[name] = value.reshape(-1).tolist()
    return lists


def over_processes(shares: Sequence[Mapping[str, list[float]]]) -> dict[str, list[float]]:
    """Elementwise sums over processes, in the order of their ranks."""
    sums = {}
    for name in shares[0]:
        columns = zip(*(share[name] for share in shares), strict=True)
        sums[name] = [math.fsum(column) for column in columns]
    return sums


def _forget_after(path: Path, step: int, validated: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        kept = ""
        for line in path.read_text(encoding="utf-8").splitlines():
            if _is_past(line, step, validated):
                kept += f"{line}\n"
        files.write_text(path, kept)


def _is_past(line: str, step: int, validated: bool) -> bool:
    """Whether a record is of before the start; a last line that was cut off half-written is not."""
    try:
        record = record_of(line, Path("metrics.jsonl"), 0)
    except records.WrongShape:
        return False
    to_come = record["kind"] == "validation" and not validated
    return record["step"] < step or (record["step"] == step > 0 and not to_come)


def numbers(values: Mapping[str, float], shown: Sequence[str]) -> str:
    """`name value` pairs of those that are shown, for a log line, four significant digits."""
    return "  ".join(f"{name} {values[name]:.4g}" for name in shown if name in values)


# -- trackers ------------------------------------------------------------------------------------------------

EVENTS = "tensorboard"
"""Folder of the event files in the stage's folder."""


def check_installed(names: Sequence[str]) -> None:
    """Raise KitError when a tracker other than TensorBoard is asked for and not installed. Loads none."""
    missing = [name for name in names if name != "tensorboard" and importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(
            f"training.trackers: expected installed packages, found no {' and no '.join(missing)}; "
            f"pip install {' '.join(missing)}, or take {' and '.join(missing)} out"
        )


class Trackers:
    """The open trackers of one stage."""

    def __init__(
        self, names: Sequence[str], folder: Path, run: str, stage: str, settings: Mapping[str, Any]
    ) -> None:
        """folder: the stage's. run: the run's name. settings: the configuration, as flat names and values."""
        self.folder = folder
        wanted = list(names)
        if "tensorboard" in wanted and importlib.util.find_spec("tensorboard") is None:
            log.info("%s: tensorboard is not installed: no event file", stage)
            wanted.remove("tensorboard")
        self._open = [self._start(name, run, stage, settings) for name in wanted]

    def _start(self, name: str, run: str, stage: str, settings: Mapping[str, Any]) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        if name == "tensorboard":
            shutil.rmtree(
                self.folder / EVENTS, ignore_errors=True
            )  # written anew from metrics.jsonl, see `replay`
            tracker = kind(EVENTS, self.folder)
        elif name == "wandb":  # the same run again when a stage is resumed
            key = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:16]
            tracker = kind(run, id=key, name=f"{run}-{stage}", resume="allow", dir=str(self.folder))
        else:
            tracker = kind(run)
        tracker.start()
        if name != "tensorboard":
            tracker.store_init_configuration(dict(settings))
        return tracker

    def replay(self, metrics: Path) -> None:
        """Give TensorBoard what the run recorded before it was interrupted. A killed run's event file lacks its last points
        and has some of
        steps that will come again, so it is not continued but written anew: every step is there once."""
        if not metrics.is_file():
            return
        for record in read_records(metrics):
            values = {k: v for k, v in record.items() if k not in ("kind", "stage", "step")}
            self.record(record["kind"], record["step"], values, only="tensorboard")

    def record(
        self, kind: str, step: int, values: Mapping[str, float | None], only: str | None = None
    ) -> None:
        """Named values of a step; what is not finite is left out."""
        named = {f"{kind}/{name}": v for name, v in values.items() if v is not None and math.isfinite(v)}
        for tracker in self._open:
            if only in (None, tracker.name):
                tracker.log(named, step=step)

    def close(self) -> None:
        """Write what is buffered and end."""
        for tracker in self._open:
            tracker.finish()


# -- the picture ---------------------------------------------------------------------------------------------

PICTURE = "loss.png"


def draw(folder: Path, records: list[dict[str, Any]], metric: str) -> None:
    """Write loss.png of a stage's records.

    metric: the validation value that chooses the best network. The tokenizer's training loss subtracts an
    entropy and may be negative, so where training reports the metric, too, that is the training curve.
    """
    if importlib.util.find_spec("matplotlib") is None:
        log.info("matplotlib is not installed: no %s", folder / PICTURE)
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(
        title=f"{folder.parent.name}: {folder.name}", xlabel="optimiser step", ylabel=metric.replace("_", " ")
    )
    styles: dict[str, dict[str, Any]] = {
        "train": {"color": BLUE, "linewidth": 1},
        "validation": {"color": INK, "marker": "o", "markersize": 4},
    }
    for kind, style in styles.items():
        points = [(r["step"], r[metric]) for r in records if r["kind"] == kind and r.get(metric) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=kind, **style)
    if (uniform := uniform_loss(records)) is not None:
        axes.axhline(uniform, color=GREY, linestyle="--", label=f"knowing nothing ({uniform:.2f} nats)")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    with files.atomic(folder / PICTURE) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
