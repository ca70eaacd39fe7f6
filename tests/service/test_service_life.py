"""scripts/serve.py as a process: it starts, follows its link, and ends in order."""

import asyncio
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests
from services import JSON, ROOT, Process, asked, point, process, series, tiny_models, tree, wait_for

from kronos.errors import KitError
from kronos.service.batcher import Batcher
from kronos.service.schema import Refused
from kronos.service.served import Served

SLOW = 30
"""Series of a request that takes several calls."""


def test_the_start_waits_for_nothing_that_it_does_not_need() -> None:
    """SciPy's statistics, scikit-learn and pandas take longer to import than all else but torch."""
    names = ("run", "jobs_routes", "quality_routes")
    code = f"import sys, {', '.join(f'kronos.service.{name}' for name in names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    late = {"scipy.stats", "sklearn", "pandas", "polars", "matplotlib", "accelerate", "celery"}
    assert not late & set(done.stdout.split())


def copied(folder: Path) -> Path:
    """A model's folder of its own, whose links may be moved."""
    root = folder / "tiny"
    shutil.copytree(tiny_models(), root, symlinks=True)
    return root


def slow_request() -> bytes:
    """A request that takes long enough to be under way when a signal comes."""
    own = [series(f"S{k}", seed=k) for k in range(SLOW)]
    return json.dumps({"stock_data": own, "prediction_horizon": 10}).encode()


def status_of(service: Process, path: str) -> int:
    return requests.get(service.url + path, timeout=30).status_code


def ask(service: Process, body: bytes, found: list[Any]) -> threading.Thread:
    """Send a request from a thread; its answer, or what went wrong, goes into `found`."""

    def work() -> None:
        try:
            found.append(requests.post(service.url + "/v1/predict", data=body, headers=JSON, timeout=120))
        except requests.RequestException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def under_way(service: Process) -> bool:
    text = requests.get(service.url + "/metrics", timeout=30).text
    return "kronos_waiting_series 0.0" not in text


def test_drain(tmp_path: Path) -> None:
    """SIGTERM: ready and new work are 503, what is under way is answered, the exit code is 0."""
    with process(tiny_models()) as service:
        assert status_of(service, "/health/ready") == 200
        found: list[Any] = []
        thread = ask(service, slow_request(), found)
        wait_for(lambda: under_way(service))
        service.running.send_signal(signal.SIGTERM)
        wait_for(lambda: status_of(service, "/health/ready") == 503)
        assert status_of(service, "/health/live") == 200
        late = requests.post(service.url + "/v1/predict", data=json.dumps(tree()), headers=JSON, timeout=30)
        assert late.status_code == 503 and int(late.headers["retry-after"]) > 0
        thread.join()
        assert found[0].status_code == 200 and len(found[0].json()["predictions"]) == SLOW
        assert service.running.wait(60) == 0
        assert "Traceback" not in "".join(service.lines)


def test_the_drain_has_an_end() -> None:
    """Who cannot be answered in time is told so with a 503: no answer is cut off, and none is a 500."""

    async def late() -> tuple[Any, Any]:
        served, batcher = Served.load(tiny_models() / "production"), Batcher(most_series=1)
        batcher.start()
        one = asyncio.ensure_future(batcher.forecast(served, asked(2)))
        while batcher.busy_since is None:
            await asyncio.sleep(0)
        batcher.give_up()
        found = await asyncio.gather(one, return_exceptions=True)
        await batcher.stop()
        return found[0], batcher.waiting

    refused, waiting = asyncio.run(late())
    assert isinstance(refused, Refused) and refused.status == 503 and waiting == 0


def test_a_second_signal_ends_at_once() -> None:
    """Whoever cannot wait need not."""
    with process(tiny_models()) as service:
        found: list[Any] = []
        thread = ask(service, slow_request(), found)
        wait_for(lambda: under_way(service))
        service.running.send_signal(signal.SIGTERM)
        wait_for(lambda: status_of(service, "/health/ready") == 503)
        assert service.end() == 128 + signal.SIGTERM
        thread.join()
        assert isinstance(found[0], requests.ConnectionError)


