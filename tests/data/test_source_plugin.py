"""A source of one's own: the example of docs/sources.md, as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from price_server import serving

from kronos import configfile
from kronos.data import sources
from kronos.errors import KitError

BARS = "date,open,high,low,close,volume\n" + "".join(
    f"2024-{month:02}-{day:02},{10 + day},{12 + day},9,{11 + day},{100 * day}\n"
    for month in range(1, 7)
    for day in range(1, 29)
)


def example(root: Path) -> str:
    text = (root / "docs" / "sources.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def test_the_example_of_the_guide_runs(root: Path, tmp_path: Path) -> None:
    """Under 30 lines, by the command beside it; said in the log."""
    code = example(root)
    assert len(code.splitlines()) < 30
    (tmp_path / "my_source.py").write_text(code)
    command = re.search(
        r"python (kaggle/prepare_data\.py --data-source mine .*)", (root / "docs" / "sources.md").read_text()
    )
    assert command is not None
    with serving() as server:
        server.answers = {"/AAA.csv": BARS.encode(), "/BBB.csv": BARS.encode()}
        environment = os.environ | {"MY_PRICES": server.url}
        script, *arguments = command[1].split()
        settings = [
            "--set",
            "source.pause=0",
            "--set",
            "data.lookback_window=40",
            "--config",
            str(root / "configs" / "kaggle.yaml"),
        ]
        call = [sys.executable, str(root / script), *arguments, *settings]
        done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the code of my_source.py is run" in done.stdout and "2 tickers" in done.stdout
    assert server.asked == ["/AAA.csv", "/BBB.csv"]
    assert {path.name for path in (tmp_path / "data" / "mine").iterdir()} == {
        "raw", "bars.parquet", "pool.csv", "test.csv", "source.json",
    }  # fmt: skip
    again = subprocess.run([*call, "--skip-data-process"], capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and "taken as it is" in again.stdout


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1\n", "expected a class Source"),
        ("class Source:\n    pass\n", "expected a class Source"),
        ('    return iter([{"ticker": ["A"], "date": ["2024-01-02"]}])', "found no open"),
        (
            '    return iter([{c: ["x"] for c in ("ticker", "date", "open", "high", "low", "close", "volume")}])',
            "expected dates and",
        ),
        ("    return iter([])", "expected bars"),
    ],
)
def test_a_wrong_plugin_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if body.startswith("    "):
        body = (
            "from kronos.data.sources import BaseSource, Facts\nclass Source(BaseSource):\n"
            "  def facts(self, asked):\n    return Facts('shares', 'USD', 'none', 'UTC')\n"
            f"  def download_data(self, asked):\n    pass\n  def process_raw_data(self, asked):\n{body}\n"
        )
    Path("mine.py").write_text(body)
    Path("c.yaml").write_text(
        "experiment: {pre_trained: false}\nsource: {name: mine, plugin: mine.py, symbols: A}\n"
    )
    with pytest.raises(KitError, match=said) as error:
        sources.gather(configfile.load("c.yaml"))
    assert "\n" not in str(error.value)
