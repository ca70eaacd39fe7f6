"""Jobs: the lease table, the fence, retries, splitting, cancelling, keys, a full disk."""

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the service's packages are not installed: pip install '.[serve]'")

from kronos.errors import KitError
from kronos.service import lease
from kronos.service.database import DiskFull
from kronos.service.jobs import Conflict, Jobs, Unknown
from kronos.service.lease import LeaseLost
from kronos.service.schema import PredictRequest, Problem, Refused
from kronos.service.worker import Models, Worker

MODEL = ("demo", "v1.0.0", "d" * 64)
OPTIONS = {"prediction_horizon": 2, "confidence_level": 0.9, "sample_count": 33, "seed": 0}


class Clock:
    """A time that the test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def series(number: int, name: str = "S") -> dict[str, Any]:
    price = [10.0 + number, 11.0 + number]
    columns = {column: price for column in ("open", "high", "low", "close")}
    return {"series_id": f"{name}{number}", "timestamps": ["2024-01-02", "2024-01-03"], **columns}


def submit(jobs: Jobs, count: int = 10, size: int = 4, **more: Any) -> str:
    given = {"model": MODEL, "size": size, **more}
    return jobs.submit([series(i) for i in range(count)], OPTIONS, **given)


def answers(count: int) -> list[dict[str, Any]]:
    return [{"series_id": f"S{i}"} for i in range(count)]


class Echo:
    """A model whose forecast of a series is its first price; `bad` are refused by name, `deadly` raise."""

    digest = MODEL[2]

    def __init__(self, bad: tuple[str, ...] = (), deadly: tuple[str, ...] = (), named: bool = True) -> None:
        self.bad, self.deadly, self.named = bad, deadly, named
        self.asked: list[list[str]] = []

    def forecast(self, request: PredictRequest) -> dict[str, Any]:
        names = [one.series_id for one in request.stock_data]
        self.asked.append(names)
        if set(names) & set(self.deadly):
            raise RuntimeError("the device is lost")
        wrong = [place for place, name in enumerate(names) if name in self.bad]
        if wrong and self.named:
            problems = [Problem(f"stock_data[{i}]", "a finite forecast", "NaN", "look at it") for i in wrong]
            raise Refused(422, "invalid_request", "no forecast", problems)
        if wrong:
            raise KitError("something about one of them")
        return {"predictions": [{"series_id": s.series_id, "first": s.open[0]} for s in request.stock_data]}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(tmp_path: Path, clock: Clock) -> Jobs:
    return Jobs(tmp_path / "state", lease_seconds=30, clock=clock)


def worker(jobs: Jobs, model: Echo) -> Worker:
    return Worker(jobs, Models(lambda version, digest: model))


# -- lending -------------------------------------------------------------------------------------------------
def test_a_job_is_done_by_one_worker(jobs: Jobs) -> None:
    name = submit(jobs)
    assert jobs.find(name)["state"] == "queued"
    worker(jobs, Echo()).run(until_idle=True)
    found = jobs.find(name)
    assert (found["state"], found["done"], found["failed"], found["attempts"]) == ("done", 10, 0, 3)
    assert list(jobs.answers(name)) == [{"series_id": f"S{i}", "first": 10.0 + i} for i in range(10)]


def test_two_workers_never_have_one_chunk(jobs: Jobs) -> None:
    submit(jobs, count=40, size=1)
    taken: list[tuple[str, int]] = []

    def claim(name: str) -> None:
        while (chunk := jobs.claim(name)) is not None:
            taken.append((name, chunk.number))

    threads = [threading.Thread(target=claim, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for _, number in taken) == list(range(40))


def test_higher_priority_then_age(jobs: Jobs, clock: Clock) -> None:
    names = {}
    for priority in ("low", "normal", "high", "high"):
        clock.now += 1
        names.setdefault(priority, submit(jobs, count=1, priority=priority))
    order = [jobs.claim("w") for _ in range(3)]
    assert [chunk.job for chunk in order if chunk][:1] == [names["high"]]
    assert jobs.find(names["low"])["state"] == "queued"
    assert jobs.find(names["normal"])["state"] == "running"


def test_a_high_job_goes_before_fifty_low_chunks(jobs: Jobs, clock: Clock) -> None:
    low = submit(jobs, count=50, size=1, priority="low")
    first = jobs.claim("w")
    assert first is not None and first.job == low
    clock.now += 1
    high = submit(jobs, count=6, size=3, priority="high")
    jobs.finish(first, answers(1))
    started_low = 0
    model = Echo()
    while jobs.find(high)["state"] != "done":
        chunk = jobs.claim("w")
        assert chunk is not None
        started_low += chunk.job == low
        worker(jobs, model).work(chunk)
    assert started_low < 3


def test_a_worker_that_lost_its_lease_writes_nothing(jobs: Jobs, clock: Clock) -> None:
    name = submit(jobs, count=2, size=2)
    late = jobs.claim("late")
    assert late is not None
    clock.now += 31
    jobs.claim("none is due yet")  # takes the chunk back
    with pytest.raises(LeaseLost):
        jobs.beat(late)
    clock.now += 2
    second = jobs.claim("second")
    assert second is not None and second.token > late.token
    with pytest.raises(LeaseLost):
        jobs.finish(late, [{"series_id": "wrong"}] * 2)
    assert not list((jobs.folder / "jobs" / name).rglob("*.jsonl.tmp")) and not results(jobs, name)
    jobs.finish(second, answers(2))
    with pytest.raises(LeaseLost):
        jobs.finish(late, [{"series_id": "wrong"}] * 2)
    assert list(jobs.answers(name)) == answers(2)


def results(jobs: Jobs, name: str) -> list[str]:
    folder = jobs.folder / "jobs" / name / "results"
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir())


def test_a_beat_prolongs_the_lease(jobs: Jobs, clock: Clock) -> None:
    submit(jobs, count=1)
    chunk = jobs.claim("w")
    assert chunk is not None
    for _ in range(5):
        clock.now += 20
        jobs.beat(chunk)
        assert jobs.claim("other") is None
    jobs.finish(chunk, answers(1))


def test_given_back_without_blame(jobs: Jobs) -> None:
    submit(jobs, count=1)
    for _ in range(10):
        chunk = jobs.claim("w")
        assert chunk is not None
        jobs.release(chunk)
    row = jobs.database.connection().execute("SELECT * FROM chunks").fetchone()
    assert (row["state"], row["ended_badly"]) == ("queued", 0)


# -- what goes wrong -----------------------------------------------------------------------------------------
def test_the_wait_grows_from_try_to_try(jobs: Jobs, clock: Clock) -> None:
    submit(jobs, count=1)
    for wait in lease.BACKOFF_SECONDS[: lease.TRIES - 1]:
        chunk = jobs.claim("w")
        assert chunk is not None
        jobs.fail(chunk, "it broke")
        clock.now += wait - 0.01
        assert jobs.claim("w") is None
        clock.now += 0.02
    assert jobs.claim("w") is not None


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "raises"])
def test_the_series_that_ends_workers_is_found(jobs: Jobs, clock: Clock, killed: bool) -> None:
    name = submit(jobs, count=16, size=16)
    model = Echo(deadly=("S11",))
    while jobs.find(name)["state"] in ("queued", "running"):
        clock.now += 20
        chunk = jobs.claim("w")
        if chunk is None:
            continue
        if killed and chunk.first <= 11 < chunk.stop:
            clock.now += 31  # nothing more is heard of this worker
            continue
        worker(jobs, model).work(chunk)
    found = jobs.find(name)
    assert (found["state"], found["done"], found["failed"]) == ("done", 15, 1)
    told = list(jobs.answers(name))
    assert [one["series_id"] for one in told] == [f"S{i}" for i in range(16)]
    assert [one["series_id"] for one in told if "failed" in one] == ["S11"]
    assert "tried 3 times" in told[11]["failed"]


@pytest.mark.parametrize("named", [True, False])
def test_a_series_that_cannot_be_forecast_fails_alone_and_at_once(jobs: Jobs, named: bool) -> None:
    name = submit(jobs, count=8, size=8)
    model = Echo(bad=("S2", "S5"), named=named)
    worker(jobs, model).run(until_idle=True)
    found = jobs.find(name)
    assert (found["state"], found["done"], found["failed"], found["attempts"]) == ("done", 6, 2, 1)
    told = list(jobs.answers(name))
    assert [one["series_id"] for one in told] == [f"S{i}" for i in range(8)]
    assert [one["series_id"] for one in told if "failed" in one] == ["S2", "S5"]
    if named:
        assert len(model.asked) == 2, "the others are computed once more, together"


def test_a_job_without_any_forecast_failed(jobs: Jobs) -> None:
    name = submit(jobs, count=2)
    worker(jobs, Echo(bad=("S0", "S1"))).run(until_idle=True)
    assert jobs.find(name)["state"] == "failed"
    with pytest.raises(Conflict):
        list(jobs.answers(name))


def test_the_package_of_the_job_is_gone(jobs: Jobs) -> None:
    name = submit(jobs)

    def load(version: str, digest: str) -> Echo:
        raise KitError("models/demo/v1.0.0: expected a package, found none; submit the job again")

    Worker(jobs, Models(load)).run(until_idle=True)
    found = jobs.find(name)
    assert found["state"] == "failed" and "expected a package" in found["reason"]


# -- what people do ------------------------------------------------------------------------------------------
def test_a_key_stands_for_one_job(jobs: Jobs) -> None:
    first = submit(jobs, key="nightly")
    assert submit(jobs, key="nightly") == first
    with pytest.raises(Conflict, match="nightly"):
        submit(jobs, count=9, key="nightly")
    with pytest.raises(Conflict):
        submit(jobs, key="nightly", priority="high")
    assert [job["id"] for job in jobs.all()] == [first]
    assert [path.name for path in (jobs.folder / "jobs").iterdir()] == [first], "the others left nothing"
    assert submit(jobs, key="weekly") != first


def test_cancel_and_resume(jobs: Jobs, clock: Clock) -> None:
    name = submit(jobs, count=12, size=4)
    first, second = jobs.claim("a"), jobs.claim("b")
    assert first is not None and second is not None
    jobs.finish(first, answers(4))
    assert jobs.cancel(name)["state"] == "cancelled"
    with pytest.raises(LeaseLost):
        jobs.finish(second, answers(4))
    assert jobs.claim("a") is None
    with pytest.raises(Conflict):
        list(jobs.answers(name))
    assert jobs.resume(name)["state"] == "queued"
    with pytest.raises(Conflict):
        jobs.resume(name)
    with pytest.raises(LeaseLost):
        jobs.finish(second, answers(4))
    model = Echo()
    worker(jobs, model).run(until_idle=True)
    assert jobs.find(name)["done"] == 12
    assert sum(map(len, model.asked)) == 8, "what was done is kept"
    assert jobs.cancel(name)["state"] == "done"


def test_unknown_jobs(jobs: Jobs) -> None:
    for call in (jobs.find, jobs.cancel, jobs.resume):
        with pytest.raises(Unknown):
            call("job_../../etc/passwd")


def test_time_left(jobs: Jobs, clock: Clock) -> None:
    name = submit(jobs, count=12, size=4)
    chunk = jobs.claim("w")
    assert chunk is not None and jobs.find(name)["eta_s"] is None
    clock.now += 10
    jobs.finish(chunk, answers(4))
    assert jobs.find(name)["eta_s"] == 20.0


def test_old_finished_jobs_leave(jobs: Jobs, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kronos.service.jobs.KEPT_JOBS", 2)
    names = []
    for _ in range(5):
        clock.now += 1
        names.append(submit(jobs, count=1))
        worker(jobs, Echo()).run(until_idle=True)
    assert {job["id"] for job in jobs.all()} == set(names[2:])
    assert {path.name for path in (jobs.folder / "jobs").iterdir()} == set(names[2:])


def test_a_folder_without_a_job_is_swept(jobs: Jobs) -> None:
    name = submit(jobs, count=1)
    orphan = jobs.folder / "jobs" / "job_0"
    orphan.mkdir()
    os.utime(orphan, (0, 0))
    assert jobs.sweep() == 1
    assert not orphan.exists() and (jobs.folder / "jobs" / name).is_dir()


def test_only_the_user_reads_the_state(jobs: Jobs) -> None:
    submit(jobs, count=1)
    assert stat.S_IMODE(jobs.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((jobs.folder / "state.sqlite").stat().st_mode) == 0o600


# -- a full disk ---------------------------------------------------------------------------------------------
def test_no_room_for_a_new_job(jobs: Jobs) -> None:
    """Nothing half-written: the folder is gone, too."""
    submit(jobs, count=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(DiskFull, match="room to write"):
            submit(jobs, count=2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(jobs.all()) == 1 and len(list((jobs.folder / "jobs").iterdir())) == 1


class Large(Echo):
    """Its answers are too long for the file system."""

    def forecast(self, request: PredictRequest) -> dict[str, Any]:
        return {"predictions": [{"text": "x" * 600_000} for _ in request.stock_data]}


def test_no_room_for_a_result(jobs: Jobs, clock: Clock) -> None:
    """Tried again later; the third time the job fails, with the reason."""
    name = submit(jobs, count=2, size=2)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        for _ in range(lease.TRIES):
            clock.now += 30
            worker(jobs, Large()).run_once()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = jobs.find(name)
    assert found["state"] == "failed" and "file as large" in found["reason"]
    assert results(jobs, name) == []


FULL = """
import sys
from kronos.service.database import DiskFull
from kronos.service.jobs import Jobs
from tests.service.test_jobs import OPTIONS, MODEL, Echo, series
from kronos.service.worker import Models, Worker
jobs = Jobs(sys.argv[1])
ids, refused = [], 0
for number in range(400):
    try:
        ids.append(jobs.submit([series(i, "x" * 90) for i in range(200)], OPTIONS, model=MODEL, size=100))
    except DiskFull:
        refused += 1
        if refused > 3:
            break
