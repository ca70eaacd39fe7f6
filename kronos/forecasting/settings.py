"""How a pair of networks forecasts: everything but the networks, their device and what is asked.

In: values. Out: `Settings`, frozen: another setting is another object (`dataclasses.replace`,
`Forecaster.using`).
"""

from dataclasses import dataclass, field

import torch

from kronos.bars import EpsilonKind
from kronos.errors import KitError
from kronos.forecasting.context import Overflow
from kronos.forecasting.decide import Probability
from kronos.forecasting.next_step import Enumeration
from kronos.forecasting.sampling import Sampling


@dataclass(frozen=True)
class Settings:
    """What a `Forecaster` is told."""

    max_context: int = 512
    """Most tokens that the networks see at once."""
    clip: float | None = None
    """How bars are normalised; None: as the networks were trained, where they say so, else as published."""
    epsilon: EpsilonKind | None = None
    """The same."""
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int | None = None
    """Series at once; None: what fits (`Forecaster.memory_plan`)."""
    overflow: Overflow = "cut"
    """What becomes of a context that does not fit beside the horizon (see `context`)."""
    autocast: torch.dtype | None = None
    """The type of the predictor's matrix products; None: that of its weights."""
    integers: bool = False
    """Products of eight-bit integers in the predictor's decoding (`networks/products.py`)."""
    anchor: bool = True
    """Paths start from the true last close (see `forecaster.anchored`)."""
    published_statistics: bool = False
    """Normalise by `bars.published_stats`, not `window_stats`."""
    probability: Probability = "auto"
    """How `Forecaster.prob_up` finds it."""
    enumeration: Enumeration = field(default_factory=Enumeration)
    """How far a list of outcomes goes."""
    cuda_graphs: bool = False
    """A GPU repeats the decoding steps by itself (`replay`)."""
    processes: int = 1
    """That share this machine's memory."""

    @property
    def precision(self) -> str:
        """What the predictor's products are made of: float32, bfloat16, float16 or int8."""
        if self.integers:
            return "int8"
        return str(self.autocast or torch.float32).removeprefix("torch.")

    def check(self, device: torch.device) -> None:
        """Raise KitError for a device that cannot do what is asked of it."""
        if device.type not in ("cpu", "cuda"):  # an Apple GPU lacks float64, which adds up probabilities
            raise KitError(f"forecast: expected the device cpu or cuda, found {device.type}; set it to cpu")
        if self.integers and device.type != "cpu":
            raise KitError(
                f"inference.precision: expected int8 on a processor only, found {device.type}; set it to auto"
            )
        if self.integers and self.overflow == "slide":
            raise KitError(
                "inference.precision: expected int8 with overflow: cut, found slide, which keeps no cache; set "
                "precision to float32"
            )
        if not self.cuda_graphs:
            return
        if device.type != "cuda":
            found = "a processor"
        elif self.overflow == "slide":
            found = "overflow: slide, which keeps no cache"
        else:
            return
        raise KitError(
            f"inference.cuda_graphs: expected a GPU and overflow: cut, found {found}; set it to false"
        )
