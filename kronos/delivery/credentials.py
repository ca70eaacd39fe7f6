"""Which Kaggle credentials are there, and keeping them out of everything that is printed or written.

In: the environment and the files that the kaggle package reads. Out: a sentence about where they come from,
and text without them. Order and places: the package's `authenticate()` (2.2.4), listed in docs/kaggle.md.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

HIDDEN = "***"
TOKEN_NAMES = ("access_token", "access_token.txt")
KEY_NAME, LOGIN_NAME = "kaggle.json", "credentials.json"
FILE_NAMES = frozenset({*TOKEN_NAMES, KEY_NAME, LOGIN_NAME})
"""Of files that hold credentials: wherever they lie, they go nowhere."""
TOKEN_PAGE = "https://www.kaggle.com/settings/api"
HOW_TO = (
    f'make a token at {TOKEN_PAGE} ("Generate New Token") and save it in ~/.kaggle/access_token (chmod 600), '
    "or set KAGGLE_API_TOKEN to it"
)
_PATTERNS = (
    (re.compile(r"\b(Bearer|Basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (
        re.compile(r"(https?://)[^\s/]+@"),
        rf"\1{HIDDEN}@",
    ),  # name and password of a proxy, which may hold an @ itself
    (
        re.compile(r"((?:https?://|/)[^\s?'\"]+)\?[^\s'\")]+"),
        rf"\1?{HIDDEN}",
    ),  # signed links carry their key in the query
)


def source() -> str:
    """Where the credentials that requests will carry come from, '' when there are none."""
    if token := os.environ.get("KAGGLE_API_TOKEN"):
        return (
            f"KAGGLE_API_TOKEN (the file {token})"
            if _read(Path(token)) is not None
            else "the variable KAGGLE_API_TOKEN"
        )
    for path in (*_token_files(), *_key_files()):
        if path.is_file():
            return str(path)
    if os.environ.get("KAGGLE_USERNAME") and os.environ.get("KAGGLE_KEY"):
        return "the variables KAGGLE_USERNAME and KAGGLE_KEY"
    return str(_login_file()) if _login_file().is_file() else ""


def scrub(text: str) -> str:
    """`text` without any secret that is known here, and without what looks like one."""
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if name.startswith("KAGGLE_") and re.search("TOKEN|KEY|JWT|SECRET", name) and len(value) >= 6:
            yield value
            yield from _words(Path(value))
    for path in _token_files():
        yield from _words(path)
    for path in (*_key_files(), _login_file()):
        yield from _values(path)


def _words(path: Path) -> Iterator[str]:
    """The content of a token file; nothing for a name that is no readable file."""
    if (text := _read(path)) and len(text.strip()) >= 6:
        yield text.strip()


def _values(path: Path) -> Iterator[str]:
    try:
        tree = json.loads(_read(path) or "{}")
    except ValueError:
        return
    for name, value in tree.items() if isinstance(tree, dict) else ():
        if ("key" in name or "token" in name) and isinstance(value, str) and len(value) >= 6:
            yield value


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except (OSError, ValueError):  # a token itself, taken for a file name, may be too long for one
        return None


def _token_files() -> list[Path]:
    return [Path.home() / ".kaggle" / name for name in TOKEN_NAMES]


def _key_files() -> list[Path]:
    folders = [
        os.environ.get("KAGGLE_CONFIG_DIR"),
        Path.home() / ".kaggle",
        Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle",
    ]
    return [Path(folder) / KEY_NAME for folder in folders if folder]


def _login_file() -> Path:
    return Path.home() / ".kaggle" / LOGIN_NAME
