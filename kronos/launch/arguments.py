"""The launcher's command line: every flag becomes a setting, so that the saved configuration tells the whole
run.

In: the words after `train_kaggle.sh`. Out: `Flags`, or the help page. Standard library only: -h works before
anything is installed.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from kronos.errors import KitError

ROOT = Path(__file__).resolve().parents[2]
"""The kit's folder; relative paths of a configuration start here."""

HELP = """\
NAME
    train_kaggle.sh - from price files to a trained Kronos, a backtest and a submission

SYNOPSIS
    bash train_kaggle.sh [--config FILE] [--set SECTION.KEY=VALUE]... [options]

WHAT RUNS
    --config FILE            YAML or JSON configuration (default: configs/kaggle.yaml)
    --set SECTION.KEY=VALUE  override one setting (all of them: kronos/config.py); may be repeated
    --data-source NAME       prices from csv, qlib, sina, binance, ... or your own (docs/sources.md)
    --skip-data-process      take the prepared data as they are: nothing is downloaded or prepared
    --skip-tokenizer         train the predictor only, on the trained tokenizer
    --skip-basemodel         train the tokenizer only (also: --skip-predictor)
    --skip-head              train no head, also where experiment.train_head asks for one
    --skip-existing          keep complete stages, also of other settings, and train the rest
    --fresh                  train anew; what is there moves to runs/NAME.old-1
    --fast-mode              shorten every stage to a smoke run, in a folder NAME-fast of its own
    --final                  afterwards train once more on every day, for the submission (RUN/final)
    --submit                 write a submission file afterwards
    --strict                 stop before training when one of the quick data checks warns
    --dry-run                check everything, print what would run and how long, write nothing

WHERE IT RUNS
    --multi-gpu [N]          N GPUs of each machine (default: all)
    --num-gpus N             the same, with the number always given
    --cpu                    no GPU, also where there is one
    --num-processes N        training processes over all machines, instead of --multi-gpu
    --dist-backend NAME      nccl or gloo
    --num-machines N, --machine-rank R, --main-process-ip IP, --main-process-port PORT
                             one launch per machine, R from 0; all of them with the same IP and PORT

    -h, --help               this page

FILES
    runs/NAME                models, loss curves, log and backtest; NAME: model_paths.exp_name
    submissions              submission files; relative paths of a configuration start in the kit's folder

STARTING AGAIN, SIGNALS, STATUS
    The same command goes on where it was interrupted, and does only what is missing. Ctrl-C, SIGTERM or a
    lost terminal saves a resumable state, a second signal ends at once. 0 done, or saved at
    training.time_limit; 2 a mistake, in one line; 130, 143 interrupted. NO_COLOR=1: no colours.

EXAMPLES
    bash train_kaggle.sh --config configs/demo.yaml --submit
    bash train_kaggle.sh --multi-gpu 8 --set training.windows_per_step=512
"""


@dataclass(frozen=True)
class Flags:
    """What the command line asks for."""

    config: Path
    overrides: tuple[str, ...] = ()
    """`section.key=value`, of --set and of the flags that stand for a setting."""
    gpus: str | None = None
    """GPUs of each machine: a number, `all`, or None for what the configuration says."""
    fast: bool = False
    submit: bool = False
    dry_run: bool = False
    data_source: str | None = None
    """A source that takes the place of the configuration's prices."""
    skip_data_process: bool = False
    strict: bool = False
    """A warning of the quick data checks ends the launch before anything is trained."""


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line of the kit's kind."""

    def error(self, message: str) -> NoReturn:
        text = message.removeprefix("argument ").replace("expected one argument", "expected a value after it")
        raise KitError(re.sub(r"^(--\S+?)/\S+:", r"\1:", text))


