"""The launcher: its arguments become overrides, its plan is explicit, and a mistake is one clear line before
anything runs.
"""

import errno
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from kronos import files
from kronos.config import Config, DataConfig, MarketConfig, to_dict
from kronos.errors import KitError
from kronos.launch import arguments, checks, ending, environment, recipe, trainers
from kronos.launch import plan as launch
from kronos.launch.run import Output, Runner, Stopped

MARKET = ["market.generate=true", "experiment.pre_trained=false", "data.data_path=train.csv"]


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "c.yaml").write_text(f"model_paths: {{base_path: {tmp_path}/runs}}\n")
    return str(tmp_path / "c.yaml")


def plan(
    config: str, *overrides: str, gpus: int = 0, wanted: int | None = None, **flags: bool
) -> launch.LaunchPlan:
    options = {"fast": False, "write": False} | flags
    return launch.plan_launch(config, [*MARKET, *overrides], wanted=wanted, gpus=gpus, now=0, **options)


def argument(arguments: tuple[str, ...], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_two_cpu_processes_are_asked_for_the_way_that_works(config: str) -> None:
    """`accelerate launch --cpu --num_processes 2` silently runs one process."""
    found = plan(config, "device.use_cuda=false", "distributed.num_processes=2")
    assert "--multi_gpu" in found.accelerate and "--cpu" not in found.accelerate
    assert argument(found.accelerate, "--num_processes") == "2"
    assert not found.uses_gpu


def test_a_cpu_run_takes_no_gpu(config: str) -> None:
    """device.use_cuda=false must reach accelerate."""
    assert "--cpu" in plan(config, "device.use_cuda=false", gpus=2).accelerate


@pytest.mark.parametrize("overrides", [[], ["device.device_id=1"]])
def test_the_launcher_keeps_the_users_choice_of_gpus(
    config: str, tmp_path: Path, overrides: list[str]
) -> None:
    """accelerate puts its --gpu_ids in the place of CUDA_VISIBLE_DEVICES: two runs started with 0 and 1 met
    on GPU 0, and with device_id 1 the trainer had GPUs 0 and 1 where the steps beside it had one."""
    child = tmp_path / "child.py"
    child.write_text("import os; print('sees', os.environ['CUDA_VISIBLE_DEVICES'])")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            *plan(config, *overrides, gpus=2).accelerate,
            str(child),
        ],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "GPU-11aa,GPU-22bb", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "sees GPU-11aa,GPU-22bb\n", done.stderr


