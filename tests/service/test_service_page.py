"""The page in a real browser: nothing from elsewhere, no error, dates of sessions, both widths, both languages."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from services import Local, local, series, tiny_models

CHROMIUM = shutil.which("chromium")
WIDTHS = {"laptop": (1366, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with local(tiny_models(), folder=tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium here (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tickers, 80 days each."""
    path = tmp_path_factory.mktemp("prices") / "prices.csv"
    with path.open("w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["date", "ticker", "open", "high", "low", "close", "volume"])
        for number, name in enumerate(("600977", "AAPL")):
            one = series(name, 80, seed=number)
            for day in range(80):
                values = [one[key][day] for key in ("open", "high", "low", "close", "volume")]
                rows.writerow([one["timestamps"][day], name, *values])
    return path


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page(service: Local, browser: Any, prices: Path, tmp_path: Path, width: str) -> None:
    """Choose a file and a series, forecast, see what happened; then the same in the other language."""
    wide, high = WIDTHS[width]
    page = browser.new_page(viewport={"width": wide, "height": high}, locale="en-GB")
    wrong: list[str] = []
    sent: list[Any] = []
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(service.url) else wrong.append(r.url))
    page.on("response", lambda r: sent.append(r) if r.url.endswith("/v1/predict") else None)
    page.goto(service.url)
    page.wait_for_selector("#versions td")
    assert page.inner_text("#health") == "ready" and "v1.0.0" in page.inner_text("#model")
    assert not page.is_visible("#keyform")
    page.set_input_files("#file", prices)
    page.wait_for_selector("#series:not([disabled])")
    assert page.eval_on_selector_all("#series option", "all => all.map(o => o.value)") == ["600977", "AAPL"]
    page.select_option("#series", "AAPL")
    page.fill("#horizon", "7")
    page.click("#go")
    page.wait_for_selector("#chart canvas")
    answer = sent[0].json()
    days = np.array(answer["predictions"][0]["timestamps"], "datetime64[D]")
    last = np.datetime64(series("AAPL", 80, seed=1)["timestamps"][-1])
    assert len(days) == 7 and np.is_busday(days).all() and days[0] > last
    assert page.inner_text("#caption") == "AAPL"
    page.check("#holdback")
    page.click("#go")
    page.wait_for_selector("#go:not(:disabled)")
    assert sent[1].json()["predictions"][0]["timestamps"] == series("AAPL", 80, seed=1)["timestamps"][-7:]
    page.screenshot(path=tmp_path / f"{width}.png", full_page=True)
    page.click("#language")
    assert page.inner_text("#forecast-title") == "预测" and page.get_attribute("html", "lang") == "zh-CN"
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= wide
    assert not wrong
    assert (tmp_path / f"{width}.png").stat().st_size > 20_000
    page.close()


def test_a_wrong_file_is_said(service: Local, browser: Any, tmp_path: Path) -> None:
    """With its row; and nothing is sent."""
    page = browser.new_page(locale="en-GB")
    page.goto(service.url)
    for text, said in (("a,b\n1,2\n", "header"), ("date,open,high,low,close\n2024-01-02,1,2,x,1\n", "Row 2")):
        path = tmp_path / f"{said}.csv"
        path.write_text(text)
        page.set_input_files("#file", path)
        page.wait_for_selector(f"#problem:has-text('{said}')")
        assert page.is_disabled("#go")
    page.close()


def test_every_asset_is_named_and_licensed(root: Path) -> None:
    """The chart library comes with its licence and notice, in the wheel, too."""
    from kronos.service.page import FOLDER, KINDS

    here = {path.name for path in FOLDER.iterdir() if path.is_file() and path.suffix != ".py"}
    assert here == {*KINDS, "index.html"}
    assert (
        "Apache License" in (FOLDER / "LICENSE").read_text()
        and "TradingView" in (FOLDER / "NOTICE").read_text()
    )
    assert "v5.2.1" in (FOLDER / "lightweight-charts.js").read_text()[:300]
    assert '"kronos.service.page" = [' in (root / "pyproject.toml").read_text()
    for name in ("index.html", "page.js", "chart.js", "prices.js", "words.js", "style.css"):
        text = (FOLDER / name).read_text()
        assert "innerHTML" not in text and "eval(" not in text
        links = [word for word in text.replace('"', " ").split() if word.startswith(("http:", "https:"))]
        assert set(links) <= {"https://www.tradingview.com/"}
