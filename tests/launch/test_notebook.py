"""The Kaggle notebook, executed cell by cell in a tree like Kaggle's: read-only inputs, an output that the
next version reads.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from test_bundle import closure

from kronos import files
from kronos.delivery import bundle
from kronos.delivery.session import write_session
from kronos.errors import KitError

SMALL = {
    "data.lookback_window": "32",
    "training.tokenizer_epochs": "1",
    "training.basemodel_epochs": "1",
    "training.samples_per_epoch": "240",
    "training.validation_samples": "64",
    "inference.sample_count": "3",
    "evaluation.origins": "8",
    "evaluation.fitted_baselines": "false",
    "evaluation.random_init": "false",
    "training.trackers": "[]",
}
MARKET = {"market.tickers": "24", "market.days": "260"}
NAMES = ("train.csv", "test.csv", "sample_submission.csv", "solution.csv")


def settings(values: dict[str, str]) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def competition(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A small market in the competition's files."""
    folder = tmp_path_factory.mktemp("market")
    keys = ("data_path", "test_path", "sample_submission_path", "solution_path")
    paths = {f"data.{key}": str(folder / "files" / name) for key, name in zip(keys, NAMES, strict=True)}
    values = paths | MARKET | {"data.store": str(folder / "store")}
    command = [
        sys.executable,
        root / "kaggle" / "prepare_data.py",
        "--config",
        root / "configs" / "demo.yaml",
        *settings(values),
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder / "files"


@pytest.fixture
def kaggle(tmp_path: Path, competition: Path, root: Path) -> Iterator[Path]:
    """/kaggle with the competition and the kit attached, and nothing under input that can be written."""
    top = tmp_path / "kaggle"
    inputs = top / "input"
    shutil.copytree(competition, inputs / "competitions" / "predicting-stock-trends-rise-or-fall")
    everything = closure(frozenset(r.name for r in bundle.runtime_requirements()))
    profile = tmp_path / "mine.yaml"
    shutil.copy(root / "configs" / "demo.yaml", profile)
    bundle.bundle(
        inputs / "datasets" / "me" / "kronos-kit",
        "me/kronos-kit",
        bundle.this_python(everything),
        configs=[profile],
    )
    (top / "working").mkdir()
    rights(inputs, 0o555)
    yield top
    rights(inputs, 0o755)


def rights(folder: Path, mode: int) -> None:
    for path in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        path.chmod(mode)


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): files.digest(p) for p in folder.rglob("*") if p.is_file()}


def execute(root: Path, top: Path, **values: str) -> str:
    """Run the notebook as `Save & Run All` does; everything that its cells printed."""
    notebook = nbformat.read(root / "kaggle" / "notebook" / "kronos-training.ipynb", as_version=4)
    surroundings = {
        "KIT_KAGGLE_ROOT": str(top),
        "KIT_PROFILE": "configs/mine.yaml",
        "KIT_SETTINGS": " ".join(settings(SMALL | values)),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": str(top / "working")}}
    )
    kept = {name: value for name, value in os.environ.items() if name != "KIT_PROGRESS"}
    client.execute(env={**kept, **surroundings})
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    shown = ["".join(o.get("data", {}).get("text/html", "")) for o in outputs]
    return "".join([*(o.get("text", "") for o in outputs), *shown])


