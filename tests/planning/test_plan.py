"""The plan of a run: what it reads, what it adds up, and how it ends."""

import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_store

from kronos.config import Config
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, cost
from kronos.planning.devices import DEVICES, Device, find_device
from kronos.planning.head_plan import _random_date
from kronos.planning.measure import peak_bytes
from kronos.planning.plan import (
    MATMUL_SHARE,
    check_fit,
    describe,
    epoch_seconds,
    estimate,
    make_plan,
    network_configs,
    stage_flops,
    stage_seconds,
)
from kronos.training.facts import StageData
from kronos.training.head import HeadObjective, new_head
from kronos.training.head_data import HeadData

T4 = DEVICES["T4"]


def planned(tmp_path: Path, device: Device = T4, **settings: Any):  # type: ignore[no-untyped-def]
    return make_plan(tiny_config(tmp_path, **settings), device, probing=False)


def test_windows_come_from_the_prepared_data(tmp_path: Path) -> None:
    """A plan for another number of steps than the run will have is worth nothing."""
    store = tiny_store(tmp_path / "store")
    config = tiny_config(tmp_path)
    for stage in make_plan(config, T4, probing=False).stages:
        order = StageData.of(config, stage.stage, store).plan
        assert stage.order is not None and stage.order.total_steps == order.total_steps
        assert stage.validation == 20


def test_without_prepared_data_the_plan_says_what_it_assumes(tmp_path: Path) -> None:
    """No number is made up: an epoch is samples_per_epoch windows, or its time is unknown."""
    text = "\n".join(describe(planned(tmp_path)))
    assert "taken as training.samples_per_epoch" in text and "an epoch of 22 windows" in text
    text = "\n".join(describe(planned(tmp_path, training__samples_per_epoch=None)))
    assert "windows: unknown" in text and "an epoch: unknown until the data is prepared" in text


def test_times_add_up(tmp_path: Path) -> None:
    """Steps times seconds, plus a third of them for each validated batch; max_steps shortens a stage."""
    plan = planned(
        tmp_path,
        training__samples_per_epoch=4000,
        training__validation_samples=400,
        training__accumulation_steps=2,
    )
    stage = plan.stages[0]
    assert stage.step_seconds is not None
    assert epoch_seconds(plan.config, stage) == pytest.approx(stage.step_seconds * (1000 + 100 / 3))
    whole = stage_seconds(plan.config, stage)
    assert whole == pytest.approx(2 * stage.step_seconds * (1000 + 100 / 3))
    short = planned(
        tmp_path, training__samples_per_epoch=4000, training__validation_samples=400, training__max_steps=100
    )
    assert short.stages[0].order is not None and short.stages[0].order.total_steps == 100


def test_estimates_follow_precision_and_device(tmp_path: Path) -> None:
    """The frozen tokenizer's products run in float32 whatever the precision; checkpointing costs another
    forward pass.
    """
    config = tiny_config(tmp_path)
    parts = stage_flops("basemodel", network_configs(config), 257)
    frozen = parts["frozen tokenizer"].total
    found = estimate(config, replace(T4, bandwidth=1e30), "fp16", parts, 0, config.training.batch_size)
    rest = cost.total(parts).total - frozen
    assert found == pytest.approx(
        config.training.batch_size * (rest / 65e12 + frozen / 8.1e12) / MATMUL_SHARE
    )
    again = replace(config, training=replace(config.training, use_checkpoint=True))
    slower = estimate(again, T4, "fp16", parts, 0, config.training.batch_size)
    assert slower is not None and slower > estimate(config, T4, "fp16", parts, 0, config.training.batch_size)  # type: ignore[operator]
    assert estimate(config, replace(T4, peak={}), "fp16", parts, 0, config.training.batch_size) is None


def test_auto_precision_is_the_devices(tmp_path: Path) -> None:
    """T4 and P100 have no bf16: a plan with it would be half of the truth."""
    assert [planned(tmp_path, DEVICES[d]).precision for d in ("T4", "P100", "A100", "H100")] == [
        "fp16",
        "fp16",
        "bf16",
        "bf16",
    ]
    with pytest.raises(KitError, match="expected one that T4 has"):
        planned(tmp_path, training__mixed_precision="bf16")


def test_a_batch_that_cannot_fit_is_refused_with_one_that_can(tmp_path: Path) -> None:
    """And the remedy keeps the effective batch."""
    plan = planned(tmp_path, training__batch_size=10**7)
    with pytest.raises(
        KitError, match=r"set training.batch_size=\d+ and training.accumulation_steps=\d+"
    ) as caught:
        check_fit(plan)
    batch, steps = map(int, re.findall(r"(?:batch_size|accumulation_steps)=(\d+)", str(caught.value)))
    assert batch * steps >= 10**7
    fitting = planned(tmp_path, training__batch_size=batch)
    assert fitting.stages[0].memory.total <= T4.usable
    with pytest.raises(KitError, match="choose a smaller network"):
        check_fit(planned(tmp_path, replace(T4, memory=843 * 10**6)))


