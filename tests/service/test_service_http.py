"""The service over HTTP: what it answers, whom it refuses, and that nothing it is sent becomes a 500."""

import hashlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from services import JSON, Local, local, point, series, tiny_models, tree, wait_for

from kronos import files
from kronos.errors import KitError
from kronos.service import guard, run
from kronos.service.schema import Limits, PredictAnswer
from kronos.service.served import Served
from kronos.service.state import Settings

SECRET = "hunter2-in-the-body"


@pytest.fixture(scope="module")
def service() -> Iterator[Local]:
    with local(tiny_models()) as running:
        yield running


# -- answers -------------------------------------------------------------------------------------------------
def test_predict_in_the_guides_words(service: Local) -> None:
    """`POST /predict` with stock_data, prediction_horizon, confidence_level, and `/v1/predict` the same."""
    answers = [service.post(path, tree(2)).json() for path in ("/predict", "/v1/predict")]
    for answer in answers:
        found = PredictAnswer.model_validate(answer)
        assert found.model.version == "v1.0.0" and found.horizon == 3 and found.sample_count == 81
        assert [one.series_id for one in found.predictions] == ["S0", "S1"]
    assert answers[0]["predictions"] == answers[1]["predictions"] and answers[0]["id"] != answers[1]["id"]


def test_health_metrics_and_models(service: Local) -> None:
    """What a supervisor, an operator and the page ask for."""
    service.post(body=tree())
    ready = service.get("/health/ready").json()
    assert ready["status"] == "healthy" and ready["version"] == "v1.0.0" and ready["reasons"] == []
    assert ready["inference_time_ms"] > 0 and ready["gpu_memory_mb"] is None
    assert service.get("/health/live").json() == {"status": "alive"}
    text = service.get("/metrics").text
    for line in (
        'kronos_requests_total{route="/v1/predict",status="200"}',
        'kronos_request_seconds_count{part="queue"}',
        "kronos_batch_series_count",
        "kronos_waiting_series 0.0",
        'kronos_model{digest="',
        "kronos_resident_bytes",
        'kronos_rejected_total{reason="queue full"}',
    ):
        assert line in text
    models = service.get("/v1/models").json()
    assert models["aliases"]["production"] == "v1.0.0" and models["serves"]["version"] == "v1.0.0"
    assert [one["version"] for one in models["versions"]] == ["v1.0.0", "v1.0.1"]


def test_headers_keep_other_pages_out(service: Local) -> None:
    """No CORS header, nothing from elsewhere, no documentation page from another host."""
    answer = service.get("/", headers={"Origin": "http://evil.test"})
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")
    assert "server" not in answer.headers
    for path in ("/docs", "/redoc", "/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/__init__.py"):
        assert service.get(path).status_code == 404
    preflight = requests.options(
        service.url + "/v1/predict", headers={"Origin": "http://evil.test"}, timeout=9
    )
    assert preflight.status_code == 405


# -- what is refused -----------------------------------------------------------------------------------------
def column(value: Any) -> Any:
    """A request with this as the closes."""
    return {"stock_data": [series("S", 5) | {"close": value}], "prediction_horizon": 2}


def one(**changes: Any) -> Any:
    return {"stock_data": [series("S", 5) | changes], "prediction_horizon": 2}


def without(name: str) -> Any:
    own = series("S", 5)
    del own[name]
    return {"stock_data": [own]}


