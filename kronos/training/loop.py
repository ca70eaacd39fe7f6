"""One training loop for both stages: exact gradients, honest validation, and nothing lost when it is stopped.

In: an objective (a network with its loss), streams of micro-batches, a `Runtime`. Out: a trained network, metrics and
checkpoints. The loop knows no stage.

The gradient of an optimiser step is that of sum(w loss) / sum(w) over all micro-batches of all processes: each backward
pass is scaled by world / sum(w), and DistributedDataParallel divides by world. So neither accumulation nor the number of
processes nor a short last batch changes what is optimised.
"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kronos.errors import KitError
from kronos.training import checkpoint
from kronos.training.checkpoint import Checkpoint, Progress
from kronos.training.log import RunLog, clock, numbers
from kronos.training.objectives import Batch, Objective, Reduce
from kronos.training.runtime import Runtime
from kronos.training.schedule import learning_rate, micro_seed

log = logging.getLogger(__name__)

Status = Literal["complete", "interrupted"]


@dataclass(frozen=True)
class LoopSettings:
    """Everything the loop reads besides networks and data."""

    stage: str
    total_steps: int
    steps_per_epoch: int
    accumulation: int
    learning_rate: float
    warmup_ratio: float
    betas: tuple[float, float]
    weight_decay: float
    grad_clip: float
    seed: int
    log_interval: int
    checkpoint_steps: int
    checkpoint_minutes: float
    seconds_left: float = math.inf
    """Until the run has to save and leave, counted from now."""


@dataclass(frozen=True)
class Streams:
    """Where batches come from."""

    train: Callable[[int], Iterable[Batch]]
    """From an optimiser step to its micro-batches and all that follow, on the CPU."""
    validation: Callable[[], Iterable[Batch]]
    """This process's share of the validation windows."""
    tickers: Sequence[str]
    """Names by ticker number, for error messages."""


