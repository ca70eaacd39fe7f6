"""Progress away from a terminal: a file of lines that says how far an eight-hour run is."""

import logging
import os
import subprocess
import sys
import termios

import pytest

from kronos import progress as module
from kronos.errors import KitError
from kronos.progress import progress


def test_a_log_gets_a_plain_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A step of hours that says nothing is taken for dead and killed; a bar in a log file is a screenful of
    control codes.
    """
    monkeypatch.delenv("KIT_PROGRESS", raising=False)
    monkeypatch.setattr(module, "EVERY", 0.0)
    caplog.set_level(logging.INFO)
    with progress("forecast", 4000, "rows") as bar:
        for _ in range(4):
            bar.update(1000)
    lines = [record.getMessage() for record in caplog.records]
    assert any(
        line.startswith("forecast: 3000 of 4000 rows, ") and line.endswith(" left") for line in lines
    ), lines
    assert not any("\r" in line or line == "" for line in lines)


def test_a_short_step_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KIT_PROGRESS", raising=False)
    caplog.set_level(logging.INFO)
    with progress("reading", None, "rows", scaled=True) as bar:
        bar.update(5)
    assert not caplog.records and not "".join(capsys.readouterr()).strip()


def test_a_bar_is_shown_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook is no terminal, and shows bars."""
    monkeypatch.setenv("KIT_PROGRESS", "1")
    with progress("reading", 2e9, "rows", scaled=True) as bar:
        bar.update(10**9)
        bar.refresh()
    assert "1.00G/2.00G" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "bar"), [("0", False), ("1", True), ("", True)])
def test_a_pseudo_terminal_may_ask_for_lines(asked: str, bar: bool) -> None:
    """A notebook's `!` runs commands on one: ten updates a second of an eight-hour run are a page that no
    browser opens.
    """
    code = "from kronos.progress import progress\nwith progress('reading', 9, 'rows') as bar: bar.update(5); bar.refresh()"
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-c", code]
    subprocess.run(command, stderr=theirs, env={**os.environ, "KIT_PROGRESS": asked}, check=True)
    os.write(theirs, b"end")  # so that there is something to read
    assert (b"5/9" in os.read(ours, 10_000)) is bar
    os.close(ours)
    os.close(theirs)


def test_a_wish_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """KIT_PROGRESS=false was read as a wish for bars."""
    monkeypatch.setenv("KIT_PROGRESS", "false")
    with pytest.raises(KitError, match="expected 0 "):
        progress("reading", 1, "rows")
