"""The store: what is written comes back, complete or not at all, whole or refused."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronos.data import publish
from kronos.data.store import ARRAYS, OPTIONAL, SMALL_BYTES, BarStore
from kronos.data.store_writer import STORE_FILES, store_from_dict, write_store, writing
from kronos.errors import KitError

ROOT = Path(__file__).resolve().parents[2]
DAYS = np.arange("2020-01-01", "2020-03-01", dtype="datetime64[D]")


def small(path: Path, scale: float = 1.0, tickers: tuple[str, ...] = ("A", "ü", "股票")) -> BarStore:
    rng = np.random.default_rng(3)
    return store_from_dict(
        path, {t: (DAYS[k * 5 :], scale * rng.random((60 - k * 5, 6))) for k, t in enumerate(tickers)}
    )


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    """Keeps out: rows of one ticker under the name of another, float64 in the file, dates shifted by the
    calendar index.
    """
    rng = np.random.default_rng(3)
    store = small(tmp_path / "deep" / "store")
    assert store.tickers == sorted(["A", "ü", "股票"]) and store.frequency == "daily" and len(store) == 165
    for k, name in enumerate(["A", "ü", "股票"]):
        at = int(store.index_of([name])[0])
        rows = np.arange(store.offsets[at], store.offsets[at + 1])
        np.testing.assert_array_equal(store.bars[rows], rng.random((60 - k * 5, 6)).astype(np.float32))
        np.testing.assert_array_equal(store.dates(rows), DAYS[k * 5 :].astype("datetime64[s]"))
    assert {name: getattr(store, name).dtype.str for name in ARRAYS} == ARRAYS
    assert {p.name for p in store.path.iterdir()} == STORE_FILES - {f"{name}.npy" for name in OPTIONAL}
    with pytest.raises(ValueError, match="read-only"):
        store.bars[0, 0] = 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_end_before_equals_a_plain_search(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Keeps out: a bar of the forecast's own date, or of another ticker, among the known ones."""
    days = st.lists(st.integers(0, 60), min_size=1, max_size=25, unique=True).map(sorted)
    series = data.draw(st.lists(days, min_size=1, max_size=5))
    named = {
        f"t{k}": (np.array(d, dtype="datetime64[D]"), np.ones((len(d), 6))) for k, d in enumerate(series)
    }
    store = store_from_dict(tmp_path_factory.mktemp("s") / "store", named)
    asked = data.draw(
        st.lists(st.tuples(st.integers(0, len(series) - 1), st.integers(-3, 65)), min_size=1, max_size=20)
    )
    tickers = store.index_of([f"t{k}" for k, _ in asked])
    ends = store.end_before(tickers, np.array([d for _, d in asked], dtype="datetime64[D]"))
    for (k, day), ticker, end in zip(asked, tickers, ends, strict=True):
        assert end == store.offsets[ticker] + sum(d < day for d in series[k])


def test_unknown_tickers(tmp_path: Path) -> None:
    """Keeps out: index -1 read as the last ticker."""
    store = small(tmp_path / "store")
    assert store.index_of(["nobody", "A", ""]).tolist() == [-1, 0, -1]
    with pytest.raises(ValueError, match="not in the store"):
        store.end_before(np.array([-1]), np.array(["2020-02-01"], dtype="datetime64[D]"))


def test_moved_and_pickled_stores_open(tmp_path: Path) -> None:
    """Keeps out: absolute paths inside a store, and workers that each copy all rows."""
    store = small(tmp_path / "a")
    assert len(pickle.dumps(store)) < 1000
    copied = pickle.loads(pickle.dumps(store))  # noqa: S301 (our own bytes)
    np.testing.assert_array_equal(copied.bars, store.bars)
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert BarStore.open(tmp_path / "b").digest == store.digest


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    """Keeps out: a run resumed on other prices, and a run refused because the folder has another name."""
    first = small(tmp_path / "a")
    assert small(tmp_path / "b").digest == first.digest
    assert small(tmp_path / "c", scale=1.001).digest != first.digest
    assert small(tmp_path / "d", tickers=("A", "ü", "股")).digest != first.digest


@pytest.mark.parametrize("name", sorted(STORE_FILES - {f"{name}.npy" for name in OPTIONAL}))
@pytest.mark.parametrize("damage", ["missing", "short", "changed", "empty"])
def test_damaged_stores_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    """Keeps out: training on a store whose disk filled up, or whose bytes changed, without a word."""
    path = small(tmp_path / "store").path / name
    content = path.read_bytes()
    new = {
        "short": content[:-7],
        "changed": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "empty": b"",
    }
    path.unlink() if damage == "missing" else path.write_bytes(new[damage])
    if name == "manifest.json" and damage == "changed":
        manifest = json.loads(content)
        manifest["arrays"]["bars"]["sha256"] = "0" * 64
        path.write_text(json.dumps(manifest))
    with pytest.raises(KitError, match="prepare_data") as error:
        BarStore.open(tmp_path / "store")
    assert str(tmp_path / "store") in str(error.value) and "\n" not in str(error.value)


