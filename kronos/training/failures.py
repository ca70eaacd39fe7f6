"""What torch raises in the middle of a run for reasons outside of this code, as one line that says what to
do.

In: a RuntimeError of torch. Out: a KitError where its cause is known; anything else keeps its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed

from kronos.data.loader import worker_gone
from kronos.errors import KitError
from kronos.training.memory import out_of_memory
from kronos.training.runtime import Runtime

COMPILERS = ("torch._dynamo", "torch._inductor")
"""Modules of the errors of torch.compile. By name: importing them takes two seconds, also for runs that
compile nothing.
"""


WAITED = ("Timed out waiting", "Application timeout caused pair closure")
"""gloo's words for a process that is there and does not answer: of the wait itself, and of the next one after
it.
"""


@contextmanager
def in_one_line(stage: str, runtime: Runtime) -> Iterator[None]:
    """Raise a known failure inside as KitError."""
    try:
        yield
    except RuntimeError as error:
        known = explained(error, stage, runtime)
        if known is None:
            raise
        raise known from error


def explained(error: RuntimeError, stage: str, runtime: Runtime) -> KitError | None:
    """The user's error that `error` is, or None."""
    if out_of_memory(error):
        return KitError(
            f"{stage}: out of memory on {runtime.device}: {first_line(error)} The same command goes on from the last "
            "checkpoint; give it half of training.batch_size and twice the training.accumulation_steps (the same gradient), or "
            "training.use_checkpoint: true"
        )
    if any(kind.__module__.startswith(COMPILERS) for kind in type(error).__mro__):
        return cannot_compile(error)
    if runtime.world > 1 and "by peer" in str(error):  # gloo's words for a process that is gone
        return KitError(
            f"{stage}: another process of this run ended early; its own last lines, or the system's (out of memory?), say "
            "why; the same command goes on from the last checkpoint"
        )
    if runtime.world > 1 and any(words in str(error) for words in WAITED):
        return KitError(
            f"{stage}: another process of this run did not answer ({first_line(error)}); its own last lines may say why (a "
            "stopped process, a disk that hangs); the same command goes on from the last checkpoint"
        )
    if isinstance(error, torch.distributed.DistBackendError):
        return KitError(
            f"{stage}: the GPUs of this run cannot work together: {first_line(error)} (NCCL_DEBUG=INFO says more); see "
            '"NCCL hangs" in docs/troubleshooting.md, or do without NCCL: --dist-backend gloo; the same command goes on'
        )
    return worker_gone(error)


def check_compiler(device: torch.device) -> None:
    """Compile three operations and their gradient. Raises KitError where torch.compile does not work on this
    machine.

    It is what every compilation needs anyhow (compiler found, headers prepared), before the run has begun.
    """
    x = torch.ones(8, 8, device=device, requires_grad=True)
    try:
        torch.compile(lambda y: (y.sin() * 2 + 1).sum())(x).backward()
    except (
        Exception
    ) as error:  # whatever a compiler, the system or torch says: the program itself cannot be at fault
        raise cannot_compile(error) from error


def cannot_compile(error: Exception) -> KitError:
    return KitError(
        f"training.compile: expected torch.compile to work on this machine, found: {first_line(error)}; install a C++ compiler "
        "(g++, or name one in CXX), or set training.compile=false"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
