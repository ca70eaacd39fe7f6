#!/usr/bin/env python3
"""Work on jobs: claim chunks of a state folder, compute them, write the answers (docs/jobs.md).

    python scripts/worker.py --state service --model models/NAME                one more worker on this machine
    python scripts/worker.py --state service --broker amqp://HOST               sends chunks to other machines
    python scripts/worker.py --broker amqp://HOST --model models/NAME           on the other machine

May be killed at any time; several may run at once. SIGTERM: the chunk under way is finished or given back, exit 0.
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos import cli
from kronos.errors import KitError


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    arguments.add_argument(
        "--state", metavar="DIR", help="the state folder of the service (serve.py --state)"
    )
    arguments.add_argument("--model", metavar="DIR", help="models/NAME, whose versions jobs name")
    arguments.add_argument("--alias", default="", help="load this version before the first job comes")
    arguments.add_argument("--device", default="cpu", help="cpu or cuda:N (default: cpu)")
    arguments.add_argument(
        "--broker", metavar="URL", help="amqp://... or redis://...: chunks for other machines"
    )
    arguments.add_argument(
        "--in-flight", type=int, default=4, metavar="N", help="chunks sent and not back yet (default: 4)"
    )
    arguments.add_argument(
        "--lease",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds without a sign of life after which a chunk "
        "is done again (default: 30); the same for all workers of a state folder",
    )
    arguments.add_argument("--until-idle", action="store_true", help="end when no chunk is left")
    arguments.add_argument(
        "--end-with-parent", action="store_true", help="end when the process that started it does"
    )
    given = arguments.parse_args()
    cli.setup_logging()
    os.umask(0o077)  # what callers sent is nobody else's to read
    if given.lease <= 0 or given.in_flight < 1:
        raise KitError("--lease, --in-flight: expected numbers above 0")
    if given.broker and not given.state:
        compute_remote(given)
    elif given.state:
        work_here(given)
    else:
        raise KitError("--state: expected the state folder of a service (or --broker), found neither")


def work_here(given: argparse.Namespace) -> None:
    """Claim chunks of a state folder; with a broker, send them away."""
    from kronos.service.jobs import Jobs
    from kronos.service.kept import Kept

    jobs, keeper = Jobs(given.state, lease_seconds=given.lease), Kept(given.state)
    if given.broker:
        from kronos.service.remote import Dispatcher

        dispatcher = Dispatcher(jobs, given.broker, keeper=keeper, in_flight=given.in_flight)
        heed(dispatcher.stop, given.end_with_parent)
        dispatcher.run(until_idle=given.until_idle)
        return
    from kronos.service.worker import Worker, packages

    models = packages(model_of(given), given.device, given.alias)
    worker = Worker(jobs, models, device=given.device, keeper=keeper)
    heed(worker.stop, given.end_with_parent)
    worker.run(until_idle=given.until_idle)


def compute_remote(given: argparse.Namespace) -> None:
    """Compute chunks that come from a broker."""
    from kronos.service.remote import serve
    from kronos.service.worker import packages

    serve(given.broker, packages(model_of(given), given.device, given.alias), given.lease)


def model_of(given: argparse.Namespace) -> Path:
    if not given.model:
        raise KitError("--model: expected models/NAME, whose versions jobs name, found nothing")
    return Path(given.model)


def heed(stop: threading.Event, with_parent: bool) -> None:
    """Set `stop` on SIGTERM and Ctrl-C, and when the parent is gone; the same signal again ends at once."""

    def end(number: int, frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    if with_parent:
        threading.Thread(target=outlive, args=(stop, os.getppid()), daemon=True).start()


def outlive(stop: threading.Event, parent: int) -> None:
    """Wait until the parent is another: it has ended."""
    while os.getppid() == parent and not stop.wait(0.5):
        pass
    stop.set()


if __name__ == "__main__":
    cli.run(main)
