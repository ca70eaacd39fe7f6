"""What all tests share: where real prices lie, the repository's root, and a Kaggle on loopback.

The suite computes in float32 on every processor, also in the programs that tests start: `auto` would mean
bfloat16 on some. Tests that want another precision name it, or replace `device.processor_has_bf16`.
"""

import logging
import os
import platform
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kaggle_stub import SECRETS, Stub

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")  # oneDNN's own limit: all but bfloat16

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """A script that a test runs in this process sets up logging on that test's own output, which is closed
    afterwards: every later line would end in a traceback on a later test's stderr.
    """
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real prices beside the checkout (KIT_SHARED_DATA, or ../shared/data): not part of the project, so
    absent for most users.
    """
    path = Path(os.environ.get("KIT_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip("no real prices here (KIT_SHARED_DATA)")
    return path


@pytest.fixture
def compiling() -> None:
    """torch.compile on a processor with vector instructions. For an x86 processor without AVX2 (or with
    ATEN_CPU_CAPABILITY=default) torch 2.13 writes vector code that does not compile; the kit then ends a run
    that asks for training.compile in one line.
    """
    import torch

    plain = torch.backends.cpu.get_cpu_capability() == "DEFAULT"
    if plain and platform.machine().lower() in ("x86_64", "amd64"):
        pytest.skip("torch.compile writes no working code for an x86 processor without AVX2")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """A Kaggle on loopback that this process and its children talk to, from an empty working folder
    tmp_path/work.

    In the end nothing that was written under tmp_path may hold a token, a key or a signed link.
    """
    server = Stub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    for name in list(os.environ):
        if name.startswith("KAGGLE") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in server.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    for folder in ("home", "work"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield server
    server.open.set()
    server.shutdown()
    server.server_close()
    for path in (tmp_path / "work").rglob("*"):
        leaked = [secret for secret in SECRETS if path.is_file() and secret.encode() in path.read_bytes()]
        assert not leaked, f"{path} holds {leaked}"
