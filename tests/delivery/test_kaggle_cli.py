"""The plain `kaggle` command line that the README shows, with the real client, on a real submission file."""

import re
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from kaggle_stub import COMPETITION, EXPIRED, SECRETS, Stub

from kronos import configfile
from kronos.submission import submit_command

FILE = Path("submissions/NAME.csv")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120)
    assert not [secret for secret in SECRETS if secret in done.stdout + done.stderr]
    return done


def readme_line(root: Path, start: str) -> str:
    """The README's own line, as it stands there."""
    match = re.search(
        rf"^ *({re.escape(start)} .*)$", (root / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert match, f"the README shows no line with {start!r}"
    return match[1]


@pytest.fixture
def file(stub: Stub) -> Path:
    FILE.parent.mkdir()
    FILE.write_text("ID,Pred\n" + "".join(f"ticker_{i},{i % 2}\n" for i in range(1, 5001)))
    return FILE


def test_readmes_submit_line(stub: Stub, file: Path, root: Path) -> None:
    """The line that users copy."""
    done = shell(readme_line(root, "kaggle competitions submit"))
    assert done.returncode == 0 and f"Successfully submitted to {COMPETITION}" in done.stdout, (
        done.stdout + done.stderr
    )
    assert list(stub.uploads.values()) == [file.read_bytes()]
    assert stub.submissions[0]["fileName"] == "NAME.csv"
    listed = shell(f"kaggle competitions submissions -c {COMPETITION} -v")
    assert "NAME.csv" in listed.stdout and "1000" in listed.stdout


def test_printed_submit_line(stub: Stub, file: Path, root: Path) -> None:
    """make_submission prints a line to copy: for a folder with a space and a run named oddly too."""
    odd = Path("my submissions/it's.csv")
    odd.parent.mkdir()
    shutil.copy(file, odd)
    config = configfile.load(root / "configs" / "kaggle.yaml", ["model_paths.exp_name=a $HOME `id` run"])
    done = shell(submit_command(config, odd, {"share_of_rises": 0.5}))
    assert done.returncode == 0, done.stderr
    assert (stub.submissions[0]["fileName"], stub.submissions[0]["description"]) == (
        "it's.csv",
        "a HOME id run: 50.0% rises",
    )


@pytest.mark.parametrize("status", [403, 503])
def test_failed_upload(stub: Stub, file: Path, status: int) -> None:
    """What the plain client does with a failed upload: it says so, and may still exit with 0 (2.2.4 does,
    2.2.5 does not).
    """
    stub.upload_status = status
    done = shell(f"kaggle competitions submit -c {COMPETITION} -f {file} -m m")
    assert "Could not submit to competition" in done.stdout + done.stderr and not stub.submissions


@pytest.mark.parametrize(("status", "message"), [(403, "You must accept the rules"), (429, "slow down")])
def test_refusals(stub: Stub, file: Path, status: int, message: str) -> None:
    """An error of Kaggle's is an error of the command."""
    stub.errors = {"CreateSubmission": (status, message)}
    done = shell(f"kaggle competitions submit -c {COMPETITION} -f {file} -m m")
    assert done.returncode != 0 and message in done.stderr and not stub.submissions


def test_expired_token(stub: Stub, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks for a login and fails."""
    monkeypatch.setenv("KAGGLE_API_TOKEN", EXPIRED)
    done = shell(f"kaggle competitions submit -c {COMPETITION} -f {file} -m m")
    assert done.returncode != 0 and "Authentication required" in done.stdout and not stub.submissions


def test_interrupted_upload(stub: Stub, file: Path) -> None:
    """The connection breaks once: the client sends the file again, whole."""
    stub.cut_uploads = 1
    assert shell(f"kaggle competitions submit -c {COMPETITION} -f {file} -m m").returncode == 0
    assert list(stub.uploads.values()) == [file.read_bytes()]


def test_plain_download_where_the_configuration_looks(stub: Stub, root: Path) -> None:
    """The other way to the files, without scripts/download_data.py."""
    stub.serve(train__csv=b"Ticker,Date\n", test__csv=b"ID,Date\n")
    folder = Path(configfile.load(root / "configs" / "kaggle.yaml").data.test_path).parent
    done = shell(f"kaggle competitions download -c {COMPETITION} -p {shlex.quote(str(folder))}")
    assert done.returncode == 0, done.stderr
    assert sorted(zipfile.ZipFile(folder / f"{COMPETITION}.zip").namelist()) == ["test.csv", "train.csv"]
