"""Train Kronos on competition prices and forecast with it. See docs/architecture.md for the rooms of the
house.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kronos.networks import Kronos, KronosTokenizer
    from kronos.predictor import KronosPredictor

__all__ = ["Kronos", "KronosPredictor", "KronosTokenizer"]

_lazy = {
    "Kronos": "kronos.networks",
    "KronosTokenizer": "kronos.networks",
    "KronosPredictor": "kronos.predictor",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use: `import kronos` stays light (PEP 562)."""
    if name not in _lazy:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_lazy[name]), name)