@pytest.mark.parametrize(
    ("overrides", "gpus", "expected"),
    [
        (
            ["distributed.num_processes=8"],
            2,
            "expected 8 GPUs on this machine, found 2",
        ),
        (["distributed.num_processes=2"], 0, "found 0"),
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
    """--multi-gpu 4 on two machines trained on two GPUs of each, and --num-gpus 1 without a GPU on the
    processor.
    """
    machines = [
        "distributed.num_machines=2",
        'distributed.main_process_ip="10.0.0.1"',
        "distributed.main_process_port=29500",
    ]
    found = plan(config, *machines, gpus=4, wanted=4)
    assert argument(found.accelerate, "--num_processes") == "8"
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


# -- the shell script itself ---------------------------------------------------------------------------------
def shell(root: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    command = ["bash", str(root / "train_kaggle.sh"), *arguments]
    return subprocess.run(
        command, cwd=cwd or root, env=environment, capture_output=True, text=True, timeout=120
    )


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
        (
            ["--config", "configs/demo.yaml", "--set", "training.batchsize=3"],
            "did you mean training.batch_size",
        ),
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


def test_a_run_goes_on_or_is_refused_before_anything_is_written(config: str, tmp_path: Path) -> None:
    """The names of runs and outputs are looked at, and the same command with other settings never trains over
    a run.
    """
    (tmp_path / "runs").write_text("a file\n")
    with pytest.raises(KitError, match=r"runs: expected a folder .*, found a file"):
        plan(config, write=True)


def test_outputs_that_cannot_be_used_are_said_before_training(config: str, tmp_path: Path) -> None:
    """A `logs` or `submissions` path that is a file was found out after hours of training."""
    (tmp_path / "runs" / "kronos").mkdir(parents=True)
    for name in ("logs", "tokenizer", "backtest"):
        (tmp_path / "runs" / "kronos" / name).write_text("a file\n")
        with pytest.raises(KitError, match=rf"{name}: expected a folder .*, found a file"):
            plan(config)
        (tmp_path / "runs" / "kronos" / name).unlink()
    (tmp_path / "runs" / "kronos" / "logs").symlink_to(tmp_path / "nowhere")
    with pytest.raises(KitError, match="found a link to nothing"):
        plan(config)
    with pytest.raises(KitError, match="--submit: expected the rows to forecast"):
        launch.plan_launch(config, MARKET, wanted=None, gpus=0, fast=False, write=False, submit=True)


def test_submissions_that_cannot_be_written_are_said_before_training(
    config: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """The folder of the submission is the kit's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "submissions").write_text("a file\n")
    overrides = [*MARKET, "data.test_path=test.csv"]
    with pytest.raises(KitError, match=r"submissions: expected a folder .*, found a file"):
        launch.plan_launch(config, overrides, wanted=None, gpus=0, fast=False, write=False, submit=True)


def test_a_full_disk_is_found_before_training(config: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A quota and a read-only mount show only when something is written: every output folder is tried."""
    monkeypatch.chdir(tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for last in ("logs", "submissions"):
        tried: list[Path] = []

        def out_of_room(folder: Path, last: str = last, tried: list[Path] = tried) -> None:
            tried.append(folder)
            if folder.name == last:
                raise full

        monkeypatch.setattr(launch, "try_writing", out_of_room)
        overrides = [*MARKET, "data.test_path=generated.csv"]
        with pytest.raises(OSError, match="No space left"):
            launch.plan_launch(config, overrides, wanted=None, gpus=0, fast=False, write=True, submit=True)
        assert tried[-1].name == last and not list((tmp_path / "runs").rglob("*.json"))
    monkeypatch.setattr("kronos.launch.checks.os.fsync", mock.Mock(side_effect=full))
    with pytest.raises(OSError, match="No space left"):
        checks.try_writing(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_a_missing_file_is_said_with_the_name_that_is_there(config: str, tmp_path: Path) -> None:
    """Also where market.generate would otherwise have written a market."""
    (tmp_path / "train.csv").write_text("Ticker,Date,Open,High,Low,Close,Volume\na,2020-01-02,1,1,1,1,1\n")
    for generate in ("true", "false"):
        with pytest.raises(KitError, match=r"trian\.csv.*train\.csv is there, is that meant"):
            plan(config, f"data.data_path={tmp_path / 'trian.csv'}", f"market.generate={generate}")


# -- the environment -----------------------------------------------------------------------------------------
def test_another_launchers_variables_are_taken_out() -> None:
    """RANK and WORLD_SIZE of a Slurm or torchrun shell: nothing was trained, and a script's traceback was all
    that was said.
    """
    stale = {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "3",
        "MASTER_ADDR": "x",
        "ACCELERATE_USE_FSDP": "true",
    }
    kept = {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "SLURM_JOB_ID": "7",
        "NCCL_DEBUG": "INFO",
        "MY_RANK": "1",
    }
    mixed = stale | kept
    line = environment.said(environment.clean(mixed))
    assert (
        mixed == kept and all(f"{name}={value}" in line for name, value in stale.items()) and "\n" not in line
    )
    assert environment.said(environment.clean(mixed)) == ""
    steps = environment.for_steps(mixed, uses_gpu=False, on_terminal=False)
    assert steps["ACCELERATE_USE_CPU"] == "true" and steps["KIT_LAUNCHED"].isdigit()


@pytest.fixture
def older_python(tmp_path: Path) -> Path:
    """A folder with a `python` and a `python3` whose metadata name an older polars."""
    folder, packages = tmp_path / "bin", tmp_path / "packages" / "polars-1.9.0.dist-info"
    folder.mkdir()
    packages.mkdir(parents=True)
    (packages / "METADATA").write_text("Metadata-Version: 2.1\nName: polars\nVersion: 1.9.0\n")
    for name in ("python", "python3"):
        (folder / name).write_text(f'#!/bin/sh\nPYTHONPATH={packages.parent} exec {sys.executable} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def test_a_python_with_packages_outside_the_bounds_is_not_used(root: Path, older_python: Path) -> None:
    """polars 1.9.0 in the active environment ended in a TypeError; only the names of packages were looked
    at.
    """
    done = subprocess.run(
        [older_python / "python", root / "scripts" / "versions.py", "runtime"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and done.stdout == "polars 1.9.0 (expected >=1.35,<3)\n"
    assert (
        subprocess.run([sys.executable, root / "scripts" / "versions.py", "tools"], timeout=60).returncode
        == 0
    )


def test_the_line_says_which_package_and_a_fitting_environment_is_made(
    copied: Path, older_python: Path
) -> None:
    """.venv is made from the lock file; a stand-in for it is there already."""
    lock = copied / "requirements.lock"
    words = subprocess.run(
        ["cksum"], stdin=lock.open(), capture_output=True, text=True, check=True
    ).stdout.split()
    venv = copied / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / f"requirements.lock.{'-'.join(words)}").touch()
    (venv / "bin" / "python").write_text('#!/bin/sh\necho "made: $2"\n')
    (venv / "bin" / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", copied / "train_kaggle.sh", "--cpu"],
        env={"PATH": f"{older_python}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert f"Not using {older_python}/python: polars 1.9.0 (expected >=1.35,<3)" in done.stderr
    assert done.stdout == "made: --cpu\n"


def test_the_shell_script_is_short(root: Path) -> None:
    """Finding a Python is all that a shell is needed for."""
    assert len((root / "train_kaggle.sh").read_text().splitlines()) <= 60


# -- running steps -------------------------------------------------------------------------------------------
def step(code: str, **more: Any) -> launch.Step:
    return launch.Step("the trial", "", (sys.executable, "-c", code), **more)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    output = Output(tmp_path / "log.txt")
    yield Runner(output, os.environ)
    output.close()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_step_is_logged_without_colours_and_bars(runner: Runner, tmp_path: Path, capfd: Any) -> None:
    """The terminal gets every byte, the log what a reader of tomorrow wants."""
    code = "import sys; print('\\033[1mbold\\033[0m'); print('10 %\\r20 %\\rdone'); sys.stderr.write('last, no newline')"
    assert runner.run(step(code)) == 0
    runner.output.close()
    runner.output._log = None
    assert capfd.readouterr().out == "\033[1mbold\033[0m\n10 %\r20 %\rdone\nlast, no newline"
    assert (tmp_path / "log.txt").read_text() == "bold\ndone\nlast, no newline\n"


@pytest.mark.parametrize(
    ("code", "expected"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", 137)]
)
def test_a_steps_exit_code(runner: Runner, code: str, expected: int) -> None:
    """A process that the system killed is not one that failed."""
    assert runner.run(step(code)) == expected


def test_a_step_leaves_nothing_behind(runner: Runner, tmp_path: Path) -> None:
    """What a step started in its process group ends with it, though it holds the output open."""
    code = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '600']);"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))"
    )
    begun = time.monotonic()
    assert runner.run(step(code)) == 0 and time.monotonic() - begun < 30
    pid = int((tmp_path / "pid").read_text())
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - begun < 30, "the system takes a moment to end what was killed"
        time.sleep(0.05)


PATIENT = """
import signal, sys, time
def save(number, frame):
    print("saved after", signal.Signals(number).name, flush=True)
    {end}
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_passed_on_once(runner: Runner, tmp_path: Path, number: signal.Signals) -> None:
    """A lost terminal is SIGTERM; the step saves and ends, and the launch ends after it."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    runner.listen()
    threading.Thread(target=signal_when, args=(tmp_path / "log.txt", "ready", number)).start()
    with pytest.raises(Stopped) as stopped:
        runner.run(step(PATIENT.format(end="sys.exit(0)")))
    passed = signal.SIGTERM if number == signal.SIGHUP else number
    assert stopped.value.signal == passed
    text = (tmp_path / "log.txt").read_text()
    assert (
        text.count("saved after") == 1
        and f"saved after {passed.name}" in text
        and "saving a resumable state" in text
    )


def test_the_second_signal_kills(runner: Runner, tmp_path: Path) -> None:
    """A step that does not end by itself must not keep the user waiting."""
    runner.listen()

    def send() -> None:
        signal_when(tmp_path / "log.txt", "ready", signal.SIGINT)
        signal_when(tmp_path / "log.txt", "saved after", signal.SIGINT)

    threading.Thread(target=send).start()
    begun = time.monotonic()
    with pytest.raises(Stopped):
        runner.run(step(PATIENT.format(end="pass")))
    assert time.monotonic() - begun < 60


def signal_when(log: Path, words: str, number: signal.Signals) -> None:
    """Send this process a signal when the log holds the words."""
    end = time.monotonic() + 60
    while words not in (log.read_text() if log.is_file() else "") and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(os.getpid(), number)


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    """The checkout's tracked files in a folder with a space in its name."""
    kit = tmp_path / "the kit"
    names = subprocess.run(
        ["git", "-C", root, "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, names.split("\0")):
        (kit / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, kit / name)
    return kit


def test_help_fits_one_screen_and_names_every_flag(root: Path) -> None:
    """A flag that the page does not name is found by reading the script only."""
    done = shell(root, "-h")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0] == "NAME" and len(lines) <= 45 and max(map(len, lines)) <= 110
    flags = {flag for action in arguments.parser()._actions for flag in action.option_strings} - {
        "--config-path"
    }
    assert len(flags) > 15 and flags == set(
        re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"EXAMPLES.*", "", done.stdout, flags=re.S))
    )


@pytest.mark.parametrize(
    ("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
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
        f"'{base}",
    ):
        assert part in done.stdout
    assert f"Would run, from {copied}:" in done.stdout and "\nDone" not in done.stdout
    assert not base.exists() and not (copied / "runs").exists()


# -- the end -------------------------------------------------------------------------------------------------
def test_only_the_competitions_answers_are_offered_to_kaggle(tmp_path: Path) -> None:
    """A `submit` line for a synthetic market or for rows of one's own costs a submission of the day."""
    folder = tmp_path / "mine"
    folder.mkdir()
    data = DataConfig(test_path=str(folder / "test.csv"), sample_submission_path=str(folder / "sample.csv"))
    own = Config(data=data)
    assert not ending.is_competition(own)
    (folder / "download.json").write_text("{}")
    assert ending.is_competition(own)
    assert not ending.is_competition(replace(own, market=MarketConfig(generate=True)))
    attached = str(tmp_path / own.inference.competition / "test.csv")
    assert ending.is_competition(replace(own, data=replace(data, test_path=attached)))
    assert not ending.is_competition(replace(own, data=replace(data, test_path="")))


def test_a_printed_command_names_the_python_that_runs(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python` on the PATH may be one without the packages: the kit's .venv is then named."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert ending.python(root) in ("python", "python3")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ending.python(tmp_path) == sys.executable


def test_the_python_that_a_venv_was_made_from_is_another_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A venv's python is a link to it, and yet only one of the two has the packages: a newcomer whose Python
    made .venv was told to type `python`.
    """
    base, made = tmp_path / "base", tmp_path / "venv"
    for folder in (base, made):
        folder.mkdir()
    (base / "python").touch(mode=0o755)
    (made / "python").symlink_to(base / "python")
    monkeypatch.setattr(sys, "executable", str(made / "python"))
    monkeypatch.setenv("PATH", str(base))
    assert ending.python(root) == str(made / "python")
    monkeypatch.setenv("PATH", f"{made}:{base}")
    assert ending.python(root) == "python"


def test_what_became_of_the_trainers_is_an_exit_code(monkeypatch: Any) -> None:
    """accelerate's and torch's own tracebacks stood below the line that matters."""
    late, early = (
        mock.Mock(exitcode=code, timestamp=seconds) for code, seconds in ((1, 9), (-signal.SIGBUS, 3))
    )
    for raised, code in (
        (subprocess.CalledProcessError(2, "x"), 2),
        (subprocess.CalledProcessError(-signal.SIGKILL, "x"), 137),
        (ChildFailedError("x", {0: late, 1: early}), 135),
        (SignalException("x", signal.SIGTERM), 143),
    ):
        monkeypatch.setattr(trainers, "accelerate", mock.Mock(side_effect=raised))
        assert trainers.main() == code
    monkeypatch.setattr(trainers, "accelerate", mock.Mock())
    assert trainers.main() == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            137,
            "the trial: a process was killed from outside (SIGKILL), most often by the system because main memory",
        ),
        (135, "the trial: a process lost a file that it was reading (SIGBUS)"),
        (1, "the trial failed; its output is in train.log"),
    ],
)
def test_a_step_that_fails_says_why_and_where(code: int, words: str) -> None:
    """A trainer that the system killed left accelerate's traceback and no word of memory."""
    of = mock.Mock()
    of.plan.config, of.plan.log_path = Config(), "train.log"
    with pytest.raises(recipe.Ended):
        recipe._Recipe._failed(of, step(""), code)
    (said,) = of.output.say.call_args.args
    assert said.startswith(f"error: {words}") and "its output is in train.log" in said and "\n" not in said


def test_a_result_older_than_its_networks_is_made_again(tmp_path: Path) -> None:
    """The same command on a complete run does what is missing, and nothing twice."""
    config = replace(Config(), model_paths=replace(Config().model_paths, base_save_path=str(tmp_path)))
    report = tmp_path / "backtest" / "report.json"
    assert not ending.newer_than_networks(config, report), "not there"
    for path, seconds in ((config.basemodel_dir / "summary.json", 50), (report, 60)):
        files.write_text(path, "{}")
        os.utime(path, (seconds, seconds))
    assert ending.newer_than_networks(config, report)
    os.utime(config.basemodel_dir / "summary.json", (70, 70))
    assert not ending.newer_than_networks(config, report), "trained again since"


def test_why_a_process_is_gone() -> None:
    """Each with the likely cause and how to go on."""
    causes = {signal.SIGKILL: "main memory ran out", signal.SIGBUS: "were cut short", signal.SIGSEGV: ""}
    for number, cause in causes.items():
        line = ending.killed("the tokenizer stage", number, Config())
        assert number.name in line and cause in line and "the same command" in line and "\n" not in line


@pytest.mark.parametrize(("saved", "kept"), [({}, True), ({"threshold": 0.6}, False)])
def test_a_submission_of_the_same_settings_is_known(
    tmp_path: Path, monkeypatch: Any, saved: dict[str, Any], kept: bool
) -> None:
    """The same command writes a second file only where an answer could be another one; a changed file is none
    of the kit's.
    """
    monkeypatch.chdir(tmp_path)
    config = Config()
    tree = to_dict(config)
    tree["inference"] |= saved
    csv_file = Path("submissions") / "a.csv"
    files.write_text(csv_file, "ID,Pred\na,1\n")
    files.write_json(csv_file.with_suffix(".json"), {"sha256": files.digest(csv_file), "config": tree})
    files.write_json(Path("submissions") / "other.json", [])
    assert ending.known_submission(config) == (csv_file if kept else None)
    csv_file.write_text("ID,Pred\na,0\n")
    assert ending.known_submission(config) is None
