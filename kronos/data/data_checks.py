"""Data checks: what is wrong with a user's files, said before anything is trained on them.

In: a configuration (price files, test file, sample). Out: one `CheckResult` per check, with the figures found
and what to do. The files are judged as they are, before cleaning. `warn`: cleaning or a fallback deals with
it, and counts it; `fail`: a person should look first. `pytest tests/data_checks --data PATH` and the report
of `kaggle/prepare_data.py` show the same.
"""

import re
from collections.abc import Callable, Sequence

from kronos.config import Config
from kronos.data import bar_checks, competition, file_checks, ingest, price_files, question_checks
from kronos.data.check_result import CheckResult, Evidence, Finding
from kronos.errors import KitError

Check = tuple[Sequence[str], Callable[[Evidence], Finding]]
CHECKS: dict[str, Check] = {
    "columns": (["panel"], file_checks.columns),
    "types": (["panel"], file_checks.types),
    "dates": (["panel"], file_checks.dates),
    "duplicates": (["panel"], file_checks.duplicates),
    "OHLC order": (["panel"], bar_checks.ohlc_order),
    "zero prices": (["panel"], bar_checks.zero_prices),
    "gaps": (["panel"], bar_checks.gaps),
    "jumps": (["panel"], bar_checks.jumps),
    "splits": (["panel"], bar_checks.splits),
    "test IDs known": (["panel", "test"], question_checks.test_ids_known),
    "sample matches test": (["test", "sample"], question_checks.sample_matches_test),
    "one as-of day": (["panel", "test"], question_checks.one_as_of_day),
    "enough history": (["panel"], question_checks.enough_history),
    "class balance by year": (["panel"], bar_checks.class_balance),
}
"""Name -> (the evidence that it needs, the function)."""


def run_checks(config: Config) -> list[CheckResult]:
    """Read the files of a configuration and run every check."""
    evidence = gather(config)
    return [check(name, evidence) for name in CHECKS]


def check(name: str, evidence: Evidence) -> CheckResult:
    """Run one check of `CHECKS`. skip: what it judges was not given, or could not be read (another check says
    why).
    """
    needs, judge = CHECKS[name]
    if name in evidence.problems:
        return CheckResult(name, "fail", evidence.problems[name])
    absent = next((need for need in needs if getattr(evidence, need) is None), None)
    if absent:
        why = (
            "the price files could not be read"
            if absent == "panel"
            else f"no {absent} file that can be read was given"
        )
        return CheckResult(name, "skip", f"not run: {why}")
    try:
        return CheckResult(name, *judge(evidence))
    except KitError as error:
        return CheckResult(name, "fail", str(error))


# -- reading --------------------------------------------------------------------------------------------------
def gather(config: Config) -> Evidence:
    """Read what the checks judge. A user's error does not stop it: it becomes the result of the check that it
    belongs to.
    """
    problems: dict[str, str] = {}
    panel = test = sample = None
    try:
        paths = price_files.find_sources(config.data.data_path)
        for path in paths:
            ingest.open_prices(path, config.data.columns)
    except KitError as error:
        problems["columns"] = str(error)
    else:
        try:
            panel = ingest.read(paths, config.data)
        except KitError as error:
            problems[_belongs_to(str(error))] = str(error)
    if config.data.test_path:
        try:
            test = competition.read_test(config.data.test_path, config.data)
        except KitError as error:
            problems["test IDs known"] = str(error)
    if config.data.sample_submission_path:
        try:
            sample = competition.read_sample(config.data.sample_submission_path)
        except KitError as error:
            problems["sample matches test"] = str(error)
    return Evidence(config, panel, test, sample, problems)


def _belongs_to(message: str) -> str:
    """The check under which an error of reading is shown."""
    if "differs from the same bar" in message or "expected each ticker and date once" in message:
        return "duplicates"
    return (
        "dates"
        if re.search(
            r"parseable dates|expected (a date|dates|years|rows with a date)|day or month first", message
        )
        else "types"
    )
