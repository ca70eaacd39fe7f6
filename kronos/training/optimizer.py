"""Which parameters learn, and which of them decay.

In: an objective and the loop's settings. Out: AdamW.
"""

import torch
from torch import nn

from kronos.training.settings import LoopSettings


def build_optimizer(module: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; norms and biases, which have one dimension, do not decay unless that is asked for.

    Fused everywhere, because the fused step can be told on the device to leave the weights alone (`FiniteGuard`).
    """
    learning = [p for p in module.parameters() if p.requires_grad]
    small = settings.weight_decay if settings.decay_norms_and_biases else 0.0
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": small},
    ]
    return torch.optim.AdamW(groups, lr=settings.schedule.peak, betas=settings.betas, fused=True)
