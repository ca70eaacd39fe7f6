"""The house's rules on imports: they point downwards, and light rooms stay light (docs/architecture.md)."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Top to bottom. A module may import from its own room and from rooms further down.
ROOMS = [
    "service",
    "launch",
    "predictor",
    "delivery",
    "portfolio",
    "outlook",
    "scoring",
    "submission",
    "evaluation",
    "runfolder",
    "answers",
    "compat",
    "forecasting",
    "planning",
    "training",
    "data",
    "networks",
    "final",
    "configfile",
    "config_rules",
    "guide_keys",
    "cli",
    "config",
    "config_gone",
    "config_answers",
    "config_training",
    "config_data",
    "config_types",
    "bars",
]
ROOMS += ["page", "palette", "progress", "files", "records", "errors"]
WITHOUT_TORCH = [
    "kronos",
    "kronos.bars",
    "kronos.config",
    "kronos.configfile",
    "kronos.forecasting.decide",
    "kronos.forecasting.result",
    "kronos.data.prepare",
    "kronos.service.schema",
]
ON_A_GPU_MACHINE = [
    "kronos.planning.plan",
    "kronos.training.stages",
    "kronos.forecasting.forecaster",
    "kronos.networks",
    "kronos.data.loader",
]
ABSENT = {"polars", "pandas", "pydantic", "kaggle"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "kronos" and len(parts) > 1 else None


def test_imports_point_downwards(root: Path) -> None:
    """An upward import makes two rooms one: neither can be understood or tested alone."""
    for path in sorted((root / "kronos").rglob("*.py")):
        own = path.relative_to(root / "kronos").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in ROOMS, (
            f"{path.name}: say in tests/test_imports.py and docs/architecture.md where the room {own} stands"
        )
        for name in imported(path):
            other = room(name)
            if other in ROOMS:
                assert ROOMS.index(other) >= ROOMS.index(own), (
                    f"{path}: imports {name}, which stands above it"
                )


def test_every_room_is_in_the_plan(root: Path) -> None:
    """A plan that misses a room is not read twice."""
    plan = (root / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in (root / "kronos").iterdir():
        if path.is_dir() and any(path.glob("*.py")):
            assert f"`kronos/{path.name}/`" in plan
            for module in path.glob("[!_]*.py"):
                assert f"`{module.stem}`" in plan, (
                    f"docs/architecture.md does not name {path.name}/{module.name}"
                )
        elif path.suffix == ".py" and path.stem != "__init__":
            assert f"{path.name}`" in plan, f"docs/architecture.md does not name {path.name}"


def test_a_colour_has_one_owner(root: Path) -> None:
    """Copies drift apart: the same thing is then blue in one report and green in the next."""
    owners: dict[str, set[str]] = {}
    for path in (p for kind in ("*.py", "*.html") for p in (root / "kronos").rglob(kind)):
        for colour in re.findall(r"#[0-9a-fA-F]{6}\b", path.read_text(encoding="utf-8")):
            owners.setdefault(colour.lower(), set()).add(path.name)
    assert owners and not {colour: names for colour, names in owners.items() if len(names) > 1}


def loaded_after(module: str) -> set[str]:
    code = f"import sys, {module}; print(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_light_rooms_load_without_torch(module: str) -> None:
    """Preparing data must not wait seconds for torch, nor need it."""
    assert "torch" not in loaded_after(module)


@pytest.mark.parametrize("module", ON_A_GPU_MACHINE)
def test_a_gpu_machine_needs_no_table_library(module: str) -> None:
    """Rented GPU machines often hold torch and little else: these rooms must load where the others are not
    installed.
    """
    code = f"import sys; sys.modules.update(dict.fromkeys({sorted(ABSENT)})); import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_module_edits_the_search_path(root: Path) -> None:
    """Only scripts, which may run from a bare clone, may do so."""
    for path in (root / "kronos").rglob("*.py"):
        assert "sys.path" not in path.read_text(encoding="utf-8")


def public_functions(
    body: list[ast.stmt], owner: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """(name, definition) of the public functions of a module and of its public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, f"{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{owner}{node.name}", node


def test_every_public_function_says_what_it_does(root: Path) -> None:
    """Who calls it reads its docstring, not its body."""
    silent = []
    for path in sorted((root / "kronos").rglob("*.py")):
        for name, node in public_functions(ast.parse(path.read_text(encoding="utf-8")).body):
            if not ast.get_docstring(node):
                silent.append(f"{path.relative_to(root)}: {name}")
    assert not silent
