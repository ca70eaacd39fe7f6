"""The cost model is what the networks really hold and compute."""

from typing import Any

import pytest
import torch
from test_objectives import batch_of, tokenizer
from tiny import LOOKBACK, PREDICTOR, TOKENIZER
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kronos.networks import Kronos, KronosTokenizer, cost
from kronos.networks.presets import PRESETS
from kronos.training.objectives import Objective, PredictorObjective, TokenizerObjective

PUBLISHED = {"mini": 4_108_032, "small": 24_741_376, "base": 102_310_592}


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_modules(name: str) -> None:
    """A plan with other sizes than the networks' would be a plan for another run."""
    tokenizer_settings, predictor_settings = PRESETS[name]
    with torch.device("meta"):
        net, predictor = KronosTokenizer(**tokenizer_settings), Kronos(**predictor_settings)
    assert sum(cost.tokenizer_parameters(net.config).values()) == sum(p.numel() for p in net.parameters())
    assert sum(cost.predictor_parameters(predictor.config).values()) == sum(
        p.numel() for p in predictor.parameters()
    )
    assert cost.learned(predictor.config) == sum(p.numel() for p in predictor.parameters() if p.requires_grad)


def test_published_counts() -> None:
    """The published numbers of parameters, from the configuration alone."""
    found = {
        name: sum(cost.predictor_parameters(Kronos.config_class(**PRESETS[name][1])).values())
        for name in PUBLISHED
    }
    assert found == PUBLISHED
    assert (
        sum(cost.tokenizer_parameters(KronosTokenizer.config_class(**PRESETS["base"][0])).values())
        == 3_958_042
    )


def counted(objective: Objective, batch: dict[str, torch.Tensor], joint: bool = False) -> int:
    """Operations of one step as torch counts them, with attention written as matrix products over all T^2
    pairs.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        if joint:
            objective.joint(batch)
        objective(batch, lambda t: t)["loss"].backward()
    return counter.get_total_flops()


def unseen_pairs(width: int, length: int, passes: int) -> int:
    """Operations on the pairs of positions that causality hides, which torch counts and the cost model does
    not.
    """
    return passes * 2 * 2 * (length * length - length * (length + 1) // 2) * width


@pytest.mark.parametrize("joint", [False, True])
def test_operations_of_a_tokenizer_step(joint: bool) -> None:
    """Equal to the last operation: three passes of attention for one forward and one backward, and two
    decoder passes.
    """
    net, batch = tokenizer(n_enc_layers=4, n_dec_layers=3, s1_bits=2, s2_bits=4), batch_of()
    rows, length, _ = batch["x"].shape
    passes = 3 * (3 + 2 * 2) + 3 * joint
    parts = cost.tokenizer_flops(net.config, length, accumulation=1 + joint)
    expected = cost.total(parts).total + unseen_pairs(TOKENIZER["d_model"], length, passes)
    assert counted(TokenizerObjective(net), batch, joint) == rows * expected


@pytest.mark.parametrize(
    "changes", [{}, {"n_layers": 3, "d_model": 48, "ff_dim": 40, "s1_bits": 2, "s2_bits": 4}]
)
def test_operations_of_a_predictor_step(changes: dict[str, Any]) -> None:
    """Equal to the last operation: the frozen tokenizer's forward, then everything thrice."""
    bits = {name: changes.get(name, PREDICTOR[name]) for name in ("s1_bits", "s2_bits")}
    torch.manual_seed(0)
    objective = PredictorObjective(Kronos(**{**PREDICTOR, **changes}), tokenizer(**bits), lookback=LOOKBACK)
    batch = batch_of()
    c, t = objective.predictor.config, objective.tokenizer.config
    rows, length, _ = batch["x"].shape
    expected = cost.total(cost.predictor_flops(c, t, length)).total
    expected += unseen_pairs(c.d_model, length - 1, 3 * (c.n_layers + 1)) + unseen_pairs(
        t.d_model, length, t.n_enc_layers - 1
    )
    assert counted(objective, batch) == rows * expected


def test_cache_bytes_are_those_of_a_decoding_state() -> None:
    """Generation runs out of memory when its cache is larger than was planned."""
    predictor = Kronos(**{**PREDICTOR, "n_layers": 2}).eval()
    s, stamp = torch.zeros(3, 7, dtype=torch.int64), torch.zeros(3, 7, 5)
    state = predictor.prefill(s, s, stamp, paths=4, steps=5)
    caches = [*state.blocks, state.dependency]
    held = sum(
        t.numel() * t.element_size() for c in caches for t in (c.keys, c.values, c.own_keys, c.own_values)
    )
    assert held == 3 * (7 + 4 * 5) * cost.cache_bytes_per_token(predictor.config)
