"""The two training stages: what each trains on what, whether it starts, goes on or is skipped, and what it leaves.

In: a resolved `Config`, a prepared store. Out: `best_model/`, `checkpoints/`, `metrics.jsonl` and `summary.json` in the
stage's folder. `summary.json` says 'complete' only when the last step and its validation are done.
"""

import logging
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader

from kronos import files
from kronos.config import Config, to_dict
from kronos.data.loader import validation_loader, window_loader
from kronos.data.sampling import BatchPlan
from kronos.data.splits import Part, Splits, split_sessions
from kronos.data.store import BarStore
from kronos.data.windows import WindowIndex, require_windows
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.networks.presets import preset
from kronos.training import checkpoint
from kronos.training.checkpoint import Checkpoint, Progress
from kronos.training.folder import RunLock, read_summary, write_summary
from kronos.training.log import clock, numbers
from kronos.training.loop import LoopSettings, Status, Streams, Trainer
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.training.runtime import PeerFailed, Runtime

log = logging.getLogger(__name__)

Stage = Literal["tokenizer", "basemodel"]
STAGES: tuple[Stage, ...] = ("tokenizer", "basemodel")


def train(config: Config, stage: Stage) -> int:
    """Join the run's processes, open the store, run one stage. Returns the exit code of this process.

    0: complete (or skipped because it is). After SIGTERM or SIGINT, with everything saved: 128 + the signal, but 0 under
    a launcher, which would turn any other code into a traceback; summary.json tells the two apart.
    """
    runtime = _join(config)
    try:
        runtime.on_main(lambda: BarStore.open(config.data.store, verify=True) and None)
        status = run_stage(config, stage, BarStore.open(config.data.store), runtime)
    except RuntimeError as error:
        if runtime.world > 1 and "by peer" in str(error):  # gloo's words for a process that is gone
            raise KitError(
                f"{stage}: another process of this run ended early; its own last lines, or the system's (out of memory?), say "
                "why; go on from the last checkpoint with --skip-existing"
            ) from error
        raise
    runtime.close()
    return 0 if status == "complete" or runtime.stop.launched else 128 + (runtime.stop.signal or signal.SIGTERM)


def _join(config: Config) -> Runtime:
    try:
        return Runtime.start(config)
    except KitError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise PeerFailed from None  # every process of this machine sees the same; one says it
        raise


def run_stage(config: Config, stage: Stage, store: BarStore, runtime: Runtime | None = None) -> Status:
    """Train one stage to its end, or until it is asked to stop; with `experiment.skip_existing` skip it or go on with it.

    Every process of the run calls this. Raises KitError on anything that the user can mend.
    """
    runtime = runtime or Runtime.start(config)
    lock = RunLock(config.run_dir)
    runtime.on_main(lock.acquire)
    try:
        return _StageRun(config, stage, store, runtime).run()
    finally:
        lock.release()


# -- what a stage reads ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class StageData:
    """Windows of both parts, and the order in which training takes them."""

    train: WindowIndex
    validation: WindowIndex
    plan: BatchPlan
    splits: Splits

    @classmethod
    def of(cls, config: Config, stage: Stage, store: BarStore) -> "StageData":
        """Raises KitError when a part has no window."""
        d, t = config.data, config.training
        splits = split_sessions(len(store.sessions), d.train_ratio, d.val_ratio, d.test_ratio, config.embargo)
        indices = [WindowIndex.build(store, d.lookback_window, d.predict_window, part) for part in splits.parts]
        require_windows(indices)
        train, validation = indices[:2]
        plan = BatchPlan(
            windows=len(train),
            batch_size=t.batch_size,
            accumulation=t.accumulation_steps,
            processes=config.distributed.num_processes,
            epochs=t.tokenizer_epochs if stage == "tokenizer" else t.basemodel_epochs,
            seed=t.seed,
            samples_per_epoch=t.samples_per_epoch,
            max_steps=t.max_steps,
            ticker_windows=train.ticker_windows if d.ticker_weighting == "equal" else None,
        )
        return cls(train, validation, plan, splits)

    @property
    def train_part(self) -> Part:
        return self.train.part


