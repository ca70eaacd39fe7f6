"""Sizes of networks by name. In: a preset's name. Out: what to build a tokenizer and a predictor with.

mini, small and base are the published networks; nano is ours, for demonstrations and tests on a CPU.
Source: Kronos paper (arXiv 2508.02739), table of model sizes; the published config.json files.
"""

from typing import Any

from kronos.errors import KitError

_QUANTIZER = {"beta": 0.05, "gamma0": 1.0, "gamma": 1.1, "zeta": 0.05}
_TOKENIZER_BASE = {
    "d_in": 6,
    "d_model": 256,
    "n_heads": 4,
    "ff_dim": 512,
    "n_enc_layers": 4,
    "n_dec_layers": 4,
    "ffn_dropout_p": 0.0,
    "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.0,
    "s1_bits": 10,
    "s2_bits": 10,
    "group_size": 4,
    **_QUANTIZER,
}
_TOKENIZER_2K = {**_TOKENIZER_BASE, "group_size": 5}
_TOKENIZER_NANO = {
    **_TOKENIZER_BASE,
    "d_model": 64,
    "ff_dim": 128,
    "n_enc_layers": 2,
    "n_dec_layers": 2,
    "s1_bits": 7,
    "s2_bits": 7,
    "group_size": 7,
}


def _predictor(
    layers: int, width: int, heads: int, ff_dim: int, ffn: float, attn: float, *, bits: int = 10
) -> dict[str, Any]:
    return {
        "s1_bits": bits,
        "s2_bits": bits,
        "n_layers": layers,
        "d_model": width,
        "n_heads": heads,
        "ff_dim": ff_dim,
        "ffn_dropout_p": ffn,
        "attn_dropout_p": attn,
        "resid_dropout_p": ffn,
        "token_dropout_p": attn,
        "learn_te": True,
    }


PRESETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nano": (_TOKENIZER_NANO, _predictor(3, 64, 4, 128, 0.0, 0.0, bits=7)),
    "mini": (_TOKENIZER_2K, _predictor(4, 256, 4, 512, 0.2, 0.0)),
    "small": (_TOKENIZER_BASE, _predictor(8, 512, 8, 1024, 0.25, 0.1)),
    "base": (_TOKENIZER_BASE, _predictor(12, 832, 16, 2048, 0.2, 0.0)),
}

PUBLISHED = {
    "NeoQuasar/Kronos-mini": "mini",
    "NeoQuasar/Kronos-small": "small",
    "NeoQuasar/Kronos-base": "base",
    "NeoQuasar/Kronos-Tokenizer-2k": "mini",
    "NeoQuasar/Kronos-Tokenizer-base": "base",
}
"""Hub repositories whose networks have a preset's sizes."""


def preset(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keyword arguments of `KronosTokenizer` and of `Kronos`; copies, free to change. KitError on an unknown
    name.
    """
    if name not in PRESETS:
        raise KitError(f"experiment.preset: expected one of {', '.join(PRESETS)}, found {name!r}")
    tokenizer, predictor = PRESETS[name]
    return dict(tokenizer), dict(predictor)
