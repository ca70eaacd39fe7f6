"""Deployment from the command line: what is linked is what is served, or the link goes back."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from docs_commands import blocks
from packages import in_process, make_model, seal, trained_run, with_backtest

from kronos.config import Config
from kronos.delivery.health import NotReady, Service, service_at, try_forecasts
from kronos.delivery.registry import Version, point, read_history
from kronos.errors import KitError


class ServiceStub(ThreadingHTTPServer):
    """A service that follows a link, or does not, and answers forecasts, or does not."""

    def __init__(self, link: Path | None, version: str = "v0.0.0") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.link, self.fixed = link, version
        self.status, self.ready = 200, 200
        self.raw: bytes | None = None
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def version(self) -> str:
        return self.link.readlink().name if self.link else self.fixed


class _Handler(BaseHTTPRequestHandler):
    server: ServiceStub

    def do_GET(self) -> None:
        self.server.keys.add(self.headers.get("Authorization", ""))
        tree = {"status": "degraded", "version": self.server.version, "inference_time_ms": 12.5}
        self._send(self.server.ready, tree | {"gpu_memory_mb": None, "reasons": ["the queue is nearly full"]})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        self._send(self.server.status, {"model": {"version": self.server.version}, "predictions": [{}]})

    def _send(self, status: int, tree: dict[str, Any]) -> None:
        body = self.server.raw or json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def stub() -> Iterator[ServiceStub]:
    server = ServiceStub(None, "v1.0.0")
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tiny run."""
    return trained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def made(run: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, equally good; nobody may change them."""
    return make_model(run, tmp_path_factory.mktemp("models"), (0.530, 0.5301))


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy whose production is v1.0.0."""
    copy = Path(shutil.copytree(made, tmp_path / "tiny", symlinks=True))
    point(copy, "production", Version.parse("v1.0.0"), "promote", "test")
    return copy


def shell(
    root: Path, name: str, model: Path, url: str, *arguments: str, **settings: str
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MODEL": str(model), "URL": url, "PYTHON": sys.executable, "WAIT": "2"}
    return subprocess.run(
        ["bash", root / "scripts" / name, *arguments],
        capture_output=True,
        text=True,
        env=environment | settings,
    )


def served(model: Path) -> str:
    return (model / "production").readlink().name


# -- health --------------------------------------------------------------------------------------------------
def test_a_ready_service_says_what_it_serves(stub: ServiceStub, tmp_path: Path) -> None:
    """The guide's words: healthy or degraded, inference time, GPU memory."""
    (tmp_path / "key").write_text("secret\n")
    service = service_at(stub.url, str(tmp_path / "key"))
    line = service.health("v1.0.0").line(stub.url)
    assert line == f"{stub.url}: degraded, serves v1.0.0, inference 12 ms, the queue is nearly full"
    assert stub.keys == {"Bearer secret"}


@pytest.mark.parametrize(
    ("change", "expect", "message"),
    [
        ({"ready": 503}, None, "expected 200, found 503"),
        ({}, "v2.0.0", r"expected version v2\.0\.0, found v1\.0\.0"),
        ({"raw": b"<html>"}, None, "expected JSON"),
        ({"raw": b"{}"}, None, "status: expected a value, found none"),
    ],
)
def test_a_service_that_is_not_ready_is_one_line(
    stub: ServiceStub, change: dict[str, Any], expect: str | None, message: str
) -> None:
    """A deployment must not take a login page for a healthy service."""
    vars(stub).update(change)
    with pytest.raises(KitError, match=message) as told:
        Service(stub.url).wait(expect, 0.0)
    assert "\n" not in str(told.value)


def test_no_service_is_one_line(stub: ServiceStub) -> None:
    """Refused connections are the commonest failure of all."""
    stub.shutdown()
    stub.server_close()
    with pytest.raises(NotReady, match="expected a service, found none that answers"):
        Service(stub.url, timeout=2.0).health()
    with pytest.raises(KitError, match="URL: expected http://HOST:PORT, found '127"):
        service_at("127.0.0.1:7070")


def test_forecasts_are_of_the_packages_own_series(stub: ServiceStub, made: Path) -> None:
    """The service must know the dates: they are of the package's calendar."""
    said = try_forecasts(Service(stub.url), made / "v1.0.0", 3, "v1.0.0")
    assert said.startswith("3 forecasts answered") and [asked["seed"] for asked in stub.asked] == [0, 1, 2]
    series = stub.asked[0]["stock_data"][0]
    columns = ("timestamps", "open", "high", "low", "close", "volume", "amount")
    assert {len(series[name]) for name in columns} == {12}
    assert len(series["future_timestamps"]) == stub.asked[0]["prediction_horizon"]
    with pytest.raises(KitError, match=r"expected an answer by v9\.9\.9, found one by v1\.0\.0"):
        try_forecasts(Service(stub.url), made / "v1.0.0", 1, "v9.9.9")


def test_the_health_script(stub: ServiceStub, root: Path) -> None:
    """Exit codes are what a workflow sees."""
    command = [sys.executable, root / "scripts" / "health_check.py", stub.url]
    done = subprocess.run([*command, "--expect", "v1.0.0"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "serves v1.0.0" in done.stdout
    for flags in (["--expect", "v1.0.1"], ["--strict"]):
        done = subprocess.run([*command, *flags], capture_output=True, text=True)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr


# -- deploy --------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_version_is_deployed(model: Path, root: Path) -> None:
    """Linked, named by the service, asked 20 times; then back with one command."""
    server = ServiceStub(model / "production")
    skip = ("--skip", "latency", "--why", "a test depends on no seconds")
    done = shell(root, "deploy.sh", model, server.url, "production", "v1.0.1", *skip)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "production serves v1.0.1" in done.stdout and len(server.asked) == 20
    assert served(model) == "v1.0.1"
    done = shell(root, "rollback.sh", model, server.url)
    assert done.returncode == 0 and "serves v1.0.0" in done.stdout, done.stdout + done.stderr
    assert served(model) == "v1.0.0"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["does not take it over", "answers with errors"])
def test_a_deployment_that_fails_goes_back(model: Path, root: Path, failure: str) -> None:
    """Production is what is served: a link to something else is a trap for the next restart."""
    server = ServiceStub(None, "v1.0.0")
    if failure == "answers with errors":
        server.link, server.status = model / "production", 500
    skip = ("--skip", "latency", "--why", "a test depends on no seconds")
    done = shell(root, "deploy.sh", model, server.url, "production", "v1.0.1", *skip, WAIT="0")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "production is v1.0.0 again, and served" in done.stderr and served(model) == "v1.0.0"
    history = (model / "history.jsonl").read_text().splitlines()
    assert json.loads(history[-1])["why"] == "deploy.sh: v1.0.1 did not answer"
    server.shutdown()
    server.server_close()


def test_a_refused_version_is_never_linked(model: Path, root: Path, stub: ServiceStub) -> None:
    """Not even for the seconds until somebody notices."""
    (model / "v1.0.1" / "golden.json").unlink()
    seal(model / "v1.0.1")
    before = (model / "history.jsonl").read_text()
    done = shell(root, "deploy.sh", model, stub.url, "staging", "v1.0.1")
    assert done.returncode == 2 and "golden" in done.stderr, done.stdout + done.stderr
    assert not (model / "staging").is_symlink() and not stub.asked
    assert (model / "history.jsonl").read_text() == before
    assert shell(root, "deploy.sh", model, stub.url, "moon").returncode == 2


@pytest.mark.slow
def test_the_page_can_be_followed(
    run: Config,
    made: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """docs/models.md from top to bottom: each of its commands does what the page says."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "kaggle").symlink_to(run.run_dir)
    with_backtest(run, 0.5301, 0.002, 11)
    (tmp_path / "scripts").symlink_to(root / "scripts")
    model = Path(shutil.copytree(made, tmp_path / "models" / "kaggle", symlinks=True))
    shutil.rmtree(model / "v1.0.1")
    for alias in ("latest", "production"):
        point(model, alias, Version.parse("v1.0.0"), "promote", "test")  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    servers = {"7070": ServiceStub(model / "production"), "7071": ServiceStub(model / "staging")}
    text = (root / "docs" / "models.md").read_text()
    for port, server in servers.items():
        text = text.replace(f"http://127.0.0.1:{port}", server.url)
    done = []
    for line in "".join(blocks(text, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if "--report" in words or "scripts/run_backtest.py" in words:
            continue  # a backtest of two trained networks: tests/delivery/test_registry.py has its report
        if words[0] == "python":
            name = ["--name", "kaggle"] if words[1] == "scripts/package_model.py" else []
            code = in_process(Path(words[1]), words[2:] + name, monkeypatch)
        else:
            code = subprocess.run(["env", f"PYTHON={sys.executable}", "WAIT=2", *words]).returncode
        assert code == 0, (line, capsys.readouterr())
        done.append(" ".join(words))
    assert len(done) >= 11 and len(servers["7071"].asked) == len(servers["7070"].asked) == 20
    assert [change.kind for change in read_history(model)][-3:] == ["promote", "rollback", "forward"]
    for server in servers.values():
        server.shutdown()
        server.server_close()


def test_the_workflow_calls_the_same_scripts_and_only_by_hand(root: Path) -> None:
    """An example that deploys whenever somebody pushes is no example."""
    text = (root / ".github" / "workflows" / "model-deployment.yml").read_text()
    tree = yaml.safe_load(text)
    assert list(tree[True]) == ["workflow_dispatch"]  # YAML reads the key `on` as true
    jobs = tree["jobs"]
    assert list(jobs) == ["test", "staging", "production"]
    assert (jobs["staging"]["needs"], jobs["production"]["needs"]) == ("test", "staging")
    runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert [line.split()[1] for line in runs] == [
        "scripts/check_model.py",
        "scripts/deploy.sh",
        "scripts/deploy.sh",
    ]
    for line in runs:
        assert (root / line.split()[1]).is_file()
