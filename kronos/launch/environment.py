"""What the steps of a launch find in their environment.

In: this process's environment. Out: one without another launcher's variables, and with what the kit's own
steps read.
"""

import os
import re
import time
from collections.abc import Mapping

from kronos.launch.arguments import ROOT

FOREIGN = re.compile(
    r"(LOCAL_|GROUP_|ROLE_|NODE_)?RANK|((LOCAL|ROLE)_)?WORLD_SIZE|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+|ACCELERATE_\w+"
    r"|OMPI_COMM_WORLD_\w+|PMI_(RANK|SIZE)|MV2_COMM_WORLD_\w+|KIT_FAILURE|KIT_LAUNCHED"
)
"""Variables by which torchrun, accelerate, MPI or an earlier launch tell a process who it is among others."""


def clean(environment: dict[str, str]) -> list[str]:
    """Take out what another launcher left, in place: the steps would take themselves for parts of its run.

    Returns what was taken out, as `NAME=value`.
    """
    stale = sorted(name for name in environment if FOREIGN.fullmatch(name))
    return [f"{name}={environment.pop(name)}" for name in stale]


def for_steps(environment: Mapping[str, str], *, uses_gpu: bool, on_terminal: bool) -> dict[str, str]:
    """The environment of the launch's steps."""
    found = dict(environment)
    path = found.get("PYTHONPATH")
    found["PYTHONPATH"] = f"{ROOT}:{path}" if path else str(ROOT)
    found["PYTHONUNBUFFERED"] = "1"
    found["KIT_LAUNCHED"] = str(int(time.time()))  # training.time_limit counts from here, over all stages
    if on_terminal:  # the log takes the terminal away from the steps; progress bars are still wanted
        found.setdefault("KIT_PROGRESS", "1")
    if not uses_gpu:
        found["ACCELERATE_USE_CPU"] = "true"  # without it, several processes would each train alone
        found.setdefault(
            "GOMP_SPINCOUNT", "10000"
        )  # threads that wait for ever by spinning starve a busy machine
    return found


def said(removed: list[str]) -> str:
    """The line about what was taken out; '' for nothing."""
    if not removed:
        return ""
    return (
        f"Taken out of the environment, where another launcher left it: {', '.join(removed)}. "
        "Which processes train together is said by the flags (--num-processes, --num-machines, --machine-rank)."
    )


def remove_foreign() -> str:
    """Clean this process's own environment. Returns the line that says so."""
    return said(clean(os.environ))  # type: ignore[arg-type]  # a mapping like a dict
