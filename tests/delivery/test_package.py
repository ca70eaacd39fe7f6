"""A packaged model: whole, checked, versioned, and loadable where nothing but the kit is."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_stub import TOKEN, HubStub
from test_runs import add_backtest
from tiny import tiny_config, tiny_store

from kronos import files
from kronos.answers.decision import Decision
from kronos.answers.findings import Evidence, Figure, Findings, path_of, read_findings
from kronos.config import Config
from kronos.delivery.golden import load_networks
from kronos.delivery.package import check_package, package_model, read_run
from kronos.delivery.registry import rollback
from kronos.errors import KitError
from kronos.networks.stored import StoredAs
from kronos.training.stages import run_stage


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Both stages, trained."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(folder)
    store = tiny_store(Path(config.data.store))
    assert [run_stage(config, stage, store) for stage in ("tokenizer", "basemodel")] == [
        "complete",
        "complete",
    ]
    return config


@pytest.fixture
def packaged(run: Config, tmp_path: Path) -> Path:
    return package_model(run, tmp_path / "models", "tiny")


def script(root: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, root / "scripts" / "package_model.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


# -- what is written -----------------------------------------------------------------------------------------
def test_a_package_says_what_it_is(packaged: Path, run: Config) -> None:
    """A model without its boundary is scored on days that it was trained on."""
    facts = json.loads((packaged / "metadata.json").read_text())
    summary = json.loads((run.basemodel_dir / "summary.json").read_text())
    assert facts["train_end"] == summary["train_end"] and facts["data"]["digest"] == summary["data_digest"]
    assert facts["networks"]["predictor"]["digest"] == summary["model_digest"]
    assert facts["window"]["lookback"] == run.data.lookback_window
    card = (packaged / "README.md").read_text()
    assert (
        summary["train_end"] in card
        and "nothing is known about its skill" in card
        and card.startswith("---\nlibrary_name")
    )
    assert f"{facts['networks']['predictor']['parameters']:,}" in card


def test_figures_of_other_weights_are_left_out(
    run: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A retrained run keeps its old report and calibration: the card praised a network that nobody has
    tested.
    """
    copy = Path(shutil.copytree(run.run_dir, tmp_path / "run"))
    tree = json.loads((copy / "pipeline_config.json").read_text().replace(str(run.run_dir), str(copy)))
    (copy / "pipeline_config.json").write_text(json.dumps(tree))
    config = read_run(copy)
    own = {kind: files.folder_digest(copy / kind / "best_model") for kind in ("tokenizer", "basemodel")}
    for digest, there in ((own["basemodel"], True), ("of the weights before", False)):
        add_backtest(
            copy,
            0.53,
            0.002,
            1,
            models=[{"name": "model", "digest": digest}],
            verdict={"headline": "It is splendid."},
        )
        key = {"model": digest, "tokenizer": own["tokenizer"]}
        main = Evidence("model", "paths", 41, Figure(0.53), decision=Decision(5, 0.1, key=key))
        made = Findings(1, 5, "now", "d", "2020-01-02", "2021-01-04", 40, 30, 0.54, 0.51, "model", [main])
        made.save(copy)
        folder = package_model(config, tmp_path / "models", "tiny")
        facts, card = json.loads((folder / "metadata.json").read_text()), (folder / "README.md").read_text()
        assert (
            (facts["backtest"] is not None)
            is (facts["decisions"] == [5])
            is path_of(folder, 5).is_file()
            is there
        )
        assert read_findings(folder, 5) == (made if there else None)
        assert ("splendid" in card) is there and ("nothing is known about its skill" in card) is not there
    assert "no backtest of these weights" in caplog.text and "of other weights; it is left out" in caplog.text


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_package_of_a_smaller_size(
    run: Config, packaged: Path, tmp_path: Path, precision: StoredAs
) -> None:
    """The predictor is rounded, read by the usual loader and checked; the tokenizer keeps every bit."""
    folder = package_model(run, tmp_path / "small", "tiny", stored_as=precision)
    assert check_package(folder)
    sizes = [(one / "predictor/model.safetensors").stat().st_size for one in (folder, packaged)]
    assert (
        sizes[0] < {"bf16": 0.7, "int8": 0.6}[precision] * sizes[1]
    )  # names and norms weigh in so small a file
    tokenizers = [(one / "tokenizer/model.safetensors").read_bytes() for one in (folder, packaged)]
    assert tokenizers[0] == tokenizers[1]
    before, after = (load_networks(one).model.state_dict() for one in (packaged, folder))
    assert all(torch.allclose(after[name], tensor, atol=0.02) for name, tensor in before.items())


