"""The launcher: its arguments become overrides, its plan is explicit, and a mistake is one clear line before anything runs."""

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kronos import launch
from kronos.errors import KitError

MARKET = ["market.generate=true", "experiment.pre_trained=false", "data.data_path=train.csv"]


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "c.yaml").write_text(f"model_paths: {{base_path: {tmp_path}/runs}}\n")
    return str(tmp_path / "c.yaml")


def plan(config: str, *overrides: str, gpus: int = 0, wanted: int | None = None, **flags: bool) -> launch.LaunchPlan:
    options = {"fast": False, "write": False} | flags
    return launch.plan_launch(config, [*MARKET, *overrides], wanted=wanted, gpus=gpus, now=0, **options)


def argument(arguments: tuple[str, ...], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_two_cpu_processes_are_asked_for_the_way_that_works(config: str) -> None:
    """`accelerate launch --cpu --num_processes 2` silently runs one process."""
    found = plan(config, "device.use_cuda=false", "distributed.use_ddp=true", "distributed.num_processes=2")
    assert "--multi_gpu" in found.accelerate and "--cpu" not in found.accelerate
    assert argument(found.accelerate, "--num_processes") == "2"
    assert not found.uses_gpu


def test_a_cpu_run_takes_no_gpu(config: str) -> None:
    """device.use_cuda=false must reach accelerate."""
    assert "--cpu" in plan(config, "device.use_cuda=false", gpus=2).accelerate


@pytest.mark.parametrize("overrides", [[], ["device.device_id=1"]])
def test_the_launcher_keeps_the_users_choice_of_gpus(config: str, tmp_path: Path, overrides: list[str]) -> None:
    """accelerate puts its --gpu_ids in the place of CUDA_VISIBLE_DEVICES: two runs started with 0 and 1 met on GPU 0, and with
    device_id 1 the trainer had GPUs 0 and 1 where the steps beside it had one."""
    child = tmp_path / "child.py"
    child.write_text("import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])")
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *plan(config, *overrides, gpus=2).accelerate, str(child)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "GPU-11aa,GPU-22bb", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "sees GPU-11aa,GPU-22bb\n", done.stderr


@pytest.mark.parametrize(
    ("overrides", "gpus", "expected"),
    [
        (["distributed.use_ddp=true", "distributed.num_processes=8"], 2, "expected 8 GPUs on this machine, found 2"),
        (["distributed.use_ddp=true", "distributed.num_processes=2"], 0, "found 0"),
        (["device.device_id=3"], 2, "device_id"),
        (["market.generate=false"], 0, "train.csv"),
        (["market.generate=false", "data.data_path=''"], 0, "found nothing"),
    ],
)
def test_what_cannot_run_here_is_refused(config: str, overrides: list[str], gpus: int, expected: str) -> None:
    """More GPUs than there are must be an error, not a silent change of the run."""
    with pytest.raises(KitError, match=expected):
        plan(config, *overrides, gpus=gpus)


def test_files_that_do_not_fit_are_refused_before_anything_runs(config: str, tmp_path: Path) -> None:
    """Hours of training must not end at a sample that asks about other tickers."""
    (tmp_path / "train.csv").write_text("Ticker,Date,Open,High,Low,Close,Volume\na,2020-01-02,1,1,1,1,1\n")
    (tmp_path / "test.csv").write_text("ID,Date\na,2020-02-03\n")
    (tmp_path / "sample.csv").write_text("ID,Pred\nb,0\n")
    files = {"data_path": "train.csv", "test_path": "test.csv", "sample_submission_path": "sample.csv"}
    sets = ["market.generate=false", *(f"data.{key}={tmp_path / name}" for key, name in files.items())]
    with pytest.raises(KitError, match="only one of them has"):
        plan(config, *sets)
    (tmp_path / "sample.csv").write_text("ID,Pred\na,0\n")
    assert plan(config, *sets).stages == ("tokenizer", "basemodel")
    (tmp_path / "train.csv").write_text("Ticker,Date,Open,High,Low,Volume\na,2020-01-02,1,1,1,1\n")
    with pytest.raises(KitError, match="close"):
        plan(config, *sets)


def test_all_gpus(config: str) -> None:
    """--multi-gpu without a number takes what is there, and refuses when nothing is."""
    assert argument(plan(config, gpus=4, wanted=4).accelerate, "--num_processes") == "4"
    with pytest.raises(KitError, match="found none"):
        plan(config, wanted=0)


def test_gpus_are_counted_on_every_machine(config: str) -> None:
    """--multi-gpu 4 on two machines trained on two GPUs of each, and --num-gpus 1 without a GPU on the processor."""
    machines = ["distributed.num_machines=2", 'distributed.main_process_ip="10.0.0.1"', "distributed.main_process_port=29500"]
    found = plan(config, *machines, gpus=4, wanted=4)
    assert argument(found.accelerate, "--num_processes") == "8" and found.config.distributed.use_ddp
    assert argument(plan(config, gpus=4, wanted=1).accelerate, "--num_processes") == "1"
    for overrides, gpus in ((machines, 2), ([], 0)):
        with pytest.raises(KitError, match=f"expected 4 GPUs on this machine, found {gpus}"):
            plan(config, *overrides, gpus=gpus, wanted=4)
    with pytest.raises(KitError, match="expected 1 GPUs on this machine, found 0"):
        plan(config, gpus=0, wanted=1)


def test_fast_mode_has_a_folder_of_its_own(config: str) -> None:
    """A smoke run must never take the place of a real model."""
    slow, fast = plan(config), plan(config, fast=True)
    assert fast.config.run_dir == slow.config.run_dir.with_name("kronos-fast")
    assert fast.config.training.max_steps == 20


def test_the_resolved_configuration_is_saved_for_the_launch(config: str) -> None:
    """And a dry run writes nothing."""
    assert not plan(config).config_path.exists()
    found = plan(config, write=True)
    assert json.loads(found.config_path.read_text())["model_paths"]["exp_name"] == "kronos"


# -- the shell script itself ------------------------------------------------------------------------------------------------
def shell(root: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    command = ["bash", str(root / "train_kaggle.sh"), *arguments]
    return subprocess.run(command, cwd=cwd or root, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--frobnicate"], "unknown argument --frobnicate"),
        (["--config"], "--config: expected a value"),
        (["--num-gpus", "two"], "expected a whole number above 0, found two"),
        (["--num-processes", "0"], "expected a whole number above 0, found 0"),
        (["--cpu", "--multi-gpu", "2"], "exclude each other"),
        (["--multi-gpu", "--num-processes", "2"], "exclude each other"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--config", "configs/demo.yaml", "--set", "training.batchsize=3"], "did you mean training.batch_size"),
        (["--config", "configs/demo.yaml", "--multi-gpu", "512"], "expected 512 GPUs"),
        (
            [
                "--config",
                "configs/demo.yaml",
                "--num-machines",
                "2",
                "--num-gpus",
                "512",
                "--main-process-ip",
                "10.0.0.1",
                "--main-process-port",
                "29500",
            ],
            "expected 512 GPUs on this machine",
        ),
    ],
)
def test_a_mistake_is_one_clear_line(root: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    """Not a usage page, not a traceback, and not exit status 0."""
    done = shell(root, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """The checkout's tracked files in a folder with a space in its name."""
    kit = tmp_path / "the kit"
    names = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, kit / name)
    return kit


def test_help_fits_one_screen_and_names_every_flag(root: Path) -> None:
    """A flag that the page does not name is found by reading the script only."""
    done = shell(root, "-h")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0] == "NAME" and len(lines) <= 45 and max(map(len, lines)) <= 110
    source = (root / "train_kaggle.sh").read_text(encoding="utf-8")
    accepted = re.findall(r"^    ((?:-\w+ \| )*--[a-z-]+(?: \| --[a-z-]+)*)\)", source, flags=re.MULTILINE)
    flags = {flag for group in accepted for flag in group.split(" | ")}
    assert len(flags) > 15 and flags == set(
        re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"EXAMPLES.*", "", done.stdout, flags=re.S))
    )


