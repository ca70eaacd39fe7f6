"""One training loop for all stages: exact gradients, honest validation, and nothing lost when it is stopped.

In: an objective (a network with its loss), streams of micro-batches, a `Runtime`. Out: a trained network,
metrics and checkpoints. The loop knows no stage.

The gradient of an optimiser step is that of sum(w loss) / sum(w) over all micro-batches of all processes:
each backward pass is scaled by world / sum(w), and DistributedDataParallel divides by world. So neither
accumulation nor the number of processes nor a short last batch changes what is optimised.

Beside it: `settings` (what it reads), `optimizer`, `schedule` (learning rate, early end), `feed` (batches to
the device), `memory` (a batch that does not fit), `finite` (losses that are no numbers), `log` (lines,
metrics), `checkpoint`.
"""

import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from kronos.errors import KitError
from kronos.training import checkpoint, memory
from kronos.training.checkpoint import Checkpoint, Progress
from kronos.training.feed import DeviceFeed, StepBatches
from kronos.training.finite import FiniteGuard
from kronos.training.log import Meter, RunLog, added, clock, numbers
from kronos.training.objectives import Batch, Objective, Reduce, Sums
from kronos.training.optimizer import build_optimizer
from kronos.training.runtime import Runtime
from kronos.training.schedule import micro_seed
from kronos.training.settings import Keepers, LoopSettings, Streams

Status = Literal["complete", "interrupted"]
REHEARSED = 2
"""Steps at the start of a sitting that several processes rehearse: the second one has the optimiser's state,
too.
"""


