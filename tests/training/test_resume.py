"""Nothing is lost: killed at any moment, asked to stop, or damaged, a run ends with the very weights of an
undisturbed one.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_config, tiny_store
from training_worker import saved, work

from kronos import files
from kronos.config import Config, to_dict
from kronos.errors import KitError
from kronos.networks import KronosTokenizer
from kronos.networks.presets import preset
from kronos.training import checkpoint
from kronos.training.folder import RunLock, read_summary

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["tokenizer", "basemodel"]


def resumable(folder: Path, processes: int = 1, **settings: Any) -> Config:
    """Six steps an epoch, with a checkpoint every 4 steps, dropout in the predictor, accumulation."""
    base: dict[str, Any] = {
        "training__samples_per_epoch": 46,
        "training__batch_size": 4 // processes,
        "training__accumulation_steps": 2,
        "training__checkpoint_steps": 4,
        "training__history_loss_weight": 0.3,
        "training__teacher_forcing": False,
        "experiment__skip_existing": True,
        "distributed__num_processes": processes,
        "data__store": str(folder.parent / "store"),
    }
    return tiny_config(folder, **{**base, **settings})


def stage_folder(config: Config, stage: str) -> Path:
    return config.tokenizer_dir if stage == "tokenizer" else config.basemodel_dir


def give_tokenizer(config: Config) -> None:
    """A tokenizer for the predictor stage, the same everywhere."""
    torch.manual_seed(3)
    KronosTokenizer(**preset("nano")[0]).save_pretrained(config.model_paths.finetuned_tokenizer)
    digest = files.folder_digest(config.model_paths.finetuned_tokenizer)
    files.write_json(config.tokenizer_dir / "summary.json", {"status": "complete", "model_digest": digest})


def assert_kills_change_nothing(
    folder: Path, stage: str, processes: int, kills: int, seed: int, least_hits: int, epochs: int
) -> None:
    """Compare an undisturbed run with one that is killed at random moments, at least `least_hits` of them
    after a save.
    """
    jobs: list[dict[str, Any]] = []
    for name, count in (("undisturbed", 0), ("killed", kills)):
        length = {"training__tokenizer_epochs": epochs, "training__basemodel_epochs": epochs}
        config = resumable(folder / name, processes, **length, **OPTIONS[stage, processes])
        if stage == "basemodel":
            give_tokenizer(config)
        jobs.append(
            {
                "do": "killed",
                "config": config,
                "stage": stage,
                "kills": count,
                "seed": seed,
                "out": folder / f"{name}.json",
            }
        )
    work(folder, jobs)
    seen = json.loads((folder / "killed.json").read_text())
    hits = {where for where in seen if where.startswith("running") and "step_" in where}
    assert len(hits) >= least_hits, f"too few kills hit a run that had saved something: {seen}"
    assert_identical(outcome(jobs[1]["config"], stage), outcome(jobs[0]["config"], stage))


def outcome(config: Config, stage: str) -> dict[str, Any]:
    """Everything that has to be equal, bit for bit."""
    folder = stage_folder(config, stage)
    summary = read_summary(folder)
    assert summary is not None and summary["status"] == "complete"
    assert not list(folder.rglob(".*.tmp")), "half-written files that a kill left"
    last = folder / "checkpoints" / f"step_{summary['step']:09d}"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "best": load_file(folder / "best_model" / "model.safetensors"),
        "last": load_file(last / "model.safetensors"),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True)["optimizer"]["state"],
        "chosen": summary["best"],
        "end": (summary["step"], summary["stopped_early"]),
        "validations": [r for r in records if r["kind"] == "validation"],
        "logged": [(r["step"], r["learning_rate"]) for r in records if r["kind"] == "train"],
    }


def assert_identical(ours: dict[str, Any], reference: dict[str, Any]) -> None:
    for part in ("best", "last"):
        assert ours[part].keys() == reference[part].keys()
        for name, value in ours[part].items():
            assert torch.equal(value, reference[part][name]), f"{part}: {name}"
    for index, state in ours["optimizer"].items():
        for name, value in state.items():
            assert torch.equal(value, reference["optimizer"][index][name]), f"optimizer {index} {name}"
    for name in ("chosen", "end", "validations", "logged"):
        assert ours[name] == reference[name], name


CASES = [(stage, processes) for stage in STAGES for processes in (1, 2)]
OPTIONS: dict[tuple[str, int], dict[str, Any]] = {
    ("tokenizer", 1): {
        "training__scheduler": "plateau",
        "training__plateau_patience": 0,
        "training__early_stopping_patience": 5,
    },
    ("basemodel", 1): {"training__scheduler": "cosine", "training__use_checkpoint": True},
    ("tokenizer", 2): {"training__warmup_ratio": 0.5},
    ("basemodel", 2): {"training__scheduler": "plateau", "training__early_stopping_patience": 20},
}
"""Settings that are not the default, spread over the cases: a resumed run has to find the same rate and the
same end.
"""


def test_killed_at_random_moments_ends_bit_identical(tmp_path: Path) -> None:
    """Keeps out any state that lives only in memory: random numbers, data order, schedule, best value, log.
    The quick one of the slow ones below."""
    tiny_store(tmp_path / "store")
    assert_kills_change_nothing(tmp_path, "basemodel", 1, kills=3, seed=1, least_hits=1, epochs=4)


@pytest.mark.long
@pytest.mark.parametrize(("stage", "processes"), CASES)
def test_twenty_random_kills_end_bit_identical(tmp_path: Path, stage: str, processes: int) -> None:
    """In both stages, alone and with two processes, with enough kills to hit the middle of saving, of
    validating and of writing the best model."""
    tiny_store(tmp_path / "store")
    assert_kills_change_nothing(tmp_path, stage, processes, kills=20, seed=7, least_hits=12, epochs=32)


# -- asked to stop -------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "head"])
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, stage: str) -> None:
    """Defect 19: one process, then two, and two, then one, end where one process alone ends: a step keeps its
    windows, whoever computes them. Only the order of the sums differs."""
    tiny_store(tmp_path / "store", tickers=8, days=160)
    starts = {"alone": (1, 1), "joined": (1, 2), "left": (2, 1)}
    jobs: list[dict[str, Any]] = []
    ends = {}
    for name, (before, after) in starts.items():
        first, second = (moving(tmp_path / name, count, begun=before) for count in (before, after))
        if stage == "basemodel":
            give_tokenizer(first)
        out = tmp_path / f"{name}.json"
        job = {"do": "moved", "config": first, "after": to_dict(second), "stage": stage, "step": 3}
        jobs.append({**job, "out": out})
    work(tmp_path, jobs)
    for job, (before, after) in zip(jobs, starts.values(), strict=True):
        found = json.loads(job["out"].read_text())
        assert found == [f"{before} processes: [3]", f"{after} processes: [0]"]
        folder = job["config"].stage_dir(stage)
        summary = read_summary(folder)
        assert summary is not None and (summary["status"], summary["step"]) == ("complete", 6)
        steps = [folder / "checkpoints" / f"step_{step:09d}" / "model.safetensors" for step in (3, 6)]
        ends[job["out"].stem] = load_file(steps[1])
        if job["out"].stem == "alone":
            halfway = load_file(steps[0])
    moved = distance(ends["alone"], halfway)
    assert moved > 0
    for name in ("joined", "left"):
        assert distance(ends[name], ends["alone"]) < 0.01 * moved, name


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Euclidean distance of two networks. The bias of a head's scores is left out: the loss does not know the
    level of a date, so its gradient is nothing but rounding, which Adam makes as large as any other."""
    squares = [
        float((value - other[name]).square().sum()) for name, value in one.items() if name != "score.bias"
    ]
    return sum(squares) ** 0.5


