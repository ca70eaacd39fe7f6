"""What one backtest was asked for, and what all its steps look at.

In: options of a call; configuration, store, time line and panel. Out: `Options` and `Scene`, read by `backtest`, `report_tree`.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kronos.config import Config
from kronos.data.store import BarStore
from kronos.evaluation.origins import Timeline
from kronos.evaluation.panel import Panel

Control = Literal["shuffle-labels", "future-noise"]


@dataclass(frozen=True)
class Options:
    """What a call of the backtest asks for beside the configuration."""

    models: tuple[str, ...] = ()
    """Run folders; none: the configuration's own run. Several are scored side by side and blended."""
    output: str = ""
    """Folder of the report; empty: backtest/ in the (first) run's folder."""
    control: Control | None = None
    refit: bool = False
    """Train anew before each fold of the test dates."""
    allow_incomplete: bool = False


@dataclass(frozen=True, eq=False)
class Scene:
    """What all steps of one backtest share."""

    config: Config
    options: Options
    store: BarStore
    timeline: Timeline
    panel: Panel
    """Calibration and test dates."""
    folder: Path
    deadline: float = math.inf
    """When forecasting has to end, in time.monotonic()'s seconds."""

    @property
    def sessions(self) -> NDArray[np.int64]:
        return self.panel.sessions

    @property
    def is_test(self) -> NDArray[np.bool_]:
        """(D,) which dates are scored."""
        return np.isin(self.sessions, self.timeline.test)
