"""Kaggle, as the kit sees it: five calls that end in an answer or in one clear line, never in silence.

In: a competition and what to do. Out: plain values. Each call is a process (`worker`) that is ended when Kaggle stays silent
for `patience` seconds; nothing of what it says leaves this module before known secrets are taken out. The errors and what a
user can do about them: docs/kaggle.md.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronos.delivery.credentials import HOW_TO, scrub, source
from kronos.errors import KitError

WORKER = Path(__file__).with_name("worker.py")
PATIENCE = 120.0
"""Seconds without any sign from Kaggle after which a call is given up."""
SLOWEST_UPLOAD = 20_000
"""Bytes per second that an upload may be granted, beside `PATIENCE`."""
UPLOAD_FAILED = "Could not submit to competition"
_VERBOSE = {"VERBOSE", "VERBOSE_OUTPUT"}  # they make the package print its requests, tokens included


class KaggleError(KitError):
    """Kaggle, or the way there, said no. `kind` and `status` say how (see `worker`); the message is one clean line."""

    def __init__(self, message: str, kind: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status

    @property
    def sure(self) -> bool:
        """Whether Kaggle itself refused: what was asked for certainly did not happen."""
        return self.kind in ("credentials", "package") or (self.kind == "http" and 400 <= (self.status or 0) < 500)


@dataclass(frozen=True)
class Client:
    """The calls for one competition. Raises KitError for a name that cannot be one."""

    competition: str
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", self.competition):
            raise KitError(f"inference.competition: expected the end of the competition's address, found {self.competition!r}")

    def list_files(self) -> list[dict[str, Any]]:
        """The data files: [{name, bytes, date}]."""
        return self._call("list_files")

    def download(self, folder: Path, watch: Callable[[], Any], hold: int) -> None:
        """Fetch the archive into `folder`. watch: changes while bytes arrive. hold: a lock that lives as long as the process."""
        self._call("download", watch=watch, hold=hold, folder=str(folder))

    def limits(self) -> dict[str, int]:
        """{today, total, left}: submissions made today and ever, and left today."""
        return self._call("limits")

    def submissions(self) -> list[dict[str, Any]]:
        """The newest ones: [{ref, file, date, description, status, public, private, problem}]."""
        return self._call("submissions")

    def submit(self, file: Path, message: str) -> dict[str, Any]:
        """Send a file: {message, ref}. Raises KaggleError also when the package says that the upload failed."""
        patience = self.patience + file.stat().st_size / SLOWEST_UPLOAD
        reply = Client(self.competition, patience)._call("submit", file=str(file), message=message)
        if not reply["ref"] and UPLOAD_FAILED in reply["message"]:
            raise KaggleError(f"{file.name}: the upload to Kaggle broke off; run the same command again", "upload")
        return reply

    def _call(self, operation: str, watch: Callable[[], Any] | None = None, hold: int | None = None, **arguments: Any) -> Any:
        request = json.dumps({"operation": operation, "competition": self.competition, **arguments})
        output, noise = self._wait(_start(hold), request, watch)
        try:
            result = json.loads(output)
        except ValueError:
            last = next((line for line in reversed(noise.splitlines()) if line.strip()), "it said nothing")
            raise KaggleError(f"the kaggle package ended without an answer: {_line(last)}", "worker") from None
        if "answer" in result:
            return result["answer"]
        raise explain(self.competition, result["error"], result["status"], result["message"])

    def _wait(self, process: subprocess.Popen[str], request: str, watch: Callable[[], Any] | None) -> tuple[str, str]:
        """What the process wrote, (answer, noise). Ends it when there is no news for `patience` seconds, or on any exception."""
        given: str | None = request
        seen, since = None, time.monotonic()
        try:
            while True:
                try:
                    return process.communicate(given, timeout=0.25)
                except subprocess.TimeoutExpired:
                    given = None
                if watch is not None and (news := watch()) != seen:
                    seen, since = news, time.monotonic()
                if time.monotonic() - since > self.patience:
                    raise explain(self.competition, "silence", None, f"{self.patience:g} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def _start(hold: int | None) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in _VERBOSE}
    return subprocess.Popen(
        [sys.executable, "-P", str(WORKER)],  # -P: no folder of the user's stands in for the package
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=environment,
        pass_fds=() if hold is None else (hold,),
    )


def explain(competition: str, kind: str, status: int | None, message: str) -> KaggleError:
    """The line for a user: what happened and what to do."""
    said = _line(message)
    page = f"https://www.kaggle.com/competitions/{competition}"
    if kind == "http":
        return KaggleError(_refusal(competition, page, status, said), kind, status)
    lines = {
        "credentials": _rejected(where) if (where := source()) else f"Kaggle needs to know who you are: {HOW_TO}",
        "network": f"no connection to Kaggle ({said}); check the network and proxy and run again; in a Kaggle notebook without "
        "internet attach the competition as an input instead",
        "silence": f"Kaggle has been silent for {said}; run the same command again, which goes on where this one stopped, or "
        "allow more with --patience",
        "space": "no space left on the device while downloading; free some and run again: the part that is here is kept",
        "package": f"the kaggle package does not load ({said}); install it: pip install kaggle six",
        "answer": f"expected an answer of Kaggle, found something else ({said}); is there a login page or a proxy in between?",
    }
    return KaggleError(lines.get(kind, f"the kaggle package failed: {said}"), kind, status)


def _refusal(competition: str, page: str, status: int | None, said: str) -> str:
    if status == 401:
        return _rejected(source() or "this machine")
    if status == 403:
        return (
            f"Kaggle refuses access to {competition} ({said}): accept the rules at {page}/rules while logged in, then run again"
        )
    if status == 404:
        return f"Kaggle knows no competition {competition!r} ({said}): set inference.competition to the end of its address"
    if status == 429:
        return f"Kaggle has had too many requests from you ({said}): wait some minutes and run again"
    if status is not None and status >= 500:
        return f"Kaggle has a problem of its own (HTTP {status}: {said}): run again later"
    return f"Kaggle refused (HTTP {status}): {said}; see {page}"


def _rejected(where: str) -> str:
    beats = "; it beats a key in kaggle.json: unset it to use that" if "KAGGLE_API_TOKEN" in where else ""
    return f"Kaggle rejects the credentials of {where} (expired?): {HOW_TO}{beats}"


def _line(text: str, most: int = 300) -> str:
    """One line without secrets, of bounded length."""
    line = " ".join(scrub(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."
