"""What changes with the step and the validations made so far and with nothing else: the learning rate, the
early end, and the seed of a micro-batch's dropout.

In: an optimiser step, the run's length and seed, the history of validation values. Out: a number. Pure
functions, so that
resuming is arithmetic: the history is all that a checkpoint has to hold.
Source: the one-cycle policy (arXiv 1708.07120) with the shape of the published fine-tuning: a cosine rise
from a tenth of the peak, a cosine fall to 1e-5 of it. Adam's beta1 stays what the configuration says; the
original let it swing. Reduce-on-plateau is torch's, replayed over the history.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kronos.config import Scheduler

DIV_FACTOR = 10.0
FINAL_DIV_FACTOR = 1e4
COSINE_FLOOR = 0.1
"""Share of the peak that `cosine` ends at."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a stage, and whether it ends early.

    A history has one value per validation, oldest first; lower is better.
    """

    kind: Scheduler
    total_steps: int
    peak: float
    warmup_ratio: float
    plateau_patience: int = 2
    plateau_factor: float = 0.5
    early_stopping_patience: int | None = None

    def rate(self, step: int, history: Sequence[float]) -> float:
        """Learning rate of optimiser step `step` (0 first) of `total_steps`."""
        if self.kind == "onecycle":
            return _warm_then_cosine(
                step, self.total_steps, self.peak, self.warmup_ratio, 1 / DIV_FACTOR / FINAL_DIV_FACTOR
            )
        floor = COSINE_FLOOR if self.kind == "cosine" else 1.0
        rate = _warm_then_cosine(step, self.total_steps, self.peak, self.warmup_ratio, floor)
        if self.kind == "plateau":
            rate *= plateau_share(tuple(history), self.plateau_patience, self.plateau_factor)
        return rate

    def ends_early(self, history: Sequence[float]) -> bool:
        """Whether the last `early_stopping_patience` validations were no better than the best before them."""
        patience = self.early_stopping_patience
        return (
            patience is not None
            and len(history) > patience
            and min(history[-patience:]) >= min(history[:-patience])
        )


def _warm_then_cosine(step: int, total_steps: int, peak: float, warmup_ratio: float, floor: float) -> float:
    """A cosine rise from a tenth of the peak, then a cosine fall to `floor` of it; floor 1: no fall."""
    top = max(warmup_ratio * total_steps - 1, 0.0)
    if step <= top:
        return peak if top == 0 else _cosine(peak / DIV_FACTOR, peak, step / top)
    end = max(total_steps - 1, 1)
    return _cosine(peak, peak * floor, min((step - top) / max(end - top, 1e-9), 1.0))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@lru_cache(maxsize=8)
def plateau_share(history: tuple[float, ...], patience: int, factor: float) -> float:
    """What is left of the learning rate after these validations: torch's ReduceLROnPlateau, threshold 0."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, factor=factor, patience=patience, threshold=0.0)
    for value in history:
        scheduler.step(value)
    return float(optimizer.param_groups[0]["lr"])


def micro_seed(seed: int, stage: str, step: int, micro: int, rank: int) -> int:
    """Seed (63 bits) of everything random inside one micro-batch of one process."""
    key = hashlib.blake2b(f"{seed}/{stage}/{step}/{micro}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(key, "little") >> 1
