"""docs/serving.md as a reader types it: every command of its blocks is run, in its order, in one folder."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from docs_commands import blocks
from services import tiny_models

SERVE = re.compile(r"python scripts/serve\.py")
NOT_RUN = "pip install -e '.[serve]'"
"""tests/service/test_service_life.py checks that the script names it; it needs a registry."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def prepared(folder: Path, root: Path) -> None:
    """A checkout's scripts, and a trained run under the name that the page uses."""
    (folder / "scripts").symlink_to(root / "scripts")
    (folder / "runs").mkdir()
    source = tiny_models().parents[1] / "0" / "run"
    copy = Path(shutil.copytree(source, folder / "runs" / "demo"))
    config = copy / "pipeline_config.json"
    config.write_text(config.read_text().replace(str(source), str(copy)))


def started(words: str, folder: Path, port: int, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """A service in the background, once it is live."""
    log = (folder / "serve.log").open("ab")
    made = subprocess.Popen(
        f"exec {words} --port {port}", shell=True, cwd=folder, env=environment, stdout=log, stderr=log
    )
    for _ in range(1200):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert made.poll() is None, (folder / "serve.log").read_text()
            time.sleep(0.1)
            continue
        return made
    raise AssertionError((folder / "serve.log").read_text())


@pytest.mark.slow
def test_every_command_of_the_page(root: Path, tmp_path: Path) -> None:
    """A page whose second line fails is worse than none."""
    text = (root / "docs" / "serving.md").read_text(encoding="utf-8")
    prepared(tmp_path, root)
    (tmp_path / "request.json").write_text(blocks(text, "json")[0])
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    port, running, ran = free_port(), [], 0
    lines = [line for block in blocks(text, "bash") for line in block.splitlines() if line.strip()]
    assert NOT_RUN in lines and sum("curl" in line for line in lines) >= 6
    try:
        for line in lines:
            if line == NOT_RUN:
                continue
            ran += 1
            own = line.replace("7070", str(port))
            if SERVE.search(line):
                if "--keys" in line:  # beside the first one, which the lines after it go on with
                    first, port = port, free_port()
                running.append(started(line, tmp_path, port, environment))
                continue
            done = subprocess.run(
                own, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if "curl" in line:
                assert '"status":4' not in done.stdout and '"status":5' not in done.stdout, done.stdout
            if "/predict" in line:
                answer = json.loads(done.stdout)
                assert answer["model"]["version"] == "v1.0.0" and answer["sample_count"] == 41
            if "Authorization" in line:
                port = first
        assert running[0].wait(60) == 0
        assert ran >= 12
    finally:
        for one in running:
            if one.poll() is None:
                one.send_signal(signal.SIGTERM)
                one.wait(60)