def moving(folder: Path, processes: int, begun: int) -> Config:
    """Three stages of six steps, begun with another number of processes; a step has 8 windows or 4 dates."""
    return tiny_config(
        folder,
        training__batch_size=4 // begun,
        training__accumulation_steps=2,
        training__checkpoint_steps=3,
        training__head_epochs=2,
        head__inputs="bars",
        head__horizons=[1, 2],
        head__bar_lookback=12,
        head__patch=3,
        head__width=16,
        head__layers=1,
        head__dropout=0.0,
        head__every=2,
        head__dates_per_batch=4,
        head__stocks_per_date=8,
        head__validation_stocks=8,
        head__dates_per_epoch=10,
        inference__horizon=2,
        data__embargo=2,
        distributed__num_processes=processes,
        data__store=str(folder.parent / "store"),
    )


class LaunchedRun:
    """One start of kaggle/train_stage.py, as train_kaggle.sh starts it: in a process group of its own."""

    def __init__(self, config: Config, stage: str) -> None:
        self.folder = stage_folder(config, stage)
        path = config.run_dir / "config.json"
        files.write_json(path, to_dict(config))
        self.config_path = str(path)
        world = config.distributed.num_processes
        launch = ["-m", "accelerate.commands.launch", *(["--multi_gpu"] if world > 1 else ["--cpu"])]
        launch += ["--num_processes", str(world), "--num_machines", "1", "--main_process_port", "0"]
        launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
        script = [str(ROOT / "kaggle" / "train_stage.py"), "--config", str(path), "--stage", stage]
        environment = {
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self.output = config.run_dir / "output"
        self.process = subprocess.Popen(
            [sys.executable, *launch, *script],
            stdout=self.output.open("w"),
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )

    def wait_for_checkpoint(self) -> None:
        deadline = time.monotonic() + 60
        while not saved(self.folder):
            assert self.process.poll() is None and time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.005)

    def trainers(self) -> list[int]:
        """Processes that run the script, not the launcher and not the loader's workers."""
        children = psutil.Process(self.process.pid).children()
        return [child.pid for child in children if "train_stage.py" in " ".join(child.cmdline())]

    def end(self) -> str:
        """Wait for the launcher, and for everything that it or its trainers started; give the output."""
        self.process.wait(timeout=60)
        deadline = time.monotonic() + 60
        while alive := self.running():
            assert time.monotonic() < deadline, f"left running: {alive}"
            time.sleep(0.1)
        return self.output.read_text()

    def running(self) -> list[int]:
        """Processes of this run, whoever their parent is now: several trainers have sessions of their own."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            if (
                self.config_path in (process.info["cmdline"] or [])
                and process.info["status"] != psutil.STATUS_ZOMBIE
            ):
                found.append(process.pid)
        return found


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGINT), (2, signal.SIGTERM)])
def test_asked_to_stop_it_saves_and_leaves_nothing_running(
    tmp_path: Path, processes: int, number: int
) -> None:
    """Keeps out work lost to Ctrl-C or to a session's end, ranks that wait for one that left, loader workers
    that die of the signal and take the trainer with them, and a second run that writes into the same
    folder."""
    tiny_store(tmp_path / "store")
    long = {"training__tokenizer_epochs": 400, "training__max_steps": 1500, "training__num_workers": 1}
    config = resumable(
        tmp_path / "stopped", processes, **long, training__log_interval=20, training__checkpoint_steps=20
    )
    launched = LaunchedRun(config, "tokenizer")
    launched.wait_for_checkpoint()
    with pytest.raises(KitError, match="another run is training in this folder"):
        RunLock(config.run_dir).acquire()
    trainers = launched.trainers()
    assert len(trainers) == processes
    if processes == 1:
        os.killpg(launched.process.pid, number)  # as a terminal does
        output = launched.end()
    else:
        os.kill(trainers[1], number)  # one rank only: the others have to agree
        output = launched.end()
        assert launched.process.returncode == 0, output
    summary = read_summary(config.tokenizer_dir)
    assert summary is not None and summary["status"] == "interrupted", output
    assert (config.tokenizer_dir / "checkpoints" / f"step_{summary['step']:09d}").is_dir()
    assert 0 < summary["step"] < 1500
    found = checkpoint.load_newest(config.tokenizer_dir / "checkpoints")
    assert found is not None and found.progress.step == summary["step"]


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGTERM), (2, signal.SIGKILL)])
def test_trainers_of_a_launcher_that_is_gone_save_and_leave(
    tmp_path: Path, processes: int, number: int
) -> None:
    """Keeps out trainers that nobody sees any more and that go on for hours: the launcher dies of SIGTERM
    without passing it on to a single trainer, and of SIGKILL whatever it has started."""
    tiny_store(tmp_path / "store")
    config = resumable(
        tmp_path / "orphans", processes, training__tokenizer_epochs=400, training__max_steps=1500
    )
    launched = LaunchedRun(config, "tokenizer")
    launched.wait_for_checkpoint()
    os.kill(launched.process.pid, number)
    output = launched.end()
    summary = read_summary(config.tokenizer_dir)
    assert summary is not None and summary["status"] == "interrupted" and 0 < summary["step"] < 1500, output


def test_an_error_with_loader_workers_running_ends_the_process(tmp_path: Path) -> None:
    """Keeps out a trainer that hangs at its exit for workers that were never told to end."""
    tiny_store(tmp_path / "store")
    config = resumable(
        tmp_path / "error",
        1,
        training__tokenizer_epochs=400,
        training__max_steps=1500,
        training__num_workers=1,
    )
    launched = LaunchedRun(config, "tokenizer")
    launched.wait_for_checkpoint()
    checkpoints = config.tokenizer_dir / "checkpoints"
    checkpoints.rename(tmp_path / "moved away")
    checkpoints.write_text("in the way of the next checkpoint")
    output = launched.end()
    assert launched.process.returncode != 0 and output.count("could not write the checkpoint") == 1, output


def test_a_process_that_dies_ends_the_others_with_one_clear_line(tmp_path: Path) -> None:
    """Keeps out ranks that wait for ever for one that the system killed."""
    tiny_store(tmp_path / "store")
    config = resumable(tmp_path / "dies", 2, training__tokenizer_epochs=400, training__max_steps=1500)
    launched = LaunchedRun(config, "tokenizer")
    launched.wait_for_checkpoint()
    os.kill(launched.trainers()[1], signal.SIGKILL)
    output = launched.end()
    assert launched.process.returncode != 0
    assert output.count("error: tokenizer: another process of this run ended early") == 1, output
    assert "[rank0]" not in output, output
    summary = read_summary(config.tokenizer_dir)
    assert summary is not None and summary["status"] == "running"
