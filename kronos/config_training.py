"""Settings of training: the stages, the head, what starts from what, devices and processes.

Sections `training`, `head`, `model_paths`, `experiment`, `device` and `distributed`.
"""

from dataclasses import dataclass, field
from typing import Literal

from kronos.config_types import (
    Beta,
    CountFloat,
    CountInt,
    HeadInputs,
    Port,
    PositiveFloat,
    PositiveInt,
    Precision,
    Preset,
    Processes,
    Scheduler,
    Seed,
    Share,
    SmallInt,
    StepInt,
    Tracker,
    Workers,
)

TOKENIZER_GRAD_CLIP, PREDICTOR_GRAD_CLIP = 2.0, 3.0
"""Largest gradient norms of the two stages, as in the original training."""


@dataclass(frozen=True)
class TrainingConfig:
    """Both training stages."""

    tokenizer_epochs: SmallInt = 20
    """Passes of the tokenizer over its windows; with samples_per_epoch, parts of a pass."""
    basemodel_epochs: SmallInt = 15
    """The same of the predictor."""
    head_epochs: SmallInt = 10
    """The same of the head."""
    batch_size: SmallInt = 32
    """Windows per process and micro-batch."""
    accumulation_steps: SmallInt = 1
    """Micro-batches per optimiser step."""
    windows_per_step: StepInt | None = None
    """Windows of an optimiser step over all processes, whatever their number (the head: head.dates_per_batch).
    Micro-batches follow: on a GPU as large as its memory allows, on a processor at most batch_size windows.
    None: batch_size x accumulation_steps x processes."""
    log_interval: PositiveInt = 50
    """Optimiser steps between two logged lines."""
    num_workers: Workers = 2
    """Loader processes per training process."""
    seed: Seed = 42
    """Of the order of windows, dropout, random weights, fitted answerers and the backtest's controls."""
    tokenizer_learning_rate: PositiveFloat = 2e-4
    """Peak of the tokenizer's learning rate."""
    predictor_learning_rate: PositiveFloat = 4e-5
    """Peak of the predictor's learning rate."""
    scheduler: Scheduler = "onecycle"
    """After the warm-up: onecycle falls to 1e-5 of the peak, cosine to a tenth of it, constant stays, plateau
    stays and is cut whenever validation no longer improves."""
    warmup_ratio: Share = 0.03
    """Share of all steps in which the learning rate rises from a tenth of its peak; for every scheduler."""
    plateau_patience: CountInt = 2
    """plateau: validations without improvement that are borne; the next one cuts the rate."""
    plateau_factor: Beta = 0.5
    """plateau: what the rate is multiplied by."""
    early_stopping_patience: PositiveInt | None = None
    """End a stage, complete, after this many validations in a row without improvement. None: never."""
    adam_beta1: Beta = 0.9
    """AdamW: how long the mean of the gradients remembers."""
    adam_beta2: Beta = 0.95
    """AdamW: how long the mean of their squares remembers."""
    adam_weight_decay: CountFloat = 0.1
    """AdamW: decay of the weights; norms and biases have none."""
    mixed_precision: Precision = "auto"
    """auto: bf16 on GPUs and processors that have it in hardware, fp16 on older GPUs, else none."""
    compile: bool = False
    """torch.compile of the training pass: a minute or more at the start of every launch, faster steps after
    it.
    """
    use_checkpoint: bool = False
    """Gradient checkpointing: blocks are computed again in the backward pass; less memory, about a third more
    time.
    """
    teacher_forcing: bool = True
    """Condition the fine token on the true coarse one; false: on a sampled one, as the original training
    does.
    """
    teacher: str = ""
    """A trained predictor on the same tokenizer (folder or hub id): the predictor learns its probabilities of
    both tokens, too. Empty: none."""
    teacher_weight: Share = 0.5
    """With a teacher: the loss is (1 - w) x cross entropy + w x divergence from the teacher."""
    teacher_start: bool = False
    """With a teacher: start from every second of its blocks, with its sizes; false: as the preset says."""
    history_loss_weight: CountFloat = 0.02
    """Weight of the positions inside the lookback in the predictor's loss; the predicted bars weigh 1. Those
    positions are normalised by what came after them and teach reversion that does not exist
    (docs/findings.md); 1: as published."""
    samples_per_epoch: PositiveInt | None = None
    """Windows per epoch, over all processes; None: every window once. Epochs continue where the last one
    ended.
    """
    validation_samples: PositiveInt | None = None
    """Windows of the validation part that are scored, evenly spread; None: all."""
    max_steps: PositiveInt | None = None
    """Stop a stage after this many optimiser steps."""
    tokenizer_steps: PositiveInt | None = None
    """Of that stage, in place of max_steps. The final run writes it."""
    basemodel_steps: PositiveInt | None = None
    """Of that stage, in place of max_steps. The final run writes it."""
    head_steps: PositiveInt | None = None
    """Stop that stage after this many optimiser steps, in place of max_steps. The final run writes them."""
    checkpoint_steps: PositiveInt = 1000
    """Optimiser steps between two resumable checkpoints."""
    checkpoint_minutes: PositiveFloat = 10.0
    """Minutes between two resumable checkpoints, whichever comes first."""
    time_limit: PositiveFloat | None = None
    """Hours after which a launch saves and ends, to be resumed: less than a session lasts. None: no limit."""
    trackers: list[Tracker] = field(default_factory=lambda: ["tensorboard"])
    """Where metrics go besides metrics.jsonl. tensorboard: event files in the stage's folder, if it is
    installed; the others have to be."""

    def epochs(self, stage: str) -> int:
        """Epochs of the stage 'tokenizer' or 'basemodel'."""
        if stage == "tokenizer":
            return self.tokenizer_epochs
        return self.basemodel_epochs

    def learning_rate(self, stage: str) -> float:
        """Peak of the learning rate of the stage 'tokenizer' or 'basemodel'."""
        if stage == "tokenizer":
            return self.tokenizer_learning_rate
        return self.predictor_learning_rate

    def grad_clip(self, stage: str) -> float:
        """Largest gradient norm of the stage 'tokenizer' or 'basemodel'."""
        if stage == "tokenizer":
            return TOKENIZER_GRAD_CLIP
        return PREDICTOR_GRAD_CLIP

    def most_steps(self, stage: str) -> int | None:
        """Optimiser steps after which a stage ('tokenizer', 'basemodel' or 'head') ends at the latest; None:
        its epochs say.
        """
        own = {"tokenizer": self.tokenizer_steps, "basemodel": self.basemodel_steps, "head": self.head_steps}[
            stage
        ]
        return self.max_steps if own is None else own


