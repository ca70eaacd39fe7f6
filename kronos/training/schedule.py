"""What changes with the step and with nothing else: the learning rate, and the seed of a micro-batch's dropout.

In: an optimiser step, the run's length and seed. Out: a number. Pure functions, so that resuming is arithmetic.
Source: the one-cycle policy (arXiv 1708.07120) with the shape of the published fine-tuning: a cosine rise from a tenth of
the peak, a cosine fall to 1e-5 of it. Adam's beta1 stays what the configuration says; the original let it swing.
"""

import hashlib
import math

DIV_FACTOR = 10.0
FINAL_DIV_FACTOR = 1e4


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    """Learning rate of optimiser step `step` (0 first) of `total_steps`; one-cycle with cosine arms."""
    low = peak / DIV_FACTOR
    top = max(warmup_ratio * total_steps - 1, 0.0)
    if step <= top:
        return peak if top == 0 else _cosine(low, peak, step / top)
    end = max(total_steps - 1, 1)
    return _cosine(peak, low / FINAL_DIV_FACTOR, min((step - top) / max(end - top, 1e-9), 1.0))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def micro_seed(seed: int, stage: str, step: int, micro: int, rank: int) -> int:
    """Seed (63 bits) of everything random inside one micro-batch of one process."""
    key = hashlib.blake2b(f"{seed}/{stage}/{step}/{micro}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(key, "little") >> 1
