#!/usr/bin/env python3
"""Checks on a GPU: its tests, both stages in every precision, speed, memory, generation. Data are generated
here.

Each check is a process of its own with a time limit, so that one that fails is named and the others still
run. A JSON line per figure, then a table. --cpu: the same checks, small, on a processor.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

import numpy as np

from kronos.config import Config, Precision, to_dict
from kronos.data.store_writer import store_from_dict
from kronos.records import read_json

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 240
"""Seconds that one check may take."""
NOISE = 0.05
"""How far the loss of half precision may lie from float32's, relatively."""
PLAIN = (int, float)
TARGETS = {
    ("training speed, base", "rows.1.share_of_peak"): (0.38, 1),
    ("training speed, mini", "rows.1.bars_per_second"): (5e6, 1),
    ("generation, base, 1000 x 120", "cached_s_392_120"): (4.0, -1),
    ("generation, base, 5000 x 30 x 100", "paths_s_256_30"): (60.0, -1),
}
"""Goals on one H100: a figure, and whether it has to be at least (1) or at most (-1) that."""
BEST = "best.value"
"""The best validation loss in a stage's summary."""


@dataclass(frozen=True)
class Check:
    """A command, and what its last line says."""

    name: str
    command: list[str]
    kind: str = "json"
    """json: its last line is an object of figures; tests: pytest's own words; stage: a summary.json is
    left
    """
    summary: Path | None = None


@dataclass(frozen=True)
class Found:
    """What became of a check."""

    name: str
    seconds: float
    figures: dict[str, Any]
    error: str = ""


def checks(cpu: bool, folder: Path) -> Iterator[Check]:
    """All of them; the stages come first, since everything else rests on them."""
    yield from stages(cpu, folder)
    train, generate = (
        str(ROOT / "scripts" / "bench" / name) for name in ("bench_train.py", "bench_generate.py")
    )
    if cpu:
        small = [
            "--preset",
            "nano",
            "--batch",
            "4",
            "--window",
            "33",
            "--pairs",
            "1",
            "--stage",
            "basemodel",
            "--cpu",
        ]
        yield Check("memory, nano", [train, *small, "--memory"])
        yield Check(
            "generation, nano",
            [generate, "--preset", "nano", "--series", "2", "--paths", "2", "--scenario", "33+4"],
        )
        return
    yield Check("tests marked gpu", ["-m", "pytest", "-q", "-m", "gpu", str(ROOT / "tests")], "tests")
    for name in ("mini", "base"):
        yield Check(f"training speed, {name}", [train, "--preset", name, "--batch", "64"])
        yield Check(
            f"training speed, {name}, compiled", [train, "--preset", name, "--batch", "64", "--compile"]
        )
        yield Check(f"memory, {name}", [train, "--preset", name, "--batch", "64", "--memory"])
    on = ["--preset", "base", "--device", "cuda", "--precision", "bf16"]
    long = ["--series", "1000", "--paths", "1", "--scenario", "392+120"]
    yield Check("generation, base, 1000 x 120", [generate, *on, *long])
    yield Check("generation, base, 1000 x 120, CUDA graphs", [generate, *on, *long, "--cuda-graphs"])
    many = ["--series", "5000", "--paths", "100", "--scenario", "256+30"]
    yield Check("generation, base, 5000 x 30 x 100", [generate, *on, *many])
    yield Check(
        "probabilities, base, 5000", [generate, *on, "--only-many", "--many", "5000", "--measured", "5000"]
    )


def stages(cpu: bool, folder: Path) -> Iterator[Check]:
    """Both stages in every precision, from a store and a resolved configuration made here, through
    accelerate's launcher.
    """
    write_store(folder / "store", tickers=8 if cpu else 100)
    precisions: list[Precision] = ["no", "bf16"] if cpu else ["no", "bf16", "fp16"]
    for precision in precisions:
        path = write_config(folder, precision, cpu)
        for stage in ("tokenizer", "basemodel", "head"):
            launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
            launch += ["--mixed_precision", "no", "--dynamo_backend", "no", *(["--cpu"] if cpu else [])]
            command = [
                *launch,
                str(ROOT / "kaggle" / "train_stage.py"),
                "--config",
                str(path),
                "--stage",
                stage,
            ]
            yield Check(
                f"{stage}, {precision}", command, "stage", folder / precision / stage / "summary.json"
            )

    first = str(folder / "no" / "pipeline_config.json")
    parts = str(ROOT / "scripts" / "gpu_parts.py")
    yield Check("resume, bit for bit", [parts, "resume", "--config", first])
    if not cpu:  # a processor's memory cannot be made smaller
        yield Check("full memory", [parts, "full-memory", "--config", first])
        path = write_config(folder, "bf16", cpu, compiled=True)
        for stage in ("tokenizer", "basemodel"):
            summary = folder / "bf16-compiled" / stage / "summary.json"
            command = [str(ROOT / "kaggle" / "train_stage.py"), "--config", str(path), "--stage", stage]
            yield Check(f"{stage}, bf16, compiled", command, "stage", summary)


def write_store(path: Path, tickers: int, days: int = 400) -> None:
    """Random walks."""
    rng = np.random.default_rng(0)
    dates = np.datetime64("2020-01-01") + np.arange(days)
    series = {}
    for number in range(tickers):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, days)))
        volume = rng.lognormal(10, 0.3, days)
        bars = np.stack([close, close * 1.01, close * 0.99, close, volume, volume * close], axis=1)
        series[f"T{number}"] = (dates, bars.astype(np.float32))
    store_from_dict(path, series)


