"""Kaggle, as the kit sees it: five calls that end in an answer or in one clear line, never in silence.

In: a competition and what to do. Out: plain values. The package runs in a process of its own (`process`,
`worker`), which is ended when Kaggle stays silent for `patience` seconds; nothing that it says leaves this
module before secrets are taken out.
The errors, and what a user can do about them: docs/kaggle.md.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from kronos.delivery.credentials import HOW_TO, scrub, source
from kronos.delivery.process import EndedError, SilentError, Worker
from kronos.errors import KitError

PATIENCE = 120.0
"""Seconds without any sign from Kaggle after which a call is given up."""
SLOWEST_UPLOAD = 20_000
"""Bytes per second that an upload may be granted, beside `PATIENCE`."""
UPLOAD_FAILED = "Could not submit to competition"


class KaggleError(KitError):
    """Kaggle, or the way there, said no. `kind` and `status` say how (see `worker`); the message is one clean
    line.
    """

    def __init__(self, message: str, kind: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.status = status

    @property
    def sure(self) -> bool:
        """Whether Kaggle itself refused: what was asked for certainly did not happen."""
        return self.kind in ("credentials", "package") or (
            self.kind == "http" and 400 <= (self.status or 0) < 500
        )


class Client:
    """The calls for one competition; used in a `with` block, which ends its process. KitError for a name that
    cannot be one.

    patience: seconds. hold: a lock's descriptor that is kept as long as the process lives, which may be
    longer than this one.
    """

    def __init__(self, competition: str, patience: float = PATIENCE, hold: int | None = None) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", competition):
            raise KitError(
                f"inference.competition: expected the end of the competition's address, found {competition!r}"
            )
        self.competition = competition
        self.patience = patience
        self._worker = Worker(hold)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._worker.close()

    def list_files(self) -> list[dict[str, Any]]:
        """The data files: [{name, bytes, date}]."""
        return self._call("list_files")

    def download(self, folder: Path, watch: Callable[[], Any]) -> None:
        """Fetch the archive into `folder`. watch: a value that changes while bytes arrive."""
        self._call("download", watch=watch, folder=str(folder))

    def limits(self) -> dict[str, int]:
        """{today, total, left}: submissions made today and ever, and left today."""
        return self._call("limits")

    def submissions(self) -> list[dict[str, Any]]:
        """The newest ones: [{ref, file, date, description, status, public, private, problem}]."""
        return self._call("submissions")

    def submit(self, file: Path, message: str) -> dict[str, Any]:
        """Send a file: {message, ref}. Raises KaggleError also when the package says that the upload
        failed.
        """
        more = file.stat().st_size / SLOWEST_UPLOAD
        reply = self._call("submit", more_patience=more, file=str(file), message=message)
        if not reply["ref"] and UPLOAD_FAILED in reply["message"]:
            raise KaggleError(
                f"{file.name}: the upload to Kaggle broke off; run the same command again", "upload"
            )
        return reply

    def _call(
        self,
        operation: str,
        watch: Callable[[], Any] | None = None,
        more_patience: float = 0.0,
        **arguments: Any,
    ) -> Any:
        request = {"operation": operation, "competition": self.competition, **arguments}
        try:
            result = self._worker.ask(request, self.patience + more_patience, watch)
        except SilentError as error:
            raise explain(
                self.competition, "silence", None, f"{self.patience + more_patience:.0f} s"
            ) from error
        except EndedError as error:
            raise explain(self.competition, "ended", None, str(error)) from None
        if "answer" in result:
            return result["answer"]
        raise explain(self.competition, result["error"], result["status"], result["message"])


def explain(competition: str, kind: str, status: int | None, message: str) -> KaggleError:
    """The line for a user: what happened and what to do."""
    said = _line(message)
    page = f"https://www.kaggle.com/competitions/{competition}"
    if kind == "http":
        return KaggleError(_refusal(competition, page, status, said), kind, status)
    lines = {
        "credentials": _rejected(where)
        if (where := source())
        else f"Kaggle needs to know who you are: {HOW_TO}",
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
            f"Kaggle refuses access to {competition} ({said}): "
            f"accept the rules at {page}/rules while logged in, then run again"
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
