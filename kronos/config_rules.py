"""Settings that are right alone and cannot hold together, and names that cannot be folders.

In: a `Config` whose values are in their ranges. Out: problems in words, a line each: what was expected, what was
found. Standard library only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date

from kronos.config import Config, part_problems

MOST_WINDOWS = 10_000_000
"""Of one optimiser step."""
FARTHEST = 100_000
"""Trading days ahead: as far as any other whole number of the configuration."""
LONGEST_NAME = 100
"""Bytes: the kit adds endings such as -fast, .old-1 and a time, and file systems take 255."""
TAKEN_RUNS = ("stores",)
TAKEN_FOLDERS = ("logs", "backtest", "decisions", "pipeline_config.json", "answers")
"""What the kit itself puts beside runs, and beside the stages of a run."""
LONGEST_SHOWN = 60


def contradictions(config: Config, paths: Mapping[str, Sequence[str]]) -> list[str]:
    """All that cannot hold together. paths: the settings that are paths, by section."""
    problems = part_problems(config.data)
    problems += _names(config)
    problems += _paths(config, paths)
    problems += _source(config)
    problems += _head(config)
    problems += _windows(config)
    problems += _starts(config)
    problems += _teacher(config)
    problems += _processes(config)
    return problems


def _head(config: Config) -> Iterator[str]:
    head, context = config.head, config.data.max_context
    if head.bar_lookback % head.patch:
        yield (
            f"head.bar_lookback: expected a multiple of head.patch {head.patch}, found {head.bar_lookback}"
        )
    if (head.token_lookback or 0) > context:
        yield (
            f"head.token_lookback: expected at most data.max_context {context}, found {head.token_lookback}"
        )
    if not head.horizons or not 1 <= min(head.horizons) <= max(head.horizons) <= FARTHEST:
        yield f"head.horizons: expected trading days from 1 to {FARTHEST:,}, found {head.horizons}"
    if head.width % 8:
        yield (
            f"head.width: expected a multiple of 8 (two for each of four attention heads), found {head.width}"
        )


def _windows(config: Config) -> Iterator[str]:
    data = config.data
    shares = (data.train_ratio or 0) + (data.val_ratio or 0) + (data.test_ratio or 0)
    longest = data.max_context + 1
    if shares > 1 + 1e-9:
        yield f"data.train_ratio + val_ratio + test_ratio: expected at most 1, found {shares:g}"
    if data.train_ratio == 0 or data.val_ratio == 0:
        yield (
            "data.train_ratio and data.val_ratio: expected > 0 "
            "(the best model is chosen on the validation part)"
        )
    if config.window > longest:
        yield (
            f"data.lookback_window + predict_window: expected at most {longest} (max_context + 1), "
            f"found {config.window}"
        )
    if data.embargo is not None and data.embargo < data.predict_window:
        yield f"data.embargo: expected at least predict_window {data.predict_window}, found {data.embargo}"


def _teacher(config: Config) -> Iterator[str]:
    t = config.training
    if t.teacher and not t.teacher_forcing:
        yield "training.teacher: expected training.teacher_forcing: true beside it, found false"
    if t.teacher_start and not t.teacher:
        yield "training.teacher_start: expected training.teacher, a trained predictor, found none"
    if t.teacher_start and config.predictor_is_pretrained:
        yield (
            "training.teacher_start: expected a predictor that starts from its teacher, found one that starts "
            "from a pretrained network; set experiment.pre_trained_predictor: false"
        )


def _starts(config: Config) -> Iterator[str]:
    paths, folder = config.model_paths, "expected a hub id or folder, or experiment.pre_trained: false"
    if config.tokenizer_is_pretrained and not paths.pretrained_tokenizer:
        yield f"model_paths.pretrained_tokenizer: {folder}"
    if config.predictor_is_pretrained and not paths.pretrained_predictor:
        yield f"model_paths.pretrained_predictor: {folder}"
    if config.predictor_is_pretrained and not config.tokenizer_is_pretrained:
        yield (
            "experiment.pre_trained_predictor: its tokens come from its own tokenizer; "
            "set pre_trained_tokenizer too"
        )
    if config.experiment.fresh and config.experiment.skip_existing:
        yield (
            "experiment.fresh and skip_existing: expected one of them "
            "(train anew, or keep what is complete), found both"
        )


def _processes(config: Config) -> Iterator[str]:
    spread, training = config.distributed, config.training
    machines, processes = spread.num_machines, spread.num_processes
    parts, asked = training.accumulation_steps, training.windows_per_step
    if processes % machines:
        yield (
            f"distributed.num_processes: expected a multiple of num_machines {machines}, found {processes}"
        )
    if spread.machine_rank >= machines:
        yield f"distributed.machine_rank: expected below num_machines {machines}, found {spread.machine_rank}"
    if machines > 1 and spread.main_process_port == 0:
        yield "distributed.main_process_port: expected a fixed port with several machines, found 0"
    if config.step_windows > MOST_WINDOWS:
        yield (
            f"training.batch_size x accumulation_steps x num_processes: expected at most {MOST_WINDOWS:,}, "
            f"found {config.step_windows:,}"
        )
    if asked is not None and parts != 1:
        yield (
            "training.accumulation_steps: expected 1 beside training.windows_per_step, which decides, "
            f"found {parts}"
        )
    if asked is not None and asked < processes:
        yield (
            f"training.windows_per_step: expected at least one window for each of {processes} processes, "
            f"found {asked}"
        )


def _source(config: Config) -> Iterator[str]:
    source, bars = config.source, config.data.data_path
    unused = [name for name in ("symbols", "pool", "begin", "end", "plugin") if getattr(source, name)]
    if unused and not config.has_source:
        yield (
            f"source.{unused[0]}: expected a source that reads it, found source.name csv; "
            "name one (docs/sources.md)"
        )
    if config.has_source and bars and not (isinstance(bars, str) and bars.endswith(".parquet")):
        yield (
            f"data.data_path: expected a name ending in .parquet, which the source {source.name} writes, "
            f"found {bars}; remove it"
        )
    if not re.fullmatch(r"[A-Za-z0-9_-]+", source.name):
        yield f"source.name: expected letters, digits, - and _, found {source.name!r}"
    for name in ("begin", "end"):
        text = getattr(source, name)
        if text and not _is_day(text):
            yield f"source.{name}: expected a day as YYYY-MM-DD, found {text!r}"
    if _is_day(source.begin) and _is_day(source.end) and source.begin >= source.end:
        yield f"source.begin: expected a day before source.end {source.end}, found {source.begin}"


def _is_day(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


# -- names of runs and folders -------------------------------------------------------------------------------
def _names(config: Config) -> list[str]:
    """Names that cannot be one folder each: checked before anything is written."""
    paths = config.model_paths
    problems = _name("model_paths.exp_name", paths.exp_name, TAKEN_RUNS)
    used: dict[str, str] = {}
    for key in ("tokenizer_save_name", "basemodel_save_name", "head_save_name"):
        name, setting = getattr(paths, key), f"model_paths.{key}"
        problems += _name(setting, name, TAKEN_FOLDERS)
        if name.lower() in used:
            other = used[name.lower()]
            problems.append(f"{setting}: expected another name than that of {other}, found {name!r} for both")
        used.setdefault(name.lower(), setting)
    return problems


def _name(setting: str, name: str, taken: Sequence[str]) -> list[str]:
    expected = "expected the name of one folder"
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        return [f"{setting}: {expected}, found {_shown(name)}; places are set by model_paths.base_path"]
    if not name.isprintable() or name != name.strip() or name.startswith(("-", ".", "~")):
        return [
            f"{setting}: {expected} of printable letters that begins with a letter or digit, "
            f"found {_shown(name)}"
        ]
    if len(name.encode()) > LONGEST_NAME:
        return [f"{setting}: {expected} of at most {LONGEST_NAME} bytes, found {len(name.encode())}"]
    if name.lower() in taken:
        return [f"{setting}: {expected} that the kit does not use itself, found {name!r}"]
    return []


def _paths(config: Config, paths: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for section, names in paths.items():
        for key in names:
            value = getattr(getattr(config, section), key)
            given = value
            if isinstance(value, str):
                given = [value]
            if any("\0" in path or "\n" in path for path in given):
                yield f"{section}.{key}: expected a path of printable letters, found {_shown(value)}"


def _shown(value: object) -> str:
    text = repr(value)
    if len(text) <= LONGEST_SHOWN:
        return text
    return text[: LONGEST_SHOWN - 3] + "..."
