"""The device of one process: which it is, how precisely it computes, how batches reach it, and what does not
fit into its memory.

In: a configuration; micro-batches on the CPU. Out: a device and its precision; the micro-batches of one
optimiser step at a time, copied while the step before computes; the same windows in more pieces where memory
is too small. The gradient of a step is that of its sums over all pieces (`kronos.training.loop`), so cutting
changes what fits and not what is learnt; masks of dropout are drawn anew per piece.
"""

import functools
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from kronos.config import Config
from kronos.errors import KitError
from kronos.training.objectives import Batch, Sums
from kronos.training.runlog import added


# -- which device, and how precise ---------------------------------------------------------------------------
def pick_device(config: Config) -> torch.device:
    """The GPU that `device` names where there is one and it is wanted, else the processor."""
    if not (config.device.use_cuda and torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # one of several launched processes has a GPU of its own
        local = int(os.environ["LOCAL_RANK"])
        if local >= count:
            raise KitError(
                f"expected a GPU per process on this machine, found {count}; start fewer, or device.use_cuda: false"
            )
        return torch.device("cuda", local)
    if config.device.device_id >= count:
        raise KitError(
            f"device.device_id: expected below {count}, the number of GPUs here, found {config.device.device_id}"
        )
    return torch.device("cuda", config.device.device_id)


def give_accelerate(device: torch.device) -> None:
    """Make it the GPU of this process: a single one would get the first, whatever `device.device_id` says."""
    os.environ.pop("ACCELERATE_TORCH_DEVICE", None)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)


WITHOUT_BF16 = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
)
"""Values of ONEDNN_MAX_CPU_ISA, oneDNN's own limit, that leave no instructions for bfloat16."""


def processor_has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX), and its library may."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_BF16:
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def precision(wanted: str, device: torch.device) -> str:
    """The mixed precision that `auto` means on a device, for training, planning and answers alike.

    A processor has bf16 where its hardware has, else none. A GPU's is known by its compute capability, since
    older ones claim bf16 by emulation. Raises KitError for one that a GPU would only pretend to have.
    """
    if device.type != "cuda":
        if wanted == "fp16":
            raise KitError(
                "training.mixed_precision: expected auto, no or bf16 on a CPU, found fp16, which needs a GPU"
            )
        if wanted != "auto":
            return wanted
        if processor_has_bf16():
            return "bf16"
        return "no"
    major, minor = torch.cuda.get_device_capability(device)
    if wanted == "bf16" and major < 8:
        raise KitError(
            f"training.mixed_precision: expected auto, fp16 or no on a GPU of compute capability {major}.{minor}, found bf16, "
            "which it only emulates"
        )
    if wanted != "auto":
        return wanted
    if major >= 8:
        return "bf16"
    return "fp16"


def allow_tf32(allowed: bool) -> None:
    """TensorFloat-32 for what stays in float32 on a GPU: matrix products, and whatever cuDNN does."""
    kind = "highest"
    if allowed:
        kind = "high"
    torch.set_float32_matmul_precision(kind)
    torch.backends.cudnn.allow_tf32 = allowed


def check_gpus(config: Config) -> None:
    """Raises KitError where this machine has fewer GPUs than processes."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", config.distributed.num_processes))
    found = torch.cuda.device_count()
    if found < here:
        raise KitError(
            f"expected {here} GPUs on this machine, one per process, found {found}; ask for fewer, or set device.use_cuda: false"
        )


# -- torch.compile -------------------------------------------------------------------------------------------
COMPILERS = ("torch._dynamo", "torch._inductor")
"""Modules of the errors of torch.compile. By name: importing them takes two seconds, also for runs that
compile nothing.
"""


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
    """The error of a machine on which torch.compile does not work."""
    return KitError(
        f"training.compile: expected torch.compile to work on this machine, found: {first_line(error)}; install a C++ compiler "
        "(g++, or name one in CXX), or set training.compile=false"
    )


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its kind."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip()
    return type(error).__name__


# -- batches, from the loader to the device ------------------------------------------------------------------
@dataclass(frozen=True)
class Streams:
    """Where batches come from."""

    train: Callable[[int], Iterable[Batch]]
    """From an optimiser step to its micro-batches and all that follow, on the CPU."""
    validation: Callable[[], Iterable[Batch]]
    """This process's share of the validation windows."""
    tickers: Sequence[str]
    """Names by ticker number, for error messages."""


class StepBatches(NamedTuple):
    """The micro-batches of one optimiser step."""

    host: list[Batch]
    device: list[Batch]