def test_a_package_loads_with_the_kit_alone(packaged: Path, root: Path, tmp_path: Path) -> None:
    """In a fresh process, from any directory, without a network."""
    code = (
        "import sys; from kronos import Kronos, KronosTokenizer\n"
        "model = Kronos.from_pretrained(sys.argv[1], 'predictor')\n"
        "tokenizer = KronosTokenizer.from_pretrained(sys.argv[1] + '/tokenizer')\n"
        "print(model.config.s1_bits == tokenizer.config.s1_bits, model.training)"
    )
    environment = {"PYTHONPATH": str(root), "PATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, packaged], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.stdout == "True False\n", done.stderr


def test_versions_follow_each_other_and_go_back(run: Config, tmp_path: Path) -> None:
    """A user in trouble must be able to serve what worked yesterday."""
    root = tmp_path / "models" / "tiny"
    first, second = (package_model(run, tmp_path / "models", "tiny") for _ in range(2))
    third = package_model(run, tmp_path / "models", "tiny", "v2.0.0")
    assert [p.name for p in (first, second, third)] == ["v1.0.0", "v1.0.1", "v2.0.0"]
    assert (root / "latest").resolve() == third.resolve()
    assert [rollback(root, "latest").after for _ in range(2)] == ["v1.0.1", "v1.0.0"]
    with pytest.raises(KitError, match=r"before v1\.0\.0"):
        rollback(root, "latest")
    assert (root / "latest").resolve() == first.resolve()
    with pytest.raises(KitError, match="never change"):
        package_model(run, tmp_path / "models", "tiny", "v1.0.1")


def test_a_failure_leaves_no_version(run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a package looks like a package."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        package_model(run, tmp_path, "tiny")
    assert list((tmp_path / "tiny").iterdir()) == []


# -- what is refused -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "predictor" / "model.safetensors").write_bytes(b"x"), "found other content"),
        (lambda f: (f / "tokenizer" / "config.json").unlink(), "found no file"),
        (lambda f: (f / "extra.txt").write_text("x"), "not packaged"),
        (lambda f: (f / "metadata.json").unlink(), "expected a packaged model"),
        (lambda f: (f / "checksums.json").write_text("{"), "expected JSON"),
    ],
)
def test_a_damaged_package_is_refused(packaged: Path, damage: object, message: str) -> None:
    """A transfer that lost bytes must not forecast."""
    assert len(check_package(packaged)) == 4
    damage(packaged)  # type: ignore[operator]
    with pytest.raises(KitError, match=message):
        check_package(packaged)


def test_an_unfinished_run_is_not_packaged(run: Config, tmp_path: Path) -> None:
    """An interrupted stage has a best_model, too."""
    copy = Path(shutil.copytree(run.run_dir, tmp_path / "run"))
    summary = copy / "basemodel" / "summary.json"
    summary.write_text(summary.read_text().replace('"complete"', '"interrupted"'))
    tree = json.loads((copy / "pipeline_config.json").read_text().replace(str(run.run_dir), str(copy)))
    (copy / "pipeline_config.json").write_text(json.dumps(tree))
    with pytest.raises(KitError, match="expected complete stages"):
        package_model(read_run(copy), tmp_path, "tiny")
    assert not (tmp_path / "tiny").exists()


def test_the_script(run: Config, root: Path, tmp_path: Path) -> None:
    """Run, check, roll back, and one line for each mistake."""
    done = script(root, "--run", run.run_dir, "--output", tmp_path, "--name", "a b")
    assert done.returncode == 2 and done.stderr.startswith("error: --name"), done.stderr
    done = script(root, "--run", run.run_dir, "--output", tmp_path, "--name", "tiny")
    assert done.returncode == 0 and "v1.0.0: sound" in done.stdout, done.stderr
    assert script(root, "--check", tmp_path / "tiny" / "latest").returncode == 0
    done = script(root, "--rollback", tmp_path / "tiny")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert script(root).returncode == 2 and script(root, "--run", tmp_path).returncode == 2


