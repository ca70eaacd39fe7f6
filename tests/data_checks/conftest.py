"""`pytest tests/data_checks --config FILE` or `--data PATH [--test PATH --sample PATH]`: the data checks on a
user's own files.

--config: paths, lookback, calendar and cleaning of a configuration; --data and the others take the place of
its paths. With either only the named checks run, on those files. Without them they run on the generated
market, and beside them the tests that break a file on purpose.
"""

import json
from pathlib import Path

import pytest

from kronos.config import Config, DataConfig, MarketConfig
from kronos.configfile import derived_paths, load
from kronos.data import check_result, data_checks
from kronos.data.market_files import write_market

RESULTS = pytest.StashKey[list[check_result.CheckResult]]()
USER_TESTS = "test_user_files.py"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("data checks")
    group.addoption(
        "--config", metavar="FILE", help="configuration whose data, lookback and calendar are checked"
    )
    group.addoption("--data", metavar="PATH", help="price file, or folder of price files, to check")
    group.addoption("--test", metavar="PATH", help="the competition's test.csv")
    group.addoption("--sample", metavar="PATH", help="the competition's sample_submission.csv")


def option(config: pytest.Config, name: str) -> str:
    """An option's value; '' when it was not given, or when this folder is not on the command line (`pytest
    tests/`).
    """
    return config.getoption(name, None) or ""


def given(config: pytest.Config) -> str:
    """What names the user's files; '' where nothing does."""
    return option(config, "--data") or option(config, "--config")


def users_configuration(config: pytest.Config) -> Config:
    """The configuration that was named, with the paths that were named beside it; the defaults without
    one.
    """
    names = {"--data": "data_path", "--test": "test_path", "--sample": "sample_submission_path"}
    paths = {setting: value for flag, setting in names.items() if (value := option(config, flag))}
    base = option(config, "--config")
    if not base:
        return derived_paths(Config(data=DataConfig(**paths)))
    return load(base, [f"data.{setting}={json.dumps(value)}" for setting, value in paths.items()])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --data or --config: the user's files only."""
    if given(config):
        ours = [
            item
            for item in items
            if item.path.parent == Path(__file__).parent and item.path.name != USER_TESTS
        ]
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
def evidence(request: pytest.FixtureRequest) -> check_result.Evidence:
    """The user's files, read once; the generated market where none are named."""
    if not given(request.config):
        return data_checks.gather(Config(data=request.getfixturevalue("generated")))
    return data_checks.gather(users_configuration(request.config))


@pytest.fixture
def users_results(request: pytest.FixtureRequest) -> list[check_result.CheckResult] | None:
    """Where the results of a user's files are collected for the summary; None where none are named."""
    return request.config.stash.setdefault(RESULTS, []) if given(request.config) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Every check of the user's files on one line each, in words."""
    results = config.stash.get(RESULTS, [])
    if results:
        terminalreporter.section(f"data checks of {given(config)}")
    for result in results:
        colour = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "light"}[result.status]
        terminalreporter.write(f"{result.status:<5}", **{colour: True})
        terminalreporter.line(result.line)
