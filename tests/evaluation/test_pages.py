"""The pages in a real browser: they fit a phone, load nothing from elsewhere, and say nothing to the console."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backtests import small_world

from kronos.evaluation.backtest import Options, run_backtest
from kronos.outlook.ahead import look_ahead
from kronos.outlook.ahead_page import write_outlook

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS = {"phone": 390, "laptop": 1280}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium on the PATH")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as player:
        opened = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of each kind, of a small world."""
    folder = tmp_path_factory.mktemp("pages")
    config, store = small_world(folder, evaluation__random_init=False, inference__answer="network")
    run_backtest(config, Options(save=True))
    groups = {name: f"group {position % 3}" for position, name in enumerate(store.tickers)}
    write_outlook(look_ahead(config, 3, groups=groups), folder / "outlook")
    return {
        "backtest": config.run_dir / "backtest" / "report.html",
        "outlook": folder / "outlook" / "index.html",
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["backtest", "outlook"])
def test_a_page_fits_a_phone_and_asks_nobody(
    browser: Any, pages: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    for name, width in WIDTHS.items():
        page = browser.new_page(viewport={"width": width, "height": 844})
        said: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.goto(pages[kind].as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        page.screenshot(path=tmp_path / f"{kind}-{name}.png", full_page=True)
        page.close()
        assert wide <= 0, f"{kind} at {width} px scrolls sideways by {wide} px"
        assert not said and asked == [pages[kind].as_uri()]
