"""scripts/download_data.py against a Kaggle on loopback: what it fetches, what it refuses, what a kill
leaves.
"""

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from kaggle_stub import COMPETITION, EXPIRED, KEY, SIGNATURE, Stub, script, zipped

from kronos import configfile, files
from kronos.config import Config
from kronos.data.archive import unpack
from kronos.delivery.client import KaggleError, explain
from kronos.delivery.credentials import scrub
from kronos.delivery.download import download_data, places
from kronos.errors import KitError

FOLDER = Path("data") / COMPETITION
CSVS = {
    "train__csv": random.Random(1).randbytes(3_000_000),
    "test__csv": b"ID,Date\na,2024-01-05\n",
    "sample_submission__csv": b"ID,Pred\na,0\n",
}


@pytest.fixture
def config(root: Path) -> Config:
    return configfile.load(root / "configs" / "kaggle.yaml")


@pytest.fixture
def full(stub: Stub) -> Stub:
    stub.serve(**CSVS)
    return stub


def manifest() -> dict[str, Any]:
    return json.loads((FOLDER / "download.json").read_text())


def complete() -> None:
    """All files are there, as the manifest says, and nothing else."""
    assert sorted(path.name for path in FOLDER.iterdir()) == [
        "download.json",
        "sample_submission.csv",
        "test.csv",
        "train.csv",
    ]
    for name, content in CSVS.items():
        path = FOLDER / name.replace("__", ".")
        assert path.read_bytes() == content
        entry = manifest()["files"][path.name]
        assert entry == {"bytes": len(content), "sha256": files.digest(path), "listed_bytes": len(content)}


# -- fetching ------------------------------------------------------------------------------------------------
def test_files_arrive_once(full: Stub, root: Path) -> None:
    """The command a user types: files in the configured folder, a manifest, and no second download of
    gigabytes.
    """
    full.cut_after = [1_500_000]  # the connection breaks in the middle: the client takes it up again
    first = script(root, "download_data")
    assert first.returncode == 0, first.stderr
    assert "3 files downloaded" in first.stdout and "train.csv" in first.stdout
    complete()
    assert full.sent_bytes < 1.2 * len(full.archive) + 2**20
    asked = len(full.requests)
    second = script(root, "download_data")
    assert second.returncode == 0 and "nothing was downloaded" in second.stdout
    assert len(full.requests) == asked


def start(root: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        str(root / "scripts" / "download_data.py"),
        "--config",
        str(root / "configs" / "kaggle.yaml"),
    ]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(what: Any) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def arrived() -> int:
    path = FOLDER / ".download" / f"{COMPETITION}.zip"
    return path.stat().st_size if path.is_file() else 0


def test_killed_download_goes_on(full: Stub, config: Config, root: Path) -> None:
    """A session that ends in the middle of 2 GB must not start them again, nor append to a wrong place."""
    full.slow = 0.05
    first = start(root)
    wait_for(lambda: arrived() >= 2**20)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    full.slow = 0.0
    assert not (FOLDER / "download.json").exists() and not (FOLDER / "train.csv").exists()
    download_data(config)
    complete()
    resumed = [span for route, span in full.requests if route == "GET" and span]
    assert resumed and int(resumed[-1].removeprefix("bytes=").rstrip("-")) >= 2**20


