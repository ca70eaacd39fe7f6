"""What the loop is told: numbers, where batches come from, and what a stage does for it.

In: nothing. Out: plain dataclasses; `kronos.training.stages` fills them from a configuration.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kronos.training.objectives import Batch
from kronos.training.schedule import Schedule
from kronos.training.trackers import Trackers


@dataclass(frozen=True)
class LoopSettings:
    """Everything the loop reads besides networks and data."""

    stage: str
    steps_per_epoch: int
    accumulation: int
    schedule: Schedule
    betas: tuple[float, float]
    weight_decay: float
    decay_norms_and_biases: bool
    grad_clip: float
    seed: int
    log_interval: int
    checkpoint_steps: int
    checkpoint_minutes: float
    keep_last: bool = False
    """Keep the network of every validation, so that of the last step stays, not the one with the best
    value.
    """
    deadline: float = math.inf
    """When the run has to save and leave, on the clock of `time.monotonic`."""

    @property
    def total_steps(self) -> int:
        return self.schedule.total_steps


@dataclass(frozen=True)
class Streams:
    """Where batches come from."""

    train: Callable[[int], Iterable[Batch]]
    """From an optimiser step to its micro-batches and all that follow, on the CPU."""
    validation: Callable[[], Iterable[Batch]]
    """This process's share of the validation windows."""
    tickers: Sequence[str]
    """Names by ticker number, for error messages."""


@dataclass(frozen=True)
class Keepers:
    """What a stage does for the loop, on the main process."""

    save_best: Callable[[], None]
    """Writes the network; called after a validation that is better than all before."""
    validated: Callable[[], None] = lambda: None
    """Called after every validation."""
    trackers: Callable[[], Trackers] | None = None
    """Opens the trackers."""