def test_a_hangup_looks_at_the_link(tmp_path: Path) -> None:
    """SIGHUP swaps, a version without a right golden forecast is tried again, and Ctrl-C ends it with 0."""
    root = copied(tmp_path)
    with process(root) as service:

        def version() -> str:
            return str(requests.get(service.url + "/health/ready", timeout=30).json()["version"])

        assert version() == "v1.0.0"
        point(root, "production", "v1.0.1")
        service.running.send_signal(signal.SIGHUP)
        wait_for(lambda: version() == "v1.0.1")
        assert service.end(signal.SIGINT) == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "nowhere"], "nowhere: expected a model's folder"),
        (["--model", "{models}", "--alias", "staging"], "promote_model.py --model"),
        (["--model", "{models}", "--host", "0.0.0.0"], "expected --keys FILE"),
        (["--model", "{models}", "--keys", "nowhere"], "expected a file with one SHA-256"),
        (["--model", "{models}", "--port", "99999"], "--port: expected a port"),
        (["--model", "{models}", "--workers", "-1"], "--workers: expected a number"),
    ],
)
def test_what_cannot_be_started(
    root: Path, arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was expected, what was found and what to do; nothing has been served before."""
    given = [argument.format(models=tiny_models()) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["serve.py", "--port", "0", *given])
    monkeypatch.setattr("kronos.cli.setup_logging", lambda: None)
    before = os.umask(0o022)
    try:
        with pytest.raises(KitError, match=re.escape(line)):
            runpy.run_path(str(root / "scripts" / "serve.py"))["main"]()
    finally:
        os.umask(before)


def test_one_line_and_exit_2(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, root / "scripts" / "serve.py", "--model", "x", "--port", "-1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "error: --port" in done.stderr


def test_a_missing_extra_is_one_line(root: Path, tmp_path: Path) -> None:
    """With the command that installs it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nold = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'uvicorn' else old(name, *more)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, root / "scripts" / "serve.py", "--model", "x"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: serve: expected the packages of the extra 'serve', found no uvicorn; pip install -e '.[serve]'"
    ]


@pytest.mark.long
def test_fifty_swaps_under_load(tmp_path: Path) -> None:
    """No failed request, and every answer is that of the version that it names."""
    root = copied(tmp_path)
    body = json.dumps(tree(2)).encode()
    expected: dict[str, Any] = {}
    with process(root) as service:

        def post() -> requests.Response:
            return requests.post(service.url + "/v1/predict", data=body, headers=JSON, timeout=60)

        failed: list[str] = []
        counted: dict[str, int] = {}
        going = threading.Event()
        going.set()

        def load() -> None:
            while going.is_set():
                answer = post()
                if answer.status_code != 200:
                    failed.append(answer.text)
                    continue
                tree = answer.json()
                version, closes = tree["model"]["version"], tree["predictions"][0]["median"]["close"]
                counted[version] = counted.get(version, 0) + 1
                if closes != pytest.approx(expected.setdefault(version, closes), rel=1e-6):
                    failed.append(version)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for swap in range(50):
            version = ("v1.0.1", "v1.0.0")[swap % 2]
            point(root, "production", version)
            service.running.send_signal(signal.SIGHUP)
            serves = f'version="{version}"'
            wait_for(lambda serves=serves: serves in requests.get(service.url + "/metrics", timeout=60).text)
        going.clear()
        for thread in threads:
            thread.join()
        print(f"50 swaps, answers {counted}")
        assert not failed and set(counted) == {"v1.0.0", "v1.0.1"}
        assert expected["v1.0.0"] != expected["v1.0.1"]
        assert (
            'kronos_swaps_total{result="done"} 50.0'
            in requests.get(service.url + "/metrics", timeout=60).text
        )
        assert service.end() == 0
