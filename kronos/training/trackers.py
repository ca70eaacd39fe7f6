"""Trackers of other makers, through accelerate: TensorBoard's event files in the stage's folder, W&B, Comet,
MLflow.

In: the names that a configuration asks for. Out: open trackers, on the main process only. metrics.jsonl stays
the record; a tracker that is asked for and not installed is an error before anything is trained, but
TensorBoard, which is asked for by default, is left out with a line.
"""

import hashlib
import importlib.util
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kronos.errors import KitError
from kronos.training.folder import read_records

log = logging.getLogger(__name__)

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
        """Give TensorBoard what earlier sittings recorded. A killed run's event file lacks its last points
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