@dataclass(frozen=True)
class HeadConfig:
    """The head (docs/training.md): a read-out that is trained on the ranks and signs of returns, by whole
    dates.
    """

    inputs: HeadInputs = "both"
    """tokens: the predictor's hidden state at the last bar; bars: returns and volumes as channels, which
    needs no predictor; both: side by side."""
    frozen: bool = False
    """Leave the predictor as it is: its states are computed once and kept on disk. false: it is trained with
    the head.
    """
    horizons: list[int] = field(default_factory=lambda: [1, 5, 10, 20, 30])
    """Trading days ahead that are learnt at once, beside the one that is asked for."""
    bar_lookback: SmallInt = 250
    """Bars that are read as channels."""
    patch: SmallInt = 5
    """Bars that are read as one step; divides bar_lookback."""
    token_lookback: PositiveInt | None = None
    """Bars that are read as tokens, at most data.max_context; None: data.lookback_window."""
    width: SmallInt = 64
    """Numbers that describe a step of bars; a multiple of 8."""
    layers: SmallInt = 3
    """Layers that read the steps."""
    dropout: Beta = 0.1
    """Of the part that reads channels, and of the read-out."""
    every: PositiveInt = 5
    """Trading days between two dates of training, and of validation."""
    dates_per_batch: SmallInt = 4
    """Dates of an optimiser step, over all processes."""
    stocks_per_date: SmallInt = 256
    """Stocks of a date that a step draws."""
    validation_stocks: PositiveInt = 512
    """Stocks of each date of the validation part that are scored."""
    dates_per_epoch: PositiveInt | None = None
    """Dates between two validations; None: every date of training once."""
    learning_rate: PositiveFloat = 1e-3
    """Peak of the head's own learning rate."""
    trunk_learning_rate: PositiveFloat = 1e-4
    """Of the predictor, while it is trained with the head."""
    weight_decay: CountFloat = 0.1
    """AdamW: decay of the head's weights."""
    sign_weight: CountFloat = 0.5
    """Weight of the sign of the return beside the correlation with its rank."""
    grad_clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""


