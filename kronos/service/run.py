"""One running service from start to end: it listens, ends in order, and keeps its workers running.

In: settings. Out: an exit code. SIGTERM and Ctrl-C: nothing new is taken, what is under way is answered, then
the process ends with 0; the same signal again ends it at once. SIGHUP: look at the model's link now.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from kronos import files
from kronos.errors import KitError
from kronos.service.app import create_app
from kronos.service.state import LOOPBACK, Settings, State, build

log = logging.getLogger(__name__)

WORKER = Path(__file__).resolve().parents[2] / "scripts" / "worker.py"
BACKLOG = 4096
"""Connections that may wait to be accepted."""
ACCEPTED = 32
"""Connections that are accepted at one turn of the event loop: a health check waits behind no more."""
CLOSE_S = 2
"""Seconds for connections to close after the last answer."""
ENDS_S = 20
"""Seconds that a worker has to end in."""


def serve(settings: Settings, device: str = "cpu") -> int:
    """Serve until a signal ends it. Returns 0. Raises KitError where the settings, the model or the port do
    not allow it.
    """
    check_address(settings)
    os.umask(0o077)  # what callers send and get is nobody else's to read
    if settings.folder is not None:
        settings.folder.mkdir(parents=True, exist_ok=True)
    listening = listen(settings)
    state = build(settings, device)
    current = state.models.current
    log.info("model %s %s: golden forecast within %.1e", current.name, current.version, current.difference)
    server = Server(configuration(state), state)
    with _numbered(settings):
        asyncio.run(server.serve(sockets=[listening]))
    return 0


@contextlib.contextmanager
def _numbered(settings: Settings) -> Iterator[None]:
    """The process number in the state folder, for whoever sends it a signal."""
    if settings.folder is None:
        yield
        return
    path = settings.folder / "serve.pid"
    files.write_text(path, f"{os.getpid()}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def configuration(state: State, port: int = 0) -> uvicorn.Config:
    """How uvicorn serves a state. port: where it is given no socket."""
    return uvicorn.Config(
        create_app(state),
        port=port,
        backlog=ACCEPTED,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=CLOSE_S,
    )


def check_address(settings: Settings) -> None:
    """Raise KitError for an address that others can reach, where no key is asked for."""
    if settings.host not in ("127.0.0.1", "localhost", "::1") and not settings.keys:
        raise KitError(
            f"--host {settings.host}: expected --keys FILE for an address that other machines can reach, found none; "
            "make a key file (docs/serving.md), or leave --host out"
        )


def listen(settings: Settings) -> socket.socket:
    """The socket, before the model is loaded: a taken port is said at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((settings.host, settings.port))
        made.listen(BACKLOG)  # callers wait here until the model is loaded
    except OSError as error:
        made.close()
        raise KitError(
            f"--port {settings.port}: expected a free port on {settings.host}, found {error.strerror}; name another"
        ) from None
    return made


def names_of(host: str, further: list[str]) -> tuple[str, ...]:
    """Host names that requests may give."""
    own = f"[{host}]" if ":" in host else host
    return tuple(dict.fromkeys([*LOOPBACK, own.lower(), *(name.lower() for name in further)]))


class Server(uvicorn.Server):
    """uvicorn with our own way to end: its own re-raises the signal, which is no exit code 0."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self.state = state
        self._ending: asyncio.Task[None] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._end)
        loop.add_signal_handler(signal.SIGHUP, self._look)
        tending = loop.create_task(self._tend())
        yield
        tending.cancel()
        self._end_workers()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        for one in sockets or []:
            one.listen(BACKLOG)  # uvicorn has set it to `ACCEPTED`
            host, port = one.getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            log.info("ready: http://%s:%d (page, API; Ctrl-C ends it)", name, port)

    def _look(self) -> None:
        self._looking = asyncio.ensure_future(self.state.models.look(again=True))

    def _end(self) -> None:
        if self._ending is not None:
            log.warning("a second signal: ending at once")
            for worker in self._workers:
                worker.kill()
            os._exit(128 + signal.SIGTERM)
        log.info("ending: %d requests are under way", self.state.active)
        self._ending = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """Answer what is under way, for `drain_s` at most; then let uvicorn close."""
        self.state.draining = True
        for worker in self._workers:
            worker.terminate()
        loop = asyncio.get_running_loop()
        until = loop.time() + self.state.settings.drain_s
        while (self.state.active or not self.state.batcher.idle) and loop.time() < until:
            await asyncio.sleep(0.05)
        if self.state.active:
            log.warning(
                "%d requests are not answered within %g s", self.state.active, self.state.settings.drain_s
            )
            self.state.batcher.give_up()
        self.should_exit = True

    # -- workers ---------------------------------------------------------------------------------------------
    async def _tend(self) -> None:
        """Keep `workers` processes running: one that ends is started again, later each time."""
        wait = 1.0
        for _ in range(self.state.settings.workers):
            self._workers.append(self._start())
        while self._workers:
            await asyncio.sleep(wait)
            for place, worker in enumerate(self._workers):
                if worker.poll() is None or self.state.draining:
                    continue
                wait = min(60.0, 2 * wait)
                log.warning("a worker ended with %s: started again", worker.returncode)
                self.state.metrics.workers.inc()
                self._workers[place] = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        own = self.state.settings
        command = [sys.executable, str(WORKER), "--state", str(own.folder), "--model", str(own.model)]
        command += ["--device", self.state.models.device, "--end-with-parent"]
        if not self.state.models.fixed:
            command += ["--alias", own.alias]
        return subprocess.Popen(command, preexec_fn=_polite)

    def _end_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                log.warning("a worker did not end within %d s: it is killed; its chunk is done again", ENDS_S)
                worker.kill()


def _polite() -> None:
    """A worker's place: behind the interactive requests, in a group that Ctrl-C does not reach."""
    os.nice(10)
    os.setsid()
