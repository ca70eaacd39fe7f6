"""The processes of one run: who is first, how they agree, when they were asked to stop, and what torch raises
when one of them is gone.

In: the configuration and the environment that `accelerate launch` made. Out: `Runtime`. Agreement goes
through the CPU (gloo), so that nothing waits for a GPU; traps of the launcher that were met are checked here,
not trusted. A RuntimeError of torch whose cause is known becomes one line that says what to do; anything else
keeps its traceback.
"""

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import Tensor

from kronos.config import Config
from kronos.data.loader import worker_gone
from kronos.errors import KitError
from kronos.training.device import (
    COMPILERS,
    allow_tf32,
    cannot_compile,
    check_gpus,
    first_line,
    give_accelerate,
    out_of_memory,
    pick_device,
    precision,
)

# -- how processes agree -------------------------------------------------------------------------------------
log = logging.getLogger(__name__)


Result = TypeVar("Result")


class PeerFailed(SystemExit):
    """Another process of this run ended with an error and says which; this one leaves without a word of its
    own.

    Its exit code is 0: at the first other one, the launcher would end the process that still has to say what
    went wrong.
    """

    def __init__(self) -> None:
        super().__init__(0)


class StopRequest:
    """Remembers SIGTERM, SIGINT and a lost terminal's SIGHUP, so that the run can end at its next step
    boundary, all saved.

    A trainer whose launcher is gone was asked to stop, too: accelerate's launcher dies of the signal without
    passing it on when it has one trainer, and of SIGKILL in any case; the trainers, in sessions of their own,
    would train on unseen.
    """

    def __init__(self) -> None:
        self.signal: int = 0
        self.launched = "RANK" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
        self._parent = os.getppid()

    @property
    def asked(self) -> bool:
        """Whether someone asked to stop, or the launcher is gone."""
        return self.signal != 0 or (self.launched and os.getppid() != self._parent)

    def install(self) -> None:
        """Take over the signals; until then they end the process, which has nothing to save yet."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            if (
                number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
            ):  # nohup's wish is to go on
                signal.signal(number, self._remember)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number


@dataclass
class Processes:
    """The processes of one run and how they agree. Every process has to make the same calls.

    rank, world: this process and how many there are. control: the group that Python objects go through, None:
    the default one.
    """

    rank: int = 0
    world: int = 1
    control: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and logs."""
        return self.rank == 0

    def gather(self, thing: Any) -> list[Any]:
        """`thing` of every process, by rank."""
        if self.world == 1:
            return [thing]
        things: list[Any] = [None] * self.world
        dist.all_gather_object(things, thing, group=self.control)
        return things

    def on_main(self, action: Callable[[], Any]) -> Any:
        """Run `action` on the main process while the others wait; returns its (picklable) result everywhere.

        A user's error there is raised there; the others leave with `PeerFailed` instead of waiting for ever.
        """
        result = [self.together(action if self.is_main else lambda: None)]
        if self.world > 1:
            dist.broadcast_object_list(
                result, src=0, group=self.control
            )  # gathering would hold a checkpoint once per process
        return result[0]

    def together(self, action: Callable[[], Result]) -> Result:
        """Run `action` on every process. A user's error on any ends all: one says it, the others leave with
        `PeerFailed`.
        """
        result, error = None, None
        try:
            result = action()
        except (KitError, OSError) as caught:
            error = caught
        failed = [rank for rank, bad in enumerate(self.gather(error is not None)) if bad]
        if failed:
            self.close()
            if error is not None and self.rank == failed[0]:
                raise error
            raise PeerFailed
        return result  # type: ignore[return-value]

    def main_first(self, action: Callable[[], Result]) -> Result:
        """Run `action` on the main process, then on the others, which find what it prepared: a download
        happens once.
        """
        if self.is_main:
            result = self.together(action)
            self.together(lambda: None)
            return result
        self.together(lambda: None)
        return self.together(action)

    def close(self) -> None:
        """Leave the process group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


class Runtime(Processes):
    """Rank, device and agreement of one process of a training run."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.device = accelerator.device
        own = accelerator.num_processes > 1 and dist.get_backend() != "gloo"
        control = dist.new_group(backend="gloo") if own else None
        super().__init__(accelerator.process_index, accelerator.num_processes, control)
        self.stop = StopRequest()

    @classmethod
    def start(cls, config: Config) -> "Runtime":
        """Join the run's processes. Raises KitError when they are not the number that was asked for."""
        asked = config.distributed.num_processes
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != asked:
            raise KitError(
                f"expected {asked} processes (distributed.num_processes), the launcher started {launched}; start it with "
                f"train_kaggle.sh, or with accelerate launch --multi_gpu --num_processes {asked}"
            )
        if config.device.use_cuda and asked > 1:
            check_gpus(config)
        device = pick_device(config)
        on_cpu = device.type == "cpu"
        kind = precision(config.training.mixed_precision, device)
        give_accelerate(device)
        if not on_cpu:
            allow_tf32(True)
        handlers: list[Any] = [
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        ]
        if asked > 1:
            backend = config.distributed.ddp_backend
            if on_cpu:
                backend = "gloo"
            handlers.append(InitProcessGroupKwargs(backend=backend))
        accelerator = Accelerator(
            cpu=on_cpu and (asked > 1 or not config.device.use_cuda),
            mixed_precision=kind,
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=1
            ),  # the loop counts; the environment must not
            kwargs_handlers=handlers,
        )
        if accelerator.num_processes != asked:
            raise KitError(
                f"expected {asked} processes that know of each other, found {accelerator.num_processes}"
            )
        return cls(accelerator)

    def prepare(self, *things: Any) -> tuple[Any, ...]:
        """Modules and optimisers as accelerate wraps them: with several processes, gradients are their
        mean.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="`broadcast_buffers`"
            )  # its new name is unknown to torch 2.10
            found = self.accelerator.prepare(*things)
        if len(things) == 1:
            return (found,)
        return found

    # -- agreement -------------------------------------------------------------------------------------------
    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, elementwise, in float64. Every process has to call it."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.control)
        return tensor.tolist()

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all processes, on its device, without waiting for it."""
        if self.world > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor


# -- failures in one line ------------------------------------------------------------------------------------
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
    if isinstance(error, dist.DistBackendError):
        return KitError(
            f"{stage}: the GPUs of this run cannot work together: {first_line(error)} (NCCL_DEBUG=INFO says more); see "
            '"NCCL hangs" in docs/troubleshooting.md, or do without NCCL: --dist-backend gloo; the same command goes on'
        )
    return worker_gone(error)