def test_large_stores_are_checked_on_request(tmp_path: Path) -> None:
    """Keeps out: digests of gigabytes at each start; and `verify` that verifies nothing."""
    rows = SMALL_BYTES // 24 + 1000
    write_store(
        tmp_path / "s",
        bars=np.ones((rows, 6)),
        session=np.arange(rows),
        sessions=np.arange(rows),
        offsets=[0, rows],
        tickers=["A"],
    )
    with (tmp_path / "s" / "bars.npy").open("r+b") as handle:
        handle.seek(5000)
        handle.write(b"\1")
    BarStore.open(tmp_path / "s")
    with pytest.raises(KitError, match="digest"):
        BarStore.open(tmp_path / "s", verify=True)


def test_other_versions_are_refused(tmp_path: Path) -> None:
    """Keeps out: arrays of another layout read as if they were of this one."""
    path = small(tmp_path / "store").path / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(KitError, match="version 1, found 99"):
        BarStore.open(tmp_path / "store")


def test_reopening_takes_little_more_than_parsing_the_names(tmp_path: Path) -> None:
    """Keeps out: reading all rows, or looping over tickers, to open a store of 50,000 tickers."""
    tickers = [f"ticker_{k:05d}" for k in range(50_000)]
    rows = 1_000_000
    session = np.tile(np.arange(20, dtype=np.int32), 50_000)
    offsets = np.arange(0, rows + 1, 20)
    write_store(
        tmp_path / "s",
        bars=np.ones((rows, 6), np.float32),
        session=session,
        sessions=np.arange(20),
        offsets=offsets,
        tickers=tickers,
    )
    names = (tmp_path / "s" / "tickers.json").read_text()
    assert least_seconds(lambda: BarStore.open(tmp_path / "s")) < 8 * least_seconds(lambda: json.loads(names))


def least_seconds(call: Callable[[], object]) -> float:
    """Of the processor, in the quickest of seven calls: what else runs on the machine does not count."""
    seconds = []
    for _ in range(7):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return min(seconds)


BROKEN = {
    "session has one entry per bar": {"session": np.arange(3)},
    "session points into sessions": {"session": np.arange(4) + 1},
    "dates rise within a ticker": {"session": np.array([0, 0, 1, 2])},
    "sessions are sorted": {"sessions": np.array([0, 2, 1, 3])},
    "offsets": {"offsets": np.array([0, 3])},
    "tickers are sorted": {"tickers": ["A", "A"], "offsets": np.array([0, 2, 4])},
    "segments": {"segments": np.array([[0, 9]])},
    "bars are": {"bars": np.ones((4, 5))},
}


@pytest.mark.parametrize("rule", BROKEN)
def test_contradicting_arrays_are_not_written(tmp_path: Path, rule: str) -> None:
    """Keeps out: a store that breaks what windows rely on; and the loss of the good one by a failed
    writing.
    """
    good = {
        "bars": np.ones((4, 6)),
        "session": np.arange(4),
        "sessions": np.arange(4),
        "offsets": np.array([0, 4]),
        "tickers": ["A"],
    }
    digest = write_store(tmp_path / "s", **good).digest
    with pytest.raises(ValueError, match=rule):
        write_store(tmp_path / "s", **{**good, **BROKEN[rule]})
    assert BarStore.open(tmp_path / "s").digest == digest
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_an_error_while_writing_leaves_the_old_store(tmp_path: Path) -> None:
    """Keeps out: half a store under the store's name."""
    digest = small(tmp_path / "s").digest
    with pytest.raises(RuntimeError), writing(tmp_path / "s") as writer:
        writer.save("sessions", np.arange(3))
        raise RuntimeError
    assert BarStore.open(tmp_path / "s").digest == digest and [p.name for p in tmp_path.iterdir()] == ["s"]


WRITER = """
import logging, sys
from pathlib import Path
import numpy as np
from kronos.data import publish
path = Path(sys.argv[1])
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
with publish.locked(path), publish.published(path, frozenset({"content"})) as folder:
    (folder / "content").write_text(sys.argv[2])
    print("writing", flush=True)
    sys.stdin.read(1)
"""


