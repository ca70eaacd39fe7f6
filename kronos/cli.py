"""What every script shares: --config and --set, and errors that end in one clear line.

In: the command line. Out: a `Config`, or an exit code other than 0 with a line on stderr.
"""

import argparse
import atexit
import errno
import logging
import os
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NoReturn

from kronos.errors import KitError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
LONGEST_SHOWN = 200

FULL = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "no space left in this user's quota",
    errno.EFBIG: "no file as large as this one is allowed here (ulimit -f, or the file system)",
}
"""Writing says these, mostly without the file's name."""
UNUSABLE = {
    errno.EACCES: "no permission: expected a path this user may use; fix the permissions",
    errno.EPERM: "no permission: expected a path this user may use; fix the permissions",
    errno.EROFS: "expected a place that can be written to, found a read-only file system; choose another path",
    errno.EEXIST: "expected a folder or a free name, found a file or a broken link there; move it away or choose another path",
    errno.EISDIR: "expected a file, found a folder; correct the path",
    errno.ENOTDIR: "expected a folder above the last name, found a file there; correct the path",
    errno.ENAMETOOLONG: "expected a shorter path or name, found one that the file system does not take; correct the path",
    errno.ELOOP: "expected a file or folder, found a symbolic link loop; remove one of the links",
    errno.EIO: "expected a file that can be read and written, found an input/output error; look at the disk or the network",
}
"""What a user can put right about a path that the system refuses."""


def parser(description: str, default_config: str = "configs/kaggle.yaml") -> argparse.ArgumentParser:
    """An argument parser that already knows --config F and --set section.key=value."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.add_argument(
        "--config",
        "--config-path",
        default=default_config,
        metavar="F",
        help=f"YAML or JSON configuration (default: {default_config})",
    )
    result.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="K=V",
        help="override one setting, e.g. training.batch_size=64; may be repeated",
    )
    return result


def day(text: str, flag: str) -> str:
    """A day such as 2024-01-31 given on the command line, checked; empty stays empty. Raises KitError."""
    try:
        return text and date.fromisoformat(text).isoformat()
    except ValueError:
        raise KitError(f"{flag}: expected a day such as 2024-01-31, found {text!r}") from None


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and leave the process: its return value or 0, 2 on a user's error, 130 on Ctrl-C.

    Only errors that a user can put right become one line (a package that this Python lacks is one); a bug keeps
    its traceback.
    """
    try:
        code = main() or 0
    except KitError as error:
        code = _fail(str(error))
    except SystemExit as end:  # a peer says what went wrong, or the command line's parser already did
        if not isinstance(end.code, int):
            raise
        code = end.code
    except KeyboardInterrupt:
        code = _fail("interrupted; nothing half-written was left behind", EXIT_INTERRUPTED)
    except OSError as error:
        said = _of_a_file(error)
        if said is None:
            raise
        code = _fail(said)
    except ModuleNotFoundError as error:
        package = (error.name or "kronos").split(".")[0]
        if package == "kronos":
            raise
        code = _fail(
            f"{sys.executable}: expected the package {package}, found none; use the Python that the kit set up "
            "(.venv/bin/python), or install the kit here: pip install -e ."
        )
    leave(code)


def _of_a_file(error: OSError) -> str | None:
    """The user's line where a disk is full or a path cannot be used; None for a bug, a socket or a missing
    file.
    """
    name = error.filename2 or error.filename  # a rename has two; the second one is where the file was to go
    named = isinstance(name, str | bytes | os.PathLike)
    path = os.fsdecode(name) if named else ""
    if error.errno in FULL:
        return f"{FULL[error.errno]} while writing {path or 'a file'}; make room and rerun"
    if not named or error.errno not in UNUSABLE:
        return None
    shown = path if len(path) <= LONGEST_SHOWN else f"{path[:LONGEST_SHOWN]}..."
    return f"{shown}: {UNUSABLE[error.errno]}"


def leave(code: int) -> NoReturn:
    """End this process with an exit code.

    One of several processes that train or forecast together ends without the interpreter's teardown: a gloo
    thread that still lets go of a tensor then needs the interpreter's lock, is ended inside a C++ destructor,
    and aborts the process ("terminate called without an active exception"), which the launcher takes for a
    failed run.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()  # children are joined, temporary folders removed
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def setup_logging() -> None:
    """One plain logger on stdout: level and message, as the run's log file shows them."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it comments on ordinary axis labels


def _fail(message: str, code: int = EXIT_USER_ERROR) -> int:
    """Say it, and give the exit code.

    Under train_kaggle.sh a trainer leaves its error in the file KIT_FAILURE and exits with 0: accelerate
    answers any other code with a traceback of its own, forty lines below the one that matters.
    """
    print(f"error: {message}", file=sys.stderr)
    if marker := os.environ.get("KIT_FAILURE"):
        Path(marker).write_text(message + "\n", encoding="utf-8")
        return 0
    return code
