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
from test_report import Elements

from kronos.evaluation.backtest import run_backtest
from kronos.evaluation.report import number, spread, write_page

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
