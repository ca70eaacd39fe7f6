"""Which parameters learn, and which of them decay.

In: an objective and the loop's settings. Out: AdamW.
"""

import torch

from kronos.training.objectives import Objective
from kronos.training.settings import LoopSettings


def build_optimizer(module: Objective, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; norms and biases, which have one dimension, do not decay unless
    that is asked for.

    A group's `share` is what the loop multiplies the learning rate by (`Objective.rate_share`).
    Fused everywhere, because the fused step can be told on the device to leave the weights alone
    (`FiniteGuard`).
    """
    learning = [(module.rate_share(name), p) for name, p in module.named_parameters() if p.requires_grad]
    small = settings.weight_decay if settings.decay_norms_and_biases else 0.0
    groups = []
    for share in sorted({share for share, _ in learning}, reverse=True):
        own = [p for its, p in learning if its == share]
        groups.append(
            {"params": [p for p in own if p.ndim > 1], "weight_decay": settings.weight_decay, "share": share}
        )
        groups.append({"params": [p for p in own if p.ndim <= 1], "weight_decay": small, "share": share})
    return torch.optim.AdamW(groups, lr=settings.schedule.peak, betas=settings.betas, fused=True)
