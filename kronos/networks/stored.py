"""Weights in a file of half or a quarter of their size.

In: a network's state. Out: the tensors of the file, and back. float32: as they are. bf16: every number rounded
to bfloat16. int8: each row of a matrix as whole numbers of -127..127 and one scale beside them, NAME.scale
(N, 1) float32; what is no matrix stays float32. A loaded network holds float32 numbers, whatever the file.
"""

from typing import Literal

import torch
from torch import Tensor

from kronos.networks.products import rounded_rows

StoredAs = Literal["float32", "bf16", "int8"]
SCALE = ".scale"


def stored(state: dict[str, Tensor], precision: StoredAs) -> dict[str, Tensor]:
    """The tensors of the file, of a network's state; buffers that are whole numbers stay as they are."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if precision == "bf16" and tensor.is_floating_point():
            found[name] = tensor.to(torch.bfloat16)
        elif precision == "int8" and tensor.is_floating_point() and tensor.dim() == 2:
            rounded, scale = rounded_rows(tensor.float())
            found[name], found[name + SCALE] = rounded.to(torch.int8), scale
        else:
            found[name] = tensor
    return found


def restored(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a network is filled with, of the tensors of a file. A scale without whole numbers stays as it is:
    an unknown name.
    """
    found = dict(tensors)
    for name, tensor in tensors.items():
        scale = found.get(name + SCALE)
        if tensor.dtype == torch.int8 and scale is not None and scale.shape == (len(tensor), 1):
            found[name] = tensor.float() * scale
            del found[name + SCALE]
    return found
