"""Chunks through Celery on Debian's redis and rabbitmq, workers killed twice: the same bytes as without."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service's packages are not installed: pip install '.[serve]'")
pytest.importorskip(
    "celery", reason="the packages for other machines are not installed: pip install '.[celery]'"
)

from job_stage import Nursery, result_bytes, submitted
from services import tiny_models, wait_for

from kronos.errors import KitError
from kronos.service import remote
from kronos.service.jobs import Jobs

LEASE, SERIES, PATHS = 4.0, 100, 101
RABBIT = ("/usr/sbin/rabbitmq-server", "/usr/lib/rabbitmq/bin/rabbitmq-server")


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


def answers(port: int) -> bool:
    with socket.socket() as own:
        return own.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    port = free_port()
    options = ["--port", port, "--bind", "127.0.0.1", "--dir", tmp_path, "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([found, *map(str, options)], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port), 300)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def rabbitmq(tmp_path: Path) -> Iterator[str]:
    found = [path for path in RABBIT if Path(path).exists()]
    if not found:
        pytest.skip("rabbitmq-server is not installed")
    port, folder = free_port(), tmp_path / "rabbit"
    folder.mkdir()
    folder.chmod(0o777)
    own = {
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_NODENAME": f"kit{port}@localhost",
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(free_port()),
        "HOME": str(folder),
    }
    log = (folder / "out").open("wb")
    server = subprocess.Popen(
        [found[-1]], env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_for(lambda: answers(port) or server.poll() is not None, 300)
        assert server.poll() is None, (folder / "out").read_text(encoding="utf-8")[-2000:]
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        log.close()
        end_daemon(int(own["ERL_EPMD_PORT"]))


def end_daemon(port: int) -> None:
    """End the name server that Erlang left on a port of our own."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            text = entry.read_bytes()
            name = (entry.parent / "comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if name == "epmd" and f"ERL_EPMD_PORT={port}".encode() in text.split(b"\0"):
            os.kill(int(entry.parent.name), signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_workers_of_a_broker_killed_twice(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(broker)
    here, away = (Jobs(tmp_path / name, lease_seconds=LEASE) for name in ("here", "away"))
    names = [submitted(jobs, SERIES, tmp_path, sample_count=PATHS) for jobs in (here, away)]
    kills = []
    with Nursery(tmp_path / "log", more=", kronos.service.remote") as nursery:
        nursery.start("worker.py", "--state", here.folder, "--model", tiny_models(), "--until-idle")
        wait_for(lambda: here.find(names[0])["state"] == "done", 300)
        other = ["--broker", url, "--model", tiny_models(), "--lease", LEASE]
        workers = [nursery.start("worker.py", *other) for _ in range(2)]
        nursery.start("worker.py", "--state", away.folder, "--broker", url, "--lease", LEASE)
        for kill, least in enumerate((10, 50)):
            wait_for(lambda least=least: away.find(names[1])["done"] >= least, 300)
            nursery.kill(workers[kill])
            kills.append((time.monotonic(), away.find(names[1])["done"]))
            workers[kill] = nursery.start("worker.py", *other)
        wait_for(lambda: away.find(names[1])["state"] == "done", 300)
        took = time.monotonic() - kills[-1][0]
    found = away.find(names[1])
    assert (found["done"], found["failed"]) == (SERIES, 0)
    assert result_bytes(away, names[1]) == result_bytes(here, names[0])
    print(
        json.dumps(
            {"broker": broker, "seconds after the last kill": round(took, 1), "claims": found["attempts"]}
        )
    )


class Result:
    """What Celery says of a task."""

    def __init__(self, state: str, result: object = None) -> None:
        self.state, self.result = state, result

    def forget(self) -> None:
        pass


def test_what_a_broker_loses_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no loss is held against a chunk that no machine has begun."""
    now = [1000.0]
    jobs = Jobs(tmp_path / "state", lease_seconds=30, clock=lambda: now[0])
    name = jobs.submit([{"series_id": "A"}], {"confidence_level": 0.9}, model=("m", "v1.0.0", "d"), size=1)
    dispatcher = remote.Dispatcher(jobs, "redis://127.0.0.1:1/0")
    told: list[Result] = []
    monkeypatch.setattr(dispatcher.app, "send_task", lambda *_, **__: told[-1])
    for _ in range(5):
        told.append(Result("PENDING"))
        assert dispatcher._send()
        (flight,) = dispatcher._flights
        assert not dispatcher._landed(flight)
        flight.sent -= remote.PATIENCE * jobs.lease + 1
        assert dispatcher._landed(flight)
        dispatcher._flights.clear()
    row = jobs.database.connection().execute("SELECT * FROM chunks").fetchone()
    assert (row["state"], row["ended_badly"]) == ("queued", 0)
    told.append(Result("SUCCESS", {"answers": [{"series_id": "A"}]}))
    assert dispatcher._send()
    (flight,) = dispatcher._flights
    assert dispatcher._landed(flight)
    assert dispatcher._landed(flight), "the same answer once more: the lease is gone, nothing is written"
    assert list(jobs.answers(name)) == [{"series_id": "A"}]


def test_another_kind_of_broker() -> None:
    with pytest.raises(KitError, match="amqp"):
        remote.application("sqs://queue", 30)


def test_only_json_passes() -> None:
    for url in ("amqp://localhost", "redis://localhost"):
        conf = remote.application(url, 30).conf
        assert conf.accept_content == conf.result_accept_content == ["json"]
        assert conf.task_serializer == conf.result_serializer == "json"
        assert conf.task_acks_late
