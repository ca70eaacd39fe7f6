"""A submission: sent once, followed until it has its score, and written into the ledger beside what was
expected of it.

In: a `Parcel`. Out: a row of the ledger. A row is written before the file is sent, so that
after a kill the next call finds out on Kaggle's list what became of it. Kaggle has a file when it names a
reference for it or lists it; the client's exit code is no evidence (kaggle 2.2.4 calls a failed upload a
success). See docs/kaggle.md.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kronos import files
from kronos.data.competition import SUBMISSIONS
from kronos.delivery.client import PATIENCE, Client, KaggleError
from kronos.delivery.ledger import OPEN, REFUSED, Ledger, Row, same
from kronos.delivery.parcel import Parcel
from kronos.errors import KitError

log = logging.getLogger(__name__)

LEDGER = SUBMISSIONS / "ledger.csv"
WAIT = 600.0
"""Seconds to wait for a score."""
SETTLE = 20.0
"""Seconds after an interrupted attempt in which its request may still arrive at Kaggle."""
DATE = "%Y-%m-%d %H:%M:%S.%f UTC"
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0
"""Seconds between two looks at Kaggle's list; each pause is half as long again as the last."""


# -- sending -------------------------------------------------------------------------------------------------
def submit(
    parcel: Parcel, ledger: Ledger, again: bool = False, wait: float = WAIT, patience: float = PATIENCE
) -> Row:
    """Send a parcel once, and wait up to `wait` seconds for its score (0: not at all). Returns the ledger's
    row.

    again: send it although Kaggle has it. Raises KitError when it was submitted before, when Kaggle refuses
    it, when what became of it is not known, or when it cannot be scored.
    """
    lock = ledger.path.parent / f".{parcel.sha256[:16]}.lock"
    busy = f"{parcel.path.name} is being submitted by another process: waiting for it"
    # The process that sends keeps the lock for as long as it lives: when this one is killed, the upload goes
    # on to its end, and a second command that did not wait for that would find nothing on Kaggle's list and
    # send the file again.
    with files.locked(lock, busy) as hold, Client(parcel.competition, patience, hold) as client:
        row = None if again else earlier(client, parcel, ledger)
        row = row or _send(client, parcel, ledger)
    if wait <= 0:
        return row
    with Client(parcel.competition, patience) as client:
        return follow(client, ledger, row, wait)


def earlier(client: Client, parcel: Parcel, ledger: Ledger) -> Row | None:
    """The row of the same content that waits for its score, None when Kaggle does not have it. KitError when
    it is scored.
    """
    row = last(parcel, ledger)
    if row is None:
        return None
    if row["status"] not in OPEN:
        raise KitError(f"{parcel.path}: {told(row)}; pass --again to submit the same content once more")
    log.info("%s: %s", parcel.path, told(row))
    ref = _settled(client, row, ledger)
    if ref is None:
        log.info("Kaggle does not list it: it was not sent")
        ledger.set(row, status="failed", ref="")
        return None
    return ledger.set(row, status="pending", ref=str(ref))


def _settled(client: Client, row: Row, ledger: Ledger) -> int | None:
    """Kaggle's reference of an attempt that did not end, None where it has none. A request that was under way
    when the attempt
    was interrupted may still arrive: Kaggle's list is looked at until `SETTLE` seconds after the attempt."""
    begun = datetime.strptime(row["date"], DATE).replace(tzinfo=UTC)
    while True:
        ref = _ref(row, client.submissions(), ledger)
        left = SETTLE - (datetime.now(UTC) - begun).total_seconds()
        if ref is not None or not 0 < left <= SETTLE:
            return ref
        log.info("Kaggle does not list it yet: looking again until it could have arrived (%.0f s)", left)
        time.sleep(min(left, FIRST_PAUSE))


def last(parcel: Parcel, ledger: Ledger) -> Row | None:
    """The newest row of the same content that Kaggle has, or may have."""
    mine = [
        row
        for row in ledger.rows()
        if (row["sha256"], row["competition"]) == (parcel.sha256, parcel.competition)
    ]
    return next((row for row in reversed(mine) if row["status"] not in REFUSED), None)


def told(row: Row) -> str:
    """What the ledger says about an earlier submission of the same content."""
    if row["status"] in ("sending", "unclear"):
        return f"an attempt to submit it on {row['date'][:16]} did not end"
    score = f"public score {row['public']}" if row["public"] else row["problem"] or "no score yet"
    private = f", private {row['private']}" if row["private"] else ""
    name = Path(row["file"]).name
    return (
        f"the same content was submitted on {row['date'][:16]} as {name} (ref {row['ref']}): {score}{private}"
    )


