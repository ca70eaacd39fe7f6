"""When a micro-batch does not fit into a GPU's memory: cut it, and accumulate over the pieces.

In: micro-batches. Out: the same windows in more pieces. The gradient of a step is that of its sums over all
pieces (`kronos.training.loop`), so cutting changes what fits and not what is learnt; masks of dropout are
drawn anew per piece.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from kronos.errors import KitError
from kronos.training.objectives import Batch

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
    return [piece for batch in batches for piece in _cut_one(batch, min(pieces, len(batch["real"])))]


def _cut_one(batch: Batch, pieces: int) -> list[Batch]:
    parts = {name: tensor.tensor_split(pieces) for name, tensor in batch.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(pieces)]


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
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


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
            "%s: out of memory; micro-batches of %d windows are now computed in %d pieces of at most %d, with accumulation over "
            "them: the effective batch and the gradient stay the same",
            stage,
            windows,
            pieces,
            -(-windows // pieces),
        )
    return pieces