def parser() -> argparse.ArgumentParser:
    """All flags. Those that stand for a setting append it to `overrides`."""
    found = _Parser(add_help=False, allow_abbrev=False, prog="train_kaggle.sh")
    add = found.add_argument
    add("-h", "--help", action="store_true")
    add("--config", "--config-path", default=str(ROOT / "configs" / "kaggle.yaml"))
    add("--set", dest="overrides", action="append", default=[])
    for flags, setting in SWITCHES.items():
        add(*flags, dest="overrides", action="append_const", const=setting)
    for flag, (setting, kind) in VALUES.items():
        add(flag, dest="overrides", action="append", type=_setting(setting, kind))
    for flag in ("--fast-mode", "--submit", "--dry-run", "--cpu"):
        add(flag, action="store_true")
    add("--data-source")
    add("--skip-data-process", action="store_true")
    add("--strict", action="store_true")
    add("--multi-gpu", nargs="?", const=ALL, type=_gpus)
    add("--num-gpus", type=_count)
    add("--num-processes", type=_count)
    return found


ALL = "all"
"""--multi-gpu without a number."""
SWITCHES = {
    ("--skip-tokenizer",): "experiment.train_tokenizer=false",
    ("--skip-basemodel", "--skip-predictor"): "experiment.train_basemodel=false",
    ("--skip-head",): "experiment.train_head=false",
    ("--skip-existing",): "experiment.skip_existing=true",
    ("--final",): "experiment.final=true",
    ("--fresh",): "experiment.fresh=true",
}
"""Flags that are settings."""


def _count(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]*", text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text}")
    return text


def _gpus(text: str) -> str:
    return text if text == ALL else _count(text)  # argparse also reads the value that stands for none


def _quoted(text: str) -> str:
    return f'"{text}"'


VALUES: dict[str, tuple[str, Callable[[str], str]]] = {
    "--dist-backend": ("distributed.ddp_backend", str),
    "--num-machines": ("distributed.num_machines", _count),
    "--machine-rank": ("distributed.machine_rank", str),
    "--main-process-ip": ("distributed.main_process_ip", _quoted),  # 10.0 is no number here
    "--main-process-port": ("distributed.main_process_port", _count),
}
"""Flags whose value is that of a setting."""


def _setting(name: str, kind: Callable[[str], str]) -> Callable[[str], str]:
    """What argparse calls with a flag's value: the setting that it stands for."""

    def read(text: str) -> str:
        return f"{name}={kind(text)}"

    return read


def parse(words: Sequence[str], start: Path) -> Flags | None:
    """The flags in `words`; None after the help page was printed. start: the user's folder. Raises
    KitError.
    """
    given, unknown = parser().parse_known_args(list(words))
    if given.help:
        show_help()
        return None
    if unknown:
        raise KitError(f"unknown argument {unknown[0]}; see bash train_kaggle.sh -h")
    gpus = given.num_gpus or given.multi_gpu
    if gpus and given.cpu:
        raise KitError("--cpu and --multi-gpu (or --num-gpus) exclude each other; choose one")
    if gpus and given.num_processes:
        raise KitError(
            "--num-processes (over all machines) and --multi-gpu or --num-gpus (of each) exclude each other; choose one"
        )
    overrides = list(given.overrides)
    if given.cpu:
        overrides.append("device.use_cuda=false")
    if gpus:
        overrides.append("device.use_cuda=true")
    if given.num_processes:
        overrides.append(f"distributed.num_processes={given.num_processes}")
    config = _config_path(given.config, start)
    return Flags(
        config,
        tuple(overrides),
        gpus,
        given.fast_mode,
        given.submit,
        given.dry_run,
        given.data_source,
        given.skip_data_process,
        given.strict,
    )


def _config_path(name: str, start: Path) -> Path:
    """Where the user stands, or in the kit's folder."""
    here = start / Path(name)
    return here if here.is_file() else ROOT / name


def show_help() -> None:
    """Print the page; on a terminal with its headings in bold."""
    bold, _, _, plain = colours()
    print(re.sub(r"^([A-Z][A-Z ,]+)$", rf"{bold}\1{plain}", HELP, flags=re.M), end="")


def colours() -> tuple[str, str, str, str]:
    """The codes of a terminal for bold, green, red and plain; empty where there is no terminal, or none are
    wanted.
    """
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return "", "", "", ""
    return "\033[1m", "\033[32m", "\033[31m", "\033[0m"
