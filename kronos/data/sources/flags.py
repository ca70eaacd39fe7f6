"""--data-source NAME and --skip-data-process, as settings: for every command that takes them.

In: a command's arguments. Out: the overrides that stand before the user's own --set, so that a user's word is
the last one.
"""

import argparse
import importlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from kronos import configfile
from kronos.data.sources.gather import BUILT_IN
from kronos.errors import KitError

log = logging.getLogger(__name__)

OTHER_FILES = ("data_path", "test_path", "sample_submission_path", "solution_path", "pool_path")
"""Settings of `data` that name files of the configuration's own prices."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Let a parser know both flags."""
    parser.add_argument(
        "--data-source",
        metavar="NAME",
        help=f"where the prices come from: csv, {', '.join(BUILT_IN)} or your own (docs/sources.md)",
    )
    parser.add_argument(
        "--skip-data-process",
        action="store_true",
        help="take the prepared store as it is: nothing is downloaded or prepared",
    )


def with_flags(path: str | Path, overrides: Sequence[str], source: str | None, skip: bool) -> list[str]:
    """The overrides of a command line with these flags. Raises KitError for a name that no source can have.

    Where the configuration has another source, or files, they give way: the source writes its own, a run
    folder of its own name is used, and the calendar is the source's where it has only one.
    """
    before: list[str] = []
    if source is not None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", source):
            raise KitError(f"--data-source: expected a name such as {', '.join(BUILT_IN)}, found {source!r}")
        if configfile.peek(path, overrides, "source", "name") != source:
            before = _replacing(path, overrides, source)
    if skip:
        before.append("source.skip=true")
    return [*before, *overrides]


def _replacing(path: str | Path, overrides: Sequence[str], source: str) -> list[str]:
    found = [f"source.name={source}"]
    if source == "csv":
        return found
    found += [f"data.{name}=" for name in OTHER_FILES]
    name = f"{configfile.peek(path, [], 'model_paths', 'exp_name')}-{source}"
    found.append(f"model_paths.exp_name={json.dumps(name)}")
    calendar = _calendar(source)
    if calendar:
        found.append(f"data.calendar={json.dumps(calendar)}")
    log.info(
        "--data-source %s: prices from it in place of the configuration's files; runs as %s", source, name
    )
    return found


def _calendar(source: str) -> str:
    """The exchange of a built-in source that has only one, else ''."""
    if source not in BUILT_IN:
        return ""
    module, _, attribute = BUILT_IN[source].partition(":")
    calendar: str = getattr(importlib.import_module(module), attribute).calendar
    return calendar
