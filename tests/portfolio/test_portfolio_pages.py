"""What is shown of portfolios: a page of its own, a section of the backtest's report, two runs side by side; in
a real browser, on a laptop and on a phone.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backtests import small_world
from test_portfolio import planted

from kronos.errors import KitError
from kronos.evaluation.backtest import run_backtest
from kronos.evaluation.earned import headline
from kronos.evaluation.report import write_page
from kronos.portfolio.earnings import run_portfolio
from kronos.portfolio.outcome import Request
from kronos.portfolio.pairs import Owned, earnings_rows, owned, pairs_of
from kronos.portfolio.section import add_to_report
from kronos.portfolio.strategies import TopkDropout
from kronos.runfolder import RunFolder

PLAN = TopkDropout(3, 1, 1, 1e6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a backtest, a portfolio and the portfolio's section."""
    config, store = small_world(
        tmp_path_factory.mktemp("world"), evaluation__fitted_baselines=False, evaluation__random_init=False
    )
    run_backtest(config)
    request = Request(predictions=str(config.run_dir / "backtest/predictions.parquet"), plan=PLAN, noise=3)
    report = run_portfolio(store, request, config.run_dir / "portfolio")
    assert add_to_report(config.run_dir, report.tree) == config.run_dir / "backtest/report.html"
    return config.run_dir


def tree_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "backtest/report.json").read_text())


def test_the_report_has_a_section_and_is_still_read(run: Path) -> None:
    tree, kept = tree_of(run), json.loads((run / "portfolio/portfolio.json").read_text())
    assert tree["version"] == 2 and "return by day" not in tree["portfolio"]["signals"][0]
    html = (run / "backtest/report.html").read_text()
    assert "What the answers would have earned" in html and "Excess after cost, summed" in html
    for signal in kept["signals"]:
        value = signal["figures"]["excess after cost"]["value"]
        assert f"{value:+.1%}".replace("%", " %") in html
    digest = tree["models"][0]["digest"]
    assert RunFolder(run).report(digest)[0] is not None


def test_the_verdict_is_corrected_for_the_tries(run: Path) -> None:
    """The best of many is judged by its p-value times their number; one alone by its interval."""
    tree = json.loads((run / "portfolio/portfolio.json").read_text())
    ratio = {"value": 2.0, "low": 0.1, "high": 3.9, "p": 0.02, "unit": "ratio"}
    for signal in tree["signals"]:
        signal["figures"]["information ratio"] = ratio | {"value": -1.0}
    tree["signals"][0]["figures"]["information ratio"] = ratio
    for tries, verdict in ((1, "ok"), (2, "ok"), (3, "skip"), (50, "skip")):
        tree["tried"]["signals"] = tries
        found, words = headline(tree)
        assert found == verdict and (f"the best of {tries} tries" in words) is (tries > 1)
    tree["signals"][0]["figures"]["information ratio"] = ratio | {"low": -2.0, "high": -0.1}
    for signal in tree["signals"][1:]:
        signal["figures"]["information ratio"] = ratio | {"value": -1.0, "low": -2.0, "high": -0.1}
    assert headline(tree)[0] == "fail"


def test_reports_without_the_section_are_still_read(run: Path, tmp_path: Path) -> None:
    """Version 1, and version 2 before it had a portfolio."""
    tree = tree_of(run)
    del tree["portfolio"]
    page = write_page(tree, tmp_path / "page.html").read_text()
    assert "What the answers would have earned" not in page
    folder = tmp_path / "run"
    (folder / "backtest").mkdir(parents=True)
    for version in (1, 2):
        (folder / "backtest/report.json").write_text(json.dumps(tree | {"version": version}))
        assert RunFolder(folder).report(tree["models"][0]["digest"])[0] == tree | {"version": version}
    (folder / "backtest/report.json").write_text(json.dumps(tree | {"version": 1}))
    with pytest.raises(KitError, match="expected version 2 to add the portfolio to, found 1"):
        add_to_report(folder, {"signals": []})
    assert add_to_report(tmp_path / "nobody", {"signals": []}) is None


def two_runs(folder: Path) -> tuple[Owned, Owned]:
    """The same signal, and the same with its sign turned, on a planted market."""
    store, path = planted(folder, days=200, count=24)
    turned = folder / "turned.csv"
    lines = path.read_text().splitlines()
    rows = [line.rsplit(",", 1) for line in lines[1:]]
    turned.write_text("\n".join([lines[0], *(f"{head},{-float(score)}" for head, score in rows)]))
    turned_as = folder / "runs/b/signal.csv"
    turned_as.parent.mkdir(parents=True)
    shutil.copy(turned, turned_as)
    for name, given in (("a", path), ("b", turned_as)):
        request = Request(signal_file=str(given), plan=TopkDropout(4, 4, 1, 1e6, "close"), noise=1)
        run_portfolio(store, request, folder / f"runs/{name}/portfolio")
    one, other = owned(folder / "runs/a"), owned(folder / "runs/b")
    assert one is not None and other is not None
    return one, other


def test_two_portfolios_are_compared_day_by_day(tmp_path: Path) -> None:
    one, other = two_runs(tmp_path)
    rows, said = pairs_of(one, other)
    assert [row["signal"] for row in rows] == ["signal"] and not said
    difference = np.array(one.kept.signals[0].returns) - np.array(other.kept.signals[0].returns)
    assert rows[0]["difference a year"] == f"{difference.mean() * 252:+.2%}"
    assert rows[0]["better"] == "a" and rows[0]["days"] == str(len(difference))
    low, high = (float(text.strip("%")) for text in rows[0]["95 % interval"].split(" to "))
    assert 0 < low < 100 * difference.mean() * 252 < high
    same, _ = pairs_of(one, one)
    assert same[0]["better"] == "no evidence"
    assert {row["run"] for row in earnings_rows([one, other])} == {"a", "b"}
    assert owned(tmp_path / "nobody") is None


def test_a_portfolio_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "portfolio").mkdir()
    path = tmp_path / "portfolio/portfolio.json"
    path.write_text('{"version": 1, "dates": [], "signals": [], "request": {}}')
    with pytest.raises(KitError, match="expected version 2, found 1; run"):
        owned(tmp_path)


def test_the_script_shows_portfolios(root: Path, run: Path) -> None:
    command = [
        sys.executable,
        str(root / "scripts/compare_runs.py"),
        "--config",
        str(root / "configs/small.yaml"),
    ]
    command += ["--set", f"model_paths.base_path={run.parent}"]
    command += ["--against", run.name, run.name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Portfolios" in done.stdout and "no evidence" in done.stdout and "+0.00%" in done.stdout


# -- in a real browser ---------------------------------------------------------------------------------------
CHROMIUM = shutil.which("chromium")
BROWSER = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason="needs playwright and a chromium of the system",
)


@BROWSER
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_open_in_a_browser(run: Path, width: int, tmp_path: Path) -> None:
    """No error, no request to anywhere, nothing wider than the screen."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        errors: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        for name in ("portfolio/portfolio.html", "backtest/report.html"):
            page.goto((run / name).as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name}: {wide} pixels on a screen of {width}"
            assert page.locator("svg").count() >= 5
            page.screenshot(path=tmp_path / f"{Path(name).stem}-{width}.png", full_page=True)
        browser.close()
    assert not errors
    assert [url for url in asked if not url.startswith("file:")] == []
