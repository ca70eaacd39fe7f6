"""What the networks cost, computed from their configurations: parameters, floating-point operations,
key/value cache.

In: the configurations of a tokenizer and a predictor, the length of a window. Out: numbers by part. Nothing
is built or run.
Source: the networks of this package, layer by layer; `tests/planning/test_cost.py` holds every number to the modules
and to `torch.utils.flop_counter`.

A multiplication with its addition counts as two operations. Counted are matrix products, linear layers and
attention; everything else is below 1 % of them. Causal attention counts T (T + 1) / 2 pairs of positions and
not T^2: what it needs, not what a kernel that ignores the mask would compute. The backward pass counts twice
the forward one; what a kernel or gradient checkpointing computes a second time is not counted, so that a
share of the device's peak is of useful work.

Letters: T bars of a window, D width, K = s1_bits + s2_bits, V1 = 2^s1_bits, V2 = 2^s2_bits.
"""

from dataclasses import dataclass

from kronos.networks.predictor import CALENDAR_SIZES, PredictorConfig
from kronos.networks.tokenizer import TokenizerConfig

Parts = dict[str, int]


# -- parameters ----------------------------------------------------------------------------------------------
def tokenizer_parameters(c: TokenizerConfig) -> Parts:
    """Parameters of `KronosTokenizer` by part; buffers are none."""
    bits, block = c.s1_bits + c.s2_bits, block_parameters(c.d_model, c.ff_dim)
    return {
        "encoder": _linear(c.d_in, c.d_model) + (c.n_enc_layers - 1) * block,
        "quantizer": _linear(c.d_model, bits) + _linear(c.s1_bits, c.d_model) + _linear(bits, c.d_model),
        "decoder": (c.n_dec_layers - 1) * block + _linear(c.d_model, c.d_in),
    }


def predictor_parameters(c: PredictorConfig) -> Parts:
    """Parameters of `Kronos` by part; fixed calendar sinusoids count, as in the published numbers."""
    d = c.d_model
    return {
        "embedding": (2**c.s1_bits + 2**c.s2_bits) * d + _linear(2 * d, d),
        "calendar": sum(CALENDAR_SIZES.values()) * d,
        "blocks": c.n_layers * block_parameters(d, c.ff_dim) + d,
        "dependency": 4 * _linear(d, d) + d,
        "heads": _linear(d, 2**c.s1_bits) + _linear(d, 2**c.s2_bits),
    }


def learned(c: PredictorConfig) -> int:
    """Parameters of `Kronos` that training changes: without fixed calendar sinusoids."""
    parts = predictor_parameters(c)
    return sum(parts.values()) - (0 if c.learn_te else parts["calendar"])


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def block_parameters(d: int, ff_dim: int) -> int:
    """Parameters of one transformer block of width D."""
    return 4 * _linear(d, d) + 3 * d * ff_dim + 2 * d


# -- operations ----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Flops:
    """Floating-point operations on one window."""

    forward: int
    backward: int = 0

    @property
    def total(self) -> int:
        """Operations of both passes."""
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)


def encode_flops(c: TokenizerConfig, length: int) -> int:
    """Bars of one window to tokens: embedding, encoder, projection to the code."""
    d, bits = c.d_model, c.s1_bits + c.s2_bits
    return 2 * length * (c.d_in * d + d * bits) + (c.n_enc_layers - 1) * block_flops(d, c.ff_dim, length)


def tokenizer_flops(c: TokenizerConfig, length: int, accumulation: int = 1) -> dict[str, Flops]:
    """A training step on one window of `length` bars, by part: encoder, decoder (coarse and full pass).

    accumulation above 1: the encoder first runs over all micro-batches without gradient (see
    `networks/quantizer.py`).
    """
    d, bits = c.d_model, c.s1_bits + c.s2_bits
    encode = encode_flops(c, length)
    inputs = 2 * length * c.d_in * d  # bars need no gradient
    decode = 2 * length * (c.s1_bits * d + bits * d + 2 * d * c.d_in)
    decode += 2 * (c.n_dec_layers - 1) * block_flops(d, c.ff_dim, length)
    parts = {"encoder": Flops(encode, 2 * encode - inputs), "decoder": Flops(decode, 2 * decode)}
    return parts if accumulation == 1 else {"joint statistics": Flops(encode), **parts}


def predictor_flops(c: PredictorConfig, tokenizer: TokenizerConfig, length: int) -> dict[str, Flops]:
    """A training step on one window of `length` bars, by part: the frozen tokenizer's encoder, then length -
    1 positions.
    """
    d, steps = c.d_model, length - 1
    forward = {
        "embedding": 2 * steps * 2 * d * d,
        "blocks": c.n_layers * block_flops(d, c.ff_dim, steps),
        "dependency": _attention_flops(d, steps),
        "heads": 2 * steps * d * (2**c.s1_bits + 2**c.s2_bits),
    }
    parts = {name: Flops(value, 2 * value) for name, value in forward.items()}
    return {"frozen tokenizer": Flops(encode_flops(tokenizer, length)), **parts}


def total(parts: dict[str, Flops]) -> Flops:
    """Sum of the parts."""
    return sum(parts.values(), Flops(0))


def _attention_flops(d: int, length: int) -> int:
    """Four projections, then scores and mixing over the pairs that causality leaves."""
    return 2 * length * 4 * d * d + 2 * 2 * (length * (length + 1) // 2) * d


def block_flops(d: int, ff_dim: int, length: int) -> int:
    """A forward pass of one transformer block over `length` positions of one window."""
    return _attention_flops(d, length) + 2 * length * 3 * d * ff_dim


# -- generation ----------------------------------------------------------------------------------------------
def cache_bytes_per_token(c: PredictorConfig, element: int = 4) -> int:
    """Keys and values that generation keeps for one position of one path, over all blocks and the dependency
    layer.
    """
    return 2 * (c.n_layers + 1) * c.d_model * element
