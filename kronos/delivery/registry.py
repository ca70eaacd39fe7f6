"""Which version of a model is used for what: the links `latest`, `staging`, `production`, and their history.

In: a model's folder `models/NAME` with its versions (`kronos.delivery.package`). Out: links that always lead
to a version, and `history.jsonl`, one line for each change. No torch.

    latest       the newest package. Packaging moves it.
    staging      checked: it can be served here (`kronos.delivery.gates`).
    production   what a server follows. Nothing but a promotion or a rollback moves it.

A change is written into the history first and then made, by renaming a new link over the old one, both
flushed to the disk and under a lock. So a link always leads to the old version or to the new one; a history
line whose change did not happen names a version that the link does not lead to, and is passed over.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from kronos import files, records
from kronos.errors import KitError

log = logging.getLogger(__name__)

Alias = Literal["latest", "staging", "production"]
ALIASES: tuple[Alias, ...] = ("latest", "staging", "production")
HISTORY = "history.jsonl"
LOCK = ".registry.lock"
SHOWN = 100
"""Characters of a reason that the status shows."""


@dataclass(frozen=True, order=True)
class Version:
    """vMAJOR.MINOR.PATCH"""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> "Version":
        """Raises KitError on anything but vX.Y.Z."""
        if not (found := re.fullmatch(r"v(\d+)\.(\d+)\.(\d+)", text)):
            raise KitError(f"version: expected vX.Y.Z, e.g. v1.0.0, found {text}")
        return cls(*map(int, found.groups()))

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True)
class Change:
    """One line of the history."""

    when: str
    """UTC, YYYY-MM-DDTHH:MM:SSZ"""
    alias: Alias
    before: str | None
    """The version that the link led to; None: there was no link."""
    after: str
    kind: Literal["package", "promote", "rollback", "forward"]
    why: str
    """What the gates found, or what the user gave as the reason."""
    skipped: tuple[str, ...] = ()
    """Gates that were left out on request."""


# -- reading -------------------------------------------------------------------------------------------------
def versions(root: Path) -> list[Version]:
    """All versions in a model's folder, oldest first."""
    return sorted(Version.parse(p.name) for p in root.glob("v*.*.*") if p.is_dir())


def named(root: Path, alias: Alias) -> Version | None:
    """The version that a link names, whether it is there or not; None where there is no link."""
    link = root / alias
    return Version.parse(link.readlink().name) if link.is_symlink() else None


def current(root: Path, alias: Alias) -> Version | None:
    """The version that a link leads to; None where there is no link. Raises KitError where it leads nowhere."""
    link, version = root / alias, named(root, alias)
    if version is not None and not (root / str(version)).is_dir():
        raise KitError(
            f"{link}: expected a link to a version, found {version}, which is not there; "
            f"put it back, roll back, or promote another one (versions there: {_listed(root)})"
        )
    return version


def read_history(root: Path) -> list[Change]:
    """All changes, oldest first. A last line that a crash cut off is left out with a warning; any other line
    that is not what it should be is refused (KitError)."""
    path = root / HISTORY
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    if lines[-1]:
        log.warning("%s: its last line is cut off; the change was not made", path)
    changes = []
    for number, line in enumerate(lines[:-1], 1):
        if not line:
            continue
        where = f"{path}, line {number}"
        tree = records.parse(line, where, remedy="move the file away")
        changes.append(records.check(tree, Change, where, remedy="move the file away"))
    return changes


@dataclass(frozen=True)
class Trail:
    """Where a link has been."""

    past: tuple[str, ...]
    """Versions that it led to, oldest first; the last one is the present one. What a rollback left is not
    among them."""
    undone: tuple[str, ...]
    """What rollbacks left since the last promotion, the next one to go forward to last."""


def trail_of(root: Path, alias: Alias) -> Trail:
    """What the history says about a link. A change that was announced and not made is passed over: the next
    line (at the end: the link) does not begin with its version."""
    now = named(root, alias)
    changes = [change for change in read_history(root) if change.alias == alias]
    begins = [change.before for change in changes[1:]] + [str(now) if now else None]
    past: list[str] = []
    undone: list[str] = []
    for change, next_begins in zip(changes, begins, strict=True):
        if change.after != next_begins:
            continue
        if not past and change.before:
            past.append(change.before)
        if change.kind == "rollback" and past:
            undone.append(past.pop())
        elif change.kind == "forward" and undone:
            past.append(undone.pop())
        else:
            past.append(change.after)
            undone.clear()
    if now and (not past or past[-1] != str(now)):
        past.append(str(now))  # moved by hand, or before there was a history
    return Trail(tuple(past), tuple(undone))


