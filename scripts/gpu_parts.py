#!/usr/bin/env python3
"""Parts of scripts/gpu_check.sh that watch a stage while it trains: a kill and a resume, a full memory.

python scripts/gpu_parts.py resume --config F        # a killed run ends with the very weights of an undisturbed one
python scripts/gpu_parts.py full-memory --config F   # a batch that does not fit is halved, and the stage completes

The last line is one JSON object of figures; exit code 1 where it is not as it should be.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone, without an installation

from kronos.config import Config, from_dict, to_dict
from kronos.records import read_json

ROOT = Path(__file__).resolve().parents[1]
STEPS, SAVED = 40, 10
PATIENCE = 200
"""Seconds that a stage may take."""

EXACT = """
import os, sys
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
import torch
torch.use_deterministic_algorithms(True)
"""
"""Before a stage that has to repeat its bits: kernels with one order of summation."""
CRAMPED = """
import os, sys
import torch
torch.cuda.set_per_process_memory_fraction({share})
"""
"""Before a stage that is to run out of memory: the device looks smaller than it is."""
STAGE = """
import runpy
sys.argv = ["train_stage.py", "--config", {config!r}, "--stage", "basemodel"]
runpy.run_path({script!r}, run_name="__main__")
"""


def start(config: Path, before: str, output: Path) -> subprocess.Popen[bytes]:
    """The predictor's stage in a process of its own, in a group that can be killed."""
    code = before + STAGE.format(config=str(config), script=str(ROOT / "kaggle" / "train_stage.py"))
    with output.open("ab") as handle:
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=handle, stderr=handle, cwd=ROOT, start_new_session=True
        )


def settled(config: Config, name: str, batch: int | None = None) -> tuple[Config, Path]:
    """The configuration as a run beside the given one, on its tokenizer, and where it is written."""
    run = config.run_dir.parent / name
    shutil.rmtree(run, ignore_errors=True)
    training = replace(config.training, mixed_precision="no", max_steps=STEPS, checkpoint_steps=SAVED)
    if batch is not None:
        training = replace(training, batch_size=batch, max_steps=2)
    paths = replace(config.model_paths, base_save_path=str(run))
    own = replace(config, training=training, model_paths=paths)
    run.mkdir(parents=True)
    path = run / "pipeline_config.json"
    path.write_text(json.dumps(to_dict(own)), encoding="utf-8")
    return own, path


def finish(process: subprocess.Popen[bytes], output: Path) -> None:
    """Wait for the end. Exits with the last line of the output where the stage failed."""
    if process.wait(PATIENCE) != 0:
        lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        raise SystemExit(f"the stage failed: {lines[-1][:200]}")


def resume(config: Config) -> dict[str, float]:
    """Train twice, once killed at its first checkpoint, and compare the last weights byte by byte."""
    ends = []
    for name in ("undisturbed", "killed"):
        own, path = settled(config, name)
        output = own.run_dir / "output"
        process = start(path, EXACT, output)
        if name == "killed":
            waited = time.monotonic() + PATIENCE
            while process.poll() is None and not saved(own) and time.monotonic() < waited:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not saved(own):
                raise SystemExit("expected a checkpoint before the kill, found none")
            process = start(path, EXACT, output)
        finish(process, output)
        last = own.basemodel_dir / "checkpoints" / f"step_{STEPS:09d}" / "model.safetensors"
        ends.append(last.read_bytes())
    if ends[0] != ends[1]:
        raise SystemExit("expected the same bits after a resume, found others")
    return {"steps": STEPS, "identical_bytes": len(ends[0])}


def saved(config: Config) -> bool:
    """Whether the predictor's stage has a whole checkpoint."""
    folder = config.basemodel_dir / "checkpoints"
    return folder.is_dir() and any(folder.glob("step_*/model.safetensors"))


def full_memory(config: Config) -> dict[str, float]:
    """Train with a batch that the device cannot hold at once."""
    own, path = settled(config, "cramped", batch=4096)
    output = own.run_dir / "output"
    finish(start(path, CRAMPED.format(share=0.05), output), output)
    lines = output.read_text(encoding="utf-8").splitlines()
    halved = [line for line in lines if "pieces" in line]
    if not halved:
        raise SystemExit("expected a batch that is cut into pieces, found none; raise the batch")
    summary = read_json(own.basemodel_dir / "summary.json")
    return {"halvings": len(halved), "step": summary["step"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["resume", "full-memory"])
    parser.add_argument(
        "--config", required=True, metavar="F", help="a resolved configuration with a tokenizer"
    )
    args = parser.parse_args()
    config = from_dict(read_json(args.config), args.config)
    found = resume(config) if args.part == "resume" else full_memory(config)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
