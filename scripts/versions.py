"""Whether this Python has what the kit needs, in the versions that pyproject.toml allows: status 0, or a line
that says why not.

    python scripts/versions.py runtime|tools

runtime: what training and forecasting need; tools: also what the checks need. Standard library only;
scripts/env.sh asks it.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (the user's Python may be any)
    print("Python %d.%d, expected 3.11 or newer" % sys.version_info[:2])  # noqa: UP031
    sys.exit(1)

import re
import tomllib
from importlib import metadata
from pathlib import Path

OPTIONAL = ("kaggle", "six", "tensorboard")
"""Training does without them; what talks to Kaggle says when they are missing."""
MOST_SHOWN = 3


def main() -> int:
    project = tomllib.loads(
        (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    wanted = list(project["dependencies"])
    optional: tuple[str, ...] = OPTIONAL
    if sys.argv[1:] == ["tools"]:
        wanted += [
            text
            for text in project["optional-dependencies"]["dev"]
            if not text.startswith(("types-", "pandas-stubs"))
        ]
        optional = ()
    problems = [found for text in wanted if (found := problem(text, optional))]
    more = f" and {len(problems) - MOST_SHOWN} more" if len(problems) > MOST_SHOWN else ""
    if problems:
        print(", ".join(problems[:MOST_SHOWN]) + more)
    return int(bool(problems))


def problem(requirement: str, optional: tuple[str, ...]) -> str:
    """What is wrong with the installed version of `name>=1.2,<3`; '' when it is in its bounds."""
    match = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?\s*([^;]*)", requirement)
    if match is None:
        raise SystemExit(f"pyproject.toml: expected a name with bounds, found {requirement!r}")
    name, bounds = match[1], match[2].strip()
    if name in optional:
        return ""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"no {name}"
    inside = all(holds(numbers(found), bound.strip()) for bound in bounds.split(",") if bound.strip())
    return "" if inside else f"{name} {found} (expected {bounds})"


def holds(found: tuple[int, ...], bound: str) -> bool:
    """Whether a version is on the right side of one bound: >=, <, == ."""
    match = re.fullmatch(r"(>=|<|==)\s*([\d.]+)", bound)
    if match is None:
        raise SystemExit(f"pyproject.toml: expected a bound with >=, < or ==, found {bound!r}")
    limit = numbers(match[2])
    length = max(len(found), len(limit))
    left, right = padded(found, length), padded(limit, length)
    if match[1] == ">=":
        return left >= right
    return left < right if match[1] == "<" else left == right


def numbers(version: str) -> tuple[int, ...]:
    """2.13.0+cu126 -> (2, 13, 0)."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def padded(version: tuple[int, ...], length: int) -> tuple[int, ...]:
    return version + (0,) * (length - len(version))


if __name__ == "__main__":
    sys.exit(main())
