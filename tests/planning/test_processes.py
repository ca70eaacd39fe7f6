"""A benchmark whose processes do not sum would be fast: a step of several is the step of one on the joined
batch.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kronos.config import Config
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.presets import preset
from kronos.planning.probe import Networks, ProbedStage, random_batch
from kronos.planning.processes import Crew, Part, crew
from kronos.training.facts import STAGES, Stage


def without_dropout() -> Networks:
    tokenizer, predictor = (
        {k: 0.0 if k.endswith("dropout_p") else v for k, v in c.items()} for c in preset("nano")
    )
    return KronosTokenizer.config_class(**tokenizer), Kronos.config_class(**predictor)


def config_of(processes: int) -> Config:
    config = Config()
    data = replace(config.data, lookback_window=32, predict_window=1)
    return replace(
        config,
        data=data,
        distributed=replace(config.distributed, num_processes=processes),
    )


def weights_and_moments(part: Part) -> dict[str, Tensor]:
    """After one step from nothing, Adam's first moment is a tenth of the clipped gradient: all that a wrong
    sum could change. The weights alone would hide a wrong factor."""
    names = {p: name for name, p in part.run.objective.named_parameters()}
    moments = {
        f"moment of {names[p]}": state["exp_avg"].clone() for p, state in part.run.optimizer.state.items()
    }
    return moments | {name: p.detach().clone() for p, name in names.items()}


def killed_in_the_second(part: Part) -> None:
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    part.run.step(part.batch)


def alone(stage: Stage, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    config = config_of(1)
    torch.manual_seed(config.training.seed)
    part = Part(ProbedStage(config, stage, without_dropout(), torch.device("cpu"), "no"), batch)
    part.run.step(batch)
    return weights_and_moments(part)


@pytest.fixture(scope="module", params=STAGES)
def joined(request: pytest.FixtureRequest) -> Iterator[tuple[Stage, dict[str, Tensor], Crew]]:
    """Two processes after one step."""
    torch.manual_seed(0)
    batch = random_batch(4, 33, torch.device("cpu"))
    with crew(config_of(2), request.param, without_dropout(), "no", batch) as together:
        together.step()
        yield request.param, batch, together


def test_a_step_of_two_processes_is_that_of_one_on_the_joined_batch(
    joined: tuple[Stage, dict[str, Tensor], Crew],
) -> None:
    """Keeps out gradients of a process's own windows, and bit probabilities that were not summed (the
    tokenizer's entropy).
    """
    stage, batch, together = joined
    first, second = together.each(weights_and_moments)
    expected = alone(stage, batch)
    assert first.keys() == expected.keys()
    assert all(torch.equal(first[name], second[name]) for name in first), "the processes went apart"
    for name, value in expected.items():
        tolerance = (
            1e-7 if name.startswith("moment") else 5e-6
        )  # a step is 2e-4 or 4e-5, whatever the gradient's size
        torch.testing.assert_close(
            first[name], value, rtol=1e-4, atol=tolerance, msg=f"{name} is another one"
        )


def test_a_process_that_dies_ends_the_step(joined: tuple[Stage, dict[str, Tensor], Crew]) -> None:
    """The other one waits for its gradients; a benchmark that waits for that one hangs. Last, for both are of
    no use then.
    """
    with pytest.raises(KitError, match=r"expected 2 processes to train together, found: process .: [^\n]*$"):
        joined[2].each(killed_in_the_second)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    """Rounded shares would be another batch, whose windows per second are then wrong."""
    batch = random_batch(5, 33, torch.device("cpu"))
    with (
        pytest.raises(KitError, match="found 5"),
        crew(config_of(2), "tokenizer", without_dropout(), "no", batch),
    ):
        pass


def test_the_benchmark_says_how_many(root: Path) -> None:
    """In its JSON line, for whoever compares one process with two."""
    command = [
        sys.executable,
        str(root / "scripts/bench/bench_train.py"),
        "--preset",
        "nano",
        "--window",
        "33",
        "--batch",
        "4",
    ]
    command += ["--pairs", "1", "--cpu", "--stage", "tokenizer", "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["processes"] == 2 and found["rows"][0]["ratio"] > 0
