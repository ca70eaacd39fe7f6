"""The plain loop computes what the kit computes, so that their speeds can be compared."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from test_objectives import batch_of, predictor_objective, tokenizer
from tiny import PREDICTOR

from kronos.networks import Kronos
from kronos.planning.plain import PlainPredictor, PlainStage, PlainTokenizer


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
    torch.testing.assert_close(gradients(plain, plain.loss(s1, s2, batch["stamp"])), ours, rtol=1e-4, atol=1e-6)


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
    command = [sys.executable, str(root / "scripts/bench_train.py"), "--preset", "nano", "--batch", "4", "--window", "33"]
    for extra, key in ((["--pairs", "1", "--stage", "basemodel"], "ratio"), (["--memory", "--stage", "tokenizer"], "error")):
        done = subprocess.run([*command, *extra], capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        assert all(key in row for row in json.loads(done.stdout.splitlines()[-1])["rows"])
