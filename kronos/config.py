"""Every setting of the kit, its type and its default, in one place.

In: nothing. Out: frozen dataclasses that the rest of the kit reads. Standard library only, so that a GPU
machine
needs no parser: `from_dict` rebuilds a resolved configuration saved beside the weights. Reading and checking
a user's file is `kronos.configfile`.
"""

import logging
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from kronos import records

# A string beside a type is the range that `kronos.configfile` holds a user's value to.
PositiveInt = Annotated[int, "1 to 1000000000"]
PositiveFloat = Annotated[float, "> 0"]
CountInt = Annotated[int, "0 to 1000000000"]
SmallInt = Annotated[int, "1 to 100000"]
"""For what costs memory or time in proportion: a slip of the hand must not fill the machine."""
StepInt = Annotated[int, "1 to 10000000"]
"""Windows of an optimiser step."""
Processes = Annotated[int, "1 to 10000"]
Workers = Annotated[int, "0 to 1000"]
Port = Annotated[int, "0 to 65535"]
Seed = Annotated[int, "0 to 4294967295"]
Lookback = Annotated[int, "2 to 100000"]
CountFloat = Annotated[float, ">= 0"]
Share = Annotated[float, "0 to 1"]
Beta = Annotated[float, "0 to below 1"]

Precision = Literal["auto", "no", "fp16", "bf16"]
Preset = Literal["nano", "mini", "small", "base"]
Scheduler = Literal["onecycle", "cosine", "constant", "plateau"]
BarLength = Literal[
    "1min", "2min", "3min", "5min", "10min", "15min", "20min", "30min", "45min", "60min", "90min", "120min", "180min",
    "240min", "360min", "480min", "720min", "daily", "weekly", "monthly",
]  # fmt: skip
Frequency = Literal["auto", BarLength]
Tracker = Literal["tensorboard", "wandb", "comet_ml", "mlflow"]
HeadInputs = Literal["tokens", "bars", "both"]

log = logging.getLogger(__name__)

_ONE_DECISION = "every answerer has one decision now, with a level, a slope and a width"
OLD_VALUES: dict[tuple[str, str], dict[str, tuple[str, str]]] = {
    ("evaluation", "calibration"): {
        "temperature": ("auto", _ONE_DECISION),
        "platt": ("auto", _ONE_DECISION),
        "isotonic": ("auto", _ONE_DECISION),
    }
}
"""Values that saved configurations may hold and that went: what is taken instead, and why."""


@dataclass(frozen=True)
class CleaningConfig:
    """What to do with each kind of dirty row (see docs/data.md); every action is counted in the store's
    manifest.
    """

    missing_price: Literal["drop", "stop"] = "drop"
    """A price is missing or infinite. drop: leave the row out; stop: refuse the file."""
    non_positive_price: Literal["repair", "drop", "stop"] = "repair"
    """A price is <= 0. repair: Open, High or Low from the row's other prices; the row is dropped when Close
    is bad.
    """
    inconsistent_bar: Literal["repair", "drop", "stop"] = "repair"
    """High < Low, or Open or Close outside [Low, High]. repair: widen High and Low around the four prices."""
    bad_volume: Literal["zero", "drop", "stop"] = "zero"
    """Volume is missing, negative or infinite. zero: set it (and the amount) to 0."""
    duplicate: Literal["last", "first", "drop", "stop"] = "last"
    """Several rows of one ticker and date. last / first: keep that one in file order; drop: keep none."""
    max_duplicates: Share = 0.001
    """Share of the rows that may repeat a ticker and date with other numbers; more of them mean a misread
    file, and stop.
    """
    jump: Literal["split", "keep", "drop"] = "keep"
    """A close moves by more than max_jump. split: windows do not cross it; drop: leave the row out."""
    unadjusted_split: Literal["split", "keep"] = "split"
    """A jump near a simple ratio on a row that names no stock split. split: windows do not cross it."""
    illiquid: Literal["split", "keep"] = "keep"
    """More than illiquid_run zero-volume bars in a row. split: windows never contain them."""
    stagnant: Literal["split", "keep"] = "keep"
    """More than stagnant_run equal closes in a row. split: windows never contain them."""
    max_jump: PositiveFloat | None = None
    """Largest |close/previous close - 1| that is taken as real. None: the paper's value for the bar
    frequency.
    """
    illiquid_run: CountInt | None = None
    """None: the paper's value for the bar frequency."""
    stagnant_run: PositiveInt | None = None
    """None: the paper's value for the bar frequency."""
    min_length: PositiveInt | None = None
    """Runs of bars shorter than this give no training windows. None: no limit but the window's own length."""
    max_gap: CountInt = 10
    """A window does not cross a gap of more than this many trading days (bars of the common calendar)."""


