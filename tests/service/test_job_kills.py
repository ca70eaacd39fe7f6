"""kill -9 of workers, at random times, in the middle of a job of 1,000 series: nothing lost, nothing twice."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service's packages are not installed: pip install '.[serve]'")

import requests
from job_stage import Nursery, result_bytes, submitted
from services import JSON, ROOT, tiny_models, tree, wait_for

from kronos.service.jobs import Jobs
from kronos.service.worker import Worker, packages

SERIES, KILLS, LEASE = 1000, 20, 1.5
PATHS, CHUNKS = 101, 200
"""Five series of so many paths are a chunk, so that a kill mostly hits one."""


def arguments(state: Path) -> list[object]:
    return ["--state", state, "--model", tiny_models(), "--lease", LEASE]


@pytest.mark.long
def test_twenty_kills_of_random_workers(tmp_path: Path) -> None:
    quiet, killed = (Jobs(tmp_path / name, lease_seconds=LEASE) for name in ("quiet", "killed"))
    names = [submitted(jobs, SERIES, tmp_path, sample_count=PATHS) for jobs in (quiet, killed)]
    draw = random.Random(7)
    with Nursery(tmp_path / "log") as nursery:
        nursery.start("worker.py", *arguments(quiet.folder), "--until-idle")
        wait_for(lambda: quiet.find(names[0])["state"] == "done", 300)
        workers = [nursery.start("worker.py", *arguments(killed.folder)) for _ in range(2)]
        for kill in range(KILLS):
            least = SERIES * kill // KILLS
            wait_for(lambda least=least: killed.find(names[1])["done"] >= least, 300)
            time.sleep(draw.uniform(0, 0.1))
            place = draw.randrange(2)
            nursery.kill(workers[place])
            workers[place] = nursery.start("worker.py", *arguments(killed.folder))
        wait_for(lambda: killed.find(names[1])["state"] == "done", 300)
    found = killed.find(names[1])
    assert (found["done"], found["failed"]) == (SERIES, 0)
    told = [one["series_id"] for one in killed.answers(names[1])]
    assert len(told) == len(set(told)) == SERIES
    undisturbed = quiet.find(names[0])
    assert found["attempts"] > undisturbed["attempts"] == CHUNKS, "no kill hit a chunk under way"
    assert result_bytes(killed, names[1]) == result_bytes(quiet, names[0])
    print(json.dumps({"kills": KILLS, "claims": found["attempts"], "undisturbed": undisturbed["attempts"]}))


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as own:
        return own.connect_ex(("127.0.0.1", port)) == 0


class Caller(threading.Thread):
    """Submits one job after another, each until it is answered, with a key of its own."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.over = url, threading.Event()
        self.taken: dict[str, set[str]] = {}
        self.unanswered = 0

    def run(self) -> None:
        number = 0
        while not self.over.is_set():
            key, body = f"key-{number}", json.dumps(tree(2, first=number))
            self.taken.setdefault(key, set())
            try:
                answer = requests.post(
                    f"{self.url}/v1/jobs", body, headers=JSON | {"Idempotency-Key": key}, timeout=60
                )
            except requests.RequestException:
                self.unanswered += 1
                self.over.wait(0.02)
                continue
            assert answer.status_code == 202, answer.text
            self.taken[key].add(answer.json()["id"])
            number += draw_again(number, self.taken[key])


def draw_again(number: int, ids: set[str]) -> int:
    """0 for every third job that was answered once: it is submitted again with the same key."""
    return int(number % 3 > 0 or len(ids) != 1 or random.random() < 0.5)


@pytest.mark.long
def test_twenty_kills_of_the_server_during_submits(tmp_path: Path) -> None:
    """Every job that was answered with 202 is there, each key stands for one job, and all of them are done."""
    port, draw = free_port(), random.Random(8)
    state = tmp_path / "state"
    serve = ["--model", tiny_models(), "--port", port, "--state", state, "--workers", 0]
    caller = Caller(f"http://127.0.0.1:{port}")
    with Nursery(tmp_path / "log", more=", kronos.service.run, kronos.service.jobs_routes") as nursery:
        server = nursery.start("serve.py", *serve)
        caller.start()
        try:
            for _ in range(KILLS):
                before = sum(map(len, caller.taken.values()))
                wait_for(lambda before=before: sum(map(len, caller.taken.values())) > before + 2, 300)
                time.sleep(draw.uniform(0, 0.2))
                nursery.kill(server)
                wait_for(lambda: not listens(port), 300)  # its threads end one by one
                server = nursery.start("serve.py", *serve)
            before = len(caller.taken)
            wait_for(lambda: len(caller.taken) > before + 1, 300)
        finally:
            caller.over.set()
            caller.join()
    jobs = Jobs(state)
    answered = [ids for ids in caller.taken.values() if ids]
    assert all(len(ids) == 1 for ids in answered), "a key stands for two jobs"
    known = {job["id"] for job in jobs.all(most=100_000)}
    assert set().union(*answered) <= known
    assert caller.unanswered >= KILLS, "no kill hit a submit"
    assert len(known) <= len(caller.taken), "a job that nobody has a key for"
    models = packages(tiny_models(), "cpu")
    Worker(jobs, models).run(until_idle=True)
    assert {job["state"] for job in jobs.all(most=100_000)} == {"done"}
    print(json.dumps({"kills": KILLS, "jobs": len(known), "unanswered": caller.unanswered}))


@pytest.mark.slow
def test_a_worker_ends_in_order(tmp_path: Path) -> None:
    """SIGTERM: the chunk under way is finished or given back without blame, and no lease is left behind."""
    jobs = Jobs(tmp_path / "state")
    submitted(jobs, 200, tmp_path, sample_count=PATHS)
    with Nursery(tmp_path / "log") as nursery:
        worker = nursery.start("worker.py", "--state", jobs.folder, "--model", tiny_models())
        wait_for(lambda: jobs.all()[0]["done"] > 0, 300)
        os.kill(worker, signal.SIGTERM)
        wait_for(lambda: exit_code(worker) is not None, 300)
        assert exit_code(worker) == 0
    states = jobs.database.connection().execute("SELECT state, ended_badly FROM chunks").fetchall()
    assert {row["state"] for row in states} <= {"done", "queued"}
    assert all(row["ended_badly"] == 0 for row in states)


def exit_code(process: int) -> int | None:
    """With what a process has ended, which its parent, the nursery, has not asked for; None: it still runs."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    if fields[0] != "Z":
        return None
    return int(fields[-1])


@pytest.mark.slow
def test_the_benchmark_says_its_figures() -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "bench" / "bench_jobs.py"),
        "--model",
        str(tiny_models() / "production"),
    ]
    done = subprocess.run(
        [*command, "--series", "8", "--steps", "2"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ratio"] > 0