def test_client_that_outlives_its_command_is_waited_for(
    full: Stub, config: Config, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed alone, the command leaves a client that still writes: a second one beside it would mix two
    streams in one file.
    """
    full.slow = 0.05
    first = start(root)
    wait_for(lambda: arrived() >= 2**20)
    first.kill()
    with caplog.at_level("INFO"):
        download_data(config)
    first.communicate()
    assert "another download" in caplog.text
    complete()
    assert full.sent_bytes < 1.5 * len(full.archive)


def test_kill_between_download_and_manifest(full: Stub, config: Config) -> None:
    """What arrived whole is not fetched again because unpacking or the manifest was cut off."""
    staging = FOLDER / ".download"
    staging.mkdir(parents=True)
    (staging / "archive.zip").write_bytes(full.archive)
    (FOLDER / "test.csv").write_bytes(b"moved here before the kill")
    download_data(config)
    complete()
    assert full.asked("DownloadDataFiles") == 0


def test_files_fetched_by_hand_are_taken(full: Stub, config: Config) -> None:
    """Whoever used the plain client already must not pay for the gigabytes twice."""
    FOLDER.mkdir(parents=True)
    for name, content in CSVS.items():
        (FOLDER / name.replace("__", ".")).write_bytes(content)
    assert "nothing was downloaded" in download_data(config).table()
    complete()
    assert full.asked("DownloadDataFiles") == 0


def test_own_files_are_not_replaced(full: Stub, config: Config) -> None:
    """A train.csv that somebody edited is gone for ever once it is overwritten."""
    FOLDER.mkdir(parents=True)
    (FOLDER / "train.csv").write_bytes(b"mine")
    with pytest.raises(KitError, match=r"train.csv: expected 3000000 bytes.*--again"):
        download_data(config)
    assert (FOLDER / "train.csv").read_bytes() == b"mine" and full.asked("DownloadDataFiles") == 0
    download_data(config, again=True)
    complete()


def test_changed_file_is_noticed(full: Stub, config: Config) -> None:
    """A byte that flipped after the download would be trained on for ever."""
    download_data(config)
    content = bytearray(CSVS["train__csv"])
    content[17] ^= 1
    (FOLDER / "train.csv").write_bytes(content)
    with pytest.raises(KitError, match="differs from what was downloaded"):
        download_data(config)
    (FOLDER / "train.csv").unlink()
    download_data(config)
    complete()


# -- what can go wrong ---------------------------------------------------------------------------------------
REFUSALS: list[tuple[int, str | None, str]] = [
    (
        401,
        "Unauthenticated",
        r"rejects the credentials of the variable KAGGLE_API_TOKEN.*kaggle.com/settings/api.*unset it",
    ),
    (
        403,
        "You must accept this competition's rules",
        rf"accept the rules at https://www.kaggle.com/competitions/{COMPETITION}/rules",
    ),
    (404, "Not found", "knows no competition .*inference.competition"),
    (429, "Too many requests", "wait some minutes"),
    (500, "boom", "problem of its own .*boom"),
    (502, None, "problem of its own"),
]


@pytest.mark.parametrize(("status", "message", "line"), REFUSALS)
def test_refusals_are_one_line_with_a_remedy(
    full: Stub, config: Config, status: int, message: str | None, line: str
) -> None:
    """A traceback, or "403", leaves the user searching for what to click."""
    route = (
        "DownloadDataFiles" if status == 403 else "ListDataFiles"
    )  # the list is public, the rules guard the files
    full.errors = {route: (status, message)}
    with pytest.raises(KaggleError, match=line) as caught:
        download_data(config)
    assert "\n" not in str(caught.value)
    assert not (FOLDER / "download.json").exists() and not (FOLDER / "train.csv").exists()


def test_no_credentials(full: Stub, root: Path) -> None:
    """The client's own help of twenty lines, twice, hides what to do."""
    done = script(root, "download_data", KAGGLE_API_TOKEN="")
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: Kaggle needs to know who you are")
        and "~/.kaggle/access_token" in done.stderr
    )
    assert done.stderr.count("\n") == 1 and not full.requests