def build_optimizer(module: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; norms and biases, which have one dimension, do not decay.

    Fused everywhere, because the fused step can be told on the device to leave the weights alone (`Trainer._guard`).
    """
    learning = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


class Meter:
    """Sums of the steps since the last logged line, kept on the device."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.windows = 0
        self.started = time.monotonic()

    def add(self, sums: Mapping[str, Tensor]) -> None:
        for name, value in sums.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is not training time: validating, saving."""
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began


class Trainer:
    """Trains one objective. Every process of the run has one and calls the same methods."""

    def __init__(
        self, objective: Objective, settings: LoopSettings, streams: Streams, runtime: Runtime, folder: Path, progress: Progress
    ) -> None:
        self.objective = objective
        self.settings, self.streams, self.runtime, self.folder = settings, streams, runtime, folder
        self.progress = progress
        self.optimizer: Any = None
        self.module: Any = None
        self.meter = Meter()
        self.recent: dict[int, list[Tensor]] = {}
        """Tickers of the steps that were not yet checked for finite losses."""
        self.saved_step = -1
        self.saved_at = time.monotonic()
        self.deadline = self.saved_at + settings.seconds_left

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    # -- the whole run -------------------------------------------------------------------------------------------------
    def fit(self, resumed: Checkpoint | None, save_best: Callable[[], None], measure_start: bool) -> Status:
        """Train to the last step, or until someone asks to stop.

        resumed: the state to go on from. save_best: writes the network; called on the main process, after a validation
        that is better than all before. measure_start: validate before the first step, too.
        """
        self._prepare(resumed)
        s, p = self.settings, self.progress
        with RunLog(self.folder / "metrics.jsonl", s.stage, p.step, p.validated, s.total_steps, self.runtime.is_main) as self.log:
            if measure_start and p.step == 0 and p.start_value is None:
                values = self.evaluate()
                if values is None:
                    return "interrupted"
                p.start_value = values[self.objective.metric]
                self._log_validation(values, "before training")
            return self._run(save_best)

    def _prepare(self, resumed: Checkpoint | None) -> None:
        """Load weights before accelerate wraps the module, the optimiser after."""
        if resumed is not None:
            self.objective.network().load_state_dict(resumed.weights)
            self.saved_step = self.progress.step
        accelerator = self.runtime.accelerator
        optimizer = build_optimizer(self.objective, self.settings)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`broadcast_buffers`")  # its new name is unknown to torch 2.10
            self.module, self.optimizer = accelerator.prepare(self.objective.to(self.runtime.device), optimizer)
        if resumed is not None:
            self.optimizer.load_state_dict(resumed.optimizer["optimizer"])
            if accelerator.scaler is not None and "scaler" in resumed.optimizer:
                accelerator.scaler.load_state_dict(resumed.optimizer["scaler"])
        self.bad_step = torch.full((), -1, dtype=torch.int64, device=self.runtime.device)

    def _run(self, save_best: Callable[[], None]) -> Status:
        s, p = self.settings, self.progress
        if p.step and not p.validated and not self._validate_if_due(save_best):
            return "interrupted"
        batches = iter(self.streams.train(p.step)) if p.step < s.total_steps else iter(())
        self.module.train()
        self.meter.reset()
        began, before = time.monotonic(), p.seconds
        while p.step < s.total_steps:
            self._step(p.step, [next(batches) for _ in range(s.accumulation)])
            p.step, p.validated = p.step + 1, False
            p.seconds = before + time.monotonic() - began
            self.log.advance()
            if p.step % s.log_interval == 0 or p.step == s.total_steps:
                self._log_step()
            stop, save = self._agree()
            with self.meter.paused():
                if save or stop or self._at_boundary():
                    self.save()
                if stop or not self._validate_if_due(save_best):
                    return "interrupted"
        return "complete"

    def _at_boundary(self) -> bool:
        step = self.progress.step
        return step % self.settings.steps_per_epoch == 0 or step == self.settings.total_steps

    # -- one optimiser step --------------------------------------------------------------------------------------------
    def _step(self, step: int, batches: list[Batch]) -> None:
        runtime = self.runtime
        total = runtime.total([sum(self.objective.weight(b) for b in batches)])[0]
        self.recent[step] = [b["ticker"][b["real"]] for b in batches]
        self.meter.steps += 1
        self.meter.windows += sum(len(t) for t in self.recent[step])
        batches = [self._to_device(b) for b in batches]
        reduce = self._joint(step, batches)
        for micro, batch in enumerate(batches):
            self._seed(step, micro)
            last = micro == len(batches) - 1
            with nullcontext() if last else runtime.accelerator.no_sync(self.module):
                sums = self.module(batch, reduce)
                runtime.accelerator.backward(sums["loss"] * (runtime.world / total))
            self.meter.add(sums)
        self._update(step, batches)

    def _update(self, step: int, batches: list[Batch]) -> None:
        s = self.settings
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = self.runtime.accelerator.clip_grad_norm_(learning, s.grad_clip)
        self._guard(step, norm)
        self.meter.add({"grad_norm": norm})
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, s.total_steps, s.learning_rate, s.warmup_ratio)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.runtime.device.type == "cpu":
            self._check_finite()

    def _joint(self, step: int, batches: list[Batch]) -> Reduce:
        """How a micro-batch learns what its loss needs of the whole step (see `Objective.joint`).

        One micro-batch: its own statistics, summed over processes in the middle of the forward pass. Several: a pass
        without gradient first, with the same dropout.
        """
        if not self.objective.joint_size or len(batches) == 1:
            return self.runtime.reduce
        parts = []
        for micro, batch in enumerate(batches):
            self._seed(step, micro)
            with self.runtime.accelerator.autocast():
                parts.append(self.objective.joint(batch))
        known = self.runtime.reduce(torch.stack(parts).sum(0))
        return lambda _: known

    def _seed(self, step: int, micro: int) -> None:
        torch.manual_seed(micro_seed(self.settings.seed, self.settings.stage, step, micro, self.runtime.rank))

    def _to_device(self, batch: Batch) -> Batch:
        return {name: t.to(self.runtime.device, non_blocking=True) for name, t in batch.items()}

    # -- losses that are not numbers -----------------------------------------------------------------------------------
    def _guard(self, step: int, norm: Tensor) -> None:
        """From the first loss or gradient that is not finite the optimiser moves no weight any more, decided on the device.

        Reading the flag costs a wait, so a GPU's is read with the next logged line or checkpoint. A GradScaler (fp16)
        has a flag of its own and expects overflows: there only the loss counts.
        """
        finite = self.meter.sums["loss"].isfinite()
        scaled = self.runtime.accelerator.scaler is not None
        if not scaled:
            finite = finite & norm.isfinite()
        self.bad_step = torch.where((self.bad_step < 0) & ~finite, step, self.bad_step)
        if not scaled:
            self.optimizer.optimizer.found_inf = (self.bad_step >= 0).to(torch.float32)

    def _check_finite(self) -> None:
        """Stop the run when a step since the last check was not finite. Every process has to call it."""
        first = int(self.bad_step)
        if not self.runtime.total([float(first >= 0)])[0]:
            self.recent.clear()
            return
        seen = self.runtime.gather((first, {s: sorted({int(i) for t in ts for i in t}) for s, ts in self.recent.items()}))
        self.runtime.on_main(lambda: self._raise_not_finite(seen))

    def _raise_not_finite(self, seen: list[tuple[int, dict[int, list[int]]]]) -> None:
        step = min(first for first, _ in seen if first >= 0)
        names = sorted({self.streams.tickers[i] for _, tickers in seen for i in tickers.get(step, [])})
        some = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
        raise KitError(
            f"{self.settings.stage}: the loss or its gradient is not finite at step {step}; no weight was changed by it; tickers "
            f"in that step: {some}. Check these prices, lower the learning rate, or set training.mixed_precision: no"
        )

    # -- agreement, logging, saving ------------------------------------------------------------------------------------
    def _agree(self) -> tuple[bool, bool]:
        """Whether to stop, by a signal or the time limit, and whether to save now: the same answer on every process."""
        s, now = self.settings, time.monotonic()
        due = self.runtime.is_main and now - self.saved_at >= s.checkpoint_minutes * 60
        asked = self.runtime.stop.asked or (self.runtime.is_main and now >= self.deadline)
        stop, late = self.runtime.total([float(asked), float(due)])
        return stop > 0, late > 0 or self.progress.step % s.checkpoint_steps == 0

    def _log_step(self) -> None:
        self._check_finite()
        s, p, m = self.settings, self.progress, self.meter
        norm = float(m.sums.pop("grad_norm")) / m.steps
        shares = self.runtime.gather(({name: value.tolist() for name, value in m.sums.items()}, m.windows))
        sums = {name: [sum(part[name] for part, _ in shares)] for name in shares[0][0]}
        rate = sum(windows for _, windows in shares) / max(time.monotonic() - m.started, 1e-9)
        values = self.objective.report(sums)
        values |= {"grad_norm": norm, "learning_rate": self.optimizer.param_groups[0]["lr"], "windows_per_s": rate}
        values |= {"epoch": p.step / s.steps_per_epoch, "seconds": p.seconds}
        left = (s.total_steps - p.step) * p.seconds / p.step
        shown = {k: v for k, v in values.items() if k not in ("epoch", "seconds")}
        text = f"{s.stage} step {p.step}/{s.total_steps}  {numbers(shown)}  left {clock(left)}"
        self.log.record("train", p.step, values, text)
        m.reset()

    def save(self) -> None:
        """Write a checkpoint of the current step, unless there is one. All processes wait until it is on disk."""
        self._check_finite()
        if self.saved_step != self.progress.step:
            self.runtime.on_main(self._write_checkpoint)
            self.saved_step = self.progress.step
        self.saved_at = time.monotonic()

    def _write_checkpoint(self) -> None:
        state = {"optimizer": self.optimizer.state_dict()}
        if self.runtime.accelerator.scaler is not None:
            state["scaler"] = self.runtime.accelerator.scaler.state_dict()
        checkpoint.save(self.checkpoints, self.objective.network().state_dict(), state, self.progress)

    # -- validation ----------------------------------------------------------------------------------------------------
    def evaluate(self) -> dict[str, float] | None:
        """Exact means over the validation windows of all processes; None when someone asked to stop meanwhile.

        The bare module is called: without gradients there is nothing to synchronise, and the processes' shares differ in length.
        """
        self.module.eval()
        sums: dict[str, Tensor] = {}
        stopped = False
        with torch.no_grad(), self.runtime.accelerator.autocast():
            for batch in self.streams.validation():
                for name, value in self.objective.evaluate(self._to_device(batch)).items():
                    sums[name] = sums[name] + value if name in sums else value
                if stopped := self.runtime.stop.asked:
                    break
        self.module.train()
        shares = self.runtime.gather(({name: value.reshape(-1).tolist() for name, value in sums.items()}, stopped))
        if any(stop for _, stop in shares):
            return None
        return self.objective.report(_added([share for share, _ in shares if share]))

    def _validate_if_due(self, save_best: Callable[[], None]) -> bool:
        """Validate at the end of an epoch and keep the best network. False: someone asked to stop meanwhile."""
        p = self.progress
        if p.validated or not self._at_boundary():
            return True
        values = self.evaluate()
        if values is None:
            return False
        value = values[self.objective.metric]
        if not math.isfinite(value):
            raise KitError(
                f"{self.settings.stage}: the validation {self.objective.metric} at step {p.step} is {value}; check the data"
            )
        if p.best is None or value < p.best["value"]:
            self.runtime.on_main(save_best)
            p.best = {"step": p.step, "value": value, "metric": self.objective.metric, "values": values}
        note = "best so far" if p.best["step"] == p.step else f"best was {p.best['value']:.6g} at step {p.best['step']}"
        self._log_validation(values, note)
        p.validated = True
        return True

    def _log_validation(self, values: dict[str, float], note: str) -> None:
        s, p = self.settings, self.progress
        text = f"{s.stage} validation at step {p.step}/{s.total_steps}  {numbers(values)}  ({note})"
        self.log.record("validation", p.step, values, text)


def _added(shares: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Elementwise sums over processes, in the order of their ranks."""
    return {name: [math.fsum(column) for column in zip(*(share[name] for share in shares), strict=True)] for name in shares[0]}
