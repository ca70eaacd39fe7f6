"""How much memory a training step takes, by part, computed from the networks' configurations.

In: the configurations, batch, window, precision, checkpointing. Out: `Memory`, bytes by part, and the largest
batch that fits.
Source: what autograd keeps of the operations in `networks`, counted one by one. Tolerance, of what torch's
profiler sees for
nano, mini and small, both stages, with and without checkpointing: 5 % below to 10 % above in float32, on
every processor; 5 % below to 25 % above in bfloat16, where the kernels that a processor has decide about
copies (`tests/planning/test_footprint.py`).

Written for eager steps; torch.compile keeps less. Under mixed precision, weights, norms, losses and the
predictor's residual stream stay in float32 ("wide", 4 bytes), inputs of matrix products and the tokenizer's
residual stream, which begins with one's result, are "narrow" (2 bytes), and every weight matrix has a narrow
copy.

Letters: B windows, T bars, D width, F = ff_dim, H heads, K code bits, V1, V2 vocabularies.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from kronos.networks import cost
from kronos.networks.predictor import PredictorConfig
from kronos.networks.tokenizer import TokenizerConfig

WIDE, ADAM = 4, 8


@dataclass(frozen=True)
class Load:
    """What one process puts through a network in a micro-batch."""

    batch: int
    length: int
    """T, bars of a window"""
    mixed: bool = False
    """bf16 or fp16 products"""
    recompute: bool = False
    """gradient checkpointing: of each block only its input is kept"""
    cpu: bool = False
    gradients_stay: bool = False
    """gradients lie beside the activations: several processes, or several micro-batches in a step"""

    @property
    def narrow(self) -> int:
        """Bytes of a number in the products."""
        return 2 if self.mixed else WIDE


@dataclass(frozen=True)
class Segment:
    """A stretch of a network, in bytes: what its forward pass keeps, and what its backward pass needs
    besides.
    """

    kept: int
    copies: int
    """of its weight matrices in the narrow type"""
    gradients: int
    workspace: int
    """gradients of its widest intermediate result, and what is recomputed"""


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a step, by part."""

    weights: int
    optimizer: int
    """AdamW's two moments"""
    frozen: int
    """the tokenizer beside a predictor"""
    gradients: int
    """there at the peak: all of them, if they stay, else those of the segments that are done"""
    copies: int
    """weights in the narrow type"""
    activations: int
    """kept for the backward pass, and the batch"""
    workspace: int
    """what the moment itself adds"""

    @property
    def step(self) -> int:
        """Growth during forward and backward, over weights and optimiser."""
        return self.gradients + self.copies + self.activations + self.workspace

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return self.weights + self.optimizer + self.frozen + self.step


def tokenizer_memory(c: TokenizerConfig, load: Load) -> Memory:
    """Of a step of the tokenizer stage."""
    d, narrow, bits = c.d_model, load.narrow, c.s1_bits + c.s2_bits
    positions = load.batch * load.length
    parts = cost.tokenizer_parameters(c)
    block = block_segment(c, positions, load, stream=narrow)
    decoder = block_segment(
        c, 2 * positions, load, stream=narrow
    )  # the coarse and the full pass are one doubled batch
    code = positions * (narrow * d + (9 + 1) * WIDE * bits)
    embed = segment(positions * WIDE * c.d_in, c.d_in * d, c.d_in * d + d, 0, load)
    quantizer = segment(
        code, d * (bits + bits + c.s1_bits), parts["quantizer"], 2 * positions * WIDE * d, load
    )
    head = segment(2 * positions * (narrow * d + 2 * WIDE * c.d_in), d * c.d_in, d * c.d_in + c.d_in, 0, load)
    segments = [embed, *[block] * (c.n_enc_layers - 1), quantizer, *[decoder] * (c.n_dec_layers - 1), head]
    weights = sum(parts.values())
    return peak(segments, weights, weights, 0, positions * BATCH_BYTES, load)


def predictor_memory(c: PredictorConfig, tokenizer: TokenizerConfig, load: Load) -> Memory:
    """Of a step of the predictor stage, the frozen tokenizer included."""
    d, narrow, positions = c.d_model, load.narrow, load.batch * (load.length - 1)
    parts, vocabulary = cost.predictor_parameters(c), 2**c.s1_bits + 2**c.s2_bits
    embedding = 2 * narrow * d + _mask(c.token_dropout_p, d, WIDE, load) + INDEX_BYTES
    context = 2 * WIDE * d + (
        3 * narrow * d if load.mixed else 0
    )  # the last norm's input and output, copies for three layers
    dependency = (
        _attention(d, 4, (0.0, c.attn_dropout_p, c.resid_dropout_p), load) + (narrow + WIDE + narrow) * d
    )
    learned_embedding = parts["embedding"] + (parts["calendar"] if c.learn_te else 0)
    segments = [
        segment(positions * embedding, 2 * d * d, learned_embedding, 2 * positions * WIDE * d, load),
        *[block_segment(c, positions, load)] * c.n_layers,
        segment(
            positions * (context + dependency), 4 * d * d, parts["dependency"], positions * WIDE * d, load
        ),
        segment(positions * WIDE * vocabulary, vocabulary * d, 0, positions * WIDE * vocabulary, load),
    ]
    segments[-2] = replace(segments[-2], gradients=segments[-2].gradients + WIDE * parts["heads"])
    frozen = sum(cost.tokenizer_parameters(tokenizer).values())
    return peak(
        segments, sum(parts.values()), cost.learned(c), frozen, load.batch * load.length * BATCH_BYTES, load
    )