PART_SHARES = ("train_ratio", "val_ratio", "test_ratio")
PART_DAYS = ("train_until", "validation_until", "validation_days", "test_days")
"""The two ways to say where the parts of history end, as settings of `data`."""


@dataclass(frozen=True)
class DataConfig:
    """Where the prices are, and how they are cut into windows and parts."""

    data_path: str | list[str] = ""
    """CSV, .csv.gz or Parquet file, a list of them, or a folder with one file per ticker."""
    test_path: str = ""
    """The competition's test.csv (ID, Date)."""
    sample_submission_path: str = ""
    """The competition's sample_submission.csv (ID, Pred); empty: the order of the test file."""
    solution_path: str = ""
    """Known answers (ID, Label) of the test rows, where there are any: read for a score only, after the
    submission is written.
    """
    pool_path: str = ""
    """CSV (ticker, first, last) of the days on which a ticker may be asked about; its other bars are context.
    Empty: all days. A source writes one (docs/sources.md)."""
    store: str = ""
    """Folder of the prepared data; empty: base_path/stores/NAME of data_path."""
    lookback_window: Lookback = 256
    predict_window: SmallInt = 1
    max_context: SmallInt = 512
    """Most tokens that the predictor sees at once."""
    clip: PositiveFloat = 5.0
    """Normalised values are cut to +-clip."""
    norm_epsilon: Literal["absolute", "relative"] = "absolute"
    """absolute: std + 1e-5, as the published weights saw it; relative: 1e-5 of the feature's magnitude."""
    train_ratio: Share | None = 0.9
    val_ratio: Share | None = 0.1
    test_ratio: Share | None = 0.0
    """Shares of the trading days, oldest first; days beyond their sum are left out. None: the parts are set
    by days or dates, in the settings below (docs/data.md); reading a user's file sets it."""
    train_until: str | None = None
    """Last day of training, YYYY-MM-DD. None: `validation_days` says where training ends."""
    validation_until: str | None = None
    """Last day of validation, YYYY-MM-DD; the days after it are the test part, or left out with test_days 0.
    None: `test_days` says where validation ends; without them the last day does."""
    validation_days: PositiveInt | None = None
    """Trading days of the validation part, the newest but for the test part."""
    test_days: CountInt | None = None
    """Trading days of the test part, the newest ones, which train and choose nothing."""
    all_days: bool = False
    """Train on every day up to the last: for the final run (experiment.final), which writes it. The
    validation part then lies inside the training part and chooses nothing, there is no test part, and a stage
    keeps the network of its last step."""
    embargo: CountInt | None = None
    """Trading days left out between two parts; None: predict_window, the least that is honest."""
    calendar: Literal["NYSE", "XSHG", "XHKG", "24/7"] = "NYSE"
    """Trading days after the last one in the data."""
    frequency: Frequency = "auto"
    """Bar length; auto: the commonest step between bars."""
    columns: dict[str, str | int] = field(default_factory=dict)
    """Role -> name of its column, for names that the kit does not know: ticker, date, time, open, high, low,
    close, volume, amount, split, market. An empty name: no column has the role (docs/data.md)."""
    timezone: str = ""
    """Zone of the exchange's clocks, for times with a zone or an offset; empty: that of data.calendar."""
    markets: dict[str, str | list[str]] = field(default_factory=dict)
    """Calendars of tickers that do not follow data.calendar: {suffix: calendar} or {calendar: [tickers]};
    with a market column (data.columns), {its value: calendar}."""
    ticker_weighting: Literal["length", "equal"] = "length"
    """length: every window is equally likely; equal: every ticker is."""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)

    @property
    def parts_by_days(self) -> bool:
        """Whether the parts are set by days or dates, not by shares."""
        return any(getattr(self, name) is not None for name in PART_DAYS)


