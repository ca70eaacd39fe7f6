"""Which version serves: the one that a link names, followed without a restart.

In: a model's folder (models/NAME) and an alias in it (`production`, `staging`, `latest`), or a packaged folder
itself. Out: `Follower.current`. A new version is loaded beside the old one and takes over only when its golden
forecast is right; otherwise the old one stays, and it is said and counted.
"""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from kronos.delivery.package_facts import METADATA
from kronos.errors import KitError
from kronos.service.served import Served

log = logging.getLogger(__name__)

EVERY = 2.0
"""Seconds between two looks at the link."""


class Follower:
    """The version that serves now, and what happened to those that should have."""

    def __init__(self, root: str | Path, alias: str, device: str = "cpu") -> None:
        """Loads the version that the alias names. root: models/NAME, or a packaged folder, which is served
        whatever any link says. Raises KitError where there is none, or it may not serve.
        """
        self.root, self.alias, self.device = Path(root), alias, device
        self.fixed = (self.root / METADATA).is_file()
        self.swaps, self.failed = 0, 0
        self.refusal = ""
        """Why the version that the link names does not serve; empty: it does."""
        self.on_swap: Callable[[bool], None] = lambda done: None
        self._refused: Path | None = None
        self._looking = asyncio.Lock()
        self.since = time.time()
        self.current = Served.load(self.target(), device)

    def target(self) -> Path:
        """The folder that the link names now. Raises KitError where there is none."""
        if self.fixed:
            return self.root.resolve()
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.alias):
            raise KitError(f"--alias: expected a name such as production, found {self.alias!r}")
        link = self.root / self.alias
        if not self.root.is_dir():
            raise KitError(
                f"{self.root}: expected a model's folder, found none; package a run: "
                "python scripts/package_model.py --run runs/NAME"
            )
        if not link.is_dir():
            others = sorted(p.name for p in self.root.iterdir() if p.is_symlink() and p.is_dir())
            found = f"only {', '.join(others)}" if others else "none"
            raise KitError(
                f"{link}: expected a link to a version, found {found}; promote one: python scripts/promote_model.py "
                f"--model {self.root} --to {self.alias}, or name another with --alias"
            )
        return link.resolve()

    async def follow(self) -> None:
        """Look at the link every `EVERY` seconds, for ever."""
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self, again: bool = False) -> None:
        """Swap if the link names another version. again: also try one that was refused before."""
        async with self._looking:
            try:
                target = self.target()
                if target == self.current.facts.folder:
                    self.refusal, self._refused = "", None
                    return
                if target == self._refused and not again:
                    return
                self._refused = target
                loaded = await asyncio.to_thread(Served.load, target, self.device)
            except (KitError, OSError) as error:
                self._keep(str(error))
                return
            before, self.current = self.current.version, loaded
            self.refusal, self._refused = "", None
            self.swaps += 1
            self.since = time.time()
            log.info("model %s: %s takes over from %s", loaded.name, loaded.version, before)
            self.on_swap(True)

    def _keep(self, why: str) -> None:
        """The old version stays: say it once, count it once."""
        if why == self.refusal:
            return
        self.refusal = why
        self.failed += 1
        log.warning("the model is not swapped, %s goes on: %s", self.current.version, why)
        self.on_swap(False)