class Trainer:
    """Trains one objective. Every process of the run has one and calls the same methods."""

    def __init__(
        self,
        objective: Objective,
        settings: LoopSettings,
        streams: Streams,
        runtime: Runtime,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.objective = objective
        self.settings, self.streams, self.runtime, self.folder = settings, streams, runtime, folder
        self.progress = progress
        self.reason: str | None = None
        """Why an interrupted run stopped."""
        self.optimizer: Any = None
        self.module: Any = None
        self.meter = Meter()
        self.rehearsals = REHEARSED if runtime.world > 1 else 0
        self.validation_pieces = progress.pieces
        self.saved_step = -1
        self.saved_at = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    # -- the whole run ---------------------------------------------------------------------------------------
    def fit(self, resumed: Checkpoint | None, keepers: Keepers, measure_start: bool) -> Status:
        """Train to the last step or the early end, or until someone asks to stop.

        resumed: the state to go on from. measure_start: validate before the first step, too.
        """
        self.keepers = keepers
        self._prepare(resumed)
        s, p, runtime = self.settings, self.progress, self.runtime
        metrics = self.folder / "metrics.jsonl"
        with RunLog(
            metrics, s.stage, p.step, p.validated, s.total_steps, runtime.is_main, keepers.trackers
        ) as self.log:
            if measure_start and p.step == 0 and p.start_value is None:
                values = self.evaluate()
                if values is None:
                    return "interrupted"
                p.start_value = values[self.objective.metric]
                if not s.keep_last:  # training that makes it worse leaves the start as the best network
                    self._keep_best(values)
                self._log_validation(values, "before training")
            return self._run()

    def _prepare(self, resumed: Checkpoint | None) -> None:
        """Load weights before accelerate wraps the module, the optimiser after."""
        if resumed is not None:
            with resumed.fitting():
                self.objective.network().load_state_dict(resumed.weights)
            self.saved_step = self.progress.step
        accelerator = self.runtime.accelerator
        optimizer = build_optimizer(self.objective, self.settings)
        self.module, self.optimizer = self.runtime.prepare(self.objective.to(self.runtime.device), optimizer)
        if resumed is not None:
            with resumed.fitting():
                self.optimizer.load_state_dict(resumed.optimizer["optimizer"])
                if accelerator.scaler is not None and "scaler" in resumed.optimizer:
                    accelerator.scaler.load_state_dict(resumed.optimizer["scaler"])
        self.guard = FiniteGuard(self.settings.stage, self.streams.tickers, self.runtime)
        self.skipped_before = self.progress.skipped

    def _run(self) -> Status:
        s, p = self.settings, self.progress
        if p.step and not p.validated and not self._validate_if_due():
            return "interrupted"
        feed = DeviceFeed(
            () if self._ended() else self.streams.train(p.step), s.accumulation, self.runtime.device
        )
        self.module.train()
        self.meter.reset()
        began, before = time.monotonic(), p.seconds
        while not self._ended():
            self._step(p.step, next(feed))
            feed.prefetch()
            p.step, p.validated = p.step + 1, False
            p.seconds = before + time.monotonic() - began
            self.log.advance()
            if p.step % s.log_interval == 0 or p.step == s.total_steps:
                self._log_step()
            self.reason, save = self._agree()
            with self.meter.paused():
                if save or self.reason or self._at_boundary():
                    self.save()
                if self.reason or not self._validate_if_due():
                    return "interrupted"
        return "complete"

    def _ended(self) -> bool:
        return self.progress.step >= self.settings.total_steps or self.settings.schedule.ends_early(
            self.progress.history
        )

    def _at_boundary(self) -> bool:
        step = self.progress.step
        return step % self.settings.steps_per_epoch == 0 or step == self.settings.total_steps

    # -- one optimiser step ----------------------------------------------------------------------------------
    def _step(self, step: int, batches: StepBatches) -> None:
        total = self.runtime.total([sum(self.objective.weight(b) for b in batches.host)])[0]
        tickers = [b["ticker"][b["real"]] for b in batches.host]
        self.guard.remember(step, tickers)
        if self.rehearsals:
            self._rehearse(step, batches.device)
        sums = self._fitting(step, batches.device, total)
        self.meter.steps += 1
        self.meter.windows += sum(len(t) for t in tickers)
        self.meter.add(sums)
        self._update(step)

    def _gradients(self, step: int, batches: list[Batch], total: float) -> Sums:
        """Leave this process's gradients of the step in the parameters; the sums of its losses."""
        runtime = self.runtime
        sums: Sums = {}
        reduce = self._joint(step, batches)
        for micro, batch in enumerate(batches):
            self._seed(step, micro)
            last = micro == len(batches) - 1
            with nullcontext() if last else runtime.accelerator.no_sync(self.module):
                found = self.module(batch, reduce)
                runtime.accelerator.backward(found["loss"] * (runtime.world / total))
            added(sums, found)
        return sums

    def _update(self, step: int) -> None:
        s = self.settings
        learning = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = self.runtime.accelerator.clip_grad_norm_(learning, s.grad_clip)
        self.guard.watch(step, self.meter.sums["loss"], norm, self.optimizer.optimizer)
        self.meter.add({"grad_norm": norm})
        for group in self.optimizer.param_groups:
            group["lr"] = s.schedule.rate(step, self.progress.history) * group.get("share", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.runtime.device.type == "cpu":
            self._check_finite()

    def _joint(self, step: int, batches: list[Batch]) -> Reduce:
        """How a micro-batch learns what its loss needs of the whole step (see `Objective.joint`).

        One micro-batch: its own statistics, summed over processes in the middle of the forward pass. Several:
        a pass without gradient first, with the same dropout.
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

    def _check_finite(self) -> None:
        self.guard.check()
        self.progress.skipped = self.skipped_before + self.guard.skipped

    # -- memory (see `kronos.training.memory`) ---------------------------------------------------------------
    def _fitting(self, step: int, batches: list[Batch], total: float) -> Sums:
        """`_gradients` of the step, in as many pieces as the device's memory asks for."""
        while True:
            pieces = memory.cut(batches, self.progress.pieces)
            if self.runtime.world > 1:
                return self._gradients(step, pieces, total)
            sums = memory.attempt(lambda: self._gradients(step, pieces, total))  # noqa: B023 (called at once)
            if sums is not None:
                return sums
            self._halve(batches[0])

    def _rehearse(self, step: int, batches: list[Batch]) -> None:
        """Find the number of pieces that all processes can bear, while none of them waits for another.

        One that runs out of memory in the middle of a sum over processes would leave the others there. All
        micro-batches have one shape, so what fits in the first two steps fits later; the second of a step
        meets the gradients of the first.
        """
        self.rehearsals -= 1
        fits = False
        while not fits:
            fits = self._fits_alone(step, memory.cut(batches, self.progress.pieces)[:2])
            self.optimizer.zero_grad()
            fits = self.runtime.total([float(not fits)])[0] == 0
            if not fits:
                self._halve(batches[0])

    def _fits_alone(self, step: int, batches: list[Batch]) -> bool:
        def alone() -> bool:
            for micro, batch in enumerate(batches):
                self._seed(step, micro)
                with self.runtime.accelerator.no_sync(self.module):
                    self.runtime.accelerator.backward(self.module(batch, lambda own: own)["loss"])
            return True

        return memory.attempt(alone) is not None

    def _halve(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        p, r, windows = self.progress, self.runtime, len(batch["real"])
        p.pieces = r.together(lambda: memory.halved(self.settings.stage, windows, p.pieces, say=r.is_main))

    # -- agreement, logging, saving --------------------------------------------------------------------------
    def _agree(self) -> tuple[str | None, bool]:
        """Why to stop, if someone asked or time is over, and whether to save now: the same answer on every
        process.
        """
        s = self.settings
        due = self.runtime.is_main and time.monotonic() - self.saved_at >= s.checkpoint_minutes * 60
        asked, over, late = self.runtime.total(
            [float(self.runtime.stop.asked), float(self._time_is_over()), float(due)]
        )
        return _reason(asked > 0, over > 0), late > 0 or self.progress.step % s.checkpoint_steps == 0

    def _time_is_over(self) -> bool:
        return self.runtime.is_main and time.monotonic() >= self.settings.deadline

    def _log_step(self) -> None:
        self._check_finite()
        s, p, m = self.settings, self.progress, self.meter
        norm = float(m.sums.pop("grad_norm")) / m.steps
        shares = self.runtime.gather(({name: value.tolist() for name, value in m.sums.items()}, m.windows))
        sums = {name: [sum(part[name] for part, _ in shares)] for name in shares[0][0]}
        rate = sum(windows for _, windows in shares) / max(time.monotonic() - m.started, 1e-9)
        values = self.objective.report(sums)
        values |= {
            "grad_norm": norm,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "windows_per_s": rate,
        }
        if self.guard.scaled:
            values["skipped_steps"] = p.skipped
        values |= {"epoch": p.step / s.steps_per_epoch, "seconds": p.seconds}
        left = (s.total_steps - p.step) * p.seconds / p.step
        shown = {k: v for k, v in values.items() if k not in ("epoch", "seconds")}
        text = f"{s.stage} step {p.step}/{s.total_steps}  {numbers(shown)}  left {clock(left)}"
        self.log.record("train", p.step, values, text)
        m.reset()

    def save(self) -> None:
        """Write a checkpoint of the current step, unless there is one. All processes wait until it is on
        disk.
        """
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

    # -- validation ------------------------------------------------------------------------------------------
    def evaluate(self) -> dict[str, float] | None:
        """Exact means over the validation windows of all processes; None, and `reason`, when the run has to
        stop meanwhile.

        The bare module is called: without gradients there is nothing to synchronise, and the processes'
        shares differ in length.
        """
        self.module.eval()
        sums: Sums = {}
        feed = DeviceFeed(self.streams.validation(), 1, self.runtime.device)
        asked = over = False
        with torch.no_grad(), self.runtime.accelerator.autocast():
            for batches in feed:
                added(sums, self._evaluated(batches.device[0]))
                feed.prefetch()
                asked, over = self.runtime.stop.asked, self._time_is_over()
                if asked or over:
                    break
        self.module.train()
        shares = self.runtime.gather(
            ({name: value.reshape(-1).tolist() for name, value in sums.items()}, asked, over)
        )
        self.reason = _reason(any(share[1] for share in shares), any(share[2] for share in shares))
        if self.reason is not None:
            return None
        return self.objective.report(_summed([share[0] for share in shares if share[0]]))

    def _evaluated(self, batch: Batch) -> Sums:
        """Sums of one batch. No process waits for another here, so each finds its own number of pieces that
        fit.
        """

        def in_pieces() -> Sums:
            sums: Sums = {}
            for piece in memory.cut([batch], self.validation_pieces):
                added(sums, self.objective.evaluate(piece))
            return sums

        while (sums := memory.attempt(in_pieces)) is None:
            self.validation_pieces = memory.halved(
                f"{self.settings.stage} validation", len(batch["real"]), self.validation_pieces
            )
        return sums

    def _validate_if_due(self) -> bool:
        """Validate at the end of an epoch and keep the best network. False: the run has to stop meanwhile."""
        p = self.progress
        if p.validated or not self._at_boundary():
            return True
        values = self.evaluate()
        if values is None:
            return False
        value = values[self.objective.metric]
        self.runtime.on_main(lambda: self._check_validation(value))
        if self.settings.keep_last or p.best is None or value < p.best["value"]:
            self._keep_best(values)
        assert p.best is not None
        if self.settings.keep_last:
            note = "kept"
        elif p.best["step"] == p.step:
            note = "best so far"
        else:
            note = f"best was {p.best['value']:.6g} at step {p.best['step']}"
        self._log_validation(values, note)
        p.validated = True
        p.history.append(value)
        return True

    def _keep_best(self, values: dict[str, float]) -> None:
        """Save the network as it is as the best one. values: of its validation; those that are not defined
        are left out.
        """
        metric = self.objective.metric
        self.runtime.on_main(self.keepers.save_best)
        defined = {name: figure for name, figure in values.items() if math.isfinite(figure)}
        self.progress.best = {
            "step": self.progress.step,
            "value": values[metric],
            "metric": metric,
            "values": defined,
        }

    def _check_validation(self, value: float) -> None:
        if not math.isfinite(value):
            where = (
                f"{self.settings.stage}: the validation {self.objective.metric} at step {self.progress.step}"
            )
            raise KitError(f"{where} is {value}; check the data")

    def _log_validation(self, values: dict[str, float], note: str) -> None:
        s, p = self.settings, self.progress
        text = f"{s.stage} validation at step {p.step}/{s.total_steps}  {numbers(values)}  ({note})"
        self.log.record("validation", p.step, values, text)
        self.runtime.on_main(self.keepers.validated)


def _reason(asked: bool, over: bool) -> str | None:
    if asked:
        return "signal"
    if over:
        return "time limit"
    return None


def _summed(shares: list[dict[str, list[float]]]) -> dict[str, list[float]]:
    """Elementwise sums over processes, in the order of their ranks."""
    return {
        name: [math.fsum(column) for column in zip(*(share[name] for share in shares), strict=True)]
        for name in shares[0]
    }
