"""How a command ends: one line where the user can mend it, a traceback where only a programmer can."""

import errno
import importlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from kronos import cli, files

REAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder in place of a file": (lambda f: (f / "folder").read_text(), "found a folder"),
    "a file in place of a folder": (lambda f: (f / "file" / "x").read_text(), "found a file"),
    "a run in place of a file": (lambda f: files.write_text(f / "folder", "x"), "found a folder"),
    "a run below a file": (lambda f: (f / "file" / "x" / "y").mkdir(parents=True), "found a file"),
    "a new folder where a file is": (lambda f: (f / "file").mkdir(), "found a file or a broken link"),
    "a new folder where a link leads nowhere": (
        lambda f: (f / "broken").mkdir(exist_ok=True),
        "found a file or a broken link",
    ),
    "a name that is too long": (lambda f: (f / ("x" * 5000)).read_text(), "shorter path"),
    "links in a circle": (lambda f: (f / "circle").read_text(), "symbolic link loop"),
}
RARE = {  # a test cannot bring these about: the system's own error, as the interpreter raises it
    errno.EROFS: "read-only file system",
    errno.EIO: "input/output error",
    errno.EACCES: "no permission",
    errno.EDQUOT: "quota",
    errno.ENOSPC: "no space left",
    errno.EFBIG: "no file as large",
}


def ending(main: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        cli.run(lambda: main() and None)
    return int(left.value.code or 0), capsys.readouterr().err


def raising(error: OSError) -> Callable[[], object]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize("name", REAL)
def test_a_path_that_cannot_be_used_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Keeps out: twenty lines of traceback for a path that was mistyped."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere" / "at all")
    act, words = REAL[name]
    code, line = ending(lambda: act(tmp_path), capsys)
    assert code == cli.EXIT_USER_ERROR and line.startswith("error: ") and line.count("\n") == 1
    assert str(tmp_path) in line and words in line and len(line) < 400


@pytest.mark.parametrize("number", RARE)
def test_a_system_that_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Keeps out: a traceback on a read-only mount, a failing disk or a full quota."""
    code, line = ending(
        raising(OSError(number, os.strerror(number), "/data/x.csv", None, "/data/y.csv")), capsys
    )
    assert (
        code == cli.EXIT_USER_ERROR
        and line.count("\n") == 1
        and "/data/y.csv" in line
        and RARE[number] in line
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_needs_no_name(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Keeps out: a traceback where the disk fills up while writing: that error carries no file name."""
    assert ending(raising(OSError(number, os.strerror(number))), capsys)[0] == cli.EXIT_USER_ERROR


def test_other_errors_of_the_system_keep_their_traceback(tmp_path: Path) -> None:
    """Keeps out: a bug, or a network's trouble, dressed up as the user's mistake."""

    def unheard() -> None:
        with socket.socket() as probe, socket.socket() as client:
            probe.bind(("127.0.0.1", 0))
            client.connect(probe.getsockname())  # nobody listens

    def closed() -> None:
        os.write(-1, b"x")

    wrong = [
        unheard,
        closed,
        (tmp_path / "gone").read_text,
        raising(OSError(errno.EIO, "x")),
        raising(OSError("x")),
    ]
    for main in [*wrong, raising(PermissionError(errno.EACCES, "x"))]:
        with pytest.raises(OSError):
            cli.run(main)  # type: ignore[arg-type]


def test_a_missing_package_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Another Python than the one that the kit set up. A module of the kit's own that is missing is a bug."""
    code, line = ending(lambda: importlib.import_module("no_such_package.part"), capsys)
    assert code == cli.EXIT_USER_ERROR and line.count("\n") == 1
    assert "expected the package no_such_package" in line and "pip install -e ." in line
    with pytest.raises(ModuleNotFoundError):
        cli.run(lambda: importlib.import_module("kronos.no_such_module") and None)
