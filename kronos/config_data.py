"""Settings of data: where prices come from, how they are cleaned and cut into windows and parts.

Sections `data`, `data.cleaning`, `source` and `market`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kronos.config_types import (
    BarLength,
    CountFloat,
    CountInt,
    Frequency,
    Lookback,
    PositiveFloat,
    PositiveInt,
    Seed,
    Share,
    SmallInt,
)


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
    """Bars of a window that are known: a forecast's context."""
    predict_window: SmallInt = 1
    """Bars of a window after them, which training predicts."""
    max_context: SmallInt = 512
    """Most tokens that the predictor sees at once."""
    clip: PositiveFloat = 5.0
    """Normalised values are cut to +-clip."""
    norm_epsilon: Literal["absolute", "relative"] = "absolute"
    """absolute: std + 1e-5, as the published weights saw it; relative: 1e-5 of the feature's magnitude."""
    train_ratio: Share | None = 0.9
    """Share of the trading days that train."""
    val_ratio: Share | None = 0.1
    """Share of the trading days that choose the checkpoint."""
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
    """Stocks of the market."""
    days: SmallInt = 700
    """Trading days of the training file."""
    horizon: SmallInt = 5
    """Trading days from the last training day to the test day."""
    signal: CountFloat = 0.4
    """Mean of a day's return on known volume, in standard deviations; 0: a driftless random walk."""
    seed: Seed = 7
    """Another seed is another market."""


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
