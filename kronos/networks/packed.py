"""Weights as cached decoding reads them, made once per network, device and type of number.

In: a network. Out: `PackedPredictor`, or the packed blocks of a tokenizer's decoder, the same objects call
after call. Packing `base` takes a third of a second; what is kept needs as much memory as the weights.

A pack is made again when the network's weights are others: a parameter was written in place, replaced, moved
or cast. Torch counts the writes of a tensor; writes through `parameter.data` it does not count, so the sum of
each weight is compared, too. Looking takes a tenth of the time of packing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kronos.networks.decoding import PackedAttention, PackedBlock
from kronos.networks.layers import BlockStack
from kronos.networks.products import Product, plain_kind, product

if TYPE_CHECKING:
    from kronos.networks.predictor import Kronos

Made = TypeVar("Made")


class PackedPredictor:
    """What `Kronos.prefill` and the steps behind it read."""

    def __init__(self, network: "Kronos", kind: torch.dtype) -> None:
        self.blocks = [PackedBlock(block, kind) for block in network.transformer.blocks()]
        self.attention = PackedAttention(network.dep_layer.cross_attn, kind)
        """the dependency layer's"""
        self.tokens = _token_tables(network)
        """(V1, D), (V2, D): a pair of tokens is embedded as the sum of a row of each"""
        coarse = network.embedding.emb_s1.weight.float()
        queries = F.linear(coarse, self.attention.query_weight, self.attention.query_bias)
        self.queries = queries.to(plain_kind(kind))
        """(V1, D) the dependency layer's query of every s1, scaled, not rotated"""
        self.coarse, self.fine = _heads(network, kind)
        """states (..., D) to logits (..., V1) and (..., V2)"""


def packed_predictor(network: "Kronos", kind: torch.dtype) -> PackedPredictor:
    """The predictor's weights for matrix products of that kind (`networks/products.py`)."""
    return _kept(network, kind, lambda: PackedPredictor(network, kind))


def packed_blocks(stack: BlockStack, dtype: torch.dtype) -> list[PackedBlock]:
    """A stack's weights for matrix products of that type."""
    return _kept(stack, dtype, lambda: [PackedBlock(block, dtype) for block in stack.blocks()])


def _heads(network: "Kronos", kind: torch.dtype) -> tuple[Product, Product]:
    """The network's own, but for integers."""
    coarse, fine = network.head.proj_s1, network.head.proj_s2
    if kind != torch.int8:
        return coarse, fine
    first = product(coarse.weight.float(), coarse.bias.float(), kind)
    return first, product(fine.weight.float(), fine.bias.float(), kind)


def _token_tables(network: "Kronos") -> tuple[Tensor, Tensor]:
    """(V1, D), (V2, D): fusion_proj of a pair is the sum of what it makes of each token; the bias is in the
    first.
    """
    e = network.embedding
    coarse, fine = e.fusion_proj.weight.float().chunk(2, dim=1)
    first = F.linear(e.emb_s1.weight.float() * e.scale, coarse)
    second = F.linear(e.emb_s2.weight.float() * e.scale, fine)
    return first + e.fusion_proj.bias.float(), second


# -- what is kept --------------------------------------------------------------------------------------------
@dataclass
class _Packs:
    """Packs of one network, and the weights that they were made of."""

    weights: list[Tensor]
    """The parameters' memory, held: an address is not used again while it is."""
    writes: list[int]
    """How often each had been written."""
    sums: list[int]
    """The sum of each, as the bits of a float32: also those that are NaN can be compared."""
    made: dict[Any, Any] = field(default_factory=dict)

    def fits(self, parameters: list[nn.Parameter]) -> bool:
        """Whether these are the weights that the packs were made of."""
        if len(parameters) != len(self.weights):
            return False
        for parameter, weight, writes in zip(parameters, self.weights, self.writes, strict=True):
            if parameter.data_ptr() != weight.data_ptr() or parameter._version != writes:
                return False
        return sums_of(parameters) == self.sums


_KEPT: "WeakKeyDictionary[nn.Module, _Packs]" = WeakKeyDictionary()
"""By network: beside it, so that it is neither copied nor saved with it, and gone when the network is."""


def sums_of(weights: Sequence[Tensor]) -> list[int]:
    """The sum of each of the weights, as the bits of a float32."""
    sums = torch.stack([weight.detach().sum(dtype=torch.float32) for weight in weights])
    return cast(list[int], sums.view(torch.int32).tolist())


def _kept(network: nn.Module, kind: Any, make: Callable[[], Made]) -> Made:
    parameters = list(network.parameters())
    if any(parameter.is_inference() for parameter in parameters):
        return _full_precision(make)  # torch does not count their writes
    packs = _KEPT.get(network)
    if packs is None or not packs.fits(parameters):
        weights = [parameter.detach() for parameter in parameters]
        writes = [parameter._version for parameter in parameters]
        packs = _KEPT[network] = _Packs(weights, writes, sums_of(parameters))
    if kind not in packs.made:
        packs.made[kind] = _full_precision(make)
    return cast(Made, packs.made[kind])


def _full_precision(make: Callable[[], Made]) -> Made:
    """Folding weights into each other in float32, whatever the caller computes in, and as plain tensors."""
    plain = torch.inference_mode(False), torch.no_grad()
    with plain[0], plain[1], torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        return make()