def test_expired_token_is_named_although_a_good_key_is_there(
    full: Stub, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old KAGGLE_API_TOKEN beats a good kaggle.json: without being told, nobody finds it."""
    folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    folder.mkdir()
    (folder / "kaggle.json").write_text(json.dumps({"username": "stubuser", "key": KEY}))
    monkeypatch.setenv("KAGGLE_API_TOKEN", EXPIRED)
    with pytest.raises(
        KaggleError, match=r"variable KAGGLE_API_TOKEN \(expired\?\).*beats a key in kaggle.json"
    ):
        download_data(config)
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    download_data(config)
    complete()


@pytest.mark.parametrize("route", ["IntrospectToken", "GET"])
def test_silent_peer_does_not_hang(full: Stub, config: Config, route: str) -> None:
    """The client waits for ever, even for its version: a notebook would burn its session."""
    full.silent = {route}
    with pytest.raises(KaggleError, match="silent for 3 s"):
        download_data(config, patience=3)


def test_no_network(full: Stub, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook without internet: one line, not forty of a traceback."""
    monkeypatch.setenv("http_proxy", "http://user:pr0xypass@127.0.0.1:1")
    with pytest.raises(KaggleError, match="no connection to Kaggle") as caught:
        download_data(config)
    assert "pr0xypass" not in str(caught.value)


def test_no_room(full: Stub, config: Config) -> None:
    """Found after an hour of downloading, it would cost that hour."""
    full.listed = {"train.csv": 10**18}
    with pytest.raises(KitError, match=r"expected room for 1000000\.0 TB"):
        download_data(config)
    assert full.asked("DownloadDataFiles") == 0


def test_expected_file_that_the_competition_lacks(stub: Stub, config: Config) -> None:
    """Else the first to miss it is the preparation, which cannot know why."""
    stub.serve(train__csv=b"Ticker,Date\n", test__csv=b"ID,Date\n")
    with pytest.raises(
        KitError,
        match=r"data.sample_submission_path: expected sample_submission.csv .* found test.csv, train.csv",
    ):
        download_data(config)


def test_places(config: Config, root: Path) -> None:
    """Files unpacked where the configuration does not look are downloaded in vain."""
    folder, expected = places(config)
    assert folder == FOLDER and set(expected) == {
        "data.data_path",
        "data.test_path",
        "data.sample_submission_path",
    }
    with pytest.raises(KitError, match=r"data.data_path: expected a path inside data"):
        places(configfile.load(root / "configs" / "kaggle.yaml", ["data.data_path=elsewhere/train.csv"]))
    with pytest.raises(KitError, match="makes its own data"):
        places(configfile.load(root / "configs" / "demo.yaml"))


# -- archives ------------------------------------------------------------------------------------------------
def bad_archives() -> dict[str, tuple[bytes, str]]:
    sound = zipped({"a.csv": b"x" * 5000})
    link = zipped({"good.csv": b"x", "l": b"/etc/passwd"}, modes={"l": 0o120777})
    return {
        "parent": (zipped({"good.csv": b"x", "../evil": b"x"}), "a path outside"),
        "deep parent": (zipped({"a/../../evil": b"x"}), "a path outside"),
        "absolute": (zipped({"/tmp/evil": b"x"}), "a path outside"),
        "drive": (zipped({"C:evil": b"x"}), "a path outside"),
        "backslash": (zipped({"..\\evil": b"x"}), "an unusual name"),
        "newline": (zipped({"a\nb": b"x"}), "an unusual name"),
        "link": (link, "a link or device"),
        "device": (zipped({"d": b""}, modes={"d": 0o060600}), "a link or device"),
        "manifest": (zipped({"download.json": b"{}"}), "a name that is taken"),
        "twice": (zipped({"a.csv": b"1", "A.csv": b"2"}), "a name that is taken"),
        "file and folder": (zipped({"a": b"1", "a/b": b"2"}), "sound zip"),
        "bomb": (zipped({"a.csv": bytes(30_000_000)}), "more bytes come out"),
        "cut": (sound[:-10], "sound zip"),
        "flipped": (sound.replace(b"a.csv", b"b.csv", 1), "sound zip"),
        "moved": (sound[:-6] + (2**32 - 2).to_bytes(4, "little") + sound[-2:], "sound zip"),
        "version": (
            sound.replace(b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xf0"),
            "sound zip.* version 24",
        ),
        "no text": (
            zipped({"\u00e4.csv": b"x"}).replace("\u00e4".encode(), b"\xff\xff"),
            "sound zip.*UnicodeDecodeError",
        ),
        "no zip": (b"<html>log in</html>", "sound zip"),
        "empty": (zipped({}), "found 0"),
    }


@pytest.mark.parametrize("case", bad_archives())
def test_hostile_and_broken_archives_write_nothing_outside(tmp_path: Path, case: str) -> None:
    """An archive from elsewhere must not plant a file, follow a link, or fill the disk."""
    content, line = bad_archives()[case]
    archive, folder = tmp_path / "x.zip", tmp_path / "in" / "files"
    archive.write_bytes(content)
    folder.mkdir(parents=True)
    with pytest.raises(KitError, match=line):
        unpack(archive, folder, {"a.csv": 5000}, {"download.json", ".download"}, lambda count: None)
    written = [path for path in tmp_path.rglob("*") if path != archive and not path.is_dir()]
    assert all(path.is_relative_to(folder) and not path.is_symlink() for path in written)
    assert sum(path.stat().st_size for path in written) <= 2_000_000


def test_lying_sizes(tmp_path: Path) -> None:
    """A header that claims ten bytes in front of millions must not get past a limit that trusts headers."""
    bomb = bytearray(zipped({"a.csv": bytes(30_000_000)}))
    true, small = (30_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(bytes(bomb).replace(true, small))
    (tmp_path / "files").mkdir()
    with pytest.raises(KitError):
        unpack(tmp_path / "x.zip", tmp_path / "files", {"a.csv": 10}, (), lambda count: None)
    assert sum(path.stat().st_size for path in (tmp_path / "files").iterdir()) <= 2_000_000


def test_hostile_archive_from_kaggle(full: Stub, root: Path) -> None:
    """The whole way: refused in one line, nothing left behind, and the bad archive is not kept for the next
    try.
    """
    full.archive = zipped({"train.csv": b"x", "../../../evil": b"x"})
    done = script(root, "download_data")
    assert (
        done.returncode == 2 and "a path outside the folder" in done.stderr and done.stderr.count("\n") == 1
    )
    assert (
        not list(Path.cwd().parent.rglob("evil"))
        and not list(FOLDER.rglob("*.csv"))
        and not list(FOLDER.rglob("*.zip"))
    )
    full.serve(**CSVS)
    assert script(root, "download_data").returncode == 0
    complete()


def test_damaged_archive_is_fetched_anew(full: Stub, root: Path) -> None:
    """A damaged one that stays fails every later call, and a traceback does not say which file to remove."""
    sound = full.archive
    full.archive = bad_archives()["version"][0]
    done = script(root, "download_data")
    assert (
        done.returncode == 2
        and "expected a sound zip archive" in done.stderr
        and done.stderr.count("\n") == 1
    ), done.stderr
    full.archive = sound
    assert script(root, "download_data").returncode == 0
    complete()


def test_folder_link_is_not_followed_out(full: Stub, config: Config, tmp_path: Path) -> None:
    """A link inside the folder would carry files out of it."""
    full.files = {name.replace("__", "."): content for name, content in CSVS.items()} | {"sub/x.csv": b"x"}
    full.archive = zipped(full.files)
    (tmp_path / "out").mkdir()
    FOLDER.mkdir(parents=True)
    (FOLDER / "sub").symlink_to(tmp_path / "out")
    with pytest.raises(KitError, match="a link out of it"):
        download_data(config)
    assert not list((tmp_path / "out").iterdir())


# -- secrets -------------------------------------------------------------------------------------------------
def test_secrets_are_scrubbed(stub: Stub, tmp_path: Path) -> None:
    """Logs are pasted into forums."""
    home = tmp_path / "home" / ".kaggle"
    home.mkdir()
    (home / "access_token").write_text("filetoken123456\n")
    (home / "kaggle.json").write_text(json.dumps({"username": "u", "key": KEY}))
    text = f"Bearer abc.def-1 {os.environ['KAGGLE_API_TOKEN']} filetoken123456 {KEY} http://u:pass@proxy:1 https://x/y.zip?{SIGNATURE}"
    clean = scrub(text)
    for secret in ("abc.def", os.environ["KAGGLE_API_TOKEN"], "filetoken123456", KEY, "pass@", "c0ffee"):
        assert secret not in clean
    assert "https://x/y.zip?***" in clean


def test_password_with_an_at_sign_is_scrubbed_whole() -> None:
    """Half of a password in a forum is most of a password."""
    clean = scrub("ProxyError('http://me:p@ssw0rd@proxy:3128', 'https://other:x@y/z@w')")
    assert clean == "ProxyError('http://***@proxy:3128', 'https://***@y/z@w')"


def test_long_token_stays_secret(full: Stub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a file name may be, it was looked up as one, and the traceback showed it. The package does
    so, too.
    """
    token = "KGAT_" + "a" * 395
    monkeypatch.setenv("KAGGLE_API_TOKEN", token)
    line = str(explain(COMPETITION, "http", 401, f"no such token {token}"))
    assert "rejects the credentials of the variable KAGGLE_API_TOKEN" in line and "aaaa" not in line
    full.errors = {"*": (401, "Unauthenticated")}
    done = script(root, "download_data", KAGGLE_API_TOKEN=token)
    assert (
        done.returncode == 2 and done.stderr.count("\n") == 1 and "aaaa" not in done.stdout + done.stderr
    ), done.stderr


def test_zip_helper_makes_links() -> None:
    """The hostile cases above would test nothing if the modes were lost."""
    link = zipfile.ZipFile(io.BytesIO(bad_archives()["link"][0])).infolist()[1]
    assert stat.S_ISLNK(link.external_attr >> 16)
