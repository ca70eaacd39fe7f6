"""The one place that imports the `kaggle` package, in a process of its own (started by
`kronos.delivery.process`).

In: a JSON object a line on stdin, {"operation": name, "within": seconds, ...arguments}. Out: one a line on
stdout, {"answer": ...} or {"error": kind, "status": HTTP status or null, "message": ...}; what the package
prints goes to stderr. Standard library and kaggle only.
Importing kaggle logs in over the network, without a timeout, and ends the process when there are no
credentials: hence a process that can be killed. Its Python interface is used, since its command line drops
the HTTP status and exits with 0 when an upload fails (kaggle 2.2.4).
"""

import errno
import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

PAGE = 200


def main() -> None:
    """Answer one request after the other until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # the package prints help and warnings to stdout
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(
            math.ceil(request.pop("within", 0))
        )  # ends this process where nobody is left who would; 0: no limit
        print(json.dumps(perform(request.pop("operation"), request)), file=answers, flush=True)


def perform(operation: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Call the package and name what went wrong; an exception that is nobody's expectation keeps its
    traceback.
    """
    try:
        api: Any = importlib.import_module("kaggle").api
        failures: Any = importlib.import_module("requests.exceptions")
    except (
        ImportError,
        AttributeError,
    ) as error:  # AttributeError: our folder kaggle/, where the package is not installed
        return _error("package", error)
    try:
        if not getattr(api, "_authenticated", False):
            api.authenticate()
        return {"answer": OPERATIONS[operation](api, **arguments)}
    except SystemExit:  # no credentials: the package prints help and exits
        return {"error": "credentials", "status": None, "message": ""}
    except failures.HTTPError as error:
        return _error("http", error, None if error.response is None else error.response.status_code)
    except failures.RequestException as error:
        return _error("network", error)
    except OSError as error:
        return _error("space" if error.errno == errno.ENOSPC else "system", error)
    except ValueError as error:  # an answer that the package cannot use
        return _error("answer", error)


def _error(kind: str, error: BaseException, status: int | None = None) -> dict[str, Any]:
    return {
        "error": kind,
        "status": status,
        "message": f"{type(error).__name__}: {error}" if status is None else str(error),
    }


# -- operations ----------------------------------------------------------------------------------------------
def list_files(api: Any, competition: str) -> list[dict[str, Any]]:
    """Every data file: name, bytes, date."""
    found: list[dict[str, Any]] = []
    token: str | None = None
    while True:
        page = api.competition_list_files(competition, page_token=token, page_size=PAGE)
        found += [{"name": f.name, "bytes": f.total_bytes, "date": str(f.creation_date)} for f in page.files]
        following = page.next_page_token
        if not following or following == token:
            return found
        token = following


def download(api: Any, competition: str, folder: str) -> bool:
    """All files as one archive, COMPETITION.zip, into `folder`; the package resumes a part that it left
    there.
    """
    api.competition_download_files(competition, path=folder, quiet=True)
    return True


def limits(api: Any, competition: str) -> dict[str, int]:
    """Submissions made today and ever, and left today."""
    found = api.competition_get_submission_limits(competition)
    return {"today": found.num_today, "total": found.num_total, "left": found.num_allowed_now}


def submit(api: Any, competition: str, file: str, message: str) -> dict[str, Any]:
    """Send a file. `ref` is 0 where the package gave none, as it does when the upload failed."""
    reply = api.competition_submit(file, message, competition, quiet=True)
    return {"message": str(reply.message), "ref": int(getattr(reply, "ref", 0) or 0)}


def submissions(api: Any, competition: str) -> list[dict[str, Any]]:
    """The newest submissions, newest first as the site lists them."""
    return [_submission(item) for item in api.competition_submissions(competition, page_size=PAGE) or []]


def _submission(item: Any) -> dict[str, Any]:
    return {
        "ref": int(item.ref),
        "file": item.file_name or "",
        "date": str(item.date or ""),
        "description": item.description or "",
        "status": str(item.status).rpartition(".")[2].lower(),  # prints as SubmissionStatus.COMPLETE
        "public": item.public_score or "",
        "private": item.private_score or "",
        "problem": item.error_description or "",
    }


OPERATIONS: dict[str, Callable[..., Any]] = {
    "list_files": list_files,
    "download": download,
    "limits": limits,
    "submit": submit,
    "submissions": submissions,
}

if __name__ == "__main__":
    main()