def streams(config: Config, data: StageData, store: BarStore, runtime: Runtime) -> Streams:
    """Loaders of this process, with workers that signals to the run do not reach."""
    d, t = config.data, config.training
    common: dict[str, Any] = {
        "clip": d.clip,
        "epsilon": d.norm_epsilon,
        "workers": t.num_workers,
        "pin_memory": runtime.device.type == "cuda",
    }

    def train_from(step: int) -> DataLoader:
        return _sheltered(window_loader(store, data.train, data.plan, runtime.rank, step, **common))

    validation = _sheltered(
        validation_loader(
            store,
            data.validation,
            batch_size=t.batch_size,
            samples=t.validation_samples,
            rank=runtime.rank,
            processes=runtime.world,
            **common,
        )
    )
    return Streams(train_from, lambda: validation, store.tickers)


def _sheltered(loader: DataLoader) -> DataLoader:
    # Ctrl-C and the like go to the whole process group: the workers would die, and the trainer of that before it could save.
    # In a group of their own they still end with the trainer, and when it tells them to.
    loader.worker_init_fn = _leave_group
    return loader


def _leave_group(worker: int) -> None:
    os.setpgid(0, 0)


# -- networks ----------------------------------------------------------------------------------------------------------
def tokenizer_source(config: Config) -> str:
    """The tokenizer that a predictor of this configuration trains on: a folder or hub id.

    Raises KitError when the tokenizer stage is not complete, or when there is no tokenizer.
    """
    chosen = Path(config.model_paths.finetuned_tokenizer)
    own = chosen == config.tokenizer_dir / "best_model"
    summary = read_summary(chosen.parent)
    if chosen.is_dir() and (summary is None or summary["status"] == "complete") and not (own and _untold(config, summary)):
        return str(chosen)
    if chosen.is_dir() and summary is not None and summary["status"] != "complete":
        raise KitError(
            f"{chosen.parent}: expected a complete tokenizer stage, found it {summary['status']} at step {summary['step']} of "
            f"{summary['total_steps']}; finish it with --skip-existing"
        )
    if not config.experiment.train_tokenizer and own and config.tokenizer_is_pretrained:
        return config.model_paths.pretrained_tokenizer
    raise KitError(
        f"{chosen}: expected the tokenizer that the predictor is to be trained on, found none; train the tokenizer stage first, "
        "or set experiment.train_tokenizer: false with a pretrained tokenizer"
    )


def _untold(config: Config, summary: dict[str, Any] | None) -> bool:
    """Whether this run should have trained its tokenizer, and no summary says that it did."""
    return summary is None and config.experiment.train_tokenizer


def network_digest(network: KronosTokenizer | Kronos, source: str) -> str:
    """Digest of a saved network; of a hub's as it is written by `save_pretrained`."""
    if Path(source).is_dir():
        return files.folder_digest(source)
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(Path(folder) / "network")
        return files.folder_digest(Path(folder) / "network")


def build_objective(config: Config, stage: Stage, tokenizer: KronosTokenizer | None) -> TokenizerObjective | PredictorObjective:
    """The network of a stage with its loss: pretrained, or of the preset's size with random weights of the seed.

    tokenizer: the frozen one, for the predictor. A new predictor takes its bits.
    """
    new_tokenizer, new_predictor = preset(config.experiment.preset)
    torch.manual_seed(config.training.seed)
    if tokenizer is None:
        if config.tokenizer_is_pretrained:
            return TokenizerObjective(KronosTokenizer.from_pretrained(config.model_paths.pretrained_tokenizer))
        return TokenizerObjective(KronosTokenizer(**new_tokenizer))
    bits = {"s1_bits": tokenizer.config.s1_bits, "s2_bits": tokenizer.config.s2_bits}
    if config.predictor_is_pretrained:
        predictor = Kronos.from_pretrained(config.model_paths.pretrained_predictor)
    else:
        predictor = Kronos(**{**new_predictor, **bits})
    check_pair(tokenizer, predictor)
    return PredictorObjective(
        predictor,
        tokenizer,
        lookback=config.data.lookback_window,
        history_loss_weight=config.training.history_loss_weight,
        teacher_forcing=config.training.teacher_forcing,
    )


def loop_settings(config: Config, stage: Stage, plan: BatchPlan) -> LoopSettings:
    """What the loop reads of a configuration."""
    t = config.training
    tokenizer = stage == "tokenizer"
    return LoopSettings(
        stage=stage,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        accumulation=t.accumulation_steps,
        learning_rate=t.tokenizer_learning_rate if tokenizer else t.predictor_learning_rate,
        warmup_ratio=t.warmup_ratio,
        betas=(t.adam_beta1, t.adam_beta2),
        weight_decay=t.adam_weight_decay,
        grad_clip=t.tokenizer_grad_clip if tokenizer else t.predictor_grad_clip,
        seed=t.seed,
        log_interval=t.log_interval,
        checkpoint_steps=t.checkpoint_steps,
        checkpoint_minutes=t.checkpoint_minutes,
        seconds_left=math.inf if t.time_limit is None else t.time_limit * 3600 - seconds_since_launch(),
    )