def status_lines(root: str | Path) -> list[str]:
    """What leads where, and the last changes, for a person."""
    root = _model(root)
    lines = []
    for alias in ALIASES:
        version = named(root, alias)
        gone = "" if version is None or (root / str(version)).is_dir() else " (not there)"
        lines.append(f"{alias:<10} {version or 'none'}{gone}")
    lines.append(f"versions   {_listed(root)}")
    for change in read_history(root)[-10:]:
        left_out = f" (left out: {', '.join(change.skipped)})" if change.skipped else ""
        moved = f"{change.alias} {change.before or 'none'} -> {change.after}"
        why = change.why
        if len(why) > SHOWN:
            why = f"{why[:SHOWN]}... (all of it: {HISTORY})"
        lines.append(f"{change.when}  {change.kind}: {moved}; {why}{left_out}")
    return lines


# -- changing ------------------------------------------------------------------------------------------------
def point(
    root: Path,
    alias: Alias,
    version: Version,
    kind: Literal["package", "promote", "rollback", "forward"],
    why: str,
    skipped: tuple[str, ...] = (),
) -> Change:
    """Let a link lead to a version, in one step, and write it into the history. Returns the line.

    Raises KitError where the version is not there. Whatever interrupts it leaves the old link or the new one.
    """
    with files.locked(root / LOCK, f"{root}: another process is changing its links; waiting"):
        return _point(root, alias, version, kind, why, skipped)


def rollback(
    root: str | Path,
    alias: Alias = "production",
    why: str = "asked for",
    check: Callable[[Path], object] | None = None,
) -> Change:
    """Let a link lead to what it led to before its version was promoted. Repeated, it goes further back.

    check: called with the folder of the version that the link would lead to; what it raises stops the
    rollback (`package_facts.check_sums`). Raises KitError where nothing was before.
    """
    root = _model(root)
    with files.locked(root / LOCK, f"{root}: another process is changing its links; waiting"):
        now = _linked(root, alias)
        past = trail_of(root, alias).past
        earlier = Version.parse(past[-2]) if len(past) > 1 else None
        if earlier is None and alias == "latest":
            earlier = _lower(root, now)  # models that were packaged before there was a history
        if earlier is None:
            raise KitError(f"{root}: expected a version that was {alias} before {now}, found none; it stays")
        if check:
            check(root / str(earlier))
        return _point(root, alias, earlier, "rollback", why)


def forward(
    root: str | Path,
    alias: Alias = "production",
    why: str = "asked for",
    check: Callable[[Path], object] | None = None,
) -> Change:
    """Take the last rollback back; check as in `rollback`. Raises KitError where there was none."""
    root = _model(root)
    with files.locked(root / LOCK, f"{root}: another process is changing its links; waiting"):
        now = _linked(root, alias)
        undone = trail_of(root, alias).undone
        if not undone:
            raise KitError(f"{root}: expected a rollback of {alias} to {now}, found none; it stays")
        if check:
            check(root / undone[-1])
        return _point(root, alias, Version.parse(undone[-1]), "forward", why)


def _point(
    root: Path, alias: Alias, version: Version, kind: Any, why: str, skipped: tuple[str, ...] = ()
) -> Change:
    """`point` with the lock held."""
    if not (root / str(version)).is_dir():
        raise KitError(f"{root / str(version)}: expected a version, found none; there are {_listed(root)}")
    before = None
    if (root / alias).is_symlink():
        before = (root / alias).readlink().name
    elif (root / alias).exists():
        raise KitError(f"{root / alias}: expected a link to a version, found a file or folder; move it away")
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    change = Change(now, alias, before, str(version), kind, why, skipped)
    if before == change.after:
        return change  # nothing to do, nothing to write down
    _append(root / HISTORY, json.dumps(asdict(change), ensure_ascii=False))
    for old in root.glob(f".{alias}.*.link"):  # of processes that were killed
        old.unlink()
    temporary = root / f".{alias}.{os.getpid()}.link"
    temporary.symlink_to(str(version))
    temporary.replace(root / alias)
    _flush(root)
    return change


def _append(path: Path, line: str) -> None:
    """Add a line and flush it. A line that a crash cut off goes: the change that it announces was not made."""
    with path.open("ab+") as handle:
        handle.seek(0)
        whole = handle.read()
        if not whole.endswith(b"\n"):
            handle.truncate(whole.rfind(b"\n") + 1)
        handle.write(f"{line}\n".encode())
        handle.flush()
        os.fsync(handle.fileno())


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- small things --------------------------------------------------------------------------------------------
def _model(root: str | Path) -> Path:
    root = Path(root)
    if not root.is_dir():
        raise KitError(f"{root}: expected a model's folder (models/NAME), found none; package a model first")
    return root


def _linked(root: Path, alias: Alias) -> Version:
    now = named(root, alias)
    if now is None:
        raise KitError(f"{root / alias}: expected a link to a version, found none; promote a version first")
    return now


def _lower(root: Path, version: Version) -> Version | None:
    lower = [other for other in versions(root) if other < version]
    return lower[-1] if lower else None


def _listed(root: Path) -> str:
    return ", ".join(map(str, versions(root))) or "none"