def _send(client: Client, parcel: Parcel, ledger: Ledger) -> Row:
    """Send it and make sure that Kaggle has it."""
    after = max((item["ref"] for item in client.submissions()), default=0)
    left = _left_today(client)
    row = _row(parcel, after)
    with ledger.edit() as rows:
        rows.append(row)
    log.info("sending %s to %s", parcel.path, parcel.competition)
    try:
        reply = client.submit(parcel.path, parcel.message)
    except KaggleError as error:
        if error.sure:
            ledger.set(row, status="refused", ref="", problem=str(error))
            raise
        return _after_failure(client, ledger, row, error)
    ref = reply["ref"] or _ref(row, client.submissions(), ledger)
    if not ref:
        ledger.set(row, status="unclear", problem=reply["message"])
        raise KitError(
            f"{parcel.path}: the client said {reply['message']!r}, but Kaggle lists no new submission; run the same command again"
        )
    log.info(
        "Kaggle has it: ref %s (%s); submissions left today: %s",
        ref,
        reply["message"],
        "not known" if left is None else left - 1,
    )
    return ledger.set(row, status="pending", ref=str(ref))


def _row(parcel: Parcel, after: int) -> Row:
    """The ledger's row at the moment of sending. after: the highest reference that Kaggle lists before."""
    now = datetime.now(UTC).strftime(DATE)
    row = {
        "date": now,
        "competition": parcel.competition,
        "file": str(parcel.path),
        "sha256": parcel.sha256,
        "run": parcel.run,
    }
    row |= {
        "message": parcel.message,
        "ref": f"after {after}",
        "status": "sending",
        "public": "",
        "private": "",
    }
    return row | {"expected": parcel.expected, "problem": ""}


def _after_failure(client: Client, ledger: Ledger, row: Row, error: KaggleError) -> Row:
    """The client failed in a way that leaves open whether Kaggle took the file: look it up."""
    try:
        ref = _ref(row, client.submissions(), ledger)
    except KaggleError as second:
        ledger.set(row, status="unclear", problem=str(error))
        raise KitError(
            f"{error} (whether Kaggle has the file is not known: the next call looks first)"
        ) from second
    if ref is None:
        ledger.set(row, status="failed", ref="", problem=str(error))
        raise error
    log.warning("the client failed (%s), yet Kaggle lists the submission: ref %s", error, ref)
    return ledger.set(row, status="pending", ref=str(ref))


def _left_today(client: Client) -> int | None:
    """Submissions left today, None where Kaggle does not say. Raises KitError when there are none."""
    try:
        limits = client.limits()
    except KaggleError as error:
        if error.kind != "http":
            raise
        log.warning("how many submissions are left today is not known: %s", error)
        return None
    log.info("submissions today: %d, left: %d", limits["today"], limits["left"])
    if limits["left"] <= 0 and limits["total"] > 0:  # all three are 0 for a user without a team yet
        raise KitError(
            f"no submission is left today ({limits['today']} made): Kaggle counts anew at 00:00 UTC"
        )
    return limits["left"]


def _ref(row: Row, listing: list[dict[str, Any]], ledger: Ledger) -> int | None:
    """Kaggle's reference of a row: its own, or that of a new entry with its file name that no other row
    has.
    """
    if row["ref"].isdigit():
        return int(row["ref"])
    taken = {other["ref"] for other in ledger.rows() if not same(other, row)}
    after, name = int(row["ref"].removeprefix("after ") or 0), Path(row["file"]).name
    new = [
        item
        for item in listing
        if item["ref"] > after and item["file"] == name and str(item["ref"]) not in taken
    ]
    exact = [item for item in new if item["description"] == row["message"]]
    return (exact or new)[-1]["ref"] if exact or len(new) == 1 else None


# -- following -----------------------------------------------------------------------------------------------
def follow(
    client: Client, ledger: Ledger, row: Row, limit: float, sleep: Callable[[float], None] = time.sleep
) -> Row:
    """Look at Kaggle's list until the row has its score or `limit` seconds are over; the ledger is kept up to
    date.

    Raises KitError when Kaggle could not score the file. A look that fails is said and made again.
    """
    begun, pause = time.monotonic(), FIRST_PAUSE
    while True:
        waited = time.monotonic() - begun
        try:
            row = refresh(client, ledger, row)
        except KaggleError as error:
            if error.sure:
                raise
            log.warning("%s", error)
        if row["status"] == "complete":
            return row
        if row["status"] == "error":
            raise KitError(
                f"{row['file']}: Kaggle could not score it: {row['problem'] or 'it does not say why'}"
            )
        if waited + pause > limit:
            log.warning("no score after %.0f s; run the same command again to look for it", waited)
            return row
        log.info("waiting for the score (%.0f of %.0f s)", waited, limit)
        sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


def refresh(client: Client, ledger: Ledger, row: Row) -> Row:
    """Bring every row of the competition up to what Kaggle's list says, and return `row` as it is now."""
    by_ref = {str(item["ref"]): item for item in client.submissions()}
    with ledger.edit() as rows:
        for current in rows:
            item = by_ref.get(current["ref"]) if current["competition"] == client.competition else None
            if item:
                current |= {
                    "status": item["status"],
                    "public": item["public"],
                    "private": item["private"],
                    "problem": item["problem"],
                }
    return next(current for current in rows if same(current, row))