def seconds_since_launch() -> float:
    """Since train_kaggle.sh began (KIT_LAUNCHED, seconds since 1970), so that all stages share one limit; else 0."""
    return time.time() - float(os.environ.get("KIT_LAUNCHED") or time.time())


# -- one stage ---------------------------------------------------------------------------------------------------------
class _StageRun:
    """One call of `run_stage`."""

    def __init__(self, config: Config, stage: Stage, store: BarStore, runtime: Runtime) -> None:
        self.config, self.stage, self.store, self.runtime = config, stage, store, runtime
        self.folder = config.tokenizer_dir if stage == "tokenizer" else config.basemodel_dir
        self.data = StageData.of(config, stage, store)
        self.settings = loop_settings(config, stage, self.data.plan)

    @property
    def best_model(self) -> Path:
        return self.folder / "best_model"

    def run(self) -> Status:
        tokenizer, self.tokenizer_digest = self._frozen_tokenizer()
        self.facts = self._facts()
        done, resumed = self.runtime.on_main(self._earlier)
        if done:
            return "complete"
        self.objective = self._after_main(lambda: build_objective(self.config, self.stage, tokenizer))
        self.progress = replace(resumed.progress) if resumed else Progress(facts=self.facts)
        reader = streams(self.config, self.data, self.store, self.runtime)
        trainer = Trainer(self.objective, self.settings, reader, self.runtime, self.folder, self.progress)
        self.runtime.stop.install()
        self.runtime.on_main(lambda: self._begin(resumed))
        pretrained = self.config.tokenizer_is_pretrained if tokenizer is None else self.config.predictor_is_pretrained
        status = trainer.fit(resumed, self._save_best, measure_start=pretrained)
        self.runtime.on_main(lambda: self._finish(status))
        return status

    def _after_main(self, action: Callable[[], Any]) -> Any:
        """Run on the main process first, then on the others: a download happens once."""
        result = None

        def first() -> None:
            nonlocal result
            result = action()

        self.runtime.on_main(first)
        return result if self.runtime.is_main else action()

    def _frozen_tokenizer(self) -> tuple[KronosTokenizer | None, str | None]:
        if self.stage == "tokenizer":
            return None, None
        source = self.runtime.on_main(lambda: tokenizer_source(self.config))
        tokenizer = self._after_main(lambda: KronosTokenizer.from_pretrained(source))
        if source == self.config.model_paths.pretrained_tokenizer:
            source = self.runtime.on_main(lambda: self._keep_tokenizer(tokenizer, source))
        return tokenizer, self.runtime.on_main(lambda: network_digest(tokenizer, source))

    def _keep_tokenizer(self, tokenizer: KronosTokenizer, source: str) -> str:
        """Copy a pretrained tokenizer to where this run's own would be: forecasting then finds the pair together."""
        log.info("basemodel: on the pretrained tokenizer %s, which stays as it is", source)
        target = Path(self.config.model_paths.finetuned_tokenizer)
        tokenizer.save_pretrained(target)
        return str(target)

    def _facts(self) -> dict[str, Any]:
        """What two sittings of one run must have in common. Batch size, accumulation and processes may change while the
        windows of a step stay the same."""
        c, d, s, plan = self.config, self.config.data, self.settings, self.data.plan
        names = ("lookback_window", "predict_window", "clip", "norm_epsilon", "train_ratio", "val_ratio", "test_ratio")
        facts: dict[str, Any] = {"data": self.store.digest, **{f"data.{name}": getattr(d, name) for name in names}}
        facts |= {"data.embargo": c.embargo, "data.ticker_weighting": d.ticker_weighting}
        facts |= {"windows of a step": plan.step_samples, "windows of an epoch": plan.epoch_samples}
        keep = ("total_steps", "learning_rate", "warmup_ratio", "betas", "weight_decay", "grad_clip", "seed")
        facts |= {name: value for name, value in asdict(s).items() if name in keep}
        facts["betas"] = list(s.betas)
        facts["training.validation_samples"] = c.training.validation_samples
        if self.stage == "tokenizer":
            return facts | {"start": c.model_paths.pretrained_tokenizer if c.tokenizer_is_pretrained else c.experiment.preset}
        facts |= {"start": c.model_paths.pretrained_predictor if c.predictor_is_pretrained else c.experiment.preset}
        facts |= {f"training.{name}": getattr(c.training, name) for name in ("teacher_forcing", "history_loss_weight")}
        return facts | {"tokenizer": self.tokenizer_digest}

    # -- on the main process -------------------------------------------------------------------------------------------
    def _earlier(self) -> tuple[bool, Checkpoint | None]:
        """What an earlier sitting left: whether the stage is done, and the state to go on from."""
        if not self.config.experiment.skip_existing:
            return False, None
        summary = read_summary(self.folder)
        if summary is not None and summary["status"] == "complete" and self.best_model.is_dir():
            self._accept(summary)
            return True, None
        resumed = checkpoint.load_newest(self.folder / "checkpoints")
        if resumed is None:
            return False, None
        changed = checkpoint.difference(resumed.progress.facts, self.facts)
        if changed:
            raise KitError(
                f"{resumed.folder}: expected the settings that this stage was started with, found {'; '.join(changed)}; "
                "set them back, or start the stage anew without --skip-existing"
            )
        log.info("%s: going on from step %d of %d", self.stage, resumed.progress.step, self.settings.total_steps)
        return False, resumed

    def _accept(self, summary: dict[str, Any]) -> None:
        """Skip a complete stage; refuse when the predictor belongs to another tokenizer."""
        if summary["tokenizer_digest"] != self.tokenizer_digest:
            raise KitError(
                f"{self.folder}: expected a predictor of the present tokenizer ({str(self.tokenizer_digest)[:12]}), found one "
                f"trained on another ({str(summary['tokenizer_digest'])[:12]}); train it anew without --skip-existing"
            )
        changed = checkpoint.difference(summary["facts"], self.facts)
        note = f", though trained with other settings: {'; '.join(changed)}" if changed else ""
        log.info("%s: complete in %s, skipped%s", self.stage, self.folder, note)

    def _begin(self, resumed: Checkpoint | None) -> None:
        """Everything is loaded: from here on this run owns the stage's folder."""
        if resumed is None:
            checkpoint.clear(self.folder / "checkpoints")
        files.write_json(self.config.resolved_path, to_dict(self.config))
        self._write_summary("running")
        log.info("%s", self.data.splits.describe(self.store.sessions))
        log.info("%s", self.data.train.describe())
        log.info("%s", self.data.validation.describe())
        size = sum(p.numel() for p in self.objective.network().parameters())
        log.info(
            "%s: %s parameters, %d steps of %d windows, %d process(es) on %s, precision %s",
            self.stage,
            f"{size:,}",
            self.settings.total_steps,
            self.data.plan.step_samples,
            self.runtime.world,
            self.runtime.device.type,
            self.runtime.accelerator.mixed_precision,
        )

    def _save_best(self) -> None:
        self.objective.network().save_pretrained(self.best_model)

    def _finish(self, status: Status) -> None:
        self._write_summary(status)
        p, total = self.progress, self.settings.total_steps
        if status == "interrupted":
            log.info("%s: stopped at step %d of %d; go on with --skip-existing", self.stage, p.step, total)
            return
        assert p.best is not None
        values = numbers({p.best["metric"]: p.best["value"]})
        log.info("%s: complete, %d steps in %s, best %s at step %d", self.stage, total, clock(p.seconds), values, p.best["step"])
        if self._worse_than_start():
            log.warning(
                "%s: fine-tuning made it WORSE than the pretrained weights: best %s %.6g, before training %.6g; "
                "a smaller learning rate (1e-5 or below) usually helps",
                self.stage,
                p.best["metric"],
                p.best["value"],
                p.start_value,
            )

    def _worse_than_start(self) -> bool | None:
        p = self.progress
        return None if p.start_value is None or p.best is None else p.best["value"] >= p.start_value

    def _write_summary(self, status: str) -> None:
        p, s, part = self.progress, self.settings, self.data.train_part
        tree = {
            "status": status,
            "stage": self.stage,
            "step": p.step,
            "total_steps": s.total_steps,
            "epoch": round(p.step / s.steps_per_epoch, 4),
            "best": p.best,
            "start_value": p.start_value,
            "worse_than_start": self._worse_than_start(),
            "seconds": round(p.seconds, 1),
            "processes": self.runtime.world,
            "tokenizer_digest": self.tokenizer_digest,
            "model_digest": files.folder_digest(self.best_model) if p.best else None,
            "data_digest": self.store.digest,
            "train_end": part.dates(self.store.sessions)[1],
            "train_end_session": part.last,
            "facts": self.facts,
            "config": to_dict(self.config),
        }
        write_summary(self.folder, tree)
