"""Failures that torch words on thirty lines, and the user gets in one: a reader killed, no compiler, a peer
that is gone.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_config, tiny_store

from kronos import files
from kronos.config import to_dict
from kronos.errors import KitError
from kronos.training import stages
from kronos.training.distributed import Runtime, explained
from kronos.training.folder import read_summary
from kronos.training.stages import run_stage

ROOT = Path(__file__).resolve().parents[2]


def test_a_reader_killed_during_a_step_is_one_line_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch notices a dead worker by a signal and raises in the middle of a forward pass, where no loader
    catches it; the user would get its traceback, and no word of how to go on."""
    store = tiny_store(tmp_path / "store")
    config = tiny_config(tmp_path, training__num_workers=1)
    build, killed = stages.build_objective, []

    def armed(*given: Any) -> Any:
        """The real objective, in whose fourth step's forward pass the reader is killed by the system."""
        objective, calls = build(*given), []

        def kill(*_: Any) -> None:
            calls.append(1)
            if len(calls) == 4 and not killed:
                (reader,) = multiprocessing.active_children()
                killed.append(reader.pid)
                os.kill(reader.pid or 0, signal.SIGKILL)
                time.sleep(20)  # the end of a child interrupts it
                raise AssertionError("torch took no notice in 20 seconds")

        objective.network().embed.register_forward_hook(kill)
        return objective

    monkeypatch.setattr(stages, "build_objective", armed)
    with pytest.raises(
        KitError, match=r"found one gone \(out of memory\?\); the same command goes on .*killed by signal"
    ) as caught:
        run_stage(config, "tokenizer", store, Runtime.start(config))
    assert killed and "\n" not in str(caught.value)
    again = tiny_config(tmp_path, training__num_workers=1, experiment__skip_existing=True)
    assert run_stage(again, "tokenizer", store, Runtime.start(again)) == "complete"


@pytest.mark.slow
def test_compile_without_a_compiler_is_one_line_before_anything_is_written(tmp_path: Path) -> None:
    """Slim images have no g++: torch's own words are a traceback at the first step, after the old checkpoints
    are gone.
    """
    tiny_store(tmp_path / "store")
    config = tiny_config(tmp_path, training__compile=True)
    path = files.write_json(tmp_path / "config.json", to_dict(config)) or tmp_path / "config.json"
    environment = {
        "PATH": "/nowhere",
        "CXX": "/nowhere/g++",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "kaggle" / "train_stage.py"),
            "--config",
            str(path),
            "--stage",
            "tokenizer",
        ],
        capture_output=True,
        text=True,
        timeout=200,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith(
        "error: training.compile: expected torch.compile to work"
    )
    assert "install a C++ compiler" in done.stderr and "training.compile=false" in done.stderr
    assert read_summary(config.tokenizer_dir) is None


def test_what_is_known_gets_its_line_and_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    """A translation that takes every RuntimeError would hide what went wrong behind an advice that does not
    help.
    """
    from torch._inductor.exc import InductorError  # two seconds

    runtime = Runtime.start(tiny_config(tmp_path))
    known: dict[str, Exception] = {
        "--dist-backend gloo": torch.distributed.DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:1\nLast error:\nno way"
        ),
        "training.accumulation_steps": RuntimeError(
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
        ),
        "training.use_checkpoint": torch.OutOfMemoryError("Tried to allocate 3 GiB.\nMore words"),
        "training.compile=false": InductorError(RuntimeError("LoweringException\nMore words"), None),
        "training.num_workers": RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed."),
    }
    for advice, error in known.items():
        assert isinstance(error, RuntimeError)
        found = explained(error, "tokenizer", runtime)
        assert found is not None and advice in str(found) and "\n" not in str(found)
    assert explained(RuntimeError("shapes do not match"), "tokenizer", runtime) is None


SILENT = """
import datetime, sys, time, torch, torch.distributed as dist
from pathlib import Path
from tiny import tiny_config
from training_worker import spawn, wait
from kronos.training.distributed import explained
from kronos.training.distributed import Runtime

def act(rank):
    runtime = Runtime.start(tiny_config(Path("."), distributed__num_processes=2))
    hasty = dist.new_group(backend="gloo", timeout=datetime.timedelta(seconds=1))
    if rank:
        return time.sleep(4)
    for call in (lambda: dist.all_reduce(torch.ones(3), group=hasty), lambda: dist.all_gather_object([0, 0], 1, group=hasty)):
        try:
            call()
        except RuntimeError as error:
            print(explained(error, "tokenizer", runtime))

wait(spawn(2, act))
"""


def test_a_process_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    """gloo's timeout names a C++ file; what it says on the next call is another sentence."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SILENT],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all("another process of this run did not answer" in line for line in lines), (
        done.stdout + done.stderr
    )
