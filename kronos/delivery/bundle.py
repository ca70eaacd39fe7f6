"""The kit as one dataset folder for a machine without network: Kaggle with internet off, or any other.

In: this checkout, a model folder, configurations. Out: a folder ready for `kaggle datasets create -r zip`:

    kit/          the checkout's tracked files           wheels/   what the target's Python is missing, and requirements.txt
    model/        tokenizer/ and predictor/              configs/  the user's own configurations
    install.sh    compares with SHA256SUMS, installs      dataset-metadata.json, SHA256SUMS

Written beside its name and renamed: whole or not there.
"""

import importlib.metadata
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kronos import files
from kronos.delivery.credentials import FILE_NAMES
from kronos.delivery.package import check_package
from kronos.errors import KitError

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
TOPS = frozenset(
    """LICENSE README.md README.zh-CN.md configs docs kaggle kronos pyproject.toml requirements-dev.lock
    requirements-kaggle-image.txt requirements.lock scripts submissions tests train_kaggle.sh""".split()  # noqa: SIM905
)
"""What lies at the kit's top: all that is taken of a kit that came without version control."""
ESSENTIAL = "kronos/data/store.py"
"""A list of the kit's files without it is no list of the kit's files."""
SUMS = "SHA256SUMS"
ONLINE_ONLY = {"kaggle", "six"}
"""Run-time requirements that talk to Kaggle's servers: of no use without a network."""
KAGGLE_HAS = frozenset(
    """torch numpy pandas polars polars-runtime-32 pyarrow scikit-learn scipy accelerate protobuf tensorboard
    matplotlib pillow""".split()  # noqa: SIM905 (a list of a line and a half)
)
"""In Kaggle's image for certain, in versions that the kit takes (requirements-kaggle-image.txt); what they need is there, too."""
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
INSTALL = """#!/usr/bin/env bash
# Compares every file with SHA256SUMS, then installs what this Python is missing, from this folder and from nowhere else.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
(cd "$here" && sha256sum --quiet --check SHA256SUMS) || {
  echo "error: $here: expected the files that SHA256SUMS lists, found the above; copy the bundle again" >&2
  exit 2
}
"${PYTHON:-python3}" -m pip install --quiet --no-index --find-links "$here/wheels" -r "$here/wheels/requirements.txt"
"""


@dataclass(frozen=True)
class Target:
    """The Python that the wheels are for."""

    python: str
    """e.g. 3.12"""
    has: frozenset[str]
    """Packages that it has: neither they nor what only they need is bundled."""
    here: bool = False
    """It is the running Python: wheels for this very platform."""


KAGGLE = Target("3.12", KAGGLE_HAS)


def this_python(has: Iterable[str] = ()) -> Target:
    """The running Python on another machine, which has the packages `has`."""
    return Target(
        f"{sys.version_info[0]}.{sys.version_info[1]}", frozenset(map(canonicalize_name, has)), here=True
    )