@dataclass(frozen=True)
class TrainingConfig:
    """Both training stages."""

    tokenizer_epochs: SmallInt = 20
    basemodel_epochs: SmallInt = 15
    head_epochs: SmallInt = 10
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
    tokenizer_learning_rate: PositiveFloat = 2e-4
    predictor_learning_rate: PositiveFloat = 4e-5
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
    adam_beta2: Beta = 0.95
    adam_weight_decay: CountFloat = 0.1
    decay_norms_and_biases: bool = False
    """Apply the weight decay to norms and biases, too."""
    tokenizer_grad_clip: PositiveFloat = 2.0
    predictor_grad_clip: PositiveFloat = 3.0
    mixed_precision: Precision = "auto"
    """auto: bf16 on GPUs and processors that have it in hardware, fp16 on older GPUs, else none."""
    tf32: bool = True
    """TensorFloat-32 for what stays in float32 on a GPU: ten bits of mantissa, several times the speed."""
    compile: bool = False
    """torch.compile of the training pass: a minute or more at the start of every sitting, faster steps after
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
    basemodel_steps: PositiveInt | None = None
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
            return self.tokenizer_grad_clip
        return self.predictor_grad_clip

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
    layers: SmallInt = 3
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
    trunk_learning_rate: PositiveFloat = 1e-4
    """Of the predictor, while it is trained with the head."""
    weight_decay: CountFloat = 0.1
    sign_weight: CountFloat = 0.5
    """Weight of the sign of the return beside the correlation with its rank."""
    grad_clip: PositiveFloat = 1.0


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
    base_path: str = "runs"
    base_save_path: str = ""
    """The run's folder; empty: base_path/exp_name."""
    finetuned_tokenizer: str = ""
    """Tokenizer that the predictor is trained on; empty: the run's own."""
    tokenizer_save_name: str = "tokenizer"
    basemodel_save_name: str = "basemodel"
    head_save_name: str = "head"

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
    """Empty: model_paths.exp_name."""
    description: str = ""
    train_tokenizer: bool = True
    train_basemodel: bool = True
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
    use_cuda: bool = True
    """Use GPUs when there are any; false: CPU."""
    device_id: CountInt = 0
    """The GPU of a one-process run."""


@dataclass(frozen=True)
class DistributedConfig:
    use_ddp: bool = False
    ddp_backend: Literal["nccl", "gloo"] = "nccl"
    """Processes on CPU always use gloo."""
    num_processes: Processes = 1
    """Over all machines."""
    num_machines: Processes = 1
    machine_rank: CountInt = 0
    main_process_ip: str = "127.0.0.1"
    main_process_port: Port = 0
    """0: a free port (one machine only)."""


