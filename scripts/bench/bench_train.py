#!/usr/bin/env python3
"""How fast training is: windows/s, bars/s, FLOP/s and the share of the device's peak, against the plain
float32 eager loop.

Both train the same networks on the same windows in turn, a step each, so that a machine that is busy now and
then slows both. The plain loop is `scripts/bench/plain.py`. The peak is a GPU's from the table of devices,
else that of a large float32 matrix product measured in between. --processes N: the kit's step is shared by N
processes on the processor, the plain loop stays one with all threads. --memory compares predicted with
measured memory instead. One JSON line last.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from a clone, without an installation

import torch

from kronos import cli
from kronos.config import Config
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, cost
from kronos.networks.presets import PRESETS, preset
from kronos.planning.devices import matmul_rate, this_gpu
from kronos.planning.measure import peak_bytes, seconds
from kronos.planning.plan import memory_of, stage_flops
from kronos.planning.probe import Networks, ProbedStage, random_batch
from kronos.planning.processes import crew
from kronos.training.device import allow_tf32, precision
from scripts.bench.plain import PlainStage

Row = dict[str, Any]
Batch = dict[str, torch.Tensor]
Step = Callable[[], object]


def networks_of(name: str) -> Networks:
    tokenizer, predictor = preset(name)
    return KronosTokenizer.config_class(**tokenizer), Kronos.config_class(**predictor)


def config_of(given: argparse.Namespace, recompute: bool | None = None) -> Config:
    data = replace(Config().data, lookback_window=given.window - 1, predict_window=1)
    training = replace(
        Config().training,
        batch_size=given.batch,
        compile=given.compile,
        use_checkpoint=given.checkpoint if recompute is None else recompute,
    )
    distributed = replace(Config().distributed, num_processes=given.processes)
    return replace(Config(), data=data, training=training, distributed=distributed)


def peak_rate(device: torch.device, kind: str) -> float:
    """FLOP/s of the device: by the table, or measured where the table does not know it."""
    known = None if device.type == "cpu" else this_gpu(0).rate(kind, tf32=True)
    types = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return known or matmul_rate(device, types[kind])


def tf32(device: torch.device, allowed: bool) -> None:
    """The kit allows TF32 on a GPU; the plain float32 loop has none."""
    if device.type == "cuda":
        allow_tf32(allowed)


@contextmanager
def kit_step(
    config: Config, stage: Any, networks: Networks, device: torch.device, kind: str, batch: Batch
) -> Iterator[Step]:
    """A step of the kit: in this process, or shared by several."""
    if config.distributed.num_processes > 1:
        with crew(config, stage, networks, kind, batch) as together:
            yield together.step
    else:
        run = ProbedStage(config, stage, networks, device, kind)
        yield lambda: run.step(batch)


def plain_step(config: Config, stage: Any, networks: Networks, device: torch.device, batch: Batch) -> Step:
    """A step of the plain loop."""
    tokenizer = KronosTokenizer(**asdict(networks[0]))
    predictor = None if stage == "tokenizer" else Kronos(**asdict(networks[1]))
    plain = PlainStage(tokenizer, predictor, config.training.grad_clip(stage)).to(device)
    return lambda: plain.step(batch)


def speed(given: argparse.Namespace, stage: Any, device: torch.device, kind: str) -> Row:
    """A step of the kit and a step of the plain loop in turn; medians, and the median of their ratios."""
    networks, config = networks_of(given.preset), config_of(given)
    batch = random_batch(given.batch, given.window, device)
    plain = plain_step(config, stage, networks, device, batch)
    times, peaks = [], []
    with kit_step(config, stage, networks, device, kind, batch) as ours:
        for _ in range(2):
            ours()
            plain()
        for _ in range(given.pairs):
            tf32(device, True)
            fast = seconds(ours, device)
            peaks.append(peak_rate(device, kind))
            tf32(device, False)
            times.append((fast, seconds(plain, device)))
    took, slow = (statistics.median(column) for column in zip(*times, strict=True))
    rate = cost.total(stage_flops(stage, networks, given.window)).total * given.batch / took
    return {
        "preset": given.preset,
        "stage": stage,
        "windows_per_second": round(given.batch / took, 1),
        "bars_per_second": round(given.batch * given.window / took),
        "gflops": round(rate / 1e9, 1),
        "peak_gflops": round(max(peaks) / 1e9, 1),
        "share_of_peak": round(rate / max(peaks), 3),
        "plain_windows_per_second": round(given.batch / slow, 1),
        "ratio": round(statistics.median(b / a for a, b in times), 2),
        "ratios": [round(b / a, 2) for a, b in times],
    }


def memory(given: argparse.Namespace, stage: Any, device: torch.device, kind: str, recompute: bool) -> Row:
    """Predicted and measured growth during forward and backward."""
    networks, config = networks_of(given.preset), config_of(given, recompute)
    run = ProbedStage(config, stage, networks, device, kind)
    batch = random_batch(given.batch, given.window, device)
    measured = peak_bytes(lambda: run.gradients(batch), device)
    predicted = memory_of(config, stage, networks, kind, device.type == "cpu")(given.batch).step
    row = {
        "preset": given.preset,
        "stage": stage,
        "checkpointing": recompute,
        "measured_mb": round(measured / 1e6, 1),
    }
    return {**row, "predicted_mb": round(predicted / 1e6, 1), "error": round(predicted / measured - 1, 3)}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--preset", choices=sorted(PRESETS), default="mini")
    arguments.add_argument("--stage", choices=["tokenizer", "basemodel", "both"], default="both")
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--window", type=int, default=257, help="bars of a window")
    arguments.add_argument("--precision", choices=["auto", "no", "fp16", "bf16"], default="auto")
    arguments.add_argument("--compile", action="store_true", help="training.compile")
    arguments.add_argument("--checkpoint", action="store_true", help="training.use_checkpoint")
    arguments.add_argument(
        "--processes", type=int, default=1, help="that share each step of the kit on the processor"
    )
    arguments.add_argument("--pairs", type=int, default=5, help="timed steps of each of the two")
    arguments.add_argument("--cpu", action="store_true", help="the processor, also where there is a GPU")
    arguments.add_argument(
        "--memory", action="store_true", help="memory, predicted and measured, instead of speed"
    )
    given = arguments.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() and not given.cpu else "cpu")
    if given.processes < 1 or (given.processes > 1 and (device.type != "cpu" or given.memory)):
        raise KitError(
            f"--processes: expected at least 1, and 1 on a GPU or with --memory, found {given.processes}; see --help"
        )
    kind = precision(given.precision, device)
    stages = ["tokenizer", "basemodel"] if given.stage == "both" else [given.stage]
    if given.memory:
        rows = [
            memory(given, stage, device, kind, recompute) for stage in stages for recompute in (False, True)
        ]
    else:
        rows = [speed(given, stage, device, kind) for stage in stages]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    )
    setting = {name: getattr(given, name) for name in ("processes", "batch", "window", "compile")}
    print(
        json.dumps({"device": where, "precision": kind, **setting, "torch": torch.__version__, "rows": rows})
    )


if __name__ == "__main__":
    cli.run(main)
