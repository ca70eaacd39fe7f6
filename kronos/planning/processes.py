"""One stage stepped by several processes of this machine's processor, as `train_kaggle.sh --cpu
--num-processes N` trains it.

In: a configuration that says how many, a batch. Out: `Crew`, whose `step` is an optimiser step of the joined
batch: every process has its share of the windows and of the threads; gradients and the tokenizer's bit
probabilities are summed over loopback by gloo.
The caller's process computes nothing meanwhile, and the others wait without spinning while it does.
"""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import connection, get_context, parent_process
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from kronos.config import Config
from kronos.errors import KitError
from kronos.planning.probe import Networks, ProbedStage
from kronos.training.device import first_line
from kronos.training.distributed import Runtime
from kronos.training.facts import Stage
from kronos.training.optim import micro_seed

Result = TypeVar("Result")


class Part(NamedTuple):
    """What one process of a crew has."""

    run: ProbedStage
    batch: dict[str, Tensor]


_mine: list[Part] = []
"""Of this process, once it has joined a crew."""


@dataclass
class Crew:
    """The processes, each the only worker of its pool."""

    pools: list[ProcessPoolExecutor]

    def step(self) -> None:
        """An optimiser step of the joined batch. Raises KitError as soon as one process fails."""
        self.each(_step)

    def each(self, action: Callable[[Part], Result]) -> list[Result]:
        """`action` of every process's part, by rank."""
        return self.call(_on_mine, [(action,)] * len(self.pools))

    def call(self, function: Callable[..., Result], arguments: list[tuple[Any, ...]]) -> list[Result]:
        """`function` in every process, with its arguments by rank. Raises KitError as soon as one fails."""
        try:
            futures = [pool.submit(function, *own) for pool, own in zip(self.pools, arguments, strict=True)]
        except BrokenProcessPool as error:
            raise KitError(
                f"one of {len(self.pools)} processes ended before its turn; the system's log may say why"
            ) from error
        wait(futures, return_when=FIRST_EXCEPTION)
        errors = []
        for rank, future in enumerate(futures):
            problem = future.exception() if future.done() else None
            if isinstance(problem, Exception):
                errors.append(f"process {rank}: {type(problem).__name__}: {first_line(problem)}")
        if errors:
            raise KitError(
                f"expected {len(self.pools)} processes to train together, found: {'; '.join(errors)}"
            )
        return [future.result() for future in futures]


@contextmanager
def crew(
    config: Config, stage: Stage, networks: Networks, precision: str, batch: dict[str, Tensor]
) -> Iterator[Crew]:
    """`config.distributed.num_processes` processes that share the rows of `batch` and the threads of this
    one.

    All start from the weights that `training.seed` gives. Raises KitError where the rows cannot be shared
    equally.
    """
    world, rows = config.distributed.num_processes, len(batch["x"])
    if rows % world:
        raise KitError(
            f"expected a batch that {world} processes can share equally, found {rows}; take a multiple of {world}"
        )
    threads = max(1, torch.get_num_threads() // world)
    config = replace(config, device=replace(config.device, use_cuda=False))
    shares = [
        {name: values.chunk(world)[rank].numpy() for name, values in batch.items()} for rank in range(world)
    ]
    together = Crew([ProcessPoolExecutor(1, get_context("spawn")) for _ in range(world)])
    ids: list[int] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            ids = together.call(os.getpid, [()] * world)
            common = folder, threads, config, stage, networks, precision
            together.call(_join, [(rank, share, *common) for rank, share in enumerate(shares)])
        yield together
    finally:
        for number in ids:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)  # nothing to save, and one may wait for another for ever
        for pool in together.pools:
            pool.shutdown()


# -- in each process -----------------------------------------------------------------------------------------
def _join(
    rank: int,
    share: dict[str, Any],
    folder: str,
    threads: int,
    config: Config,
    stage: Stage,
    networks: Networks,
    precision: str,
) -> None:
    """Meet the others, with the environment that a launcher would give, and build the stage."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's
    threading.Thread(target=_leave_with_the_caller, daemon=True).start()
    world = config.distributed.num_processes
    ranks = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
        "OMP_NUM_THREADS": threads,
    }
    os.environ.update({name: str(value) for name, value in ranks.items()})
    os.environ.setdefault(
        "GLOO_SOCKET_IFNAME", next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    )
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/met", rank=rank, world_size=world)
    torch.manual_seed(config.training.seed)
    run = ProbedStage(config, stage, networks, torch.device("cpu"), precision, Runtime.start(config))
    torch.manual_seed(micro_seed(config.training.seed, stage, 0, 0, rank))
    _mine.append(Part(run, {name: torch.from_numpy(values) for name, values in share.items()}))


def _leave_with_the_caller() -> None:
    caller = parent_process()
    assert caller is not None
    connection.wait([caller.sentinel])
    os._exit(1)


def _on_mine(action: Callable[[Part], Result]) -> Result:
    return action(_mine[0])


def _step(part: Part) -> None:
    part.run.step(part.batch)