@dataclass(frozen=True)
class InferenceConfig:
    """How test rows are forecast and decided."""

    horizon: PositiveInt | None = None
    """Trading days from the last observed bar; None: as many as lie before each row's Date."""
    sample_count: SmallInt = 33
    """Sampled paths per row; odd, so that P(rise) is never exactly one half."""
    temperature: CountFloat = 1.0
    top_k: CountInt = 0
    top_p: Share = 1.0
    decode_rope: Literal["trained", "original"] = "trained"
    anchor: Literal["last_close", "none"] = "last_close"
    """last_close: paths start from the true last close; none: from the tokenizer's rendering of it, as the
    original does.
    """
    overflow: Literal["cut", "slide"] = "cut"
    """A context that does not fit beside the horizon. cut: it loses its oldest bars; slide: as in the
    original, slow.
    """
    probability: Literal["auto", "sampled", "enumerated"] = "auto"
    """How P(rise) is found. sampled: share of the paths; enumerated: by listing the next bar's likeliest
    values, one step ahead only; auto: enumerated one step ahead, else sampled. The backtest finds it, and
    fits its calibration to it, the same way."""
    enumeration_mass: Share = 0.995
    """Enumerated: stop when the listed values hold this probability."""
    enumeration_pairs: SmallInt = 512
    """Enumerated: stop after this many values per row, whatever their probability (the manifest says what
    they hold).
    """
    batch_size: SmallInt | None = None
    """Series forecast at once; null: as many as fit into the memory that is free. No answer depends on it."""
    precision: Literal["auto", "float32", "bf16", "int8"] = "auto"
    """Of the predictor's products. auto: as training.mixed_precision, where the hardware has it; bf16:
    float32 on a processor without it; int8: integers, on a processor only."""
    cuda_graphs: bool = False
    """A GPU repeats recorded decoding steps by itself: for small networks, whose steps take longer to call
    than to compute.
    """
    threshold: Share = 0.5
    """Rise when P(rise) is above this."""
    answer: str = "auto"
    """Whose answers are submitted: a name of the backtest's table (network: the run's own), blend:A+B, or
    auto: the answerer that the evidence of `run_backtest.py --save` prefers."""
    refit: bool = False
    """Rows of several dates: fit anew for each date on what had ended by then (ridge, logistic, boosting).
    false: once, on what had ended before the earliest date."""
    calibration: Literal["auto", "off"] = "auto"
    """auto: use the decision that the backtest left, where it fits, else the base rate of history as level;
    off: raw P(rise).
    """
    seed: Seed = 42
    max_fallback_ratio: Share = 0.2
    """The run fails when a larger share of the rows had to be answered without a forecast."""
    competition: str = "predicting-stock-trends-rise-or-fall"
    """Kaggle's name of the competition, for the line that submits the file."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The backtest (docs/evaluation.md)."""

    after_training: bool = True
    """train_kaggle.sh runs a backtest when the predictor is complete."""
    origins: PositiveInt = 40
    """As-of dates that are scored, evenly spread over the days after training."""
    every: PositiveInt | None = None
    """Trading days between two as-of dates; takes the place of `origins`."""
    horizon: PositiveInt | None = None
    """Trading days ahead. None: inference.horizon, else that of the test file, else data.predict_window."""
    tickers: PositiveInt | None = None
    """Score so many tickers of each date, drawn by their names; None: every ticker that has a bar on it."""
    embargo: CountInt = 0
    """Trading days between fit, calibration and test beyond the horizon, which always lies between them."""
    calibration: Literal["auto", "off"] = "auto"
    """auto: answers are decided by what earlier dates taught (docs/evaluation.md); off: by the raw
    probabilities, and no date is kept for it."""
    calibration_share: Beta = 0.3
    """Share of the days after training on which decisions are fitted first; the later ones are scored."""
    fitted_baselines: bool = True
    """Logistic regression and gradient boosting on ranked features."""
    blends: list[str] = field(default_factory=lambda: ["ridge+boosting", "network+boosting", "head+boosting"])
    """Blends that are scored, too: names joined by +, network stands for the run's own. Those of answerers
    that a run does not have are left out, and that is said."""
    fitted_weights: bool = True
    """Score each of these blends also with weights that earlier dates taught (weighted:A+B)."""
    random_init: bool = True
    """Score the same network with random weights beside the model: as long again."""
    pretrained: bool = True
    """Score the pretrained pair without fine-tuning beside a model that started from it: as long again."""
    fit_every: PositiveInt = 5
    """Trading days between two origins that a fitted answerer learns from. Labels that overlap weigh less."""
    baseline_rows: PositiveInt = 1_000_000
    """Most samples that a fitted answerer learns from; where a store has more, its origins lie a multiple of
    fit_every apart.
    """
    folds: SmallInt = 4
    """Parts of the test dates before each of which baselines are fitted anew (and with --refit the
    networks).
    """
    draws: Annotated[int, "1 to 1000000"] = 2000
    """Bootstrap draws."""
    time_limit: PositiveFloat | None = None
    """Hours after which a backtest ends without a report; its forecasts are kept, the same command goes on.
    None: no limit.
    """
    seed: Seed = 42


