"""Settings of answers: how rows are forecast and decided, and how the backtest scores that.

Sections `inference` and `evaluation`.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from kronos.config_types import CountFloat, CountInt, PositiveFloat, PositiveInt, Seed, Share, SmallInt


@dataclass(frozen=True)
class InferenceConfig:
    """How test rows are forecast and decided."""

    horizon: PositiveInt | None = None
    """Trading days from the last observed bar; None: as many as lie before each row's Date."""
    sample_count: SmallInt = 33
    """Sampled paths per row; odd, so that P(rise) is never exactly one half."""
    temperature: CountFloat = 1.0
    """Of sampling: below 1 the likely becomes likelier; 0: always the likeliest value."""
    top_k: CountInt = 0
    """Sample among so many likeliest values; 0: among all."""
    top_p: Share = 1.0
    """Sample among the likeliest values that hold this probability together."""
    decode_rope: Literal["trained", "original"] = "trained"
    """Positions of the fine token's attention. trained: as in training; original: as the published code decodes
    (docs/forecasting.md)."""
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
    """Of the sampled paths."""
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
    fitted_baselines: bool = True
    """Logistic regression and gradient boosting on ranked features."""
    blends: list[str] = field(default_factory=lambda: ["ridge+boosting", "network+boosting", "head+boosting"])
    """Blends that are scored, too: names joined by +, network stands for the run's own. Those of answerers
    that a run does not have are left out, and that is said."""
    random_init: bool = True
    """Score the same network with random weights beside the model: as long again."""
    pretrained: bool = True
    """Score the pretrained pair without fine-tuning beside a model that started from it: as long again."""
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
