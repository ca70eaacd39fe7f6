"""The plain loops compute what the kit computes, so that their speeds can be compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_generate import CONFIG, batch
from test_objectives import batch_of, predictor_objective, tokenizer
from tiny import PREDICTOR

from kronos.forecasting.generate import generate_reference
from kronos.forecasting.sampling import Sampling
from kronos.networks import Kronos
from scripts.bench.plain import PlainPredictor, PlainStage, PlainTokenizer


def gradients(network: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    loss.backward()
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def test_tokenizer() -> None:
    """The same loss, tokens and gradients from the same weights."""
    net, x = tokenizer(), batch_of()["x"]
    plain = PlainTokenizer(net)
    assert all(torch.equal(a, b) for a, b in zip(plain.encode(x), net.encode(x), strict=True))
    ours, theirs = gradients(net, net.loss(x).total), gradients(plain, plain.loss(x))
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-6)


def test_predictor() -> None:
    """Teacher-forced, since a sampled token depends on the generator's use."""
    objective, batch = predictor_objective(), batch_of()
    s1, s2 = objective.tokenizer.encode(batch["x"])
    net = objective.predictor
    plain = PlainPredictor(net, sampled=False)
    ours = gradients(net, net.loss(s1, s2, batch["stamp"]).total)
    torch.testing.assert_close(
        gradients(plain, plain.loss(s1, s2, batch["stamp"])), ours, rtol=1e-4, atol=1e-6
    )


def generators() -> tuple[Kronos, PlainPredictor]:
    """Sharper than fresh networks, so that their likeliest tokens depend on what they have seen; dropout set,
    but off.
    """
    torch.manual_seed(0)
    network = Kronos(**CONFIG)
    for parameter in network.parameters():
        parameter.data.mul_(1.25)
    return network.eval(), PlainPredictor(network).eval()


@pytest.mark.parametrize("paths", [1, 3])
@pytest.mark.parametrize("max_context", [64, 9])
def test_published_generation(paths: int, max_context: int) -> None:
    """A baseline that computes something else makes a ratio meaningless: the likeliest tokens are those of
    the reference loop, decoding as published, series by series, also where the window slides (11 tokens of
    context)."""
    network, plain = generators()
    given = batch()
    likeliest = Sampling(temperature=0, sample_count=paths, decode_rope="original")
    expected = generate_reference(network, **given, sampling=likeliest, max_context=max_context)
    del given["series"]
    found = plain.generate(**given, paths=paths, temperature=0, max_context=max_context)
    assert all(torch.equal(a, b) for a, b in zip(found, (expected.s1, expected.s2), strict=True))
    assert all(len(tokens[:, 0].unique(dim=0)) == len(tokens) for tokens in found), (
        "all series alike would hide a mistake"
    )
    cold = plain.generate(**given, paths=paths, temperature=1e-4, max_context=max_context)
    assert all(torch.equal(a, b) for a, b in zip(found, cold, strict=True))


def test_published_generation_draws() -> None:
    """A baseline whose paths are one path, or whose tokens nothing can decode, would be no forecast."""
    given = batch()
    del given["series"]
    torch.manual_seed(0)
    for tokens, bits in zip(
        generators()[1].generate(**given, paths=5), (CONFIG["s1_bits"], CONFIG["s2_bits"]), strict=True
    ):
        assert tokens.shape == (4, 5, 6) and tokens.min() >= 0 and tokens.max() < 2**bits
        assert all(len(series.unique(dim=0)) == 5 for series in tokens)


def test_stages_learn() -> None:
    """A baseline whose steps do nothing would be fast."""
    batch = batch_of()
    for predictor in (None, Kronos(**PREDICTOR)):
        stage = PlainStage(tokenizer(), predictor, clip=1.0).to(torch.device("cpu"))
        before = [p.detach().clone() for p in stage.trained.parameters()]
        assert isinstance(stage.step(batch), float)
        assert any(not torch.equal(a, b) for a, b in zip(before, stage.trained.parameters(), strict=True))


def test_the_benchmark_ends_with_one_json_line(root: Path) -> None:
    """Speed and memory of the smallest preset; the numbers are not judged here."""
    command = [
        sys.executable,
        str(root / "scripts/bench/bench_train.py"),
        "--preset",
        "nano",
        "--batch",
        "4",
        "--window",
        "33",
    ]
    for extra, key in (
        (["--pairs", "1", "--stage", "basemodel"], "ratio"),
        (["--memory", "--stage", "tokenizer"], "error"),
    ):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        assert all(key in row for row in json.loads(done.stdout.splitlines()[-1])["rows"])