@dataclass(frozen=True)
class SourceConfig:
    """Where prices come from when they are not files at hand (docs/sources.md)."""

    name: str = "csv"
    """csv: data.data_path, as it is. Else qlib, sina, binance, yahoo, akshare, baostock, ccxt, or a name for
    your `plugin`; the prices are then written to data/NAME/bars.parquet (or to data.data_path, where that is
    set)."""
    path: str = ""
    """csv: takes the place of data.data_path. qlib: the folder, or an archive of it. ccxt: the exchange."""
    symbols: str | list[str] = ""
    """What to ask for: a list, names with commas between them, or a CSV file with a column `symbol`."""
    pool: str = ""
    """Name of an index (csi300): who was in it on which day is asked of the source, and only members are
    asked about.
    """
    begin: str = ""
    """First day, YYYY-MM-DD; empty: as far back as the source goes."""
    end: str = ""
    """Last day, YYYY-MM-DD; empty: as late as there are bars."""
    frequency: BarLength = "daily"
    """Length of the bars; each source says which it has."""
    adjust: Literal["auto", "none", "qfq", "hfq"] = "auto"
    """Prices adjusted for splits and dividends. qfq: to the last day's level; hfq: to the first day's; none:
    as traded. auto: the usual one of the source (docs/sources.md)."""
    plugin: str = ""
    """Python file with a source of your own: a class `Source` with download_data and process_raw_data."""
    pause: CountFloat = 1.0
    """Seconds between two requests."""
    max_failed: Share = 0.1
    """Share of the symbols that may fail; with more the download stops. What arrived is kept."""
    skip: bool = False
    """Take data.store as it is: nothing is downloaded, processed or prepared (--skip-data-process)."""


@dataclass(frozen=True)
class MarketConfig:
    """The synthetic market that stands in for a competition when there is none at hand (the demo, the
    tests).
    """

    generate: bool = False
    """Write the files of data_path, test_path, sample_submission_path and solution_path when data_path is
    missing.
    """
    tickers: SmallInt = 120
    days: SmallInt = 700
    """Trading days of the training file."""
    horizon: SmallInt = 5
    """Trading days from the last training day to the test day."""
    signal: CountFloat = 0.4
    """Mean of a day's return on known volume, in standard deviations; 0: a driftless random walk."""
    seed: Seed = 7