def write_config(folder: Path, precision: Precision, cpu: bool, compiled: bool = False) -> Path:
    """A resolved configuration: nothing is read but this file and the store."""
    c, run = Config(), folder / precision
    if compiled:
        run = folder / f"{precision}-compiled"
    steps = 4 if cpu else 200
    training = replace(c.training, max_steps=steps, batch_size=4 if cpu else 64, num_workers=0, trackers=[])
    training = replace(
        training,
        mixed_precision=precision,
        validation_samples=32,
        tokenizer_learning_rate=1e-3,
        compile=compiled,
    )
    head = replace(c.head, every=2, stocks_per_date=64, bar_lookback=60, horizons=[1, 5])
    if cpu:
        head = replace(head, width=16, layers=1)
    paths = replace(
        c.model_paths, base_save_path=str(run), finetuned_tokenizer=str(run / "tokenizer" / "best_model")
    )
    data = replace(
        c.data, store=str(folder / "store"), data_path="unused", lookback_window=32, predict_window=4
    )
    config = replace(
        c,
        training=training,
        head=head,
        model_paths=paths,
        data=replace(data, train_ratio=0.8, val_ratio=0.2),
        experiment=replace(
            c.experiment, pre_trained=False, preset="nano" if cpu else "mini", name="gpu-check"
        ),
        device=replace(c.device, use_cuda=not cpu),
    )
    run.mkdir(parents=True, exist_ok=True)
    path = run / "pipeline_config.json"
    path.write_text(json.dumps(to_dict(config)), encoding="utf-8")
    return path


# -- running -------------------------------------------------------------------------------------------------
def run(check: Check) -> Found:
    """Run one check and read what it says."""
    started = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *check.command], capture_output=True, text=True, timeout=LIMIT, cwd=ROOT
        )
        words = (done.stderr.strip() or done.stdout.strip()).splitlines() or ["no output"]
        error = "" if done.returncode == 0 else f"exit code {done.returncode}: {words[-1][:200]}"
        figures = {} if error else read_figures(check, done.stdout)
    except subprocess.TimeoutExpired:
        figures, error = {}, f"took more than {LIMIT} s"
    except (OSError, ValueError) as wrong:
        figures, error = {}, f"no figures: {wrong}"[:200]
    return Found(check.name, round(time.monotonic() - started, 1), figures, error)


def read_figures(check: Check, output: str) -> dict[str, Any]:
    """Numbers by name. Raises ValueError or OSError where there are none."""
    if check.kind == "tests":
        return {"pytest": output.strip().splitlines()[-1]}
    tree = read_json(check.summary) if check.summary else json.loads(output.strip().splitlines()[-1])
    figures = dict(flat(tree))
    if check.summary:
        figures = {
            name: value for name, value in figures.items() if name.startswith("best.") or name == "step"
        }
    if not figures:
        raise ValueError("the last line holds none")
    return figures


def flat(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The numbers of a tree, by their way in it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, f"{name}.{key}".strip("."))
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from flat(value, f"{name}.{place}".strip("."))
    elif isinstance(tree, PLAIN) and not isinstance(tree, bool):
        yield name, tree


def far_losses(found: list[Found]) -> Iterator[Found]:
    """Half precision's loss beside float32's, where both are known."""
    losses = {one.name: one.figures[BEST] for one in found if BEST in one.figures}
    for stage in ("tokenizer", "basemodel", "head"):
        for precision in ("bf16", "fp16", "bf16, compiled"):
            pair = losses.get(f"{stage}, no"), losses.get(f"{stage}, {precision}")
            if pair[0] is None or pair[1] is None:
                continue
            away = abs(pair[1] - pair[0]) / max(abs(pair[0]), 1e-9)
            error = (
                f"expected a loss within {NOISE:.0%} of float32's {pair[0]:.4f}, found {pair[1]:.4f}"
                if away > NOISE
                else ""
            )
            yield Found(f"{stage}, {precision} against float32", 0.0, {"difference": round(away, 5)}, error)


def targets(found: list[Found]) -> Iterator[str]:
    """A line for every goal: met or not, by how much. A goal that is missed is a finding, not a failure."""
    figures = {(one.name, name): value for one in found for name, value in one.figures.items()}
    for (check, name), (goal, sign) in TARGETS.items():
        value = figures.get((check, name))
        if value is None:
            continue
        word = "met" if sign * value >= sign * goal else "MISSED"
        bound = "at least" if sign > 0 else "at most"
        yield f"{word}: {check}, {name}: {bound} {goal:g}, found {value:g}"


def say(found: Found) -> None:
    """A JSON line per figure, or one that names the failure."""
    if found.error:
        print(json.dumps({"check": found.name, "error": found.error, "seconds": found.seconds}), flush=True)
    for name, value in found.figures.items():
        print(json.dumps({"check": found.name, "figure": name, "value": value}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cpu", action="store_true", help="small, on a processor")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="only the checks whose name holds one of these texts"
    )
    args = parser.parse_args()
    found: list[Found] = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as holder:
        for check in checks(args.cpu, Path(holder)):
            if any(text in check.name for text in args.only):
                found.append(run(check))
                say(found[-1])
    for one in far_losses(found):
        found.append(one)
        say(one)
    width = max(len(one.name) for one in found) if found else 0
    for one in found:
        print(f"{one.name:{width}}  {one.seconds:7.1f} s  {'FAILED: ' + one.error if one.error else 'ok'}")
    for line in targets(found):
        print(line)
    return 1 if not found or any(one.error for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
