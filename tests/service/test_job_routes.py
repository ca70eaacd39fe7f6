"""Jobs, actuals and quality over HTTP, and the scripts that use them."""

import io
import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("fastapi", reason="the service's packages are not installed: pip install '.[serve]'")

import requests
from docs_commands import blocks
from services import JSON, ROOT, Local, local, series, tiny_models, tree, wait_for
from tiny import tiny_store

from kronos.service.jobs import Jobs
from kronos.service.kept import Kept
from kronos.service.worker import Worker, packages


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("service")
    store = tiny_store(folder / "store", tickers=6, days=40)
    with local(tiny_models(), folder=folder / "state", store=store.path) as found:
        yield found


def work(service: Local) -> None:
    """What a worker beside the service does."""
    folder = service.state.settings.folder
    assert folder is not None
    jobs = Jobs(folder)
    Worker(jobs, packages(tiny_models(), "cpu"), keeper=Kept(folder)).run(until_idle=True)


def job(service: Local, **more: Any) -> dict[str, Any]:
    answer = service.post("/v1/jobs", tree(4, confidence_level=0.9) | more)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    return dict(answer.json())


def test_a_job_may_be_larger_than_a_request(service: Local, tmp_path: Path) -> None:
    """1,000 series of 256 bars are 16 MB, which is all that a request may send."""
    body = json.dumps(tree(4)).encode()
    with local(tiny_models(), folder=tmp_path, body_bytes=len(body) - 1, job_bytes=len(body)) as small:
        assert small.post("/v1/predict", body).status_code == 413
        assert small.post("/v1/jobs", body).status_code == 202
        refused = small.post("/v1/jobs", body + b" ")
        assert refused.status_code == 413 and "several jobs" in refused.json()["detail"]


def test_a_job_from_submit_to_result(service: Local) -> None:
    name = job(service)["id"]
    assert service.get(f"/v1/jobs/{name}").json()["state"] == "queued"
    early = service.get(f"/v1/jobs/{name}/result")
    assert early.status_code == 409 and early.headers["content-type"] == "application/problem+json"
    assert name in [one["id"] for one in service.get("/v1/jobs?state=queued").json()["jobs"]]
    work(service)
    found = service.get(f"/v1/jobs/{name}").json()
    assert (found["state"], found["done"], found["failed"]) == ("done", 4, 0)
    told = service.get(f"/v1/jobs/{name}/result").json()
    waited = service.post("/v1/predict", tree(4, confidence_level=0.9)).json()
    for one, other in zip(told["predictions"], waited["predictions"], strict=True):
        assert one["series_id"] == other["series_id"] and one["timestamps"] == other["timestamps"]
        assert np.allclose(one["median"]["close"], other["median"]["close"], rtol=1e-6)
    table = pl.read_parquet(io.BytesIO(service.get(f"/v1/jobs/{name}/result?format=parquet").content))
    assert table.height == 4 * 3 and table["step"].to_list()[:3] == [1, 2, 3]
    assert table["median_close"].to_list()[:3] == told["predictions"][0]["median"]["close"]


def test_tickers_of_the_store(service: Local) -> None:
    found = job(service, stock_data=[], store={"tickers": "all", "date": "2020-01-31"})
    assert found["series"] == 6 and found["left_out"] == 0
    work(service)
    told = service.get(f"/v1/jobs/{found['id']}/result").json()
    assert [one["series_id"] for one in told["predictions"]] == [f"T{i}" for i in range(6)]
    assert min(one["timestamps"][0] for one in told["predictions"]) > "2020-01-31"