# -- upload --------------------------------------------------------------------------------------------------
@pytest.fixture
def hub() -> Iterator[HubStub]:
    server = HubStub()
    yield server
    server.shutdown()
    server.server_close()


def push(
    root: Path, hub: HubStub, folder: Path, home: Path, *flags: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    surroundings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "no_proxy": "127.0.0.1",
    }
    return script(root, "--folder", folder, "--push", "me/tiny", *flags, HF_TOKEN=token, **surroundings)


def test_a_package_is_uploaded_whole(packaged: Path, root: Path, hub: HubStub, tmp_path: Path) -> None:
    """Through the real client: every file, one private repository, a tag with the version; nothing old stays
    behind.
    """
    hub.files["me/tiny"] = {"old.bin": b"old", "metadata.json": b"{}", "checksums.json": b"{}"}
    done = push(root, hub, packaged, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    here = {str(p.relative_to(packaged)): p.read_bytes() for p in packaged.rglob("*") if p.is_file()}
    assert hub.files["me/tiny"] == here
    assert hub.tags["me/tiny"] == {"v1.0.0": "1" * 40}
    assert TOKEN not in done.stdout + done.stderr


def test_a_version_uploaded_again_moves_its_tag(
    packaged: Path, root: Path, hub: HubStub, tmp_path: Path
) -> None:
    """The tag stayed at the first upload: who loaded the version by its name got the old weights."""
    for number in "12":
        assert push(root, hub, packaged, tmp_path / "home").returncode == 0
        assert hub.tags["me/tiny"] == {"v1.0.0": number * 40}


def test_an_upload_publishes_nothing_unasked(
    packaged: Path, root: Path, hub: HubStub, tmp_path: Path
) -> None:
    """The hub makes nothing private that exists: weights meant for nobody would be there for everybody."""
    hub.files["me/tiny"], hub.public = {".gitattributes": b"x"}, {"me/tiny"}
    done = push(root, hub, packaged, tmp_path / "home")
    assert (
        done.returncode == 2
        and "found a public one" in done.stderr
        and list(hub.files["me/tiny"]) == [".gitattributes"]
    )
    assert push(root, hub, packaged, tmp_path / "home", "--allow-public").returncode == 0
    assert "predictor/model.safetensors" in hub.files["me/tiny"]


def test_an_upload_deletes_nothing_of_others(
    packaged: Path, root: Path, hub: HubStub, tmp_path: Path
) -> None:
    """A name typed wrong must not cost the model that lies there."""
    hub.files["me/tiny"] = {"pytorch_model.bin": b"years of work", "README.md": b"x"}
    done = push(root, hub, packaged, tmp_path / "home")
    assert done.returncode == 2 and "found 2 other files, e.g. README.md" in done.stderr, done.stderr
    assert hub.files["me/tiny"]["pytorch_model.bin"] == b"years of work" and not hub.tags
    assert push(root, hub, packaged, tmp_path / "home", "--replace-others").returncode == 0
    assert "pytorch_model.bin" not in hub.files["me/tiny"]


@pytest.mark.parametrize(
    ("refuse", "token", "words"),
    [
        (("commit", 403, "no write access"), TOKEN, "found 403"),
        (("create", 500, "the hub is ill"), TOKEN, "found 500"),
        (None, "hf_wrong", "found 401"),
        (None, "", "hf auth login"),
    ],
)
def test_a_refused_upload_is_one_line(
    packaged: Path,
    root: Path,
    hub: HubStub,
    tmp_path: Path,
    refuse: tuple[str, int, str] | None,
    token: str,
    words: str,
) -> None:
    """A traceback that ends in a web address helps nobody, and a token in it harms."""
    hub.refuse = refuse
    done = push(root, hub, packaged, tmp_path / "home", token=token)
    assert done.returncode == 2 and words in done.stderr, done.stdout + done.stderr
    assert (
        done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
    )  # above it: progress bars
    assert not token or token not in done.stderr
