"""What a run tells while it runs: one line per logged step, a progress bar at a terminal, metrics.jsonl, and
trackers.

In: named numbers. Out: log lines through `logging` (main process only) and one JSON object per line in the
run folder.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from kronos import files, records
from kronos.progress import bars_wanted
from kronos.training.folder import record_of
from kronos.training.trackers import Trackers

log = logging.getLogger(__name__)


class RunLog(AbstractContextManager["RunLog"]):
    """Lines, bar and metrics file of one stage. On processes other than the main one it does nothing.

    path: metrics.jsonl. step: where the run starts; validated: the validation of that step is behind it.
    trackers: opens those that are asked for. Records of what is still to come, left by a sitting that was cut
    off after its last checkpoint,
    are removed: a step appears once.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        step: int,
        validated: bool,
        total_steps: int,
        active: bool,
        trackers: Callable[[], Trackers] | None = None,
    ) -> None:
        self.path, self.stage, self.active = path, stage, active
        self._stack = ExitStack()
        self._bar: tqdm | None = None
        self._trackers: Trackers | None = None
        if active:
            _forget_after(path, step, validated)
            if trackers is not None:
                self._trackers = trackers()
                self._stack.callback(self._trackers.close)
                self._trackers.replay(path)
            if bars_wanted():
                self._bar = tqdm(total=total_steps, initial=step, desc=stage, unit="step", dynamic_ncols=True)
                self._stack.enter_context(logging_redirect_tqdm())
                self._stack.callback(self._bar.close)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def advance(self) -> None:
        """One optimiser step is done."""
        if self._bar is not None:
            self._bar.update()

    def record(self, kind: str, step: int, values: Mapping[str, float], text: str) -> None:
        """Log `text` and append the values to the metrics file; a value that is not finite is written as
        null.
        """
        if not self.active:
            return
        log.info("%s", text)
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        line = json.dumps({"kind": kind, "stage": self.stage, "step": step, **finite})
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(line + "\n")
        if self._trackers is not None:
            self._trackers.record(kind, step, values)


class Meter:
    """Sums of the steps since the last logged line, kept on the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.windows = 0
        self.started = time.monotonic()

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of a micro-batch."""
        added(self.sums, sums)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training time: validating, saving."""
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began


def added(sums: dict[str, Tensor], more: Mapping[str, Tensor]) -> None:
    """Add `more` to `sums`, name by name, without gradient."""
    for name, value in more.items():
        value = value.detach()
        sums[name] = sums[name] + value if name in sums else value


def _forget_after(path: Path, step: int, validated: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        kept = [
            line for line in path.read_text(encoding="utf-8").splitlines() if _is_past(line, step, validated)
        ]
        files.write_text(path, "".join(f"{line}\n" for line in kept))


def _is_past(line: str, step: int, validated: bool) -> bool:
    """Whether a record is of before the start; a last line that was cut off half-written is not."""
    try:
        record = record_of(line, Path("metrics.jsonl"), 0)
    except records.WrongShape:
        return False
    to_come = record["kind"] == "validation" and not validated
    return record["step"] < step or (record["step"] == step > 0 and not to_come)


def numbers(values: Mapping[str, float]) -> str:
    """`name value` pairs for a log line, four significant digits."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = max(round(seconds), 0)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
