"""How much history a forecast may keep: context and horizon share the network's window of max_context tokens.

In: lengths and horizons. Out: the bars that are used, decided before anything is computed. NumPy only.

The last of the H sampled tokens is never read again, so T + H - 1 tokens have to fit. What does not fit is

* cut: the context loses its oldest bars beforehand. Exact: a network that sees the remaining bars computes
  just this.
* slid: all bars are normalised and encoded, and at each step the network sees the last max_context tokens,
  counted from position 0 again. This is what the published predictor does; nothing can be cached, so it costs
  one forward per step.
"""

from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from kronos.errors import KitError

Overflow = Literal["cut", "slide"]
Steps = TypeVar("Steps", int, NDArray[np.int64])

MIN_BARS = 32
"""Fewest bars that a context is cut to (or the whole context, where that is shorter): statistics over fewer
are noise.
"""


def room(horizon: Steps, max_context: int) -> Steps:
    """Most context tokens that leave room for `horizon` steps; elementwise. Not positive where the horizon is
    too long.
    """
    return max_context + 1 - horizon


def slides(length: int, horizon: int, max_context: int) -> bool:
    """Whether a context of `length` tokens does not fit beside `horizon` steps."""
    return length > room(horizon, max_context)


def plan_contexts(
    lengths: NDArray[np.int64], horizon: int, max_context: int, overflow: Overflow
) -> NDArray[np.int64]:
    """Bars of each context that are used, (B,) int64 <= lengths (B,). Raises KitError when the horizon cannot
    fit.
    """
    if overflow == "slide":
        if horizon >= max_context:
            raise KitError(
                f"forecast: expected a horizon below max_context {max_context}, found {horizon}; forecast fewer steps"
            )
        return lengths.copy()
    used = np.minimum(lengths, room(horizon, max_context))
    if (bad := used < np.minimum(lengths, MIN_BARS)).any():
        length = int(lengths[bad][0])
        least = min(length, MIN_BARS)
        steps = max(room(least, max_context), 0)
        raise KitError(
            f"forecast: expected room for {least} context bars beside the horizon, context + horizon - 1 <= max_context "
            f"{max_context}, found {length} + {horizon} - 1; forecast at most {steps} steps, or let the window "
            "slide: inference.overflow=slide"
        )
    return used


def check_fits(context: int, horizon: int, max_context: int) -> None:
    """Raise KitError unless `context` tokens and `horizon` steps fit into one window (the last token is not
    read).
    """
    if slides(context, horizon, max_context):
        raise KitError(
            f"forecast: expected context + horizon - 1 <= max_context {max_context}, found {context} + {horizon} - 1; "
            f"shorten the context to {max(room(horizon, max_context), 0)} bars or the horizon"
        )
