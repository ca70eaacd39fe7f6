"""Our folder `kaggle/` must never stand in for PyPI's package `kaggle`, whose command line the user needs."""

import subprocess
import sys
from pathlib import Path

import pytest

FIND = "import importlib.util; s = importlib.util.find_spec('kaggle'); print(s.origin)"


def test_the_folder_is_no_package(root: Path) -> None:
    """With an __init__.py it would shadow the client and break its command line."""
    assert not (root / "kaggle" / "__init__.py").exists()


@pytest.mark.parametrize("folder", [".", "scripts", "kaggle", "tests"])
def test_import_kaggle_is_pypis(root: Path, folder: str) -> None:
    """From wherever a user stands, and with the root on the search path as the launcher puts it."""
    done = subprocess.run(
        [sys.executable, "-c", FIND],
        cwd=root / folder,
        env={"PYTHONPATH": str(root), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert "site-packages" in done.stdout, done.stdout + done.stderr


def test_import_kaggle_under_pytest() -> None:
    """pytest puts folders on the search path of its own."""
    import importlib.util

    spec = importlib.util.find_spec("kaggle")
    assert spec is not None and spec.origin is not None and "site-packages" in spec.origin


def test_the_clients_command_line_starts(root: Path, tmp_path: Path) -> None:
    """kaggle imports six without declaring it: a fresh environment without it cannot even print the
    version.
    """
    done = subprocess.run(
        [sys.executable, "-m", "kaggle", "--version"],
        cwd=root,
        env={"HOME": str(tmp_path), "PATH": "", "KAGGLE_USERNAME": "u", "KAGGLE_KEY": "k"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "2." in done.stdout, done.stdout + done.stderr
