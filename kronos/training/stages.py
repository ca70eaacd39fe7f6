"""The training stages: what each trains on what, whether it starts, goes on or is skipped, and what it
leaves.

In: a resolved `Config`, a prepared store. Out: `best_model/`, `checkpoints/`, `metrics.jsonl`, `loss.png`,
`tensorboard/` and `summary.json` in the stage's folder. `summary.json` says 'complete' only when the last
step and its validation are done.
"""

import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from kronos import files
from kronos.config import Config, to_dict
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.networks import KronosTokenizer
from kronos.networks.normalisation import Normalisation
from kronos.progress import in_lines
from kronos.training import checkpoint, facts, runlog
from kronos.training.checkpoint import Checkpoint, Progress
from kronos.training.device import Streams, check_compiler
from kronos.training.distributed import PeerFailed, Runtime, in_one_line
from kronos.training.facts import Facts, Stage, StageData, data_facts, for_device, setting_facts, start_facts
from kronos.training.folder import (
    CHECKPOINTS,
    RunLock,
    read_records,
    sweep,
    table,
    worse_than_start,
    write_summary,
)
from kronos.training.loop import Keepers, Status, Trainer
from kronos.training.objectives import Objective
from kronos.training.optim import LoopSettings
from kronos.training.restart import (
    StageState,
    accumulation_that_keeps_windows,
    holds_work,
    judge,
    move_aside,
    refusal,
)
from kronos.training.runlog import Trackers, check_installed
from kronos.training.start import build_objective, loop_settings, network_digest, streams, tokenizer_source

log = logging.getLogger(__name__)


DRAWN_EVERY = 60.0
"""Seconds between two drawings of the loss curves, at least."""


def train(config: Config, stage: Stage) -> int:
    """Join the run's processes, open the store, run one stage. Returns the exit code of this process.

    0: complete (or skipped because it is), or at the time limit with everything saved. After SIGTERM, SIGINT
    or SIGHUP, with
    everything saved: 128 + the signal, but 0 under a launcher, which would turn any other code into a
    traceback; summary.json tells them apart.
    """
    runtime = _join(config)
    with in_one_line(stage, runtime):
        runtime.on_main(lambda: BarStore.open(config.data.store, verify=True) and None)
        status = run_stage(config, stage, BarStore.open(config.data.store), runtime)
    runtime.close()
    by_signal = status == "interrupted" and runtime.stop.signal and not runtime.stop.launched
    if by_signal:
        return 128 + runtime.stop.signal
    return 0


def _join(config: Config) -> Runtime:
    try:
        return Runtime.start(config)
    except KitError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise PeerFailed from None  # every process of this machine sees the same; one says it
        raise


def run_stage(config: Config, stage: Stage, store: BarStore, runtime: Runtime | None = None) -> Status:
    """Train one stage to its end, or until it is asked to stop. One that was interrupted goes on, one that is
    complete is left as it is, one of other settings is refused (see `kronos.training.restart`).

    Every process of the run calls this. Raises KitError on anything that the user can mend.
    """
    runtime = runtime or Runtime.start(config)
    lock = RunLock(config.run_dir)
    runtime.on_main(lock.acquire)
    try:
        with in_one_line(stage, runtime):
            return _kind(stage)(config, stage, store, runtime).run()
    finally:
        lock.release()


def _kind(stage: Stage) -> "type[StageRun]":
    if stage != "head":
        return StageRun
    from kronos.training.head import HeadRun  # it builds on this file

    return HeadRun