BAD_COLUMNS = [
    None, 1, "x", {}, [], [1], [1, 2], [1] * 6, [None] * 5, ["1"] * 5, [True] * 5, [[1]] * 5, [{}] * 5,
    [float("nan")] * 5, [float("inf")] * 5, [-float("inf")] * 5, [1e31] * 5, [10**400] * 5, [1, 2, 3, 4, "x"],
]  # fmt: skip
BAD_VALUES = [
    one(**{name: value})
    for name, value in [
        ("series_id", None), ("series_id", ""), ("series_id", "x" * 101), ("series_id", ["a"]), ("series_id", "\0"),
        ("timestamps", None), ("timestamps", "2024-01-02"), ("timestamps", ["2024-13-01"] * 5),
        ("timestamps", ["2024-01-02"] * 5), ("timestamps", ["../../etc/passwd"] * 5), ("timestamps", [1] * 5),
        ("timestamps", ["2024-01-02T25:00"] * 5), ("timestamps", ["２０２４-01-02"] * 5), ("volume", [-1] * 5),
        ("amount", [None] * 5), ("future_timestamps", []), ("future_timestamps", ["2030-01-01"]),
        ("future_timestamps", ["2024-01-01", "2024-01-02"]), ("path", "/etc/passwd"), ("url", "http://evil.test"),
        ("__class__", "x"),
    ]
]  # fmt: skip
BAD_SETTINGS = [
    tree(**{name: value})
    for name, value in [
        ("prediction_horizon", 0), ("prediction_horizon", -1), ("prediction_horizon", 513),
        ("prediction_horizon", 512), ("prediction_horizon", 1.5), ("prediction_horizon", "9"),
        ("prediction_horizon", 10**30), ("prediction_horizon", True), ("confidence_level", 0),
        ("confidence_level", 1), ("confidence_level", 0.999), ("confidence_level", "0.9"), ("sample_count", 0),
        ("sample_count", 402), ("seed", -1), ("seed", 2**63), ("deadline_s", 0), ("deadline_s", 601),
        ("model", "../../x"), ("stock_data", []), ("stock_data", None), ("stock_data", {}),
        ("stock_data", [None]), ("stock_data", [[]]), ("stock_data", [series("A", 5)] * 2),
    ]
]  # fmt: skip
BAD = [*map(column, BAD_COLUMNS), *BAD_VALUES, *BAD_SETTINGS, {}, [], None, "x", 7]
BAD += [without(name) for name in ("series_id", "timestamps", "open", "close")]
BAD += [b"", b"{", b"\xff", b"[" * 50_000, b'{"stock_data": [' + b"1," * 300_000 + b"1]}", b"null" * 9]
BAD += [b'{"a":' * 5_000, b'{"stock_data": NaN}', b"\x80\x04\x95pickle"]


def said(answer: requests.Response) -> dict[str, Any]:
    """The problem that an answer is: the right type, this service's form, and nothing else in it."""
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert set(found) == {"code", "status", "detail", "problems", "request_id"}
    assert found["status"] == answer.status_code and found["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.text and SECRET not in answer.text
    return found


def test_bad_payloads(service: Local) -> None:
    """More than sixty: each one problem document, no 500, and the service is as well as before."""
    assert len(BAD) >= 60
    for number, bad in enumerate(BAD):
        body = bad if isinstance(bad, bytes) else json.dumps(bad).encode()
        answer = service.post(body=body)
        found = said(answer)
        assert answer.status_code in (400, 422), (number, found)
        assert found["problems"] and all(found["problems"][0].values()), number
    assert service.get("/health/ready").json()["status"] == "healthy"
    assert 'status="500"' not in service.get("/metrics").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": "application/json; charset=latin-1"}, 415),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415),
        ({}, 415),
        ({**JSON, "Host": "evil.test"}, 403),
        ({**JSON, "Host": "127.0.0.1.evil.test:7070"}, 403),
        ({**JSON, "Host": ""}, 403),
    ],
)
def test_wrong_headers(service: Local, headers: dict[str, str], status: int) -> None:
    """A page of another host can send text or forms, and rename itself to 127.0.0.1; not this."""
    answer = service.post(body=f'{{"x": "{SECRET}"}}'.encode(), headers=headers)
    assert answer.status_code == status
    said(answer)


def test_no_such_address_or_method(service: Local) -> None:
    for method, path, status in (
        ("GET", "/nope", 404),
        ("GET", "/v1/predict", 405),
        ("DELETE", "/v1/models", 405),
        ("TRACE", "/", 405),
        ("POST", "/v1/../etc", 404),
    ):
        answer = requests.request(method, service.url + path, headers=JSON, timeout=9)
        assert answer.status_code == status
        said(answer)


