"""Starts the training processes of one step through accelerate, and ends with what became of them.

`python -m kronos.launch.trainers ARGUMENTS-OF-ACCELERATE SCRIPT ...`. accelerate and torch answer a process's
end with their own tracebacks, below the line that matters; here the exit code says it: the process's own, or
128 + the signal that killed it.
"""

import logging
import subprocess
import sys

from accelerate.commands.launch import main as accelerate
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> int:
    """Run accelerate's launcher on this process's arguments. Returns the exit code."""
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    try:
        accelerate()
    except subprocess.CalledProcessError as error:
        return _code(error.returncode)
    except ChildFailedError as error:
        return _code(first_failure(error))
    except SignalException as error:
        return _code(-error.sigval)
    return 0


def first_failure(error: ChildFailedError) -> int:
    """The exit code that tells most of what happened: of processes that were killed or failed, not of those
    ended with them.
    """
    codes = [
        failure.exitcode for failure in sorted(error.failures.values(), key=lambda failure: failure.timestamp)
    ]
    return codes[0] if codes else 1


def _code(found: int) -> int:
    return 128 - found if found < 0 else found


if __name__ == "__main__":
    sys.exit(main())