class StageRun:
    """One call of `run_stage`."""

    def __init__(self, config: Config, stage: Stage, store: BarStore, runtime: Runtime) -> None:
        self.asked = config  # what is saved: the next start sees what the user wrote
        # Only the number goes round: with all of rank 0's settings `_agree` would compare them with themselves.
        steps = runtime.on_main(lambda: accumulation_that_keeps_windows(config, stage))
        if steps is not None:
            config = replace(config, training=replace(config.training, accumulation_steps=steps))
        self.config = for_device(config, runtime.device.type == "cuda")
        self.stage, self.store, self.runtime = stage, store, runtime
        self.folder = config.stage_dir(stage)
        self.data: Any = runtime.together(self._read)
        self.settings = self._loop_settings()
        self.drawn = time.monotonic()

    # -- what differs between the stages (see `kronos.training.head`) ----------------------------------------
    def _read(self) -> Any:
        return StageData.of(self.config, self.stage, self.store)

    def _loop_settings(self) -> LoopSettings:
        return loop_settings(self.config, self.stage, self.data.plan)

    def _build(self, tokenizer: KronosTokenizer | None) -> Objective:
        return build_objective(self.config, self.stage, tokenizer)

    def _streams(self) -> Streams | None:
        """None: the run was asked to stop meanwhile."""
        return streams(self.config, self.data, self.store, self.runtime)

    def _start_facts(self) -> dict[str, str]:
        return start_facts(self.config, self.stage)

    def _starts_trained(self) -> bool:
        """Whether there is a value before training to compare with."""
        if self.stage == "tokenizer":
            return self.config.tokenizer_is_pretrained
        return self.config.predictor_is_pretrained

    def _describe(self) -> list[str]:
        return [self.data.train.describe(), self.data.validation.describe()]

    # -- one run ---------------------------------------------------------------------------------------------

    @property
    def best_model(self) -> Path:
        """Folder of the stage's best network."""
        return self.folder / "best_model"

    @property
    def metrics(self) -> Path:
        """File of the stage's figures."""
        return self.folder / "metrics.jsonl"

    def run(self) -> Status:
        """Train the stage to its end, or to a stop. Returns how it ended."""
        self.runtime.on_main(lambda: check_installed(self.config.training.trackers))
        tokenizer, self.tokenizer_digest = self._frozen_tokenizer()
        self.facts = self._facts() | self.runtime.on_main(self._start_facts)
        self._agree()
        self.runtime.on_main(lambda: facts.check_store(self.config, self.store))
        done, resumed = self.runtime.on_main(self._earlier)
        if done:
            return "complete"
        if self.stage == "basemodel":
            self.runtime.on_main(lambda: facts.check_other_stage(self.config, self.facts))
        self.objective = self.runtime.main_first(lambda: self._build(tokenizer))
        self._choose_computation()
        self.progress = Progress(facts=self.facts)
        if resumed:
            self.progress = replace(resumed.progress)
        self.runtime.stop.install()
        self.runtime.on_main(lambda: self._begin(resumed))
        reader = self._streams()
        if reader is None:
            self.runtime.on_main(lambda: self._finish("interrupted", "signal"))
            return "interrupted"
        trainer = Trainer(self.objective, self.settings, reader, self.runtime, self.folder, self.progress)
        keepers = Keepers(self._save_best, self._validated, self._trackers)
        status = trainer.fit(resumed, keepers, measure_start=self._starts_trained())
        self.runtime.on_main(lambda: self._finish(status, trainer.reason))
        return status

    def _agree(self) -> None:
        """All processes compare what they hold, in one gather. A difference ends every one of them, with one
        line.
        """
        windows = len(self.data.train), len(self.data.validation)
        precision = str(self.runtime.accelerator.mixed_precision)
        everyone = self.runtime.gather(facts.held(self.config, self.facts, windows, precision))
        found = facts.unlike(everyone)
        if not found:
            return
        self.runtime.close()
        if not self.runtime.is_main:
            raise PeerFailed
        raise KitError(
            f"{self.stage}: expected the same data, settings and kit on every process, found: {found}; "
            "give all machines the same configuration, prepared data and version of the kit"
        )

    def _choose_computation(self) -> None:
        """How the same numbers are computed: faster, or in less memory."""
        if self.config.training.use_checkpoint:
            self.objective.recompute_blocks()
        if self.config.training.compile:
            self.runtime.on_main(lambda: check_compiler(self.runtime.device))
            self.objective.compile_training()

    def _frozen_tokenizer(self) -> tuple[KronosTokenizer | None, str | None]:
        if self.stage == "tokenizer":
            return None, None
        source = self.runtime.on_main(lambda: tokenizer_source(self.config))
        pinned = self.config.model_paths.revision(source)
        tokenizer = self.runtime.main_first(lambda: KronosTokenizer.from_pretrained(source, revision=pinned))
        if source == self.config.model_paths.pretrained_tokenizer:
            source = self.runtime.on_main(lambda: self._keep_tokenizer(tokenizer, source))
        return tokenizer, self.runtime.on_main(lambda: network_digest(tokenizer, source))

    def _keep_tokenizer(self, tokenizer: KronosTokenizer, source: str) -> str:
        """Copy a pretrained tokenizer to where this run's own would be: forecasting then finds the pair
        together.
        """
        log.info("basemodel: on the pretrained tokenizer %s, which stays as it is", source)
        target = Path(self.config.model_paths.finetuned_tokenizer)
        tokenizer.save_pretrained(target)
        return str(target)

    def _facts(self) -> Facts:
        facts = setting_facts(self.config, self.stage) | data_facts(self.store, self.data.plan)
        if self.tokenizer_digest is not None:
            facts["tokenizer"] = self.tokenizer_digest
        return facts

    # -- on the main process ---------------------------------------------------------------------------------
    def _earlier(self) -> tuple[bool, Checkpoint | None]:
        """What an earlier start left: whether the stage is done, and the state to go on from. Writes
        nothing.
        """
        own = self.config.experiment
        if own.fresh:
            return False, None
        state = judge(self.config, self.stage, self.facts, {})
        if state.status == "absent":
            return False, None
        if state.status == "other_settings" and own.skip_existing and (state.finished or state.only_below):
            return self._keep(state), None
        refused = refusal(self.config, {self.stage: state})
        if refused is not None:
            raise refused
        for line in state.lines:
            log.log(logging.INFO if state.status == "complete" else logging.WARNING, "%s", line)
        if state.status != "interrupted":
            return state.status == "complete", None
        resumed = checkpoint.load_newest(self.folder / CHECKPOINTS)
        if resumed is not None:
            log.info(
                "%s: going on from step %d of %d",
                self.stage,
                resumed.progress.step,
                self.settings.total_steps,
            )
        return False, resumed

    def _outdated(self, facts: Facts) -> bool:
        """Whether this run trained the network below again: then the weights of these facts mean nothing any
        more.
        """
        own = Path(self.config.model_paths.finetuned_tokenizer) == self.config.tokenizer_dir / "best_model"
        return own and facts.get("tokenizer") != self.tokenizer_digest

    def _keep(self, state: StageState) -> bool:
        """Whether a stage of other settings stays, as --skip-existing asks; one whose network below is gone
        moves aside.

        Raises KitError when it belongs to another network below, which may still be somewhere.
        """
        if self._outdated(state.facts):
            log.warning(
                "%s: what lies in %s is of a network that was trained again since: it moves aside, training starts anew",
                self.stage,
                self.folder,
            )
            return False
        if state.facts.get("tokenizer") != self.tokenizer_digest:
            raise KitError(
                f"{self.folder}: expected a network of the present tokenizer ({str(self.tokenizer_digest)[:12]}), found one "
                f"trained on another ({str(state.facts.get('tokenizer'))[:12]}); name that one in "
                "model_paths.finetuned_tokenizer, or train the predictor anew with --skip-tokenizer --fresh"
            )
        note = f", though trained with other settings: {'; '.join(state.changed)}"
        log.warning("%s: complete in %s, skipped%s", self.stage, self.folder, note)
        return True

    def _begin(self, resumed: Checkpoint | None) -> None:
        """Everything is loaded: from here on this run owns the stage's folder."""
        sweep(self.folder)
        if resumed is None and holds_work(self.folder):
            move_aside(self.config, [self.stage])
        files.write_json(self.config.resolved_path, to_dict(self.asked))
        self._write_summary("running")
        log.info("%s", self.data.splits.describe(self.store.sessions))
        for line in self._describe():
            log.info("%s", in_lines(line))
        size = sum(p.numel() for p in self.objective.network().parameters())
        plan, unit, world = self.data.plan, self.objective.unit, self.runtime.world
        text = f"{self.stage}: {size:,} parameters, {plan.total_steps} steps of {plan.step_samples} {unit}: "
        text += f"{world} process(es) x {plan.accumulation} micro-batch(es) of {plan.batch_size}"
        text += f" on {self.runtime.device.type}, precision {self.runtime.accelerator.mixed_precision}"
        log.info("%s", in_lines(text))

    def _save_best(self) -> None:
        network: Any = self.objective.network()
        network.normalisation = Normalisation(self.config.data.norm_epsilon, self.config.data.clip)
        network.save_pretrained(self.best_model)

    def _trackers(self) -> Trackers:
        flat = {}
        for section, keys in to_dict(self.config).items():
            for key, value in keys.items():
                flat[f"{section}.{key}"] = str(value)
        names, run = self.config.training.trackers, self.config.experiment.name
        return Trackers(names, self.folder, run, self.stage, flat)

    def _validated(self) -> None:
        if time.monotonic() - self.drawn >= DRAWN_EVERY:
            self._draw()

    def _draw(self) -> None:
        runlog.draw(self.folder, read_records(self.metrics), self.objective.metric)
        self.drawn = time.monotonic()

    def _finish(self, status: Status, reason: str | None) -> None:
        self._write_summary(status, reason)
        self._draw()
        p, total = self.progress, self.settings.total_steps
        if status == "interrupted":
            why = ""
            if reason:
                why = f" ({reason})"
            log.info(
                "%s: stopped at step %d of %d%s; the same command goes on", self.stage, p.step, total, why
            )
            return
        early = ""
        if self._stopped_early():
            early = f", early: {self.settings.schedule.early_stopping_patience} validations in a row without improvement"
        title = f"{self.stage}: complete, {p.step} of {total} steps{early}"
        lines = table(self.folder, title, self.objective.metric, read_records(self.metrics), p)
        level = logging.INFO
        if worse_than_start(p):
            level = logging.WARNING
        log.log(level, "%s", "\n".join(lines))

    def _stopped_early(self) -> bool:
        return self.progress.step < self.settings.total_steps and self.settings.schedule.ends_early(
            self.progress.history
        )

    def _write_summary(self, status: str, reason: str | None = None) -> None:
        p, s, part = self.progress, self.settings, self.data.train_part
        tree = {
            "status": status,
            "reason": reason,
            "stage": self.stage,
            "step": p.step,
            "total_steps": s.total_steps,
            "epoch": round(p.step / s.steps_per_epoch, 4),
            "stopped_early": self._stopped_early(),
            "best": p.best,
            "start_value": p.start_value,
            "worse_than_start": worse_than_start(p),
            "pieces": p.pieces,
            "skipped_steps": p.skipped,
            "seconds": round(p.seconds, 1),
            "processes": self.runtime.world,
            "tokenizer_digest": self.tokenizer_digest,
            "model_digest": files.folder_digest(self.best_model) if p.best else None,
            "data_digest": self.store.digest,
            "train_end": part.dates(self.store.sessions)[1],
            "train_end_session": part.last,
            "commit": self.objective.network().commit,
            "facts": self.facts,
            "config": to_dict(self.asked),
        }
        write_summary(self.folder, tree)