folders = sorted(path.name for path in (jobs.folder / "jobs").iterdir())
assert folders == sorted(ids), "a job that was refused left something"
assert sorted(job["id"] for job in jobs.all(most=1000)) == sorted(ids)
worker = Worker(jobs, Models(lambda version, digest: Echo()))
import time
until = time.monotonic() + 60
while not jobs.idle() and time.monotonic() < until:
    worker.run_once()
states = jobs.counts()
reasons = {job["reason"] for job in jobs.all("failed")}
print(len(ids), refused, states["done"], states["failed"], states["queued"] + states["running"], reasons)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up(tmp_path: Path, root: Path) -> None:
    """On a file system of 14 MB: every job that was taken is done or failed with the reason, none is half there."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=14m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    try:
        done = subprocess.run(
            [sys.executable, "-c", FULL, str(place / "state")],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert done.returncode == 0, done.stderr[-2000:]
    taken, refused, finished, failed, open_ = map(int, done.stdout.split()[:5])
    assert refused > 3 and taken == finished + failed and open_ == 0
    assert failed > 0 and "room to write" in done.stdout


def test_files_are_whole(jobs: Jobs) -> None:
    """Whatever is under its own name is JSON to the last line."""
    name = submit(jobs, count=10, size=3)
    worker(jobs, Echo()).run(until_idle=True)
    for path in (jobs.folder / "jobs" / name).rglob("*.jsonl"):
        for text in path.read_text(encoding="utf-8").splitlines():
            json.loads(text)
    assert shutil.disk_usage(jobs.folder).total
