"""The page of a backtest: verdict first, every number from report.json, safe, and fit for a laptop and for
paper.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from backtests import small_world
from matplotlib.figure import Figure
from test_report import Elements

from kronos.evaluation.backtest import run_backtest
from kronos.evaluation.report import number, spread, write_page
from kronos.evaluation.report_plots import plot_reliability

HOSTILE = "<script>alert('x')</script>&\"'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished backtest."""
    config, _ = small_world(tmp_path_factory.mktemp("world"))
    return run_backtest(config).path.parent


@pytest.fixture(scope="module")
def tree(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return (folder / "report.html").read_text()


def test_the_verdict_comes_first_and_nothing_is_missing(html: str, tree: dict[str, Any]) -> None:
    """A page that shows the model without what it has to be compared with persuades anyone of anything."""
    text = " ".join(" ".join(Elements(html).text).split())
    places = [
        text.index(words)
        for words in (tree["verdict"]["headline"], "Model and baselines", "Over time", "Examples")
    ]
    assert places == sorted(places)
    for entry in tree["entries"]:
        assert entry["name"] in text
        assert number("accuracy", entry["figures"]["accuracy"]["value"]) in text
    for line in tree["verdict"]["lines"]:
        assert " ".join(line.split()) in text
    assert tree["digests"]["data"] in text and tree["models"][0]["digest"][:16] in text


def test_it_opens_without_a_network(html: str, tree: dict[str, Any]) -> None:
    """One file that can be sent; nothing is fetched when it is opened, perhaps years later."""
    elements = Elements(html)
    assert not elements.open
    tags = [tag for tag, _ in elements.found]
    assert not {"script", "link", "iframe"} & set(tags)
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert tags.count("svg") >= 4 + len(tree["examples"])


def test_names_are_text(tree: dict[str, Any], tmp_path: Path) -> None:
    """A ticker or a run can have any name."""
    changed = json.loads(json.dumps(tree).replace(json.dumps(tree["main"])[1:-1], json.dumps(HOSTILE)[1:-1]))
    text = write_page(changed, tmp_path / "r.html").read_text()
    assert "<script" not in text and "&lt;script&gt;" in text


def test_a_negative_control_and_an_alarm_say_so(tree: dict[str, Any], tmp_path: Path) -> None:
    """A page of shuffled labels that looks like a result is worse than none."""
    alarm = {"lines": ["Leak alarm: 60 %"], "expected": False}
    text = write_page({**tree, "control": "shuffle-labels", "alarm": alarm}, tmp_path / "r.html").read_text()
    assert "Negative control shuffle-labels" in text and re.search(r'verdict fail">\s*<span>Leak alarm', text)


@pytest.mark.parametrize(
    ("name", "interval", "words"),
    [
        ("accuracy", {"value": 0.512, "low": 0.5, "high": 0.5249}, ("51.2 %", "50.0 to 52.5")),
        ("rank_ic", {"value": -0.0312, "low": -0.05, "high": 0.01}, ("-0.031", "-0.050 to 0.010")),
        ("accuracy", {"value": 0.5, "low": None, "high": None}, ("50.0 %", "")),
        ("auc", {"value": None, "low": None, "high": None}, ("–", "")),
    ],
)
def test_figures_as_people_read_them(name: str, interval: dict[str, Any], words: tuple[str, str]) -> None:
    """An interval that is missing must not look like one of width zero."""
    assert (number(name, interval["value"]), spread(name, interval)) == words


def test_the_first_screen_is_the_verdict_five_numbers_and_one_chart(
    html: str, tree: dict[str, Any], tmp_path: Path
) -> None:
    """The answer comes before tables; the demonstration says why its alarm is no alarm."""
    first = html[html.index("<body>") : html.index("Model and baselines")]
    assert first.count("<dt>") == 5 and first.count("<svg") == 1 and "<table" not in first
    right = sum(e["pred"] == e["label"] for e in tree["examples"])
    assert len(tree["examples"]) == 8 and f"{right} of 8 right" in html
    assert "random-init is the same network without training" in first and "planted" not in first
    changed = json.loads(json.dumps(tree))
    changed["config"]["market"]["generate"] = True
    for comparison in changed["comparisons"]["accuracy"]:
        comparison["better"] = -1
    shown = write_page(changed, tmp_path / "r.html").read_text()
    assert (
        "A signal was planted in it" in shown
        and "Better than the network here: ridge, logistic, boosting" in shown
    )


def test_reliability_stays_between_0_and_1() -> None:
    """P(rise) less the date's mean, plus a mean, may leave [0, 1]: an axis to 1.2 looks like a mistake."""
    observed = [{"value": v, "low": max(v - 0.1, 0.0), "high": min(v + 0.1, 1.0)} for v in (0.0, 0.5, 1.0)]
    bins = [{"predicted": p, "observed": o} for p, o in zip((-0.2, 0.5, 1.3), observed, strict=True)]
    axes = Figure().subplots()
    plot_reliability(axes, {"decided": {"bins": bins, "ece": {"value": None}}, "raw": None})
    assert (axes.get_xlim(), axes.get_ylim()) == ((0.0, 1.0), (0.0, 1.0))
    for line in axes.lines:
        assert all(0 <= x <= 1 for x in line.get_xdata())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1366])
def test_it_needs_no_sideways_scrolling(html: str, tmp_path: Path, width: int) -> None:
    """On a telephone the page is as wide as the screen; wide tables scroll in boxes of their own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    (tmp_path / "page.html").write_text(html)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.goto((tmp_path / "page.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == width
        tables = "[...document.querySelectorAll('table')]"
        assert page.evaluate(f"{tables}.every(table => table.closest('.scroll'))")
        browser.close()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here")
def test_a_browser_shows_it_whole(html: str, tmp_path: Path) -> None:
    """On a laptop's width nothing is cut off, and printing gives pages with text on them."""
    measure = "<script>document.documentElement.dataset.width = document.documentElement.scrollWidth</script></body>"
    (tmp_path / "page.html").write_text(html.replace("</body>", measure))
    chromium = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    address = (tmp_path / "page.html").as_uri()
    shown = subprocess.run(
        [*chromium, "--window-size=1366,900", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=120,
    )
    width = re.search(r'data-width="(\d+)"', shown.stdout)
    assert width is not None, shown.stderr
    assert int(width[1]) <= 1366
    pdf = tmp_path / "page.pdf"
    subprocess.run(
        [*chromium, f"--print-to-pdf={pdf}", address], capture_output=True, timeout=120, check=True
    )
    assert pdf.read_bytes().count(b"/Type /Page\n") >= 2 or pdf.stat().st_size > 50_000
