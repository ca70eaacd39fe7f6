"""Price files to one panel: every row read, nothing judged yet.

In: `data.data_path`: a CSV, .csv.gz or Parquet file, a list of them, or a folder with one file per ticker.
Out: `Panel`. What
only a human can decide stops with one line: a missing column, dates of two forms, files that contradict each
other, repeated dates. A plain file takes the fast path (`blocks`); `forms` and `repeats` look at a file again
only after something failed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kronos.bars import AMOUNT, CLOSE, VOLUME
from kronos.config import DataConfig
from kronos.data import blocks, forms, markets, repeats
from kronos.data.column_roles import Layout, layout_of
from kronos.data.frame_reader import FrameReader
from kronos.data.frequency import frequency_of
from kronos.data.price_files import describe, names_of_files
from kronos.data.price_panel import Panel, arrange
from kronos.data.text_pieces import head_of
from kronos.errors import KitError
from kronos.progress import progress

log = logging.getLogger(__name__)

MONEY = 0.5
"""A turnover this near to volume x close, in relative terms, is money."""


def open_prices(path: Path, columns: Mapping[str, str | int]) -> tuple[blocks.Source, Layout]:
    """A price file and the roles of its columns. columns: `data.columns`. Reads the header, and more of the
    start only where that does not make sense. Raises KitError."""
    try:
        source = blocks.open_source(path)
        layout = layout_of(path, source.names, columns)
    except KitError as error:
        if blocks.is_parquet(path) or not path.is_file():
            raise
        found = forms.diagnose(path, head_of(path), columns)
        if found is None:
            raise error
        form, layout = found
        source = blocks.CsvSource(path, layout.names, form)
    ticks = layout.ticks
    if ticks is not None and isinstance(source, blocks.CsvSource):
        layout = forms.with_ticks(source.path, head_of(path), source.form, layout, ticks)
    return source, layout


def read(paths: list[Path], data: DataConfig | None = None) -> Panel:
    """Read all files into one panel, with dates of the exchange, a frequency and markets. data: the settings;
    None: the defaults. Raises KitError naming file, column and line of what stops it, or why the rows make no
    sense together."""
    data = data or DataConfig()
    known = [
        describe(path) if path.exists() else {} for path in paths
    ]  # before: a change while we read must not go unseen
    opened = [open_prices(path, data.columns) for path in paths]
    reader = FrameReader(names_of_files(paths))
    total = sum(_likely_rows(source) for source, _ in opened)
    with progress("reading", total, "rows", scaled=True) as bar:
        for number, (source, layout) in enumerate(opened):
            opened[number] = reader.add(source, layout, number, bar)
    reader.finish()
    if not any(len(block.values) for block in reader.blocks):
        raise KitError(
            f"{paths[0]}: expected rows with a ticker and a date, found none in {sum(reader.rows):,} rows"
        )
    panel = arrange(reader.blocks, paths, reader.roles or frozenset())
    panel.ignored, panel.read, panel.missing_key = list(reader.ignored), sum(reader.rows), reader.missing_key
    panel.has_zone = reader.has_zone
    panel.sources = [
        {**facts, "crc32": source.crc32, "rows": rows}
        for facts, (source, _), rows in zip(known, opened, reader.rows, strict=True)
    ]
    if any(layout.is_doubtful_amount for _, layout in opened):
        _judge_turnover(panel)
    panel.frequency = frequency_of(panel, data.frequency)
    markets.assign(panel, data, reader.said)
    repeats.refuse(panel, data.cleaning.max_duplicates, opened)
    return panel


def _judge_turnover(panel: Panel) -> None:
    """`turnover` is money only where its size is that of volume x close: elsewhere it is a share of the
    float.
    """
    step = max(len(panel.session) // 100_000, 1)
    some = panel.values[::step].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.abs(some[:, AMOUNT] / (some[:, VOLUME] * some[:, CLOSE]) - 1)
    apart = apart[np.isfinite(apart)]
    if len(apart) and np.median(apart) < MONEY:
        return
    panel.values[:, AMOUNT] = np.nan
    panel.roles -= {"amount"}
    panel.ignored.append("turnover")
    log.info(
        "turnover: not the size of volume x close, so it is taken for a ratio and not read; data.columns: {amount: turnover} "
        "reads it as money"
    )


def _likely_rows(source: blocks.Source) -> float:
    """Rows of a file, for the time that is left: counted, or from its size and the mean length of its first
    lines (of a
    compressed one: as if it were a fifth of its text)."""
    if isinstance(source, blocks.ParquetSource):
        return source.rows
    with source.path.open("rb") as handle:
        start = handle.read(100_000)
    if source.path.suffix == ".gz":
        return source.path.stat().st_size * 5 / 80
    return source.path.stat().st_size / max(len(start), 1) * start.count(b"\n")
