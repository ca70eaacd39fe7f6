"""The networks with their losses: what a sum counts, what it must not, and that it is the published loss."""

import math
from typing import Any

import pytest
import torch
from tiny import LOOKBACK, PREDICT, PREDICTOR, TOKENIZER

from kronos.networks import Kronos, KronosTokenizer
from kronos.training.objectives import Objective, PredictorObjective, TokenizerObjective

BATCH, LENGTH = 6, LOOKBACK + PREDICT


def batch_of(rows: int = BATCH, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random windows with real calendar fields, all counted."""
    dice = torch.Generator().manual_seed(seed)
    stamp = torch.stack(
        [torch.randint(0, n, (rows, LENGTH), generator=dice) for n in (60, 24, 7, 28, 12)], -1
    ) + torch.tensor([0, 0, 0, 1, 1])
    return {
        "x": torch.randn(rows, LENGTH, 6, generator=dice),
        "stamp": stamp.float(),
        "weight": torch.ones(rows, LENGTH),
        "ticker": torch.arange(rows),
        "row": torch.arange(rows),
        "mean": torch.full((rows, 6), 50.0),
        "scale": torch.full((rows, 6), 2.0),
        "real": torch.ones(rows, dtype=torch.bool),
    }


def tokenizer(**changes: Any) -> KronosTokenizer:
    torch.manual_seed(1)
    return KronosTokenizer(**{**TOKENIZER, **changes})


def predictor_objective(**changes: Any) -> PredictorObjective:
    torch.manual_seed(2)
    return PredictorObjective(Kronos(**PREDICTOR), tokenizer(), lookback=LOOKBACK, **changes)


def mean_loss(objective: Objective, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    sums = objective(batch, lambda t: t)
    return sums["loss"] / objective.weight(batch)


def test_tokenizer_mean_is_the_published_loss() -> None:
    """Keeps out a loss that differs from the networks' own by a factor or a part."""
    net, batch = tokenizer(), batch_of()
    loss = mean_loss(TokenizerObjective(net), batch)
    torch.testing.assert_close(loss, net.loss(batch["x"]).total, rtol=1e-5, atol=1e-6)


def test_tokenizer_gradient_is_the_published_gradient() -> None:
    """Keeps out a codebook-entropy surrogate whose value is right and whose gradient is not."""
    net, batch = tokenizer(), batch_of()
    mean_loss(TokenizerObjective(net), batch).backward()
    ours = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    out = net(batch["x"])
    p = torch.sigmoid(out.z * (-4 / math.sqrt(net.quantizer.bits)))

    def entropy(q: torch.Tensor) -> torch.Tensor:
        return -(q * (q + 1e-8).log() + (1 - q) * (1 - q + 1e-8).log()).sum(-1)

    c = net.config
    quantizer = c.beta * (out.code.detach() - out.z).square().sum(-1).mean()
    quantizer = quantizer + c.zeta * (c.gamma0 * entropy(p).mean() - c.gamma * entropy(p.mean((0, 1))))
    x = batch["x"]
    (((out.coarse - x).square().mean() + (out.full - x).square().mean() + quantizer) / 2).backward()
    for a, b in zip(ours, [p.grad for p in net.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_predictor_mean_is_the_published_loss() -> None:
    """Keeps out a shifted target, a missing half and a stamp of the wrong bar."""
    objective, batch = predictor_objective(), batch_of()
    s1, s2 = objective.tokenizer.encode(batch["x"])
    expected = objective.predictor.loss(s1, s2, batch["stamp"]).total
    torch.testing.assert_close(mean_loss(objective, batch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_history_weight_counts_the_lookback_bars_and_no_others(weight: float) -> None:
    """Keeps out an off-by-one at the border: target bar `lookback` is the first predicted one and weighs
    1.
    """
    objective, batch = predictor_objective(history_loss_weight=weight), batch_of()
    tokens = objective.tokenizer.encode(batch["x"])
    nll1, nll2 = objective.predictor.nll(*tokens, batch["stamp"])
    both = (nll1 + nll2) / 2
    past, ahead = both[:, : LOOKBACK - 1].sum(), both[:, LOOKBACK - 1 :].sum()
    counted = BATCH * (weight * (LOOKBACK - 1) + PREDICT)
    assert objective.weight(batch) == pytest.approx(counted)
    torch.testing.assert_close(
        mean_loss(objective, batch), (weight * past + ahead) / counted, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["tokenizer", "predictor"])
def test_padding_rows_change_nothing(kind: str) -> None:
    """Keeps out padded rows in the gradient of an epoch's last batch."""
    objective = TokenizerObjective(tokenizer()) if kind == "tokenizer" else predictor_objective()
    batch, padded = batch_of(), batch_of(BATCH + 3)
    padded = {name: torch.cat((batch[name], value[BATCH:])) for name, value in padded.items()}
    padded["weight"][BATCH:] = 0
    losses = [mean_loss(objective, b) for b in (batch, padded)]
    grads = [torch.autograd.grad(loss, list(objective.network().parameters())) for loss in losses]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_frozen_tokenizer_stays_in_eval_mode_and_without_gradient() -> None:
    """Keeps out dropout in the tokens that are the predictor's targets, and a tokenizer that drifts along."""
    torch.manual_seed(2)
    objective = PredictorObjective(Kronos(**PREDICTOR), tokenizer(ffn_dropout_p=0.5), lookback=LOOKBACK)
    objective.train()
    assert objective.predictor.training and not objective.tokenizer.training
    mean_loss(objective, batch_of()).backward()
    assert all(p.grad is None for p in objective.tokenizer.parameters())


def test_teacher_forcing_off_conditions_on_samples() -> None:
    """Keeps out a setting that nothing reads: with sampled coarse tokens the fine loss changes from seed to
    seed.
    """
    batch = batch_of()
    sampled = predictor_objective(teacher_forcing=False)
    forced = predictor_objective()
    torch.manual_seed(5)
    a = sampled(batch, lambda t: t)
    torch.manual_seed(6)
    b = sampled(batch, lambda t: t)
    assert float(a["s2"]) != float(b["s2"]) and float(a["s1"]) == float(b["s1"])
    assert float(forced(batch, lambda t: t)["s2"]) == float(forced(batch, lambda t: t)["s2"])


@pytest.mark.parametrize("kind", ["tokenizer", "predictor"])
def test_validation_does_not_depend_on_the_batching(kind: str) -> None:
    """Keeps out means of batch means: sums of uneven batches, in any order, give the same report."""
    objective = TokenizerObjective(tokenizer()) if kind == "tokenizer" else predictor_objective()
    objective.eval()
    batch = batch_of(11)
    batch["weight"][3, :8] = 0

    def report(*cuts: slice) -> dict[str, float]:
        sums: dict[str, list[float]] = {}
        with torch.no_grad():
            for cut in cuts:
                for name, value in objective.evaluate({k: v[cut] for k, v in batch.items()}).items():
                    flat = value.reshape(-1).tolist()
                    sums[name] = [a + b for a, b in zip(sums.get(name, [0.0] * len(flat)), flat, strict=True)]
        return objective.report(sums)

    whole, parts = report(slice(0, 11)), report(slice(7, 11), slice(0, 3), slice(3, 7))
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5), name


def test_validation_reads_the_predicted_bars_only() -> None:
    """Keeps out the leak of a lookback loss into the choice of the best network: bars normalised with their
    own future.
    """
    objective = predictor_objective().eval()
    batch = batch_of()
    with torch.no_grad():
        sums = objective.evaluate(batch)
        tokens = objective.tokenizer.encode(batch["x"])
        nll1, _ = objective.predictor.nll(*tokens, batch["stamp"])
    values = objective.report({k: v.reshape(-1).tolist() for k, v in sums.items()})
    assert float(sums["weight"]) == BATCH * PREDICT
    assert values["s1"] == pytest.approx(float(nll1[:, -PREDICT:].mean()), rel=1e-5)
    assert values["history_s1"] == pytest.approx(float(nll1[:, :-PREDICT].mean()), rel=1e-5)
    assert values["s1_uniform"] == pytest.approx(3 * math.log(2))


def test_validation_of_a_bar_does_not_see_later_bars() -> None:
    """Keeps out the eval-mode cross-attention that sees the future: a change of the last bar leaves the
    others' losses alone.
    """
    objective = predictor_objective().eval()
    batch = batch_of()
    changed = {**batch, "x": batch["x"].clone()}
    changed["x"][:, -1] = -changed["x"][:, -1] + 1
    for b in (batch, changed):
        b["weight"] = b["weight"].clone()
        b["weight"][:, -1] = 0
    with torch.no_grad():
        a, b = objective.evaluate(batch), objective.evaluate(changed)
    for name in ("s1", "s2", "history_s1", "history_s2"):
        assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-6), name


def test_direction_counts_the_first_predicted_bar() -> None:
    """Keeps out a comparison with the wrong bar, and the tokenizer's own error counted as a move.

    A decoder that answers the truth, off by a constant or not, is always right; one that answers its
    negative, never.
    """
    objective, batch = predictor_objective().eval(), batch_of()
    for sign, offset, right in ((1, 0.0, BATCH), (1, 5.0, BATCH), (-1, 5.0, 0)):
        objective.tokenizer.decode = lambda s1, s2, a=sign, b=offset: a * batch["x"][:, : s1.shape[1]] + b  # type: ignore[method-assign, misc]
        with torch.no_grad():
            sums = objective.evaluate(batch)
        assert float(sums["direction_weight"]) == BATCH
        assert float(sums["direction"]) == right


def test_direction_is_decoded_in_full_precision() -> None:
    """In bfloat16 neighbouring closes are often equal, and a tie counts as a fall."""
    objective, batch, seen = predictor_objective().eval(), batch_of(), list[torch.dtype]()
    decode = objective.tokenizer.decode

    def watched(s1: torch.Tensor, s2: torch.Tensor) -> torch.Tensor:
        bars = decode(s1, s2)
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(bars, decode(s1, s2))
        seen.append(bars.dtype)
        return bars

    objective.tokenizer.decode = watched  # type: ignore[method-assign]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        objective.evaluate(batch)
    assert seen == [torch.float32]


def test_codebook_usage_counts_tokens() -> None:
    """Keeps out usage that counts padding, or that is a mean of batches' usages."""
    objective = TokenizerObjective(tokenizer()).eval()
    batch = batch_of(2)
    batch["weight"][1] = 0
    with torch.no_grad():
        sums = objective.evaluate(batch)
        s1, _ = objective.tokenizer.encode(batch["x"])
    values = objective.report({k: v.reshape(-1).tolist() for k, v in sums.items()})
    assert float(sums["s1_counts"].sum()) == LENGTH
    assert values["s1_used"] == len(set(s1[0].tolist())) / 2**3
    assert 1 <= values["s1_code_perplexity"] <= 8
