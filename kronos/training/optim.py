"""How weights move: learning rate and early end, which parameters learn, and losses that are no numbers.

In: a stage's settings, an optimiser step, the history of validation values, the loss of each step. Out:
AdamW, a learning rate, a seed, a flag that stops the weights. Everything but the guard is a pure function of
(settings, step, history), so that resuming is arithmetic: the history is all that a checkpoint has to hold.
Source: the one-cycle policy (arXiv 1708.07120) with the shape of the published fine-tuning: a cosine rise
from a tenth of the peak, a cosine fall to 1e-5 of it. Adam's beta1 stays what the configuration says; the
original let it swing. Reduce-on-plateau is torch's, replayed over the history.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kronos.config import Scheduler
from kronos.errors import KitError
from kronos.training.distributed import Runtime
from kronos.training.objectives import Objective

# -- the learning rate and the early end ---------------------------------------------------------------------
KINDS: tuple[str, ...] = get_args(Scheduler)
DIV_FACTOR = 10.0
FINAL_DIV_FACTOR = 1e4
COSINE_FLOOR = 0.1
"""Share of the peak that `cosine` ends at."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate of a stage, and whether it ends early.

    A history has one value per validation, oldest first; lower is better. Raises KitError for a kind that is
    not known.
    """

    kind: Scheduler
    total_steps: int
    peak: float
    warmup_ratio: float
    plateau_patience: int = 2
    plateau_factor: float = 0.5
    early_stopping_patience: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise KitError(f"training.scheduler: expected {', '.join(KINDS)}, found {self.kind!r}")

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
        if top == 0:
            return peak
        return _cosine(peak / DIV_FACTOR, peak, step / top)
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


# -- what the optimisation is told ---------------------------------------------------------------------------
@dataclass(frozen=True)
class LoopSettings:
    """Everything the loop reads besides networks and data."""

    stage: str
    steps_per_epoch: int
    accumulation: int
    schedule: Schedule
    betas: tuple[float, float]
    weight_decay: float
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
        """Optimiser steps of the stage."""
        return self.schedule.total_steps


# -- which parameters learn ----------------------------------------------------------------------------------
def build_optimizer(module: Objective, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; norms and biases, which have one dimension, do not decay.

    A group's `share` is what the loop multiplies the learning rate by (`Objective.rate_share`).
    Fused everywhere, because the fused step can be told on the device to leave the weights alone
    (`FiniteGuard`).
    """
    by_share: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            large, flat = by_share.setdefault(module.rate_share(name), ([], []))
            if parameter.ndim > 1:
                large.append(parameter)
            else:
                flat.append(parameter)
    groups: list[dict[str, Any]] = []
    for share in sorted(by_share, reverse=True):
        large, flat = by_share[share]
        groups.append({"params": large, "weight_decay": settings.weight_decay, "share": share})
        groups.append({"params": flat, "weight_decay": 0.0, "share": share})
    return torch.optim.AdamW(groups, lr=settings.schedule.peak, betas=settings.betas, fused=True)


# -- losses that are no numbers ------------------------------------------------------------------------------
MOST_SKIPS = 20
"""Steps in a row that a loss scale may spoil; one that started at 65,536 has come down to 0.06 by then."""


class FiniteGuard:
    """Watches the steps of one process. All processes watch the same losses' sums and see the same gradients.

    With a GradScaler (fp16) a gradient that overflows is expected now and then: the scaler skips the step and
    halves its scale. Then only the loss ends the run, or `MOST_SKIPS` skipped steps in a row.
    """

    def __init__(self, stage: str, tickers: Sequence[str], runtime: Runtime) -> None:
        self.stage, self.tickers, self.runtime = stage, tickers, runtime
        self.scaled = runtime.accelerator.scaler is not None
        self.skipped = 0
        """Steps skipped by the scaler that `check` has seen since it was last reset."""
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=runtime.device)
        self._skips = torch.zeros(
            3, dtype=torch.int64, device=runtime.device
        )  # all, in a row now, most in a row
        self._recent: dict[int, list[Tensor]] = {}

    def remember(self, step: int, tickers: list[Tensor]) -> None:
        """The tickers of a step that is not checked yet, by number, on the CPU."""
        self._recent[step] = tickers

    def watch(self, step: int, loss: Tensor, norm: Tensor, optimizer: Any) -> None:
        """From the first step that is not finite on, tell the optimiser to leave the weights alone."""
        finite = loss.isfinite()
        if self.scaled:
            self._count_skip(~norm.isfinite())
        else:
            finite = finite & norm.isfinite()
        self._bad_step = torch.where((self._bad_step < 0) & ~finite, step, self._bad_step)
        if not self.scaled:
            optimizer.found_inf = (self._bad_step >= 0).to(torch.float32)  # the scaler sets its own

    def _count_skip(self, skip: Tensor) -> None:
        total, run, longest = self._skips
        run = torch.where(skip, run + 1, 0)
        self._skips = torch.stack((total + skip, run, torch.maximum(longest, run)))

    def check(self) -> None:
        """Stop the run when a step since the last check was not finite. Every process has to call it."""
        first = int(self._bad_step)
        if self.runtime.total([float(first >= 0)])[0]:
            recent = {}
            for step, tickers in self._recent.items():
                recent[step] = torch.cat(tickers).unique().tolist()
            seen = self.runtime.gather((first, recent))
            self.runtime.on_main(lambda: self._raise_not_finite(seen))
        if self.scaled:
            last = max(self._recent, default=0)
            self.skipped, _, longest = (int(n) for n in self._skips.tolist())
            if longest >= MOST_SKIPS:
                self.runtime.on_main(lambda: self._raise_skipped(last, longest))
        self._recent.clear()

    def _raise_not_finite(self, seen: list[tuple[int, dict[int, list[int]]]]) -> None:
        step = min(first for first, _ in seen if first >= 0)
        found = set()
        for _, tickers in seen:
            for number in tickers.get(step, []):
                found.add(self.tickers[number])
        names = sorted(found)
        some = ", ".join(names[:12])
        if len(names) > 12:
            some += f" and {len(names) - 12} more"
        raise KitError(
            f"{self.stage}: the loss or its gradient is not finite at step {step}; no weight was changed by it; tickers "
            f"in that step: {some}. Check these prices, lower the learning rate, or set training.mixed_precision: no"
        )

    def _raise_skipped(self, step: int, longest: int) -> None:
        raise KitError(
            f"{self.stage}: {longest} optimiser steps in a row were skipped up to step {step}: gradients overflow in fp16 "
            "at every loss scale; no weight was changed by them. Set training.mixed_precision: no, or lower the learning rate"
        )
