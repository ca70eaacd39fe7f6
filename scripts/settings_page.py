#!/usr/bin/env python3
"""Write docs/settings.md: every setting, its default, the values that it takes and what it does, from the code.

python scripts/settings_page.py            # writes the page
python scripts/settings_page.py --check    # exit 1 where the page is not what the code says
"""

import argparse
import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import config_types, records
from kronos.config import Config

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "settings.md"
INTRODUCTION = """# Settings

Every setting of a configuration file, made from the code by `python scripts/settings_page.py`. Set one in a YAML or JSON file
(`--config FILE`), or for one run with `--set`, its full name, `=` and the value. A file lists only what differs from the default.
Each line says: setting, default, (values that it takes), what it does. `null` is "not set".
A key of the guides is read as the setting in [guide_keys.md](guide_keys.md).
"""
WIDTH = 150
"""Characters of a line of the page."""


def meanings(kind: type) -> dict[str, str]:
    """The text under each field of a dataclass, on one line."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    found, last = {}, ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and last:
            found[last] = " ".join(str(node.value.value).split())
            last = ""
        else:
            last = ""
    return found


def takes(hint: Any) -> str:
    """The values that a type takes, in words: its range, its choices, or its kind."""
    for name, alias in vars(config_types).items():
        if hint is alias and name == "BarLength":
            return "1min to 720min, daily, weekly, monthly"
    kinds = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null"}
    if hint in kinds:
        return kinds[hint]
    notes = getattr(hint, "__metadata__", ())
    ranges = [note for note in notes if records.is_range(note)]
    if ranges:
        return str(ranges[0])
    origin, inside = get_origin(hint), get_args(hint)
    if origin is list:
        return "list"
    if origin is dict:
        return "names and values"
    words = []
    for part in inside:
        if isinstance(part, str):
            words.append(part)
        else:
            words.append(takes(part))
    return ", ".join(dict.fromkeys(words))


def sections(kind: Any = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, dataclass) of each section, sections inside of sections after theirs."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield f"{prefix}{name}", hint
            yield from sections(hint, f"{prefix}{name}.")


def default_of(field: Any) -> str:
    """A field's default as one writes it in a file."""
    value = field.default
    if value is MISSING:
        value = field.default_factory()
    return json.dumps(value)


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for name, kind in sections():
        about = " ".join((inspect.getdoc(kind) or "").split())
        lines += [f"## `{name}`", "", about, ""]
        words, hints = meanings(kind), get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            hint = hints[field.name]
            if is_dataclass(hint):
                continue
            text = f"`{field.name}`: `{default_of(field)}` ({takes(hint)}). {words.get(field.name, '')}"
            lines += textwrap.wrap(
                text.replace("None:", "null:"),
                WIDTH,
                initial_indent="* ",
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 where the page is old")
    given = options.parse_args()
    text = page()
    if given.check:
        same = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        if not same:
            print(
                "docs/settings.md: expected the settings of the code, found others; run python scripts/settings_page.py"
            )
            return 1
        print("docs/settings.md: as the code says")
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