@dataclass(frozen=True)
class ModelPathsConfig:
    """Where networks come from and go to. Empty paths are derived from base_path/exp_name."""

    pretrained_tokenizer: str = ""
    """Hub id or folder."""
    pretrained_predictor: str = ""
    """Hub id or folder."""
    pretrained_tokenizer_revision: str = ""
    """Branch, tag or commit of a hub id; empty: its main branch. A commit never changes."""
    pretrained_predictor_revision: str = ""
    """The same of the predictor."""
    exp_name: str = "kronos"
    """Name of the run, and of its folder."""
    base_path: str = "runs"
    """Folder of all runs, and of prepared data."""
    base_save_path: str = ""
    """The run's folder; empty: base_path/exp_name."""
    finetuned_tokenizer: str = ""
    """Tokenizer that the predictor is trained on; empty: the run's own."""
    tokenizer_save_name: str = "tokenizer"
    """Folder of the tokenizer's stage in the run's folder."""
    basemodel_save_name: str = "basemodel"
    """Folder of the predictor's stage in the run's folder."""
    head_save_name: str = "head"
    """Folder of the head's stage in the run's folder."""

    def revision(self, source: str) -> str | None:
        """The revision that the network called `source` is pinned to; None: it is not pinned, or is another
        network.
        """
        pins = {
            self.pretrained_tokenizer: self.pretrained_tokenizer_revision,
            self.pretrained_predictor: self.pretrained_predictor_revision,
        }
        return pins.get(source) or None


@dataclass(frozen=True)
class ExperimentConfig:
    """What this run does."""

    name: str = ""
    """Name of the run in trackers; empty: model_paths.exp_name."""
    description: str = ""
    """A line about the run, for tables of runs and the model card."""
    train_tokenizer: bool = True
    """Train the tokenizer; false: take the one that is there (--skip-tokenizer)."""
    train_basemodel: bool = True
    """Train the predictor; false: take the one that is there (--skip-basemodel)."""
    train_head: bool = False
    """Train a head after the predictor (section head)."""
    final: bool = False
    """Submit with the networks of RUN/final, which scripts/final_run.py trains once more on every day up to
    the last, with the chosen number of steps; without them with the run's own."""
    skip_existing: bool = False
    """Keep complete stages whatever they were trained with, and train the rest."""
    fresh: bool = False
    """Train anew: stages about to be trained that are there already move to RUN.old-1. Without this and
    skip_existing, a run goes on where it stopped, and is refused where settings that change what is learned
    are others than it began with."""
    pre_trained: bool = True
    """Start from the pretrained pair; false: from random weights of `preset`."""
    pre_trained_tokenizer: bool | None = None
    """None: as pre_trained."""
    pre_trained_predictor: bool | None = None
    """None: as pre_trained."""
    preset: Preset = "small"
    """Size of a network that starts from random weights."""


@dataclass(frozen=True)
class DeviceConfig:
    """Which processor computes."""

    use_cuda: bool = True
    """Use GPUs when there are any; false: CPU."""
    device_id: CountInt = 0
    """The GPU of a one-process run."""


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, on one machine or several."""

    ddp_backend: Literal["nccl", "gloo"] = "nccl"
    """Processes on CPU always use gloo."""
    num_processes: Processes = 1
    """Over all machines."""
    num_machines: Processes = 1
    """Machines that train together."""
    machine_rank: CountInt = 0
    """Which of them this is, from 0."""
    main_process_ip: str = "127.0.0.1"
    """Address of machine 0."""
    main_process_port: Port = 0
    """0: a free port (one machine only)."""