@dataclass(frozen=True)
class Config:
    """The whole configuration. Paths are as given; `derived_paths` fills the empty ones."""

    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    model_paths: ModelPathsConfig = field(default_factory=ModelPathsConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    market: MarketConfig = field(default_factory=MarketConfig)
    source: SourceConfig = field(default_factory=SourceConfig)

    # -- one owner per path ----------------------------------------------------------------------------------
    @property
    def run_dir(self) -> Path:
        return Path(self.model_paths.base_save_path)

    @property
    def tokenizer_dir(self) -> Path:
        return self.run_dir / self.model_paths.tokenizer_save_name

    @property
    def basemodel_dir(self) -> Path:
        return self.run_dir / self.model_paths.basemodel_save_name

    @property
    def head_dir(self) -> Path:
        return self.run_dir / self.model_paths.head_save_name

    def stage_dir(self, stage: str) -> Path:
        """The folder of a training stage."""
        return {"tokenizer": self.tokenizer_dir, "basemodel": self.basemodel_dir, "head": self.head_dir}[
            stage
        ]

    @property
    def head_token_lookback(self) -> int:
        """Bars that the head reads as tokens."""
        return self.head.token_lookback or self.data.lookback_window

    @property
    def resolved_path(self) -> Path:
        return self.run_dir / "pipeline_config.json"

    @property
    def has_source(self) -> bool:
        """Whether the prices come from a source that writes data.data_path."""
        return self.source.name != "csv"

    @property
    def window(self) -> int:
        """Bars in a training window."""
        return self.data.lookback_window + self.data.predict_window

    @property
    def step_windows(self) -> int:
        """Windows of an optimiser step of the tokenizer and the predictor, over all processes."""
        t = self.training
        if t.windows_per_step is not None:
            return t.windows_per_step
        return t.batch_size * t.accumulation_steps * self.distributed.num_processes

    @property
    def embargo(self) -> int:
        """Trading days between two parts."""
        return self.data.predict_window if self.data.embargo is None else self.data.embargo

    @property
    def tokenizer_is_pretrained(self) -> bool:
        own = self.experiment.pre_trained_tokenizer
        return self.experiment.pre_trained if own is None else own

    @property
    def predictor_is_pretrained(self) -> bool:
        own = self.experiment.pre_trained_predictor
        return self.experiment.pre_trained if own is None else own


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionaries, ready for JSON."""
    return asdict(config)


def from_dict(tree: Any, where: str = "saved configuration") -> Config:
    """Rebuild a *resolved* configuration (see `configfile.load` for a user's file).

    where: the file, for messages. A value that older versions wrote is read as what took its place, and said.
    Raises KitError for an unknown key, another type and a value out of range.
    """
    tree, remarks = without_old_values(tree)
    for line in remarks:
        log.info("%s: %s", where, line)
    return records.check(tree, Config, where, strict=True)


def without_old_values(tree: Any) -> tuple[Any, list[str]]:
    """A configuration with the values that went replaced (`OLD_VALUES`), and a line about each."""
    if not isinstance(tree, dict):
        return tree, []
    result, remarks = dict(tree), []
    for (section, key), values in OLD_VALUES.items():
        own = tree.get(section)
        if not isinstance(own, dict):
            continue
        old = own.get(key)
        if isinstance(old, str) and old in values:
            new, why = values[old]
            result[section] = {**result[section], key: new}
            remarks.append(f"{section}.{key}: {old} is no longer there, {new} is taken: {why}")
    return result, remarks


def part_problems(data: DataConfig) -> list[str]:
    """What cannot hold together in the settings of the parts, a line each."""
    days = [name for name in PART_DAYS if getattr(data, name) is not None]
    shares = [name for name in PART_SHARES if getattr(data, name) is not None]
    found = []
    for name in ("train_until", "validation_until"):
        text = getattr(data, name)
        if text is not None and not _is_date(text):
            found.append(f"data.{name}: expected a date as YYYY-MM-DD, found {text!r}")
    if days and shares:
        found.append(
            f"data.{shares[0]} and data.{days[0]}: expected the parts by shares or by days and dates, found both; "
            "set one of the two to null"
        )
    if not days and len(shares) < len(PART_SHARES):
        missing = next(name for name in PART_SHARES if name not in shares)
        found.append(f"data.{missing}: expected a share, found null; or set data.validation_days")
    if data.train_until is not None and data.validation_days is not None:
        found.append(
            "data.train_until and data.validation_days: expected one of them to end the training part, found both"
        )
    if data.validation_until is not None and data.test_days:
        found.append(
            "data.validation_until and data.test_days: expected one of them to end the validation part, found both"
        )
    if days and data.train_until is None and data.validation_days is None:
        found.append(
            f"data.{days[0]}: expected data.validation_days or data.train_until beside it, found neither"
        )
    return found


def _is_date(text: str) -> bool:
    """YYYY-MM-DD, or YYYY-MM-DDTHH:MM:SS for bars of minutes."""
    if len(text) not in (len("YYYY-MM-DD"), len("YYYY-MM-DDTHH:MM:SS")):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
