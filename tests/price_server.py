"""A price service on loopback that misbehaves as asked: what the sources' tests talk to.

`answers` maps a path (with its query, or without) to what it gives: bytes, or a list of steps that are taken
one request after the other, the last one for ever. A step is bytes (200), a status, or one of the names
below. `asked` lists the requests.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from kronos.data.sources import fetch

HTML = b"<!DOCTYPE html><html><body>Please enable JavaScript</body></html>"
CUT, CUT_SILENTLY, SLOW, ELSEWHERE, SAME_HOST, BLOCK = (
    "cut",
    "cut silently",
    "slow",
    "elsewhere",
    "same host",
    "block",
)
Step = bytes | int | str


def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, wait shortly between tries, and ask no proxy for what lies on loopback."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(fetch, "BACK_OFF", 0.01)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


class PriceServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Step | list[Step]] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.whole = b'[{"d": "2024-01-02"}]'
        """The body that CUT, CUT_SILENTLY and SLOW begin with, and that SAME_HOST leads to."""
        self.open = threading.Event()
        """Set: BLOCK goes on."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving() -> Iterator[PriceServer]:
    server = PriceServer()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.open.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: PriceServer

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers))
        path = self.path if self.path in self.server.answers else urlsplit(self.path).path
        step = self.server.answers.get(path, 404)
        if isinstance(step, list):
            step = step.pop(0) if len(step) > 1 else step[0]
        self._give(step)

    def _give(self, step: Step) -> None:
        body = self.server.whole
        if isinstance(step, bytes):
            self._send(200, step)
        elif isinstance(step, int):
            self._send(step, b"", {"Retry-After": "0"} if step == 503 else {})
        elif step == CUT:
            self._send(200, body[: len(body) // 2], length=len(body))
        elif step == CUT_SILENTLY:
            self._send(200, body[: len(body) // 2], length=None)
        elif step == SLOW:
            self._send(200, b"", length=None)
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                time.sleep(0.2)
        elif step == ELSEWHERE:
            self._send(302, b"", {"Location": f"http://localhost:{self.server.server_port}/moved"})
        elif step == SAME_HOST:
            self._send(302, b"", {"Location": "/moved"})
            self.server.answers["/moved"] = body
        else:
            self.server.open.wait(60)
            self._send(200, body)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = -1
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.end_headers()
        self.wfile.write(body)
