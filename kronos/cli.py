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
from pathlib import Path
from typing import NoReturn

from kronos.errors import KitError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def parser(description: str, default_config: str = "configs/kaggle.yaml") -> argparse.ArgumentParser:
    """An argument parser that already knows --config F and --set section.key=value."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    result.add_argument(
        "--config", default=default_config, metavar="F", help=f"YAML or JSON configuration (default: {default_config})"
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


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and leave the process: its return value or 0, 2 on a user's error, 130 on Ctrl-C.

    Only errors a user can mend become one line; a bug keeps its traceback.
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
        if error.errno == errno.ENOSPC:
            code = _fail(f"no space left on the device while writing {error.filename or 'a file'}; free some and rerun")
        elif isinstance(error, PermissionError):
            code = _fail(f"no permission for {error.filename}: expected a path this user may use; mend its rights")
        else:
            raise
    leave(code)


def leave(code: int) -> NoReturn:
    """End this process with an exit code.

    One of several processes that train or forecast together ends without the interpreter's teardown: a gloo thread that
    still lets go of a tensor then needs the interpreter's lock, is ended inside a C++ destructor, and aborts the process
    ("terminate called without an active exception"), which the launcher takes for a failed run.
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

    Under train_kaggle.sh a trainer leaves its error in the file KIT_FAILURE and exits with 0: accelerate answers any other
    code with a traceback of its own, forty lines below the one that matters.
    """
    print(f"error: {message}", file=sys.stderr)
    if marker := os.environ.get("KIT_FAILURE"):
        Path(marker).write_text(message + "\n", encoding="utf-8")
        return 0
    return code