def largest_batch(memory: Callable[[int], Memory], limit: int) -> int:
    """The largest batch whose total is at most `limit` bytes; 0 when not even one window fits."""
    if memory(1).total > limit:
        return 0
    low, high = 1, 2
    while memory(high).total <= limit:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory(middle).total <= limit else (low, middle)
    return low


# -- per position, in bytes ----------------------------------------------------------------------------------
BATCH_BYTES = 4 * (6 + 5 + 1)
"""of a bar as the loader gives it: features, calendar, weight"""
INDEX_BYTES = 8 * (2 + 1 + 5)
"""of a bar's tokens, of the next bar's s1, of its calendar fields"""


def _mask(p: float, d: int, element: int, load: Load) -> int:
    """A dropout's mask: on a CPU scaled, in the type of what it multiplies; on a GPU one byte an entry."""
    if p == 0:
        return 0
    if load.cpu:
        return d * element
    return d


def _attention(d: int, heads: int, dropouts: tuple[float, float, float], load: Load) -> int:
    """Queries, keys, values and the mixed values; the normaliser of each row; the mask of the output.

    A GPU takes narrow heads in multiples of 8 entries (`layers.attend`), and the mixed values cut to size are
    another copy. A CPU
    has no fused attention with dropout: weights, mask and their product are kept for all T^2 pairs.
    """
    _, attn, resid = dropouts
    filled = -(d // heads) % 8 * heads if load.mixed and not load.cpu else 0
    kept = (
        load.narrow * (4 * (d + filled) + (d if filled else 0))
        + WIDE * heads
        + _mask(resid, d, load.narrow, load)
    )
    pair = 16 if load.mixed else 12
    return kept + (pair * heads * load.length if load.cpu and attn > 0 else 0)


def _block(
    d: int, ff_dim: int, heads: int, dropouts: tuple[float, float, float], load: Load, stream: int
) -> int:
    """Two norms (input, output), attention, and of the feed-forward layer w1 x, its silu, w3 x and their
    product.

    A norm of a narrow stream (bytes of an entry) widens its input, and its result is made narrow before the
    weight and after.
    """
    norms = 2 * (WIDE * d + WIDE) + 2 * load.narrow * d + (2 * stream * d if stream < WIDE else 0)
    feed_forward = 4 * load.narrow * ff_dim + _mask(dropouts[0], d, load.narrow, load)
    return norms + _attention(d, heads, dropouts, load) + feed_forward


# -- segments and their peak ---------------------------------------------------------------------------------
def segment(kept: int, matrices: int, learned: int, workspace: int, load: Load) -> Segment:
    """matrices: entries of weight matrices that multiply activations; learned: parameters."""
    return Segment(kept, 2 * matrices if load.mixed else 0, WIDE * learned, workspace)


def block_segment(
    c: TokenizerConfig | PredictorConfig, positions: int, load: Load, stream: int = WIDE
) -> Segment:
    """What one transformer block keeps for the backward pass."""
    dropouts = (c.ffn_dropout_p, c.attn_dropout_p, c.resid_dropout_p)
    block = positions * _block(c.d_model, c.ff_dim, c.n_heads, dropouts, load, stream)
    matrices = 4 * c.d_model**2 + 3 * c.d_model * c.ff_dim
    widest = positions * (WIDE + load.narrow) * c.ff_dim
    if load.recompute:
        return segment(
            positions * stream * c.d_model, matrices, matrices + 6 * c.d_model, widest + block, load
        )
    return segment(block, matrices, matrices + 6 * c.d_model, widest, load)


def peak(segments: list[Segment], weights: int, learned: int, frozen: int, batch: int, load: Load) -> Memory:
    """The widest moment of the backward pass, which starts at the last segment and frees what it has used."""

    def moment(i: int) -> Memory:
        last = i == len(segments) - 1
        here = (
            segments[: i + 1] if last or not load.recompute else [segments[i]]
        )  # copies go with autocast, or with their user
        done = WIDE * learned if load.gradients_stay else sum(s.gradients for s in segments[i:])
        return Memory(
            weights=WIDE * weights,
            optimizer=ADAM * learned,
            frozen=WIDE * frozen,
            gradients=done,
            copies=sum(s.copies for s in here),
            activations=batch + sum(s.kept for s in segments[: i + 1]),
            workspace=segments[i].workspace,
        )

    return max((moment(i) for i in range(len(segments))), key=lambda memory: memory.step)
