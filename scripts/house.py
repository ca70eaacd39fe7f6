#!/usr/bin/env python3
"""How large and how dense the code is: lines by room, conditional expressions, comprehensions, long functions.

python scripts/house.py     # a table, then one JSON line; scripts/check.sh prints it in CI
"""

import ast
import json
import sys
from collections import Counter
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos.config import Config

ROOT = Path(__file__).resolve().parents[1]
LONG_LINE, LONG_FUNCTION, LONG_FILE = 110, 60, 400
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NOT_COUNTED = ("source", "head", "portfolio", "service")
"""Sections of the configuration that the goal of 85 settings leaves out."""


def settings(kind: Any = Config) -> int:
    """How many settings a configuration has, those of sections inside of sections, too."""
    count = 0
    for name, hint in get_type_hints(kind).items():
        if name in NOT_COUNTED:
            continue
        if is_dataclass(hint):
            count += settings(hint)
        else:
            count += 1
    return count


def main() -> None:
    lines: Counter[str] = Counter()
    conditional = comprehensions = long_lines = functions = 0
    too_long: list[str] = []
    for path in sorted((ROOT / "kronos").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        rows = text.splitlines()
        room = path.relative_to(ROOT / "kronos").parts[0].removesuffix(".py")
        lines[room] += len(rows)
        if len(rows) > LONG_FILE:
            too_long.append(f"{path.relative_to(ROOT)}: {len(rows)} lines")
        long_lines += sum(len(row) > LONG_LINE for row in rows)
        for node in ast.walk(ast.parse(text)):
            conditional += isinstance(node, ast.IfExp)
            comprehensions += isinstance(node, COMPREHENSIONS)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions += 1
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LONG_FUNCTION:
                    too_long.append(f"{path.relative_to(ROOT)}: {node.name} has {length} lines")
    total = lines.total()
    for room, count in lines.most_common():
        print(f"  {room:<14}{count:>7,}")
    print(*too_long, sep="\n")
    figures: dict[str, float] = {"lines": total, "functions": functions, "settings": settings()}
    figures["too_long"] = len(too_long)
    figures["conditional_expressions_per_1000"] = round(1000 * conditional / total, 1)
    figures["comprehensions_per_1000"] = round(1000 * comprehensions / total, 1)
    figures["share_of_long_lines"] = round(long_lines / total, 4)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
