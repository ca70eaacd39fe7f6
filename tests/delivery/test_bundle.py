"""The offline bundle: complete for its target, whole or absent, and enough on its own where there is no
network.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kronos.delivery import bundle
from kronos.errors import KitError


def closure(names: frozenset[str]) -> set[str]:
    """`names` and all that they need in turn, as installed here."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name in found:
            continue
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        wanted = map(Requirement, needs)
        todo += [r.name for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def test_what_kaggle_lacks_is_complete_and_light() -> None:
    """One package forgotten, and the run ends in its first second where nothing can be fetched; torch again
    would be 2 GB.
    """
    pins = {line.split("==")[0] for line in bundle.missing(bundle.KAGGLE)}
    assert {
        "pydantic",
        "pydantic-core",
        "safetensors",
        "huggingface-hub",
        "jinja2",
        "markupsafe",
        "pyyaml",
        "tqdm",
    } <= pins
    assert not pins & {"torch", "numpy", "kaggle", "six", "scipy", "matplotlib"}
    needed = closure(frozenset(r.name for r in bundle.runtime_requirements()))
    assert needed <= pins | closure(bundle.KAGGLE_HAS)


def test_everything_for_a_bare_python() -> None:
    """Without the list of what is there, the heavy ones come along."""
    pins = {line.split("==")[0] for line in bundle.missing(bundle.this_python())}
    assert {"torch", "numpy", "sympy", "scipy"} <= pins


@pytest.mark.parametrize("slug", ["kit", "me/kit", "me/Kronos Kit", "me/kronos-kit/x"])
def test_a_name_that_kaggle_refuses_is_refused_here(tmp_path: Path, slug: str) -> None:
    """Kaggle says so after the upload."""
    with pytest.raises(KitError, match="--id"):
        bundle.bundle(tmp_path / "b", slug)
    assert not (tmp_path / "b").exists()


def test_a_bundle_never_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor leaves half of one when a wheel cannot be had."""
    with pytest.raises(KitError, match="expected a new folder"):
        bundle.bundle(tmp_path, "me/kronos-kit")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(KitError, match="expected pip to fetch"):
        bundle.bundle(tmp_path / "new", "me/kronos-kit")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """For this Python on a machine that has what Kaggle's image has."""
    folder = tmp_path_factory.mktemp("bundle") / "kit set"
    has = [part for name in sorted(bundle.KAGGLE_HAS) for part in ("--has", name)]
    command = [
        sys.executable,
        root / "scripts" / "bundle_offline.py",
        "--here",
        *has,
        "--id",
        "me/kronos-kit",
    ]
    command += ["--output", folder, "--config", root / "configs" / "demo.yaml"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if "expected pip to fetch" in done.stderr:
        pytest.skip(f"no package index here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_bundle_holds_the_kit_and_nothing_else(bundled: Path) -> None:
    """Runs, environments and keys stay at home."""
    assert len((bundled / "SHA256SUMS").read_text().splitlines()) > 100
    tops = {p.name for p in bundled.iterdir()}
    assert tops == {"kit", "wheels", "configs", "install.sh", "dataset-metadata.json", "SHA256SUMS"}
    assert (bundled / "kit" / "train_kaggle.sh").stat().st_mode & 0o100 or (
        bundled / "kit" / "train_kaggle.sh"
    ).is_file()
    assert not {".venv", "runs", ".git", "models"} & {p.name for p in (bundled / "kit").iterdir()}
    assert json.loads((bundled / "dataset-metadata.json").read_text())["id"] == "me/kronos-kit"


@pytest.mark.slow
def test_a_clean_machine_without_network_installs_and_runs_it(bundled: Path, tmp_path: Path) -> None:
    """A clean virtual environment that has Kaggle's big packages and no index: install, load a network, plan
    a launch.
    """
    machine = tmp_path / "machine"
    venv.create(machine, with_pip=True)
    python = machine / "bin" / "python"
    lend(closure(bundle.KAGGLE_HAS) - bundled_names(bundled), machine)
    where = tmp_path / "input"
    shutil.copytree(bundled, where)
    offline = {
        "PATH": f"{machine / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PIP_NO_INDEX": "1",
        "PYTHON": str(python),
    }
    assert subprocess.run([python, "-c", "import pydantic"], capture_output=True).returncode != 0, (
        "the machine has too much"
    )
    done = subprocess.run(["bash", where / "install.sh"], capture_output=True, text=True, env=offline)
    assert done.returncode == 0, done.stderr
    code = "from kronos import Kronos, KronosTokenizer; from kronos.networks import preset; print(len(preset('nano')))"
    done = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, env=offline, cwd=where / "kit"
    )
    assert done.stdout == "2\n", done.stderr
    launch = ["bash", "train_kaggle.sh", "--config", "configs/demo.yaml", "--dry-run"]
    done = subprocess.run(launch, capture_output=True, text=True, env=offline, cwd=where / "kit")
    assert done.returncode == 0 and "Nothing was run" in done.stdout, done.stdout + done.stderr
    assert "Setting up .venv" not in done.stdout, "the machine's own Python is enough"


@pytest.mark.slow
def test_a_damaged_bundle_does_not_install(bundled: Path, tmp_path: Path) -> None:
    """A copy that lost bytes would train for ten hours on them. What Kaggle keeps to itself is not missed."""
    where = Path(shutil.copytree(bundled, tmp_path / "in put"))
    (where / "dataset-metadata.json").unlink()
    shutil.rmtree(where / "kit" / ".ci", ignore_errors=True)
    install = ["bash", where / "install.sh"]
    surroundings = {"PATH": "/usr/bin:/bin", "PYTHON": "/bin/true"}
    assert subprocess.run(install, env=surroundings).returncode == 0
    (where / "kit" / "kronos" / "bars.py").write_text("")
    (where / "configs" / "demo.yaml").unlink()
    done = subprocess.run(install, env=surroundings, capture_output=True, text=True)
    assert (
        done.returncode == 2 and "kit/kronos/bars.py" in done.stdout and "configs/demo.yaml" in done.stdout
    ), done.stdout
    assert "copy the bundle again" in done.stderr


# -- which files are the kit's -------------------------------------------------------------------------------
def git(*arguments: str | Path) -> str:
    return subprocess.run(["git", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def tracked(root: Path) -> set[str]:
    return set(git("-C", root, "ls-files", "-z").split("\0")) - {""}


def listed(kit: Path, **surroundings: str) -> set[str]:
    """What a bundle made from another place would hold."""
    code = "from kronos.delivery import bundle; print('\\n'.join(bundle.kit_files()))"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(kit),
        "PYTHONDONTWRITEBYTECODE": "1",
        **surroundings,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=kit, env=environment
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")) - {""}


@pytest.fixture
def downloaded(root: Path, tmp_path: Path) -> Path:
    """The kit without version control, as its user has it: with an environment, data, runs and keys in it."""
    kit = tmp_path / "data" / "kit"
    for name in tracked(root):
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, kit / name)
    secrets = [".git.old/config", ".env", "kaggle.json", "kaggle/kaggle.json"]
    results = [
        ".venv/x.py",
        "runs/kaggle/a.json",
        "data/train.csv",
        "models/m/v1.0.0/x",
        "submissions/mine.csv",
    ]
    for name in [*secrets, *results, "kaggle-dataset/kit/x", "kronos/__pycache__/x.pyc"]:
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        (kit / name).write_text("secret")
    return kit


@pytest.mark.slow
def test_a_kit_without_version_control_is_bundled_whole(root: Path, downloaded: Path, tmp_path: Path) -> None:
    """kronos/data was left out for its name, and a bundle that cannot import itself was uploaded; keys went
    along.
    """
    wanted = {name for name in tracked(root) if not any(part.startswith(".") for part in Path(name).parts)}
    assert {name.split("/")[0] for name in wanted} == bundle.TOPS
    assert listed(downloaded) == wanted, "no version control at all"
    assert listed(downloaded, PATH="/nowhere") == wanted, "nor git"
    git("init", "-q", tmp_path)
    assert listed(downloaded) == wanted, (
        "a repository of its owner's around it: its list knows none of the files"
    )
    shutil.move(tmp_path / ".git", downloaded / ".git")
    (downloaded / ".git" / "HEAD").write_text("x")
    assert listed(downloaded) == wanted, "a repository that git refuses"


def test_a_list_without_the_kit_is_refused(downloaded: Path) -> None:
    """An empty bundle is found out on Kaggle, after the upload."""
    git("init", "-q", downloaded)
    git("-C", downloaded, "add", "README.md")
    with pytest.raises(AssertionError, match=r"expected kronos/data/store\.py among the 1 files"):
        listed(downloaded)


def bundled_names(folder: Path) -> set[str]:
    return {line.split("==")[0] for line in (folder / "wheels" / "pins.txt").read_text().split()}


def lend(names: set[str], machine: Path) -> None:
    """Links to packages of this environment, as if they had been installed there."""
    target = next((machine / "lib").glob("python*/site-packages"))
    for name in names:
        package = importlib.metadata.distribution(name)
        for top in {
            Path(file).parts[0]
            for file in package.files or []
            if Path(file).parts[0] not in ("..", "__pycache__")
        }:
            source = Path(str(package.locate_file(top)))
            if source.exists() and not (target / top).exists():
                (target / top).symlink_to(source)
