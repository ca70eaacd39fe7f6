"""What a stage of a run is: the windows it learns from, and every setting and digest that decides what is
learned.

In: a resolved `Config`, and a prepared store where there is one. Out: `StageData`, and facts, `{name:
value}`, that two starts of one stage must have in common. No torch: the launcher asks before anything is
loaded.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kronos import files
from kronos.config import PART_DAYS, Config
from kronos.data.sampling import BatchPlan
from kronos.data.splits import Part, Splits, split_store
from kronos.data.store import BarStore, settings_of
from kronos.data.windows import WindowIndex, require_windows

Stage = Literal["tokenizer", "basemodel", "head"]
STAGES: tuple[Stage, ...] = ("tokenizer", "basemodel")
"""The stages of the two networks."""
ALL_STAGES: tuple[Stage, ...] = (*STAGES, "head")

Facts = dict[str, Any]
START, START_DIGEST = "start", "weights of the start"
"""Names of facts: what a stage started from, and the digest of its two files where it was a folder."""
NETWORK_FILES = ("config.json", "model.safetensors")
"""The files of a saved network, as `kronos.networks.hub` writes them."""


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
        splits = split_store(d, store.sessions, store.span_of(config.embargo))
        indices = [
            WindowIndex.build(store, d.lookback_window, d.predict_window, part) for part in splits.parts
        ]
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
            max_steps=t.most_steps(stage),
            ticker_windows=train.ticker_windows if d.ticker_weighting == "equal" else None,
        )
        return cls(train, validation, plan, splits)

    @property
    def train_part(self) -> Part:
        return self.train.part


# -- facts ---------------------------------------------------------------------------------------------------
def setting_facts(config: Config, stage: Stage) -> Facts:
    """The facts that a configuration alone decides. How the same numbers are computed (precision, workers,
    checkpoints, how a step's windows are cut into batches and processes) is none of them."""
    d, t = config.data, config.training
    tokenizer = stage == "tokenizer"
    names = (
        "lookback_window",
        "predict_window",
        "clip",
        "norm_epsilon",
        "train_ratio",
        "val_ratio",
        "test_ratio",
    )
    facts: Facts = {f"data.{name}": getattr(d, name) for name in names}
    days = {
        f"data.{name}": getattr(d, name) for name in PART_DAYS
    }  # only those that are set: older runs do not know them
    facts |= {name: value for name, value in days.items() if value is not None}
    if d.all_days:
        facts["data.all_days"] = True
    facts |= {
        "data.embargo": config.embargo,
        "data.ticker_weighting": d.ticker_weighting,
        "windows of a step": t.batch_size * t.accumulation_steps * config.distributed.num_processes,
        "scheduler": t.scheduler,
        "learning_rate": t.tokenizer_learning_rate if tokenizer else t.predictor_learning_rate,
        "warmup_ratio": t.warmup_ratio,
        "plateau_patience": t.plateau_patience,
        "plateau_factor": t.plateau_factor,
        "early_stopping_patience": t.early_stopping_patience,
        "weight_decay": t.adam_weight_decay,
        "decay_norms_and_biases": t.decay_norms_and_biases,
        "grad_clip": t.tokenizer_grad_clip if tokenizer else t.predictor_grad_clip,
        "seed": t.seed,
        "betas": [t.adam_beta1, t.adam_beta2],
        "training.validation_samples": t.validation_samples,
    }
    if not tokenizer:
        facts |= {
            "training.teacher_forcing": t.teacher_forcing,
            "training.history_loss_weight": t.history_loss_weight,
        }
    return facts


def data_facts(store: BarStore, plan: BatchPlan) -> Facts:
    """The facts that need the prepared data."""
    return {"data": store.digest, "windows of an epoch": plan.epoch_samples, "total_steps": plan.total_steps}


def length_facts(config: Config, stage: Stage) -> Facts:
    """What decides the data and the length of a stage, in the words of the configuration, where there is no
    store to ask. Of a head everything but the networks that it reads."""
    d, t = config.data, config.training
    names = [f"{stage}_epochs", f"{stage}_steps", "max_steps"]
    facts: Facts = {}
    if stage == "head":
        names += ["seed", "scheduler", "warmup_ratio", "adam_beta1", "adam_beta2", "decay_norms_and_biases"]
        facts |= {f"head.{name}": value for name, value in asdict(config.head).items()}
        parts = ("clip", "norm_epsilon", "embargo", "train_ratio", "val_ratio", "test_ratio", *PART_DAYS)
        facts |= {f"data.{name}": getattr(d, name) for name in parts}
    else:
        names.append("samples_per_epoch")
    facts |= {f"training.{name}": getattr(t, name) for name in names}
    for name, value in settings_of(config).items():
        if isinstance(value, dict):
            facts |= {f"data.{name}.{key}": each for key, each in value.items()}
        elif name != "pool":
            facts[f"data.{name}"] = value
    return facts


def start_facts(config: Config, stage: Stage) -> Facts:
    """What a stage starts from: a preset, a hub id, or a folder. A folder's networks are told by their
    digest, since the folder may lie elsewhere at the next start (another mount, another slug of an attached
    data set)."""
    paths = config.model_paths
    pretrained = config.tokenizer_is_pretrained if stage == "tokenizer" else config.predictor_is_pretrained
    if not pretrained:
        return {START: config.experiment.preset}
    source = paths.pretrained_tokenizer if stage == "tokenizer" else paths.pretrained_predictor
    saved = [Path(source).expanduser() / name for name in NETWORK_FILES]
    if not all(path.is_file() for path in saved):
        return {START: source}
    return {
        START: source,
        START_DIGEST: hashlib.sha256("".join(map(files.digest, saved)).encode()).hexdigest()[:16],
    }


def difference(saved: Facts, now: Facts) -> list[str]:
    """`key: saved X, now Y` for every fact that changed. Where both know the digest of the weights that they
    started from, the path does not count; where one does not (a hub id, a run of an earlier version), only
    the path does."""
    ignored = START if START_DIGEST in saved and START_DIGEST in now else START_DIGEST
    names = [name for name in dict.fromkeys([*saved, *now]) if name != ignored]
    pairs = ((name, saved.get(name), now.get(name)) for name in names)
    return [f"{name}: saved {old!r}, now {new!r}" for name, old, new in pairs if old != new]
