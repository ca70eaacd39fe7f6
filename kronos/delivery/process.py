"""The process that holds the `kaggle` package: started when it is first asked, ended when it falls silent.

In: a request (a JSON tree). Out: its answer, or one of two exceptions. See `worker` for why it is a process,
and its protocol.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
TICK = 0.25
"""Seconds between two looks at the progress of a long request."""
GRACE = 5.0
"""Seconds beyond the patience after which a request without progress ends its process from inside."""
_VERBOSE = {"VERBOSE", "VERBOSE_OUTPUT"}  # they make the package print its requests, tokens included


class SilentError(Exception):
    """No answer and no progress for as long as was granted; the process was ended."""


class EndedError(Exception):
    """The process ended without an answer; the text is the last line it wrote, as it wrote it."""


class Worker:
    """One process after the other; `hold` is a file descriptor (a lock) that each keeps open as long as it
    lives.
    """

    def __init__(self, hold: int | None = None) -> None:
        self._hold = hold
        self._process: subprocess.Popen[bytes] | None = None
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the worker)

    def ask(self, request: Any, patience: float, watch: Callable[[], Any] | None = None) -> Any:
        """The answer to a request. watch: a value that changes while there is progress; silence is counted in
        seconds.
        """
        process = self._process = self._process or self._start()
        if (
            watch is None
        ):  # should this process be killed, that one still ends by itself, and gives back what it holds
            request = {**request, "within": patience + GRACE}
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended: reading tells
                _pipe(process.stdin).write(json.dumps(request).encode() + b"\n")
                _pipe(process.stdin).flush()
            return json.loads(self._read(_pipe(process.stdout).fileno(), patience, watch))
        except BaseException:
            self.close()
            raise

    def _read(self, source: int, patience: float, watch: Callable[[], Any] | None) -> bytes:
        """One line."""
        line = bytearray()
        seen, since = None, time.monotonic()
        while not line.endswith(b"\n"):
            if select.select([source], [], [], TICK)[0]:
                piece = os.read(source, 1 << 16)
                if not piece:
                    raise EndedError(self._last_line())
                line += piece
                continue
            if watch is not None and (news := watch()) != seen:
                seen, since = news, time.monotonic()
            if time.monotonic() - since > patience:
                raise SilentError
        return bytes(line)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],  # -P: no folder of the user's stands in for the package
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
            env={name: value for name, value in os.environ.items() if name not in _VERBOSE},
            pass_fds=() if self._hold is None else (self._hold,),
        )

    def _last_line(self) -> str:
        self._noise.seek(0)
        lines = self._noise.read().decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    def close(self) -> None:
        """End the process; the next request starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(BrokenPipeError):
                    _pipe(pipe).close()


def _pipe(pipe: Any) -> Any:
    assert pipe is not None, "opened as a pipe"
    return pipe
