"""Progress away from a terminal: a file of lines that says how far an eight-hour run is."""

import logging

import pytest

from kronos import progress as module
from kronos.progress import progress


def test_a_log_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A step of hours that says nothing is taken for dead and killed; a bar in a log file is a screenful of control codes."""
    monkeypatch.delenv("KIT_PROGRESS", raising=False)
    monkeypatch.setattr(module, "EVERY", 0.0)
    caplog.set_level(logging.INFO)
    with progress("forecast", 4000, "rows") as bar:
        for _ in range(4):
            bar.update(1000)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("forecast: 3000 of 4000 rows, ") and line.endswith(" left") for line in lines), lines
    assert not any("\r" in line or line == "" for line in lines)


def test_a_short_step_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KIT_PROGRESS", raising=False)
    caplog.set_level(logging.INFO)
    with progress("reading", None, "rows", scaled=True) as bar:
        bar.update(5)
    assert not caplog.records and not "".join(capsys.readouterr()).strip()


def test_a_bar_is_shown_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook is no terminal, and shows bars."""
    monkeypatch.setenv("KIT_PROGRESS", "1")
    with progress("reading", 2e9, "rows", scaled=True) as bar:
        bar.update(10**9)
        bar.refresh()
    assert "1.00G/2.00G" in capsys.readouterr().err
