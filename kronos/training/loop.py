"""One training loop for all stages: exact gradients, honest validation, and nothing lost when it is stopped.

In: an objective (a network with its loss), streams of micro-batches, a `Runtime`. Out: a trained network,
metrics and checkpoints. The loop knows no stage; `Trainer._step` is one optimiser step of any of them.

The gradient of an optimiser step is that of sum(w loss) / sum(w) over all micro-batches of all processes. So
neither accumulation nor the number of processes nor a short last batch changes what is optimised.

Beside it: `optim` (learning rate, AdamW, losses that are no numbers), `device` (batches to the device, what
does not fit), `distributed` (processes), `runlog` (lines, metrics), `checkpoint`.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from kronos.errors import KitError
from kronos.training import checkpoint, device
from kronos.training.checkpoint import Checkpoint, Progress
from kronos.training.device import DeviceFeed, StepBatches, Streams
from kronos.training.distributed import Runtime
from kronos.training.objectives import Batch, Objective, Reduce, Sums
from kronos.training.optim import FiniteGuard, LoopSettings, build_optimizer, micro_seed
from kronos.training.runlog import Meter, RunLog, Trackers, added, as_lists, over_processes

Status = Literal["complete", "interrupted"]


@dataclass(frozen=True)
class Keepers:
    """What a stage does for the loop, on the main process."""

    save_best: Callable[[], None]
    """Writes the network; called after a validation that is better than all before."""
    validated: Callable[[], None] = lambda: None
    """Called after every validation."""
    trackers: Callable[[], Trackers] | None = None
    """Opens the trackers."""


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
        self.reads_every_step = runtime.device.type == "cpu"
        """Look at every step's loss at once; a GPU would have to be waited for."""
        self.validation_pieces = progress.pieces
        self.saved_step = -1
        self.saved_at = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        """Folder of resumable states."""
        return self.folder / "checkpoints"

    # -- one optimiser step ----------------------------------------------------------------------------------
    def _step(self, step: int, batches: StepBatches) -> None:
        """One optimiser step, from its windows to moved weights.

        step: its number, 0 first. batches: this process's micro-batches, all of one shape.
        """
        settings, runtime = self.settings, self.runtime

        # What the step's windows weigh over all processes. Read on the CPU: no step waits for a GPU.
        weight, tickers = 0.0, []
        for batch in batches.host:
            weight += self.objective.weight(batch)
            tickers.append(batch["ticker"][batch["real"]])
        weight = runtime.total([weight])[0]
        self.guard.remember(step, tickers)

        # Forward and backward, one micro-batch at a time; the gradients add up.
        micro_batches = device.cut(batches.device, self.progress.pieces)
        joint = self._joint(step, micro_batches)
        sums: Sums = {}
        for number, batch in enumerate(micro_batches):
            self._seed(step, number)
            # Processes add up their gradients once a step, in the backward pass of the last micro-batch.
            self.module.require_backward_grad_sync = number == len(micro_batches) - 1
            found = self.module(batch, joint)
            # times `world`, since DistributedDataParallel divides the sum of gradients by it
            runtime.accelerator.backward(found["loss"] * (runtime.world / weight))
            added(sums, found)
        self.meter.count(sums, tickers)

        # Clip the gradient, stop the weights where it is no number, move them.
        norm = runtime.accelerator.clip_grad_norm_(self.learning, settings.grad_clip)
        self.guard.watch(step, sums["loss"], norm, self.optimizer.optimizer)
        self.meter.add({"grad_norm": norm})
        rate = settings.schedule.rate(step, self.progress.history)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _seed(self, step: int, micro: int) -> None:
        """Dropout is a function of this: the same masks whenever the micro-batch is computed again."""
        torch.manual_seed(micro_seed(self.settings.seed, self.settings.stage, step, micro, self.runtime.rank))

    def _joint(self, step: int, micro_batches: list[Batch]) -> Reduce:
        """How a micro-batch learns what its loss needs of the whole step (see `Objective.joint`).

        One micro-batch: its own statistics, summed over processes in the middle of the forward pass. Several:
        a pass without gradient first, with the same dropout.
        """
        if not self.objective.joint_size or len(micro_batches) == 1:
            return self.runtime.reduce
        parts = []
        for number, batch in enumerate(micro_batches):
            self._seed(step, number)
            with self.runtime.accelerator.autocast():
                parts.append(self.objective.joint(batch))
        known = self.runtime.reduce(torch.stack(parts).sum(0))
        return lambda _: known

    # -- the whole run ---------------------------------------------------------------------------------------
    def fit(self, resumed: Checkpoint | None, keepers: Keepers, measure_start: bool) -> Status:
        """Train to the last step or the early end, or until someone asks to stop.

        resumed: the state to go on from. measure_start: validate before the first step, too.
        """
        self.keepers = keepers
        self._prepare(resumed)
        s, p = self.settings, self.progress
        self.log = RunLog(self.folder, s.stage, p, s.total_steps, self.runtime.is_main, keepers.trackers)
        with self.log:
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
        self.learning = []
        for group in self.optimizer.param_groups:
            self.learning += group["params"]
        self.guard = FiniteGuard(self.settings.stage, self.streams.tickers, self.runtime)
        self.skipped_before = self.progress.skipped

    def _run(self) -> Status:
        s, p = self.settings, self.progress
        if p.step and not p.validated and not self._validate_if_due():
            return "interrupted"
        if self._ended():
            return "complete"
        feed = DeviceFeed(self.streams.train(p.step), s.accumulation, self.runtime.device)
        self.module.train()
        if self.runtime.world > 1 or self.runtime.device.type == "cuda":
            self._rehearse(feed.peek().device)
        self.meter.reset()
        began, before = time.monotonic(), p.seconds
        while not self._ended():
            self._step_that_fits(p.step, next(feed))
            feed.prefetch()
            if self.reads_every_step:
                self._check_finite()
            p.step, p.validated = p.step + 1, False
            p.seconds = before + time.monotonic() - began
            self.log.advance(p.step, p.seconds)
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
        p, s = self.progress, self.settings
        return p.step >= s.total_steps or s.schedule.ends_early(p.history)

    def _at_boundary(self) -> bool:
        """Whether an epoch, or the stage, ends here."""
        step = self.progress.step
        return step % self.settings.steps_per_epoch == 0 or step == self.settings.total_steps

    def _check_finite(self) -> None:
        self.guard.check()
        self.progress.skipped = self.skipped_before + self.guard.skipped

    # -- memory (see `kronos.training.device`) ---------------------------------------------------------------
    def _rehearse(self, batches: list[Batch]) -> None:
        """Before the first step: cut micro-batches until they fit, on every process, while none waits for
        another.

        One that runs out of memory in the middle of a sum over processes would leave the others there. All
        micro-batches have one shape, so what fits now fits later.
        """
        fits = False
        while not fits:
            alone = self._fits_alone(device.cut(batches, self.progress.pieces)[:2])
            self.optimizer.zero_grad()
            fits = self.runtime.total([float(not alone)])[0] == 0
            if not fits:
                self._halve(batches[0])

    def _fits_alone(self, batches: list[Batch]) -> bool:
        """Whether this process has room for a step: two micro-batches, since the second one meets the
        gradients of the first, beside the two moments of Adam, which the first real step allocates.
        """

        def alone() -> bool:
            moments = []
            if not self.optimizer.state:
                moments = [torch.empty_like(p) for p in self.learning for _ in range(2)]
            for number, batch in enumerate(batches):
                self._seed(self.progress.step, number)
                self.module.require_backward_grad_sync = False
                self.runtime.accelerator.backward(self.module(batch, lambda own: own)["loss"])
            del moments
            return True

        return device.attempt(alone) is not None

    def _step_that_fits(self, step: int, batches: StepBatches) -> None:
        """`_step`, and again in smaller pieces where memory has become too small for its gradients.

        Only where this process is alone: one that begins again would leave the others in the middle of a sum.
        """
        steps = self.meter.steps
        while self.meter.steps == steps:
            try:
                return self._step(step, batches)
            except RuntimeError as error:
                halving = self.meter.steps == steps and self.runtime.world == 1
                if not halving or not device.out_of_memory(error):
                    raise
            # outside of the handler: the error holds on to the very tensors that did not fit
            device.release()
            self._halve(batches.device[0])

    def _halve(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        p, r, windows = self.progress, self.runtime, len(batch["real"])
        p.pieces = r.together(lambda: device.halved(self.settings.stage, windows, p.pieces, say=r.is_main))

    # -- asking to stop, saving ------------------------------------------------------------------------------
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

    def save(self) -> None:
        """Write a checkpoint of this step, unless there is one. All processes wait until it is on disk."""
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
        shares = self.runtime.gather((as_lists(sums), asked, over))
        self.reason = _reason(any(share[1] for share in shares), any(share[2] for share in shares))
        if self.reason is not None:
            return None
        return self.objective.report(over_processes([share[0] for share in shares if share[0]]))

    def _evaluated(self, batch: Batch) -> Sums:
        """Sums of one batch. No process waits for another here: each finds its own number of pieces."""
        stage = f"{self.settings.stage} validation"
        pieces = self.validation_pieces
        sums, self.validation_pieces = device.in_pieces(self.objective.evaluate, batch, pieces, stage)
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
        self.runtime.on_main(self.keepers.save_best)
        metric, step = self.objective.metric, self.progress.step
        defined = {name: figure for name, figure in values.items() if math.isfinite(figure)}
        self.progress.best = {"step": step, "value": values[metric], "metric": metric, "values": defined}

    def _check_validation(self, value: float) -> None:
        if not math.isfinite(value):
            stage, metric, step = self.settings.stage, self.objective.metric, self.progress.step
            raise KitError(f"{stage}: the validation {metric} at step {step} is {value}; check the data")

    # -- lines -----------------------------------------------------------------------------------------------
    def _log_step(self) -> None:
        """The means since the last line, over all processes."""
        self._check_finite()
        s, p = self.settings, self.progress
        values = self.meter.means(self.objective, self.runtime)
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        if self.guard.scaled:
            values["skipped_steps"] = p.skipped
        values["epoch"], values["seconds"] = p.step / s.steps_per_epoch, p.seconds
        self.log.record_step(p.step, values, self.objective)
        self.meter.reset()

    def _log_validation(self, values: dict[str, float], note: str) -> None:
        self.log.record_validation(self.progress.step, values, self.objective, note)
        self.runtime.on_main(self.keepers.validated)


def _reason(asked: bool, over: bool) -> str | None:
    if asked:
        return "signal"
    if over:
        return "time limit"
    return None