def test_a_large_body_ends_early(service: Local) -> None:
    """The size is counted as it arrives: chunked, too, a hundred megabytes stop at sixteen."""
    assert service.post(body=b" " * (17 * 2**20)).status_code == 413
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 2**20

    try:
        answer = requests.post(service.url + "/v1/predict", data=chunks(), headers=JSON, timeout=60)
        assert answer.status_code == 413
    except requests.ConnectionError:  # the server closed while the client was still sending
        pass
    assert sent < 60
    assert 'status="413"' in service.get("/metrics").text


def test_a_slow_body_is_given_up(service: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte a minute holds nothing for ever."""
    monkeypatch.setattr(guard, "BODY_S", 0.3)
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as wire:
        wire.sendall(
            b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert wire.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_is_dropped(service: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it any more, so it leaves the queue before it is computed."""
    state, gate = service.state, threading.Event()
    served, compute = state.models.current, type(state.models.current).compute

    def slow(self: Any, parts: Any) -> Any:
        gate.wait(60)
        return compute(self, parts)

    monkeypatch.setattr(type(served), "compute", slow)
    first = threading.Thread(target=service.post, kwargs={"body": tree()})
    first.start()
    wait_for(lambda: state.batcher.busy_since is not None)
    with pytest.raises(requests.Timeout):
        service.post(body=tree(seed=5), timeout=0.5)
    wait_for(lambda: state.batcher.waiting == 0)
    gate.set()
    first.join()
    assert 'kronos_rejected_total{reason="client left"} 1.0' in service.get("/metrics").text


def test_an_error_of_ours_says_nothing(
    service: Local, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with an id; the log has the place and the id, but neither what was sent nor the error's text."""

    def fails(*_: Any) -> Any:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(type(service.state.models.current), "prepare", fails)
    answer = service.post(body=tree())
    assert answer.status_code == 500 and said(answer)["code"] == "internal"
    monkeypatch.undo()
    wait_for(lambda: answer.headers["x-request-id"] in caplog.text)  # it is logged once it is answered
    assert "in fails" in caplog.text
    assert "RuntimeError" in caplog.text


# -- keys and addresses --------------------------------------------------------------------------------------
def test_keys(tmp_path: Path) -> None:
    """With a key file every address but the page's frame and health asks for a key."""
    path = tmp_path / "keys"
    path.write_text(f"# desk\n{hashlib.sha256(b'right').hexdigest()}  -\n")
    path.chmod(0o600)
    with local(tiny_models(), keys=guard.read_keys(path)) as service:
        for given, status in (
            (None, 401),
            ("Bearer wrong", 401),
            ("Basic right", 401),
            ("Bearer right", 200),
        ):
            headers = JSON | ({} if given is None else {"Authorization": given})
            assert service.post(body=tree(), headers=headers).status_code == status
            assert service.get("/metrics", headers=headers).status_code == status
        assert service.post(body=tree()).headers["www-authenticate"] == "Bearer"
        for open_path in ("/", "/assets/page.js", "/health/live", "/health/ready"):
            assert service.get(open_path).status_code == 200


@pytest.mark.parametrize("text", ["", "secret\n", "# only\n", "ab" * 31 + "\n"])
def test_a_key_file_of_another_form(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KitError, match="sha256sum"):
        guard.read_keys(path)


def test_a_key_file_that_others_may_write(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(hashlib.sha256(b"x").hexdigest())
    path.chmod(0o622)
    with pytest.raises(KitError, match="chmod 600"):
        guard.read_keys(path)


def test_another_address_needs_keys() -> None:
    """Loopback is the default; what others can reach asks for a key."""
    with pytest.raises(KitError, match="--keys"):
        run.check_address(Settings(model=Path("x"), host="0.0.0.0"))
    run.check_address(Settings(model=Path("x"), host="0.0.0.0", keys=("0" * 64,)))
    assert run.names_of("::1", ["Desk.example"]) == ("127.0.0.1", "localhost", "[::1]", "desk.example")


# -- the queue, the swap and the description -----------------------------------------------------------------
def test_a_full_queue_is_429() -> None:
    """With Retry-After, and live all the while."""
    with local(tiny_models(), limits=replace(Limits(), series=2000)) as service:
        answer = service.post(body=tree(1025, sample_count=1))
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert said(answer)["code"] == "queue_full"


def test_a_damaged_version_never_serves(tmp_path: Path) -> None:
    """The old one goes on, ready says so and stays 200, a metric counts it; a right one takes over."""
    root = tmp_path / "tiny"
    root.mkdir()
    for version in ("v1.0.0", "v1.0.1"):
        (root / version).symlink_to(tiny_models() / version)
    bad = root / "v1.0.2"
    shutil.copytree((tiny_models() / "v1.0.1"), bad)
    weights = bad / "predictor" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-4000:] = np.full(1000, 0.7, np.float32).tobytes()
    weights.write_bytes(damaged)
    with pytest.raises(KitError, match=r"checksums\.json lists"):
        Served.load(bad)
    sums = json.loads((bad / "checksums.json").read_text())
    sums["predictor/model.safetensors"] = files.digest(weights)
    (bad / "checksums.json").write_text(json.dumps(sums))
    point(root, "production", "v1.0.0")
    with local(root) as service:
        before = service.post(body=tree()).json()
        point(root, "production", "v1.0.2")
        wait_for(lambda: service.state.models.failed == 1)
        ready = service.get("/health/ready")
        assert ready.status_code == 200 and ready.json()["status"] == "degraded"
        assert "golden forecast" in ready.json()["reasons"][0]
        assert service.post(body=tree()).json()["model"] == before["model"]
        assert 'kronos_swaps_total{result="refused"} 1.0' in service.get("/metrics").text
        point(root, "production", "v1.0.1")
        wait_for(lambda: service.state.models.swaps == 1)
        after = service.post(body=tree()).json()
        assert after["model"]["version"] == "v1.0.1" and after["predictions"] != before["predictions"]
        assert service.get("/health/ready").json()["status"] == "healthy"
        assert service.state.models.failed == 1


def test_no_alias_is_said(tmp_path: Path) -> None:
    """Which command makes one."""
    (tmp_path / "v1.0.0").symlink_to(tiny_models() / "v1.0.0")
    point(tmp_path, "latest", "v1.0.0")
    with (
        pytest.raises(KitError, match=r"only latest.*; promote one: python scripts/promote_model\.py"),
        local(tmp_path),
    ):
        pass


@pytest.mark.slow
def test_the_description_is_true(service: Local) -> None:
    """Requests made from openapi.json, right and wrong ones: no 500, and every answer is one that it names."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given
    from hypothesis import settings as hypothesis_settings

    schema = schemathesis.openapi.from_url(service.url + "/openapi.json")
    counted = 0
    for operation in schema.get_all_operations():
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            def check(case: Any) -> None:
                nonlocal counted
                answer = case.call(base_url=service.url, timeout=60)
                counted += 1
                assert answer.status_code < 500, answer.text
                case.validate_response(answer, checks=[schemathesis.checks.not_a_server_error])

            strategy = operation.ok().as_strategy(generation_mode=mode)
            quick = hypothesis_settings(
                max_examples=8,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            try:
                quick(given(case=strategy)(check))()
            except Exception as error:
                if type(error).__name__ not in ("SkipTest", "Unsatisfiable"):
                    raise
    assert counted > 20


@pytest.mark.long
def test_two_thousand_at_once(service: Local) -> None:
    """200, 429 or 503 and nothing else; live answers throughout; memory stays."""
    statuses: dict[int, int] = {}
    body, lock = json.dumps(tree(sample_count=1)).encode(), threading.Lock()
    before = service.get("/health/ready").json()["memory_mb"]
    slowest, going = 0.0, True

    def ask() -> None:
        status = service.post(body=body, timeout=120).status_code
        with lock:
            statuses[status] = statuses.get(status, 0) + 1

    def watch() -> None:
        nonlocal slowest
        while going:
            begun = time.monotonic()
            assert service.get("/health/live").status_code == 200
            slowest = max(slowest, time.monotonic() - begun)

    watcher = threading.Thread(target=watch)
    watcher.start()
    threads = [threading.Thread(target=ask) for _ in range(2000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    going = False
    watcher.join()
    after = service.get("/health/ready").json()["memory_mb"]
    print(f"statuses {statuses}, live at most {slowest:.3f} s, memory {before} -> {after} MB")
    assert sum(statuses.values()) == 2000 and set(statuses) <= {200, 429, 503}
