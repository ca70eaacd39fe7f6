"""What a stage starts from: the numbers that the loop reads, the network with its loss, the predictor's frozen
tokenizer, and the loaders of its windows.

In: a resolved `Config`, a prepared store. Out: `LoopSettings`, an objective, `Streams`; a `KitError` when the
tokenizer that the predictor needs is not there.
"""

import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from kronos import files
from kronos.config import Config
from kronos.data.batch_plan import BatchPlan
from kronos.data.loader import validation_loader, window_loader
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.networks.presets import preset
from kronos.training.device import Streams
from kronos.training.distributed import Runtime
from kronos.training.facts import Stage, StageData
from kronos.training.folder import Summary, summary_of
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.training.optim import LoopSettings, Schedule
from kronos.training.teacher import load_teacher, of_every_second_block


# -- what the loop is told -----------------------------------------------------------------------------------
def loop_settings(config: Config, stage: Stage, plan: BatchPlan) -> LoopSettings:
    """What the loop reads of a configuration."""
    t = config.training
    deadline = math.inf
    if t.time_limit is not None:
        deadline = time.monotonic() + t.time_limit * 3600 - seconds_since_launch()
    return LoopSettings(
        stage=stage,
        steps_per_epoch=plan.steps_per_epoch,
        accumulation=plan.accumulation,
        schedule=Schedule(
            t.scheduler,
            total_steps=plan.total_steps,
            peak=t.learning_rate(stage),
            warmup_ratio=t.warmup_ratio,
            plateau_patience=t.plateau_patience,
            plateau_factor=t.plateau_factor,
            early_stopping_patience=t.early_stopping_patience,
        ),
        betas=(t.adam_beta1, t.adam_beta2),
        weight_decay=t.adam_weight_decay,
        grad_clip=t.grad_clip(stage),
        seed=t.seed,
        log_interval=t.log_interval,
        checkpoint_steps=t.checkpoint_steps,
        checkpoint_minutes=t.checkpoint_minutes,
        keep_last=config.data.all_days,
        deadline=deadline,
    )


def seconds_since_launch() -> float:
    """Since train_kaggle.sh began (KIT_LAUNCHED, seconds since 1970), so that all stages share one limit;
    else 0.
    """
    return time.time() - float(os.environ.get("KIT_LAUNCHED") or time.time())


# -- networks ------------------------------------------------------------------------------------------------
def tokenizer_source(config: Config) -> str:
    """The tokenizer that a predictor of this configuration trains on: a folder or hub id.

    Raises KitError when the tokenizer stage is not complete, or when there is no tokenizer.
    """
    chosen = Path(config.model_paths.finetuned_tokenizer)
    own = chosen == config.tokenizer_dir / "best_model"
    summary = summary_of(chosen.parent)
    if chosen.is_dir() and summary is not None and summary.status != "complete":
        raise KitError(
            f"{chosen.parent}: expected a complete tokenizer stage, found it {summary.status} at step {summary.step} of "
            f"{summary.total_steps}; finish it first: the same command without --skip-tokenizer"
        )
    if chosen.is_dir() and not (own and summary is None and config.experiment.train_tokenizer):
        _check_tokenizer(chosen, summary)
        return str(chosen)
    if not config.experiment.train_tokenizer and own and config.tokenizer_is_pretrained:
        return config.model_paths.pretrained_tokenizer
    raise KitError(
        f"{chosen}: expected the tokenizer that the predictor is to be trained on, found none; train the tokenizer stage first, "
        "or set experiment.train_tokenizer: false with a pretrained tokenizer"
    )


def _check_tokenizer(folder: Path, summary: Summary | None) -> None:
    """Raise KitError when a tokenizer is not the one that its summary describes."""
    if summary is None or summary.model_digest is None:
        return
    found = files.folder_digest(folder)
    if found != summary.model_digest:
        raise KitError(
            f"{folder}: expected the tokenizer that its summary.json describes ({summary.model_digest[:12]}), found changed or "
            f"damaged files ({found[:12]}); train the tokenizer again: the same command without --skip-tokenizer"
        )


def network_digest(network: KronosTokenizer | Kronos, source: str) -> str:
    """Digest of a saved network; of a hub's as it is written by `save_pretrained`."""
    if Path(source).is_dir():
        return files.folder_digest(source)
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(Path(folder) / "network")
        return files.folder_digest(Path(folder) / "network")


def build_objective(
    config: Config, stage: Stage, tokenizer: KronosTokenizer | None
) -> TokenizerObjective | PredictorObjective:
    """The network of a stage with its loss: pretrained, or of the preset's size with random weights of the
    seed.

    tokenizer: the frozen one, for the predictor. A new predictor takes its bits.
    """
    new_tokenizer, new_predictor = preset(config.experiment.preset)
    torch.manual_seed(config.training.seed)
    if tokenizer is None:
        if config.tokenizer_is_pretrained:
            source = config.model_paths.pretrained_tokenizer
            return TokenizerObjective(
                KronosTokenizer.from_pretrained(source, revision=config.model_paths.revision(source))
            )
        return TokenizerObjective(KronosTokenizer(**new_tokenizer))
    bits = {"s1_bits": tokenizer.config.s1_bits, "s2_bits": tokenizer.config.s2_bits}
    teacher = None
    if config.training.teacher:
        own = tokenizer_source(config)
        teacher = load_teacher(config, tokenizer, network_digest(tokenizer, own))
    if teacher is not None and config.training.teacher_start:
        predictor = of_every_second_block(teacher)
    elif config.predictor_is_pretrained:
        source = config.model_paths.pretrained_predictor
        predictor = Kronos.from_pretrained(source, revision=config.model_paths.revision(source))
    else:
        predictor = Kronos(**{**new_predictor, **bits})
    check_pair(tokenizer, predictor)
    return PredictorObjective(
        predictor,
        tokenizer,
        lookback=config.data.lookback_window,
        history_loss_weight=config.training.history_loss_weight,
        teacher_forcing=config.training.teacher_forcing,
        teacher=teacher,
        teacher_weight=config.training.teacher_weight,
    )


# -- windows -------------------------------------------------------------------------------------------------
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
        return sheltered(window_loader(store, data.train, data.plan, runtime.rank, step, **common))

    validation = sheltered(
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


def sheltered(loader: DataLoader) -> DataLoader:
    """The loader, whose workers are not in the trainer's process group."""
    # Ctrl-C and the like go to the whole process group: the workers would die, and the trainer of that before
    # it could save. In a group of their own they still end with the trainer, and when it tells them to.
    loader.worker_init_fn = _leave_group
    return loader


def _leave_group(worker: int) -> None:
    os.setpgid(0, 0)