WRONG = {
    "both": tree(1) | {"store": {"tickers": "all"}},
    "neither": {"prediction_horizon": 3},
    "path": {"store": {"tickers": "all", "path": "/etc"}},
    "unknown ticker": {"store": {"tickers": ["../../etc/passwd"]}},
    "before the first day": {"store": {"date": "1990-01-01"}},
    "deadline": tree(1) | {"deadline_s": 3},
    "priority": tree(1) | {"priority": "urgent"},
    "horizon": tree(1) | {"prediction_horizon": 0},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_job_that_is_refused_leaves_nothing(service: Local, name: str) -> None:
    before = len(service.get("/v1/jobs").json()["jobs"])
    answer = service.post("/v1/jobs", WRONG[name])
    assert answer.status_code == 422 and answer.json()["detail"], answer.text
    assert len(service.get("/v1/jobs").json()["jobs"]) == before


def test_a_key_is_one_job(service: Local) -> None:
    headers = JSON | {"Idempotency-Key": "nightly-2024-01-31"}
    body = json.dumps(tree(2))
    first, second = (service.post("/v1/jobs", body.encode(), headers=headers) for _ in range(2))
    assert first.status_code == second.status_code == 202 and first.json()["id"] == second.json()["id"]
    other = service.post("/v1/jobs", tree(3), headers=headers)
    assert other.status_code == 409 and other.json()["code"] == "conflict"
    assert service.post("/v1/jobs", tree(1), headers=JSON | {"Idempotency-Key": "a b"}).status_code == 422


def test_cancel_and_resume(service: Local) -> None:
    name = job(service)["id"]
    assert service.post(f"/v1/jobs/{name}/cancel", {}).json()["state"] == "cancelled"
    assert service.get(f"/v1/jobs/{name}/result").status_code == 409
    assert service.post(f"/v1/jobs/{name}/resume", {}).json()["state"] == "queued"
    assert service.post(f"/v1/jobs/{name}/resume", {}).status_code == 409
    work(service)
    assert service.get(f"/v1/jobs/{name}").json()["state"] == "done"


@pytest.mark.parametrize("name", ["job_0", "..%2f..%2fstate.sqlite", "state"])
def test_unknown_names(service: Local, name: str) -> None:
    for path in (f"/v1/jobs/{name}", f"/v1/jobs/{name}/result", f"/v1/forecasts/{name}"):
        assert service.get(path).status_code == 404
    assert service.post(f"/v1/jobs/{name}/cancel", {}).status_code == 404
    assert service.get("/v1/jobs?state=elsewhere").status_code == 422


def test_a_full_disk(service: Local) -> None:
    """507, and no job is there."""
    before = service.get("/v1/jobs").json()["jobs"]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        answer = service.post("/v1/jobs", tree(20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert answer.status_code == 507 and answer.json()["code"] == "disk_full"
    assert service.get("/v1/jobs").json()["jobs"] == before


def test_actuals_and_quality(service: Local) -> None:
    """What was served, what came of it, and the coverage in the next answer."""
    whole = [series(f"Q{i}", bars=60, seed=i) for i in range(3)]
    for day in range(20, 50):
        known = [{k: v if k == "series_id" else v[:day] for k, v in one.items()} for one in whole]
        answer = service.post("/v1/predict", {"stock_data": known, "prediction_horizon": 3})
        assert answer.status_code == 200, answer.text
    kept = service.state.kept.kept
    wait_for(lambda: len(kept.newest(series="Q2")) == 30)
    (newest, *_) = service.get("/v1/forecasts?series_id=Q2").json()["forecasts"]
    shown = service.get(f"/v1/forecasts/{newest['id']}").json()
    assert shown["series"][2]["series_id"] == "Q2" and shown["series"][2]["actual"] is None
    body = {
        "actuals": [
            {"series_id": one["series_id"], "timestamps": one["timestamps"], "close": one["close"]}
            for one in whole
        ]
    }
    answer = requests.put(f"{service.url}/v1/actuals", data=json.dumps(body), headers=JSON, timeout=60)
    assert answer.json() == {"series": 3, "bars": 180, "forecasts": 90}
    found = service.get("/v1/quality").json()["versions"][0]
    assert found["version"] == "v1.0.0" and found["dates"] == 30
    row = next(one for one in found["coverage"] if one["step"] == 3 and one["level"] == 0.95)
    wait_for(lambda: service.state.kept.measured("v1.0.0", 0.95, 3) is not None)
    told = service.post("/v1/predict", {"stock_data": whole, "prediction_horizon": 3}).json()
    measured = told["predictions"][0]["measured_coverage"]
    assert measured["value"] == row["value"] and measured["dates"] == row["dates"] == 30
    assert "kronos_quality_coverage" in service.get("/metrics").text
    for wrong in (
        {"actuals": []},
        {"actuals": [{"series_id": "A", "timestamps": ["2024-01-02"], "close": [0]}]},
    ):
        refused = requests.put(f"{service.url}/v1/actuals", data=json.dumps(wrong), headers=JSON, timeout=60)
        assert refused.status_code == 422


# -- scripts -------------------------------------------------------------------------------------------------
def prices(path: Path, tickers: int = 5) -> Path:
    """A price file on weekdays of 2024."""
    frames = []
    for number in range(tickers):
        own = series(f"P{number}", bars=50, seed=number)
        dates = pl.Series(own["timestamps"]).str.to_date()
        frames.append(
            pl.DataFrame({"ticker": [own["series_id"]] * 50, "date": dates}).with_columns(
                pl.Series(name, own[name]) for name in ("open", "high", "low", "close", "volume")
            )
        )
    pl.concat(frames).write_parquet(path)
    return path


def script(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_price_file_becomes_a_job(service: Local, tmp_path: Path) -> None:
    file = prices(tmp_path / "prices.parquet")
    common = ["--file", file, "--horizon", 3, "--level", 0.9]
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    done = script(
        "forecast_job.py", *common, "--local", "--model", tiny_models() / "production", "--output", here
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sent = script("forecast_job.py", *common, "--priority", "high", "--url", service.url, "--key", "k1")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    work(service)
    fetched = script(
        "forecast_job.py",
        *common,
        "--priority",
        "high",
        "--url",
        service.url,
        "--key",
        "k1",
        "--wait",
        "--output",
        there,
    )
    assert fetched.returncode == 0, fetched.stdout + fetched.stderr
    assert pl.read_parquet(here).equals(pl.read_parquet(there))
    assert pl.read_parquet(here)["series_id"].n_unique() == 5
    entered = script("update_actuals.py", "--file", file, "--since", "2024-03-01", "--url", service.url)
    assert entered.returncode == 0 and "bars entered" in entered.stdout, entered.stdout + entered.stderr


@pytest.mark.slow
def test_what_scripts_say(tmp_path: Path) -> None:
    file = prices(tmp_path / "prices.parquet", 1)
    nobody = script("forecast_job.py", "--file", file, "--url", "http://127.0.0.1:9")
    assert nobody.returncode == 2 and "expected a running service" in nobody.stderr
    folder = script("worker.py", "--model", "models/x")
    assert folder.returncode == 2 and "--state" in folder.stderr
    assert "Traceback" not in nobody.stderr + folder.stderr


@pytest.mark.slow
def test_the_commands_of_the_page_run(service: Local, tmp_path: Path) -> None:
    """Every block of docs/jobs.md that asks a service; those that start processes: test_job_kills, test_remote."""
    folder = service.state.settings.folder
    assert folder is not None
    prices(tmp_path / "prices.parquet")
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "kaggle").symlink_to(tiny_models())
    (tmp_path / "service").symlink_to(folder)
    shown = blocks((ROOT / "docs" / "jobs.md").read_text(encoding="utf-8"), "bash")
    asking = [block for block in shown if not re.search(r"serve\.py|worker\.py|bench_jobs", block)]
    assert len(asking) == 4
    over = threading.Event()
    worker = threading.Thread(target=work_until, args=(service, over))
    worker.start()
    try:
        for block in asking:
            text = block.replace("http://127.0.0.1:7070", service.url)
            text = text.replace("--wait", f"--wait --url {service.url}")
            text = text.replace("--since", f"--url {service.url} --since")
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            )
            assert done.returncode == 0, block + done.stdout[-2000:] + done.stderr[-2000:]
            assert '"code":' not in done.stdout or "conflict" in done.stdout, done.stdout[-2000:]
    finally:
        over.set()
        worker.join()
    assert (tmp_path / "forecast.parquet").is_file() and (tmp_path / "local.json").is_file()


def work_until(service: Local, over: threading.Event) -> None:
    while not over.wait(0.2):
        work(service)
