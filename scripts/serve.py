#!/usr/bin/env python3
"""Serve a packaged model: page, API and metrics on 127.0.0.1:7070 (docs/serving.md).

The version that models/NAME/ALIAS names serves; when the link names another one, it takes over without a restart.
Ctrl-C or SIGTERM: what is under way is answered, then it ends with 0; the same again ends it at once.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.errors import KitError

NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def main() -> int:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument(
        "--model", required=True, metavar="DIR", help="models/NAME, or one packaged version"
    )
    arguments.add_argument("--alias", default="production", help="which link serves (default: production)")
    arguments.add_argument("--port", type=int, default=7070, help="default: 7070")
    arguments.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1); another needs --keys"
    )
    arguments.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name that requests may give",
    )
    arguments.add_argument("--keys", metavar="FILE", help="SHA-256 of the keys that may ask, one a line")
    arguments.add_argument(
        "--state", metavar="DIR", help="where jobs and kept forecasts lie; without it there are none"
    )
    arguments.add_argument("--store", metavar="DIR", help="a prepared store, for jobs that name tickers")
    arguments.add_argument(
        "--workers", type=int, default=1, help="processes for jobs, with --state (default: 1)"
    )
    arguments.add_argument("--device", default="cpu", help="cpu or cuda:N (default: cpu)")
    arguments.add_argument(
        "--batch-series", type=int, metavar="N", help="series of one call at most; 1: no batching"
    )
    given = arguments.parse_args()
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise KitError(
            f"serve: expected the packages of the extra 'serve', found no {missing[0]}; pip install -e '.[serve]'"
        )
    return start(given)


def start(given: argparse.Namespace) -> int:
    """Serve as the command line says; imported late, so that a missing extra is one line."""
    from kronos.service import guard, run
    from kronos.service.state import Settings

    if not 0 <= given.port < 65536:
        raise KitError(f"--port: expected a port from 0 to 65535, found {given.port}")
    for name, value, least in (
        ("--workers", given.workers, 0),
        ("--batch-series", given.batch_series or 1, 1),
    ):
        if value < least:
            raise KitError(f"{name}: expected a number of at least {least}, found {value}")
    cli.setup_logging()
    folder = None if given.state is None else Path(given.state)
    settings = Settings(
        model=Path(given.model),
        alias=given.alias,
        folder=folder,
        store=None if given.store is None else Path(given.store),
        host=given.host,
        port=given.port,
        names=run.names_of(given.host, given.allow_host),
        keys=() if given.keys is None else guard.read_keys(given.keys),
        workers=0 if folder is None else given.workers,
        batch_series=given.batch_series,
    )
    return run.serve(settings, given.device)


if __name__ == "__main__":
    cli.run(main)