@pytest.mark.long
def test_the_notebook_goes_on_where_its_last_version_stopped(root: Path, kaggle: Path) -> None:
    """The time limit ends the first version without a submission; the second, with its output attached,
    finishes. The profile is one that the bundle took along, and no bar fills the page."""
    before = digests(kaggle / "input")
    text = execute(root, kaggle, **{"training.time_limit": "0.00001"})
    assert "The training is not complete" in text, text[-3000:]
    assert not (kaggle / "working" / "submission.csv").exists()
    assert digests(kaggle / "input") == before, "inputs are read-only on Kaggle"

    rights(kaggle / "input", 0o755)
    shutil.move(kaggle / "working", kaggle / "input" / "notebooks" / "me" / "kronos-training")
    shutil.rmtree(kaggle / "temp")
    (kaggle / "working").mkdir()
    text = execute(root, kaggle)
    assert "run: going on with" in text and "going on from step" in text, text[-3000:]
    wanted = (
        kaggle / "input" / "competitions" / "predicting-stock-trends-rise-or-fall" / "sample_submission.csv"
    ).read_text()
    lines = (kaggle / "working" / "submission.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [line.split(",")[0] for line in wanted.splitlines()]
    assert "<iframe srcdoc=" in text, "the report is shown at the end"
    assert "%|" not in text, "a bar"


def test_a_notebook_without_its_bundle_says_so(root: Path, tmp_path: Path) -> None:
    """A bare StopIteration in the first cell tells a beginner nothing."""
    (tmp_path / "input" / "other").mkdir(parents=True)
    (tmp_path / "working").mkdir()
    with pytest.raises(
        CellExecutionError, match=r"expected the data set made by scripts/bundle_offline\.py.*attach it"
    ):
        execute(root, tmp_path)


def test_the_notebook_calls_commands_only(root: Path) -> None:
    """Code in a notebook is code without tests."""
    notebook = nbformat.read(root / "kaggle" / "notebook" / "kronos-training.ipynb", as_version=4)
    nbformat.validate(notebook)
    source = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "import kronos" not in source and "from kronos" not in source and "import torch" not in source
    assert all(not cell.get("outputs") for cell in notebook.cells), "committed without outputs"
    assert source.count('!bash "{') + source.count('!python "{') == 4


def test_the_kernels_metadata_is_what_kaggle_takes(root: Path) -> None:
    """Without a machine shape, two T4 become one retired GPU; with internet, the competition refuses the
    notebook.
    """
    tree = json.loads((root / "kaggle" / "notebook" / "kernel-metadata.json").read_text())
    assert (root / "kaggle" / "notebook" / tree["code_file"]).is_file()
    assert (
        tree["machine_shape"] == "NvidiaTeslaT4"
        and tree["enable_gpu"] is True
        and tree["enable_internet"] is False
    )
    assert tree["id"].split("/")[1] == tree["title"].lower().replace(" ", "-") and tree["is_private"] is True


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.test_path=other/test2.csv"], "expected a folder with train.csv, test2.csv"),
        (
            [
                "experiment.pre_trained=true",
                "model_paths.pretrained_tokenizer=a/b",
                "model_paths.pretrained_predictor=a/c",
            ],
            "attach",
        ),
    ],
)
def test_what_is_not_attached_is_named(
    competition: Path, root: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    """A session that finds it out after an hour is an hour of the week's thirty."""
    with pytest.raises(KitError, match=message):
        write_session(competition, tmp_path, root / "configs" / "demo.yaml", overrides, hours=1, gpus=0)
    assert not (tmp_path / "session.json").exists()


@pytest.fixture
def inputs(competition: Path, root: Path, tmp_path: Path) -> Path:
    """What the guide's user attaches: the competition, and a bundle with the whole kit, tests and tests'
    networks included.
    """
    inputs = tmp_path / "input"
    shutil.copytree(competition, inputs / "data")
    for name in ("train_kaggle.sh", "tests/golden"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        (inputs / "kronos-kit" / "kit" / name).parent.mkdir(parents=True, exist_ok=True)
        copy(root / name, inputs / "kronos-kit" / "kit" / name)
    return inputs


def attach(root: Path, kind: str, folder: Path, pair: str = "b") -> None:
    shutil.copytree(root / "tests" / "golden" / pair / kind, folder)


def session(inputs: Path, tmp_path: Path) -> dict[str, Any]:
    """Written for the published pair a/Kronos-small, a/Kronos-Tokenizer-base."""
    profile = tmp_path / "profile.yaml"
    pair = "{pretrained_tokenizer: a/Kronos-Tokenizer-base, pretrained_predictor: a/Kronos-small}"
    keys = ("data_path", "test_path", "sample_submission_path", "solution_path")
    data = ", ".join(f"{key}: elsewhere/{name}" for key, name in zip(keys, NAMES, strict=True))
    profile.write_text(f"data: {{{data}}}\nmodel_paths: {pair}\n")
    path = write_session(inputs, tmp_path / "working", profile, [], hours=10.5, gpus=2)
    return json.loads(path.read_text())


def weights(tree: dict[str, Any], inputs: Path) -> tuple[str, str]:
    pair = [Path(tree["model_paths"][f"pretrained_{kind}"]) for kind in ("tokenizer", "predictor")]
    return str(pair[0].relative_to(inputs)), str(pair[1].relative_to(inputs))


def test_a_session_finds_weights_and_gpus(inputs: Path, root: Path, tmp_path: Path) -> None:
    """Two GPUs are two processes, a packaged model is the pretrained pair, and the limit leaves time for the
    rest.
    """
    for kind in ("tokenizer", "predictor"):
        attach(root, kind, inputs / "kronos-kit" / "model" / kind)
    (inputs / "kronos-kit" / "model" / "metadata.json").write_text("{}")
    attach(root, "tokenizer", inputs / "elsewhere" / "tokenizer", "a")
    tree = session(inputs, tmp_path)
    assert tree["distributed"]["num_processes"] == 2 and tree["device"]["use_cuda"]
    assert (tree["training"]["time_limit"], tree["evaluation"]["time_limit"]) == (10.5, 1.0)
    assert tree["training"]["mixed_precision"] == "auto"
    assert weights(tree, inputs) == ("kronos-kit/model/tokenizer", "kronos-kit/model/predictor")
    assert tree["model_paths"]["base_save_path"].startswith(str(tmp_path / "working" / "runs"))


def test_the_tests_networks_are_no_weights(inputs: Path, root: Path, tmp_path: Path) -> None:
    """Forgotten weights were replaced by toys of a few thousand parameters from the kit, trained for ten
    hours and submitted. Nor are an earlier run's own networks the pretrained ones."""
    for kind, stage in (("tokenizer", "tokenizer"), ("predictor", "basemodel")):
        attach(root, kind, inputs / "mine" / "runs" / "kaggle" / stage / "best_model")
    (inputs / "mine" / "runs" / "kaggle" / "pipeline_config.json").write_text("{}")
    with pytest.raises(
        KitError, match=r"of a tokenizer \(Kronos-Tokenizer-base\), found none; attach the weights"
    ):
        session(inputs, tmp_path)


def test_weights_attached_as_kaggle_models_are_told_by_content(
    inputs: Path, root: Path, tmp_path: Path
) -> None:
    """There the folder is called 1: which network it is says the file inside. Of two, the published name
    decides.
    """
    models = inputs / "models" / "somebody"
    attach(root, "predictor", models / "kronos-small" / "pytorch" / "default" / "1")
    attach(root, "tokenizer", models / "kronos-pair" / "pytorch" / "default" / "1" / "tok")
    small = "models/somebody/kronos-small/pytorch/default/1"
    found = ("models/somebody/kronos-pair/pytorch/default/1/tok", small)
    assert weights(session(inputs, tmp_path), inputs) == found
    attach(root, "predictor", models / "kronos-base" / "pytorch" / "default" / "1")
    assert weights(session(inputs, tmp_path), inputs) == found
    shutil.move(models / "kronos-small", models / "kronos-mini")
    with pytest.raises(
        KitError, match=r"expected one folder .* of a predictor .*/kronos-base/.*, .*/kronos-mini/"
    ):
        session(inputs, tmp_path)


def test_networks_that_do_not_fit_are_no_pair(inputs: Path, root: Path, tmp_path: Path) -> None:
    """A predictor on another's tokens is noticed after the tokenizer's hours otherwise."""
    attach(root, "predictor", inputs / "small")
    attach(root, "tokenizer", inputs / "tok")
    path = inputs / "tok" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"s1_bits": 31}))
    with pytest.raises(KitError, match=r"equal .s1_bits, s2_bits."):
        session(inputs, tmp_path)
