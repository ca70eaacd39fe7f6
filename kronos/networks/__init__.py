"""The two networks of Kronos, their sizes and their checkpoints."""

from kronos.networks.hub import check_pair
from kronos.networks.predictor import Kronos
from kronos.networks.presets import preset
from kronos.networks.tokenizer import KronosTokenizer

__all__ = ["Kronos", "KronosTokenizer", "check_pair", "preset"]