@pytest.mark.parametrize(
    ("processes", "line"), [(1, "batch 96 x 1"), (2, "batch 48 x 1"), (5, "batch 20 x 1")]
)
def test_micro_batches_follow_from_the_windows_of_a_step(tmp_path: Path, processes: int, line: str) -> None:
    """A step of 96 windows is planned as it is trained on GPUs: each has its share, rounded up."""
    spread = {"distributed__num_processes": processes}
    plan = planned(tmp_path, training__windows_per_step=96, **spread)
    assert line in describe(plan)[0]


def test_micro_batches_of_a_large_step_fit(tmp_path: Path) -> None:
    """Keeps out a plan that refuses a step which the trainer would cut until it fits."""
    plan = planned(tmp_path, training__windows_per_step=1_000_000)
    check_fit(plan)
    t = plan.config.training
    assert t.accumulation_steps > 1 and t.batch_size * t.accumulation_steps >= 1_000_000


def test_a_run_longer_than_its_session_is_warned_of(tmp_path: Path) -> None:
    """The user learns it now and not after twelve hours."""
    settings: dict[str, Any] = {"training__samples_per_epoch": 10**9, "training__time_limit": 0.5}
    assert any(
        "exceed training.time_limit (0.5 h)" in line for line in describe(planned(tmp_path, **settings))
    )
    settings["training__samples_per_epoch"] = 1000
    assert not any("WARNING" in line for line in describe(planned(tmp_path, **settings)))


def test_published_networks_need_no_download(tmp_path: Path) -> None:
    """Their sizes are known; a folder's are read; of anything else the plan says that it cannot know."""
    config = tiny_config(tmp_path, experiment__pre_trained=True)
    paths = replace(
        config.model_paths,
        pretrained_tokenizer="NeoQuasar/Kronos-Tokenizer-base",
        pretrained_predictor="NeoQuasar/Kronos-small",
    )
    tokenizer, predictor = network_configs(replace(config, model_paths=paths))
    assert sum(cost.tokenizer_parameters(tokenizer).values()) == 3_958_042
    assert sum(cost.predictor_parameters(predictor).values()) == 24_741_376
    with pytest.raises(KitError, match="download it first"):
        network_configs(replace(config, model_paths=replace(paths, pretrained_predictor="someone/else")))


def test_the_probe_steps_the_real_stages_here(tmp_path: Path) -> None:
    """`auto` on a machine without GPU: two steps of both stages, and the text says that they were run."""
    config = tiny_config(tmp_path)
    plan = make_plan(config, find_device("auto", config), probing=True)
    assert plan.probed and all(stage.step_seconds for stage in plan.stages)
    assert any("two steps of each stage, run here" in line for line in describe(plan))
    with pytest.raises(KitError, match="expected auto or one of T4"):
        find_device("TPU", Config())
    assert plan.device.kind == "cpu" or torch.cuda.is_available()


@pytest.mark.parametrize("inputs", ["tokens", "bars", "both"])
def test_the_head_is_planned_too(tmp_path: Path, inputs: str) -> None:
    """A third stage that the plan leaves out makes every sum of hours and every fit of memory too small."""
    store = tiny_store(tmp_path / "store", tickers=12)
    small = {"inputs": inputs, "stocks_per_date": 16, "bar_lookback": 20, "horizons": [1, 2]}
    config = tiny_config(
        tmp_path, experiment__train_head=True, **{f"head__{key}": value for key, value in small.items()}
    )
    plan = make_plan(config, find_device("auto", config), probing=True)
    head = plan.stages[-1]
    networks = network_configs(config)
    read = inputs != "bars"
    built = new_head(
        config,
        Kronos(**asdict(networks[1])) if read else None,
        KronosTokenizer(**asdict(networks[0])) if read else None,
    )
    assert head.parameters == sum(p.numel() for p in built.parameters())
    assert head.order is not None and head.order.total_steps == HeadData.of(config, store).plan.total_steps
    text = "\n".join(describe(plan))
    assert f"head: {head.parameters:,} parameters" in text and "rows/s" in text and "dates: " in text
    batch = _random_date(config, torch.device("cpu"))
    objective = HeadObjective(built, sign_weight=0.5, trunk_share=0.1).train()
    measured = peak_bytes(
        lambda: objective(batch, lambda joint: joint)["loss"].backward(), torch.device("cpu")
    )
    assert 0.7 < head.memory.step / measured < 2.5, (head.memory, measured)
    larger = replace(config, head=replace(config.head, stocks_per_date=10**9))
    with pytest.raises(KitError, match=r"head: expected at most .*set head\.stocks_per_date=\d+"):
        check_fit(make_plan(larger, T4, probing=False))


def test_the_script(root: Path, tmp_path: Path) -> None:
    """From any directory; 0 with a table, 2 with one line on stderr."""
    command = [
        sys.executable,
        str(root / "scripts/plan_run.py"),
        "--config",
        str(root / "configs/kaggle.yaml"),
        "--device",
        "T4",
    ]
    done = subprocess.run(
        [*command, "--num-gpus", "2"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for part in ("2 x T4", "24,741,376 parameters", "largest batch that fits", "ASSUMED", "AdamW"):
        assert part in done.stdout
    done = subprocess.run(
        [*command, "--set", "training.batch_size=100000"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "batch_size=" in done.stderr