def bundle(
    output: str | Path,
    slug: str,
    target: Target = KAGGLE,
    model: str | Path | None = None,
    configs: Iterable[str | Path] = (),
) -> Path:
    """Write the dataset folder `output`. Returns it.

    slug: OWNER/NAME of the dataset. model: a folder made by `package_model`. Raises KitError when the folder exists, when the
    model is not sound, or when a wheel cannot be had.
    """
    output = Path(output)
    if not re.fullmatch(r"[\w-]+/[a-z0-9-]{6,50}", slug):
        raise KitError(
            f"--id: expected OWNER/NAME with a name of 6 to 50 letters a-z, digits and hyphens, found {slug!r}"
        )
    if output.exists():
        raise KitError(
            f"{output}: expected a new folder, found one that exists; remove it or name another with --output"
        )
    if model is not None:
        check_package(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", suffix=".tmp", dir=output.parent) as holder:
        staged = Path(holder) / "bundle"
        _copy_kit(staged / "kit")
        if model is not None:
            shutil.copytree(model, staged / "model")
        _copy_configs(configs, staged / "configs")
        _wheels(staged / "wheels", target)
        files.write_text(staged / "install.sh", INSTALL)
        _write_sums(staged)
        title = slug.split("/")[1]
        files.write_json(
            staged / "dataset-metadata.json", {"title": title, "id": slug, "licenses": [{"name": "other"}]}
        )
        staged.rename(output)
    return output


# -- the kit -------------------------------------------------------------------------------------------------
def _copy_kit(target: Path) -> None:
    for name in kit_files():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def kit_files() -> list[str]:
    """The files that belong to the kit: what version control knows, or, of a kit that came without it (a bundle, a downloaded
    archive), what lies in its own folders. Raises KitError when that is not the kit."""
    if _is_checkout():
        names = [name for name in _git("ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]
    else:
        log.info("%s: no checkout that git can read; taking what lies in the kit's own folders", ROOT)
        names = sorted(
            str(p) for p in (p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file()) if _is_ours(p)
        )
    if ESSENTIAL not in names:
        raise KitError(
            f"{ROOT}: expected {ESSENTIAL} among the {len(names)} files of the kit, found none; fetch the kit again"
        )
    return names


def _is_checkout() -> bool:
    """Whether the kit's root is that of a checkout: a kit below somebody else's has no files of its own in that one's list."""
    top = _git("rev-parse", "--show-toplevel").rstrip("\n")
    return bool(top) and Path(top).resolve() == ROOT


def _git(*arguments: str) -> str:
    """What git says about the root; '' where it says nothing: it is not installed, or refuses the folder."""
    surroundings = {
        k: v for k, v in os.environ.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    }
    try:
        done = subprocess.run(
            ["git", "-C", ROOT, *arguments], capture_output=True, text=True, env=surroundings
        )
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


def _is_ours(path: Path) -> bool:
    """Whether a file below the root may leave it: no environment, run, result or key."""
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    if hidden or path.parts[0] not in TOPS or path.name in FILE_NAMES:
        return False
    return path.parts[0] != "submissions" or path.name == "README.md"


def _copy_configs(configs: Iterable[str | Path], target: Path) -> None:
    for path in map(Path, configs):
        if not path.is_file():
            raise KitError(f"{path}: expected a configuration file, found none")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / path.name)


def _write_sums(staged: Path) -> None:
    """For sha256sum. Hidden files are left out: they are for developers, and not every way of copying keeps them."""
    names = sorted(p.relative_to(staged) for p in staged.rglob("*") if p.is_file())
    kept = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    files.write_text(staged / SUMS, "".join(f"{files.digest(staged / name)}  {name}\n" for name in kept))


# -- wheels --------------------------------------------------------------------------------------------------
def runtime_requirements() -> list[Requirement]:
    """What the kit needs to run without a network, as pyproject.toml says."""
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    return [r for r in map(Requirement, listed) if canonicalize_name(r.name) not in ONLINE_ONLY]


def missing(target: Target) -> list[str]:
    """Exact pins of everything that `target` lacks, with all that it needs in turn, in the versions installed here."""
    environment = {"python_version": target.python, "python_full_version": f"{target.python}.0", "extra": ""}
    pins: dict[str, str] = {}
    todo = runtime_requirements()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if name in pins or name in target.has or (wanted.marker and not wanted.marker.evaluate(environment)):
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise KitError(
                f"{wanted.name}: expected it to be installed here, found no such package; install it first"
            ) from error
        pins[name] = found.version.split("+")[0]
        todo += map(Requirement, found.requires or [])
    return [f"{name}=={version}" for name, version in sorted(pins.items())]


def _wheels(folder: Path, target: Target) -> None:
    folder.mkdir(parents=True)
    pins = missing(target)
    kept = [str(r) for r in runtime_requirements() if canonicalize_name(r.name) not in target.has]
    files.write_text(folder / "requirements.txt", "\n".join(kept) + "\n")
    files.write_text(folder / "pins.txt", "\n".join(pins) + "\n")
    if pins:
        _download(folder, pins, target)


def _download(folder: Path, pins: list[str], target: Target) -> None:
    where = [] if target.here else ["--python-version", target.python, "--implementation", "cp"]
    where += [] if target.here else [part for platform in PLATFORMS for part in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", *where, "-d", str(folder), *pins]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip failed"]
        raise KitError(
            f"wheels: expected pip to fetch {len(pins)} wheels for Python {target.python}, found: {errors[-1]}"
        )
