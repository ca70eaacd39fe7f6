"""`pytest tests/data_checks --data PATH [--test PATH --sample PATH]`: the data checks on a user's own files.

With --data only the named checks run, on those files. Without it they run on the generated market, and beside them the
tests that break a file on purpose.
"""

from pathlib import Path

import pytest

from kronos.config import Config, DataConfig, MarketConfig
from kronos.configfile import derived_paths
from kronos.data import checks
from kronos.data.market import write_market

RESULTS = pytest.StashKey[list[checks.CheckResult]]()
USER_TESTS = "test_user_files.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("data checks")
    group.addoption("--data", metavar="PATH", help="price file, or folder of price files, to check")
    group.addoption("--test", metavar="PATH", help="the competition's test.csv")
    group.addoption("--sample", metavar="PATH", help="the competition's sample_submission.csv")


def option(config: pytest.Config, name: str) -> str:
    """An option's value; '' when it was not given, or when this folder is not on the command line (`pytest tests/`)."""
    return config.getoption(name, None) or ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --data: the user's files only."""
    if option(config, "--data"):
        ours = [item for item in items if item.path.parent == Path(__file__).parent and item.path.name != USER_TESTS]
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


def market_files(folder: Path) -> DataConfig:
    return DataConfig(
        data_path=str(folder / "train.csv"),
        test_path=str(folder / "test.csv"),
        sample_submission_path=str(folder / "sample_submission.csv"),
        solution_path=str(folder / "solution.csv"),
    )


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A small clean market, nothing wrong with it."""
    folder = tmp_path_factory.mktemp("market")
    names = {
        "data_path": "train",
        "test_path": "test",
        "sample_submission_path": "sample_submission",
        "solution_path": "solution",
    }
    data = DataConfig(**{key: str(folder / f"{name}.csv") for key, name in names.items()})
    write_market(MarketConfig(tickers=30, days=300, seed=11), data)
    return data


@pytest.fixture(scope="session")
def evidence(request: pytest.FixtureRequest) -> checks.Evidence:
    """The user's files, read once; the generated market without --data."""
    given = option(request.config, "--data")
    if not given:
        return checks.gather(Config(data=request.getfixturevalue("generated")))
    files = {"test_path": option(request.config, "--test"), "sample_submission_path": option(request.config, "--sample")}
    return checks.gather(derived_paths(Config(data=DataConfig(data_path=given, **files))))


@pytest.fixture
def users_results(request: pytest.FixtureRequest) -> list[checks.CheckResult] | None:
    """Where the results of a user's files are collected for the summary; None without --data."""
    return request.config.stash.setdefault(RESULTS, []) if option(request.config, "--data") else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Every check of the user's files on one line each, in words."""
    results = config.stash.get(RESULTS, [])
    if results:
        terminalreporter.section(f"data checks of {option(config, '--data')}")
    for result in results:
        colour = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "light"}[result.status]
        terminalreporter.write(f"{result.status:<5}", **{colour: True})
        terminalreporter.line(result.line)