def writer(path: Path, content: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), content]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_killed_writer_blocks_nobody(tmp_path: Path) -> None:
    """Keeps out: a lock or a half-written folder that outlives its process."""
    path = tmp_path / "s"
    killed = writer(path, "first")
    assert killed.stdout and killed.stdout.readline() == "writing\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not path.exists() and list(tmp_path.iterdir())
    following = writer(path, "second")
    following.communicate("x", timeout=60)
    assert (path / "content").read_text() == "second" and [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_second_writer_waits(tmp_path: Path) -> None:
    """Keeps out: two preparations that write one store at once; a silent wait."""
    path = tmp_path / "s"
    first = writer(path, "first")
    assert first.stdout and first.stdout.readline() == "writing\n"
    second = writer(path, "second")
    assert second.stdout and "waiting" in second.stdout.readline() and not path.exists()
    first.communicate("x", timeout=60)
    assert second.stdout.readline() == "writing\n"
    assert (path / "content").read_text() == "first"
    second.communicate("x", timeout=60)
    assert (path / "content").read_text() == "second" and [p.name for p in tmp_path.iterdir()] == ["s"]


def test_a_writer_killed_between_two_names(tmp_path: Path) -> None:
    """Keeps out: the old store lost because its writer died after moving it aside."""
    store = small(tmp_path / "s")
    store.path.rename(tmp_path / ".s.old")
    publish.recover(tmp_path / "s")
    assert BarStore.open(tmp_path / "s").digest == store.digest


# -- read while it is replaced -------------------------------------------------------------------------------
def generation(path: Path, number: int) -> BarStore:
    """A store too large to be checked by digest; every generation has files of the same sizes, and other
    contents.
    """
    rows = SMALL_BYTES // 24 + 1000
    return write_store(
        path,
        bars=np.full((rows, 6), number),
        session=np.arange(rows),
        sessions=np.arange(rows) + number,
        offsets=[0, rows],
        tickers=[str(number)],
    )


def generations_in(store: BarStore) -> set[int]:
    return {int(store.bars[0, 0]), int(store.sessions[0].astype(int)), int(store.tickers[0])}


@pytest.mark.parametrize("moment", ["bars.npy", "sessions.npy", "segments.npy"])
def test_a_store_that_is_replaced_while_it_is_opened(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out: the manifest of one preparation beside the bars of the next, which no size gives away."""
    first = generation(tmp_path / "s", 1).digest
    load = np.load
    waiting = [moment]

    def replaced_before(path: Path, **how: str) -> np.ndarray:
        if Path(path).name in waiting:
            waiting.clear()
            generation(tmp_path / "s", 2)
        return load(path, **how)

    monkeypatch.setattr(np, "load", replaced_before)
    store = BarStore.open(tmp_path / "s")
    assert generations_in(store) == {2} and store.digest != first


REPLACER = """
import json, os, random, shutil, sys, time
from pathlib import Path
from kronos.data import publish
path, kept = Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]
number = 0
while True:
    number += 1
    new = path.parent / ".s.new-x"
    shutil.copytree(kept[number % len(kept)], new, copy_function=os.link)
    manifest = json.loads((new / "manifest.json").read_text())
    (new / "manifest.json").unlink()
    (new / "manifest.json").write_text(json.dumps(manifest | {"turn": number}))  # no preparation is as fast as to come back
    publish._replace(new, path)
    time.sleep(random.uniform(0, 0.02))  # else it may never stay for as long as it takes to read it
    number > 1 or print("replacing", flush=True)
"""


def test_a_store_that_is_replaced_without_end(tmp_path: Path) -> None:
    """Keeps out: a mixture, a damage that is none, or "found none" between the two renames; in two real
    processes.
    """
    digests = {}
    for number in (1, 2):
        digests[number % 2] = generation(tmp_path / str(number), number).digest
    words = [sys.executable, "-c", REPLACER, *(str(tmp_path / name) for name in ("s", "2", "1"))]
    replacer = subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert replacer.stdout and replacer.stdout.readline()
        seen = set()
        for _ in range(60):
            try:
                found = generations_in(store := BarStore.open(tmp_path / "s"))
            except (KitError, FileNotFoundError):
                continue  # it came to rest in none of the tries: an error, and no mixture
            assert len(found) == 1, "arrays of two preparations"
            assert store.digest == digests[store.manifest["turn"] % 2], "the manifest of another"
            seen |= found
    finally:
        replacer.kill()
        replacer.communicate()
    assert seen == {1, 2}


def test_a_worker_does_not_get_another_store(tmp_path: Path) -> None:
    """Keeps out: row numbers of the store that the trainer opened, looked up in one that was prepared
    since.
    """
    sent = pickle.dumps(small(tmp_path / "s"))
    small(tmp_path / "s", scale=2.0)
    with pytest.raises(KitError, match="found newer ones"):
        pickle.loads(sent)  # noqa: S301 (our own bytes)