@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals(root: Path, settings: dict[str, str], coloured: bool) -> None:
    """Escape codes in a log or a pipe are noise; NO_COLOR is a user's wish."""
    reader, writer = pty.openpty()
    environment = {"PATH": "/usr/bin:/bin", "TERM": "xterm", **settings}
    subprocess.run(["bash", root / "train_kaggle.sh", "-h"], stdout=writer, env=environment, check=True)
    os.close(writer)
    assert (b"\x1b[" in os.read(reader, 4096)) is coloured
    os.close(reader)
    assert "\x1b" not in shell(root, "-h").stdout


def test_dry_run_prints_the_commands_and_writes_nothing(copied: Path, tmp_path: Path) -> None:
    """From any directory, with a space in the kit's path and in another."""
    base = tmp_path / "my runs"
    done = shell(
        copied, "--config", "configs/demo.yaml", "--dry-run", "--cpu", "--num-processes", "2", "--submit", "--fast-mode",
        "--set", f"model_paths.base_path={base}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for part in (
        "prepare_data.py",
        "--stage tokenizer",
        "--stage basemodel",
        "--num_processes 2",
        "make_submission.py",
        "my\\ runs",
    ):
        assert part in done.stdout
    assert f"Would run, from {copied}:" in done.stdout and "\nDone" not in done.stdout
    assert not base.exists() and not (copied / "runs").exists()