class DeviceFeed(Iterator[StepBatches]):
    """`per_step` micro-batches at a time; fewer than one ends it.

    On a GPU `prefetch`, called when a step's work is queued, reads the next ones and copies them on a stream
    of its own, from pinned memory beside the computation. Elsewhere it does nothing: there is nothing to
    copy.
    """

    def __init__(self, batches: Iterable[Batch], per_step: int, device: torch.device) -> None:
        self._batches, self._per_step, self._device = iter(batches), per_step, device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
        self._ahead: StepBatches | None = None

    def __next__(self) -> StepBatches:
        ready, self._ahead = self._ahead or self._load(), None
        if not ready.host:
            raise StopIteration
        if self._stream is not None:
            self._hand_over(ready, self._stream)
        return ready

    def peek(self) -> StepBatches:
        """The next step's micro-batches, which `next` gives again."""
        self._ahead = next(self)
        return self._ahead

    def prefetch(self) -> None:
        """Read and copy the next step's micro-batches, without waiting for the copy."""
        if self._stream is not None and self._ahead is None:
            self._ahead = self._load()

    def _load(self) -> StepBatches:
        host = list(itertools.islice(self._batches, self._per_step))
        with torch.cuda.stream(self._stream):  # None: the stream in use
            return StepBatches(host, [self._copy(batch) for batch in host])

    def _copy(self, batch: Batch) -> Batch:
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in batch.items()}

    def _hand_over(self, ready: StepBatches, copied: torch.cuda.Stream) -> None:
        """Let the computing stream wait for the copy, and its allocator know that it uses the memory."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(copied)
        for batch in ready.device:
            for tensor in batch.values():
                tensor.record_stream(computing)


# -- what does not fit ---------------------------------------------------------------------------------------
log = logging.getLogger(__name__)

T = TypeVar("T")

OUT_OF_MEMORY = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "CUDA out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)
"""In errors that are no `torch.OutOfMemoryError`: of cuBLAS, of the driver, of a processor's allocator."""


def cut(batches: list[Batch], pieces: int) -> list[Batch]:
    """Every micro-batch in `pieces` pieces (as many as it has windows, if those are fewer), in order."""
    if pieces == 1:
        return batches
    cut_batches = []
    for batch in batches:
        cut_batches += _cut_one(batch, min(pieces, len(batch["real"])))
    return cut_batches


def _cut_one(batch: Batch, pieces: int) -> list[Batch]:
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(pieces)]
    for name, tensor in batch.items():
        for part, own in zip(parts, tensor.tensor_split(pieces), strict=True):
            part[name] = own
    return list(parts)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device had too little memory, also for a library (cuBLAS) or the driver, which torch words in
    other ways.
    """
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def attempt(action: Callable[[], T]) -> T | None:
    """The result of `action`, or None where the device had too little memory for it."""
    try:
        return action()
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        # left at once: the error holds on to the very tensors that did not fit
    release()
    return None


def release() -> None:
    """Give back what a device's allocator keeps of an attempt that failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def in_halves(
    batches: Iterable[NDArray[np.int64]],
    work: Callable[[NDArray[np.int64]], T],
    fewer: Callable[[int], int],
) -> Iterator[tuple[NDArray[np.int64], T]]:
    """Each batch of row numbers (n,) and what `work` makes of it; one that does not fit, in smaller ones.

    fewer: told how many rows did not fit, says how many to take from then on, or raises when nothing is left
    to halve.
    """
    todo, most = deque(batches), 0
    while todo:
        rows = todo.popleft()
        if most and len(rows) > most:
            todo.extendleft(reversed(np.array_split(rows, -(-len(rows) // most))))
            continue
        found = attempt(functools.partial(work, rows))
        if found is None:
            most = fewer(len(rows))
            todo.appendleft(rows)
        else:
            yield rows, found


def in_pieces(action: Callable[[Batch], Sums], batch: Batch, pieces: int, stage: str) -> tuple[Sums, int]:
    """The sums of a batch, in `pieces` pieces or as many more as fit; and how many those were."""

    def summed() -> Sums:
        sums: Sums = {}
        for piece in cut([batch], pieces):
            added(sums, action(piece))
        return sums

    while (sums := attempt(summed)) is None:
        pieces = halved(stage, len(batch["real"]), pieces)
    return sums, pieces


def halved(stage: str, windows: int, pieces: int, say: bool = True) -> int:
    """Twice as many pieces of micro-batches of `windows` windows; `say`: tell it.

    Raises KitError when a piece is one window already.
    """
    if pieces >= windows:
        raise KitError(
            f"{stage}: one window does not fit into the GPU's memory; set training.use_checkpoint: true, or choose a shorter "
            "data.lookback_window or a smaller network"
        )
    pieces = min(2 * pieces, windows)
    if say:
        log.warning(
            "%s: out of memory; micro-batches of %d windows are now computed in %d pieces of at most %d (same gradient)",
            stage,
            windows,
            pieces,
            -(-windows // pieces),
        )
    return pieces
