"""What a stage of a run is: the windows it learns from, and every setting and digest that decides what is
learned; and whether what trains together belongs together.

In: a resolved `Config`, and a prepared store where there is one. Out: `StageData`, and facts, `{name:
value}`, that two starts of one stage, the processes of a run and its two stages must have in common; or one
line that names the difference, before a weight has moved. No torch: the launcher asks before anything is
loaded.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kronos import files
from kronos.config import PART_DAYS, Config
from kronos.data.batch_plan import BatchPlan
from kronos.data.splits import Part, Splits, split_store
from kronos.data.store import BarStore, settings_of
from kronos.data.windows import WindowIndex, require_windows
from kronos.errors import KitError
from kronos.training.folder import summary_of

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
        indices = []
        for part in splits.parts:
            indices.append(WindowIndex.build(store, d.lookback_window, d.predict_window, part))
        require_windows(indices)
        train, validation = indices[:2]
        size, number = micro_batches(config)
        ticker_windows = None
        if d.ticker_weighting == "equal":
            ticker_windows = train.ticker_windows
        plan = BatchPlan(
            windows=len(train),
            batch_size=size,
            accumulation=number,
            processes=config.distributed.num_processes,
            epochs=t.epochs(stage),
            seed=t.seed,
            samples_per_epoch=t.samples_per_epoch,
            max_steps=t.most_steps(stage),
            ticker_windows=ticker_windows,
            step_windows=t.windows_per_step,
        )
        return cls(train, validation, plan, splits)

    @property
    def train_part(self) -> Part:
        """The days that train."""
        return self.train.part


# -- micro-batches -------------------------------------------------------------------------------------------
def micro_batches(config: Config) -> tuple[int, int]:
    """Windows of a micro-batch, and micro-batches of a step, of one process.

    With training.windows_per_step a process's share of the step is divided evenly into parts of at most
    training.batch_size windows.
    """
    t = config.training
    if t.windows_per_step is None:
        return t.batch_size, t.accumulation_steps
    share = _share(config)
    number = -(-share // t.batch_size)
    return -(-share // number), number


def for_device(config: Config, gpu: bool) -> Config:
    """The configuration for a device: with training.windows_per_step a GPU gets its share of a step as one
    micro-batch, which the trainer cuts until it fits (`Trainer._rehearse`).
    """
    if not gpu or config.training.windows_per_step is None:
        return config
    return replace(config, training=replace(config.training, batch_size=_share(config)))


def _share(config: Config) -> int:
    """The most windows of a step that one process gets."""
    return -(-config.step_windows // config.distributed.num_processes)


# -- facts ---------------------------------------------------------------------------------------------------
def setting_facts(config: Config, stage: Stage) -> Facts:
    """The facts that a configuration alone decides. How the same numbers are computed (precision, workers,
    checkpoints, how a step's windows are cut into batches and processes) is none of them."""
    d, t = config.data, config.training
    names = (
        "lookback_window",
        "predict_window",
        "clip",
        "norm_epsilon",
        "train_ratio",
        "val_ratio",
        "test_ratio",
    )
    facts: Facts = {}
    for name in names:
        facts[f"data.{name}"] = getattr(d, name)
    for name in PART_DAYS:  # only those that are set: older runs do not know them
        if getattr(d, name) is not None:
            facts[f"data.{name}"] = getattr(d, name)
    if d.all_days:
        facts["data.all_days"] = True
    facts |= {
        "data.embargo": config.embargo,
        "data.ticker_weighting": d.ticker_weighting,
        "windows of a step": config.step_windows,
        "scheduler": t.scheduler,
        "learning_rate": t.learning_rate(stage),
        "warmup_ratio": t.warmup_ratio,
        "plateau_patience": t.plateau_patience,
        "plateau_factor": t.plateau_factor,
        "early_stopping_patience": t.early_stopping_patience,
        "weight_decay": t.adam_weight_decay,
        "decay_norms_and_biases": False,  # as older runs wrote it
        "grad_clip": t.grad_clip(stage),
        "seed": t.seed,
        "betas": [t.adam_beta1, t.adam_beta2],
        "training.validation_samples": t.validation_samples,
    }
    if stage != "tokenizer":
        facts |= {
            "training.teacher_forcing": t.teacher_forcing,
            "training.history_loss_weight": t.history_loss_weight,
        }
    if stage == "basemodel" and t.teacher:  # older runs do not know it
        facts |= {
            "training.teacher": t.teacher,
            "training.teacher_weight": t.teacher_weight,
            "training.teacher_start": t.teacher_start,
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
        names += ["seed", "scheduler", "warmup_ratio", "adam_beta1", "adam_beta2"]
        facts["training.decay_norms_and_biases"] = False
        for name, value in asdict(config.head).items():
            facts[f"head.{name}"] = value
        for name in ("clip", "norm_epsilon", "embargo", "train_ratio", "val_ratio", "test_ratio", *PART_DAYS):
            facts[f"data.{name}"] = getattr(d, name)
    else:
        names.append("samples_per_epoch")
    for name in names:
        facts[f"training.{name}"] = getattr(t, name)
    for name, value in settings_of(config).items():
        if isinstance(value, dict):
            for key, each in value.items():
                facts[f"data.{name}.{key}"] = each
        elif name != "pool":
            facts[f"data.{name}"] = value
    return facts


def start_facts(config: Config, stage: Stage) -> Facts:
    """What a stage starts from: a preset, a hub id, or a folder. A folder's networks are told by their
    digest, since the folder may lie elsewhere at the next start (another mount, another slug of an attached
    data set)."""
    paths = config.model_paths
    pretrained, source = config.predictor_is_pretrained, paths.pretrained_predictor
    if stage == "tokenizer":
        pretrained, source = config.tokenizer_is_pretrained, paths.pretrained_tokenizer
    if not pretrained:
        return {START: config.experiment.preset}
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
    ignored = START_DIGEST
    if START_DIGEST in saved and START_DIGEST in now:
        ignored = START
    found = []
    for name in dict.fromkeys([*saved, *now]):
        old, new = saved.get(name), now.get(name)
        if name != ignored and old != new:
            found.append(f"{name}: saved {old!r}, now {new!r}")
    return found


# -- whether what trains together belongs together -----------------------------------------------------------
log = logging.getLogger(__name__)


def held(config: Config, facts: Facts, windows: Sequence[int], precision: str) -> Facts:
    """What every process of a run must hold alike. windows: of the training and of the validation part."""
    t = config.training
    return {
        "kit version": kit_version(),
        "training.batch_size": t.batch_size,
        "training.accumulation_steps": t.accumulation_steps,
        "training.windows_per_step": t.windows_per_step,
        **facts,
        "windows of training": windows[0],
        "windows of validation": windows[1],
        "precision": precision,
        "training.compile": t.compile,
        "training.checkpoint_steps": t.checkpoint_steps,
        "training.log_interval": t.log_interval,
    }


def kit_version() -> str:
    """Digest of the code that trains: the rooms `training`, `networks` and `data`; 12 characters."""
    home = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for room in ("training", "networks", "data"):
        for path in sorted((home / room).glob("*.py")):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:12]


def unlike(everyone: Sequence[Facts]) -> str:
    """The first difference between rank 0 and another rank, in words, or ''. everyone: `held` of each
    process, by rank.
    """
    for rank, theirs in enumerate(everyone):
        for name, value in everyone[0].items():
            if theirs.get(name) != value:
                return f"rank {rank} has {name} {theirs.get(name)!r}, rank 0 has {value!r}"
    return ""


def check_store(config: Config, store: BarStore) -> None:
    """Raise KitError when the prepared data were made with other settings than this run's."""
    made_with = store.manifest.get("settings")
    if not isinstance(made_with, dict):
        return
    own = settings_of(config)
    if own.get("pool") is None and "pool" in own:
        own["pool"] = made_with.get("pool")  # the pool's file is not on this machine
    changed = difference(_flat(made_with), _flat(own))
    if changed:
        raise KitError(
            f"{store.path}: expected the prepared data of this run's settings, found those of others: {'; '.join(changed)}; "
            "another run prepared into this store: give each run a data.store of its own, and run the same command again"
        )


def check_other_stage(config: Config, facts: Facts) -> None:
    """Say where the tokenizer was trained on other data, or on other windows, than the predictor is about to
    be.

    Raises KitError for the tokenizer of the same run, unless experiment.skip_existing or fresh asks for that;
    else it is a line.
    """
    network = Path(config.model_paths.finetuned_tokenizer)
    summary = summary_of(network.parent)
    if summary is None:
        return
    was, now = {}, {}
    for name, value in facts.items():
        if name.split(".")[0] == "data" and name in summary.facts:
            was[name], now[name] = summary.facts[name], value
    changed = difference(was, now)
    if not changed:
        return
    line = f"{network.parent}: the tokenizer was trained with other data than the predictor is: {'; '.join(changed)}"
    own = network == config.tokenizer_dir / "best_model"
    if not own or config.experiment.skip_existing or config.experiment.fresh:
        log.warning("%s", line)
        return
    raise KitError(
        f"{line}; set them back, or train both anew (--fresh), or keep this tokenizer all the same: --skip-existing, or "
        "--skip-tokenizer --fresh"
    )


def _flat(tree: dict[str, Any], prefix: str = "data.") -> Facts:
    flat: Facts = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
