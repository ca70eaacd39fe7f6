"""Losses and gradients that are not numbers: no weight moves by them, and the run ends with the step and its
tickers.

In: loss and gradient norm of each step, on the device. Out: a flag that the fused optimiser obeys there, and
a `KitError` when it is read. Reading costs a wait, so a GPU's is read with the next logged line or
checkpoint.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kronos.errors import KitError
from kronos.training.runtime import Runtime

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
            seen = self.runtime.gather(
                (first, {s: sorted({int(i) for t in ts for i in t}) for s, ts in self._recent.items()})
            )
            self.runtime.on_main(lambda: self._raise_not_finite(seen))
        if self.scaled:
            last = max(self._recent, default=0)
            self.skipped, _, longest = (int(n) for n in self._skips.tolist())
            if longest >= MOST_SKIPS:
                self.runtime.on_main(lambda: self._raise_skipped(last, longest))
        self._recent.clear()

    def _raise_not_finite(self, seen: list[tuple[int, dict[int, list[int]]]]) -> None:
        step = min(first for first, _ in seen if first >= 0)
        names = sorted({self.tickers[i] for _, tickers in seen for i in tickers.get(step, [])})
        some = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise KitError(
            f"{self.stage}: the loss or its gradient is not finite at step {step}; no weight was changed by it; tickers "
            f"in that step: {some}. Check these prices, lower the learning rate, or set training.mixed_precision: no"
        )

    def _raise_skipped(self, step: int, longest: int) -> None:
        raise KitError(
            f"{self.stage}: {longest} optimiser steps in a row were skipped up to step {step}: gradients overflow in fp16 "
            "at every loss scale; no weight was changed by them. Set training.mixed_precision: no, or lower the learning rate"
        )
