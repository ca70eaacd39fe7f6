"""Runs the steps of a launch: one child at a time, in a session of its own, its output on the terminal and in
the log.

In: steps, signals. Out: exit codes, or `Stopped`. The first SIGINT, SIGTERM or lost terminal asks the step to
save and end, the second one kills it. Nothing of a step stays behind when it has ended.
"""

import contextlib
import ctypes
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import psutil

from kronos.launch.plan import Step

TICK = 0.1
"""Seconds between two looks at whether the step has ended."""
PIECE = 1 << 16
CODES = re.compile(rb"\x1b\[[0-9;]*m")
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Stopped(Exception):
    """The launch was asked to end, and what ran has ended. `signal`: by which."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class Output:
    """Standard output and the log: the same bytes, in the log without colours and with the last state of a
    progress bar only.

    A terminal or a pipe that is gone is no reason to end: the log goes on, and says so.
    """

    def __init__(self, log: Path) -> None:
        self._log: int | None = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._open = True
        self._line = b""

    def say(self, text: str) -> None:
        """A line of the launcher's own."""
        self.write(text.encode(errors="replace") + b"\n")

    def write(self, data: bytes) -> None:
        """Pass bytes on."""
        if self._open:
            try:
                _write_all(1, data)
            except OSError as error:
                self._open = False
                self._note(f"(standard output is gone: {error.strerror}; the log goes on)\n".encode())
        self._note(data)

    def _note(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        text = b"".join(CODES.sub(b"", line.rpartition(b"\r")[2]) + b"\n" for line in lines)
        if self._log is None or not text:
            return
        try:
            _write_all(self._log, text)
        except OSError as error:
            self._log = None
            self.write(f"(the log cannot be written any more: {error.strerror})\n".encode())

    def close(self) -> None:
        """Write what is left of the last line."""
        if self._line:
            self._note(b"\n")
        if self._log is not None:
            os.close(self._log)


def _write_all(target: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(target, data) :]
        except BlockingIOError:  # somebody made the terminal non-blocking
            select.select([], [target], [])


class Runner:
    """The launch's one running step, and the signals that it has to hear of."""

    def __init__(self, output: Output, environment: Mapping[str, str]) -> None:
        self.output = output
        self.environment = dict(environment)
        self.signal = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._step: Step | None = None

    def listen(self) -> None:
        """Take over the signals. SIGINT, too, where the launcher was started in the background of a script,
        which ignores it; but not SIGHUP under nohup, whose wish it is to go on."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._heard)

    def run(self, step: Step) -> int:
        """Run a step to its end. Returns its exit code, 128 + the signal for one that was killed. Raises
        Stopped.
        """
        self.check()
        source, target = os.pipe()
        self._step = step
        self._child = child = subprocess.Popen(
            step.command,
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=target,
            env=self.environment,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        os.close(target)
        if self.signal:  # it came while the step was being started
            self._ask(self.signal)
        while child.poll() is None:
            self._pass_on(source, TICK)
        _end_session(child.pid)
        while self._pass_on(source, 0):
            pass
        os.close(source)
        self._child = self._step = None
        self.check()
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def check(self) -> None:
        """Raises Stopped when the launch was asked to end."""
        if self.signal:
            raise Stopped(self.signal)

    def _pass_on(self, source: int, wait: float) -> bool:
        """Pass on what the step wrote, waiting up to `wait` seconds for it. Whether there was something."""
        if not select.select([source], [], [], wait)[0]:
            return False
        data = os.read(source, PIECE)
        if data:
            self.output.write(data)
        else:  # it has closed its output and goes on
            time.sleep(wait)
        return bool(data)

    # -- signals ---------------------------------------------------------------------------------------------
    def _heard(self, number: int, frame: FrameType | None) -> None:
        again = self.signal
        if number == signal.SIGHUP:
            if (
                again
            ):  # a shell and the system may both say that the terminal is gone, and neither is in a hurry
                return
            self.output.say("The terminal is gone (SIGHUP).")
            number = signal.SIGTERM
        self.signal = number
        if self._child is None:
            return
        if again:
            _kill(self._child.pid)
            return
        self.output.say(
            f"{signal.Signals(number).name}: saving a resumable state (send it again to stop at once)"
        )
        self._ask(number)

    def _ask(self, number: int) -> None:
        """Ask the step to save and end. Trainers are the children of accelerate's launcher; were it signalled
        as well, it would not wait for their save."""
        child, step = self._child, self._step
        if child is None or step is None:
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(child.pid)
            targets = parent.children() if step.trainers else []
            for process in targets or [parent]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)


def _die_with_parent() -> None:
    """In the child: SIGTERM when the launcher is killed, so that what it started saves and ends and does not
    go on unseen.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)


def _kill(pid: int) -> None:
    """A step's process and all below it; trainers are in sessions of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _end_session(pid: int) -> None:
    """What a step that has ended left in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
