"""The main job through the real launcher: CSV files to a valid submission, stopped and resumed, on one
process and on two.
"""

import csv
import fcntl
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.slow

TOKENIZER_KEYS = {
    "d_in",
    "d_model",
    "n_heads",
    "ff_dim",
    "n_enc_layers",
    "n_dec_layers",
    "ffn_dropout_p",
    "attn_dropout_p",
}
TOKENIZER_KEYS |= {"resid_dropout_p", "s1_bits", "s2_bits", "beta", "gamma0", "gamma", "zeta", "group_size"}
PREDICTOR_KEYS = {
    "s1_bits",
    "s2_bits",
    "n_layers",
    "d_model",
    "n_heads",
    "ff_dim",
    "ffn_dropout_p",
    "attn_dropout_p",
}
PREDICTOR_KEYS |= {"resid_dropout_p", "token_dropout_p", "learn_te"}


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "KIT_PROGRESS"}}
    return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def command(root: Path, *arguments: str) -> list[str]:
    return ["bash", str(root / "train_kaggle.sh"), "--cpu", *arguments]


def launch(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(root, *arguments), env=environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def demo(base: Path, *more: str) -> list[str]:
    """The demo, made small, under `base`."""
    settings = {
        "model_paths.base_path": base,
        "data.data_path": base / "demo" / "train.csv",
        "data.test_path": base / "demo" / "test.csv",
        "data.sample_submission_path": base / "demo" / "sample_submission.csv",
        "data.solution_path": base / "demo" / "solution.csv",
        "data.store": base / "store",
        "market.tickers": 12,
        "market.days": 400,
        "training.num_workers": 0,
    }
    return [
        "--config",
        "configs/demo.yaml",
        *(part for k, v in settings.items() for part in ("--set", f"{k}={v}")),
        *more,
    ]


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as handle:
        return list(csv.reader(handle))


def check_submission(text: str, root: Path, sample: Path) -> None:
    line = next(line for line in text.splitlines() if line.startswith("  Submission: "))
    path = root / line.removeprefix("  Submission: ").strip()
    found, expected = rows(path), rows(sample)
    assert found[0] == ["ID", "Pred"]
    assert [r[0] for r in found] == [r[0] for r in expected]
    assert {r[1] for r in found[1:]} <= {"0", "1"}
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["rows"] == len(found) - 1
    for leftover in path.parent.glob(f"{path.stem}*"):
        leftover.unlink()


def test_demo_market_from_nothing_to_a_scored_submission(root: Path, tmp_path: Path) -> None:
    """The README's first command, shortened."""
    text = launch(root, *demo(tmp_path, "--fast-mode", "--submit"))
    check_submission(text, root, tmp_path / "demo" / "sample_submission.csv")
    assert "attainable" in text and "all rise" in text
    run = tmp_path / "demo-fast"
    for stage, keys in (("tokenizer", TOKENIZER_KEYS), ("basemodel", PREDICTOR_KEYS)):
        best = run / stage / "best_model"
        assert set(json.loads((best / "config.json").read_text())) == keys
        assert (best / "model.safetensors").is_file()
        assert json.loads((run / stage / "summary.json").read_text())["status"] == "complete"
        assert (run / stage / "metrics.jsonl").read_text().count("\n") >= 2
    assert json.loads((run / "pipeline_config.json").read_text())["training"]["max_steps"] == 20
    assert list((run / "logs").glob("train_*.log"))
    made = {path: path.stat().st_mtime_ns for path in [*run.glob("*/best_model/*"), *run.glob("backtest/*")]}
    again = launch(root, *demo(tmp_path, "--fast-mode"))
    assert "Everything of" in again and "nothing was trained or written" in again and "\nNext\n" in again
    assert {path: path.stat().st_mtime_ns for path in made} == made and len(made) >= 6
    other = demo(tmp_path, "--fast-mode", "--set", "training.predictor_learning_rate=1e-3")
    refused = subprocess.run(
        command(root, *other), env=environment(), capture_output=True, text=True, timeout=100
    )
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    for words in ("learning_rate", "Nothing was changed", "--skip-existing", "--fresh", "exp_name"):
        assert words in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in made} == made


@pytest.mark.long
def test_real_prices_on_two_processes(root: Path, tmp_path: Path, shared_data: Path) -> None:
    """Real CSVs in the competition's layout, two real gloo ranks, a sample to match."""
    folder = shared_data / "sp500"
    paths = {
        "data_path": "train.csv",
        "test_path": "test.csv",
        "sample_submission_path": "sample_submission.csv",
    }
    sets = [f"data.{key}={folder / name}" for key, name in paths.items()]
    sets += [
        f"model_paths.base_path={tmp_path}",
        "market.generate=false",
        "data.solution_path=",
        f"data.store={tmp_path / 'store'}",
    ]
    arguments = [part for text in sets for part in ("--set", text)]
    text = launch(
        root, "--config", "configs/demo.yaml", *arguments, "--num-processes", "2", "--fast-mode", "--submit"
    )  # fmt: skip
    check_submission(text, root, folder / "sample_submission.csv")
    assert json.loads((tmp_path / "demo-fast" / "basemodel" / "summary.json").read_text())["processes"] == 2


def trainers(base: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any("train_stage.py" in w for w in words) and any(str(base) in w for w in words):
            found.append(process)
    return found


def stop_in_the_first_stage(root: Path, tmp_path: Path, arguments: list[str], number: signal.Signals) -> int:
    """Launch, wait for a few steps, send the signal to the launcher. Returns its exit status."""
    with (tmp_path / "out.txt").open("w") as out:
        running = subprocess.Popen(command(root, *arguments), env=environment(), stdout=out, stderr=out)
        wait_for_steps(running, tmp_path)
        running.send_signal(number)
        return running.wait(timeout=60)


def wait_for_steps(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Until a few steps of the first stage are logged."""
    metrics = tmp_path / "demo" / "tokenizer" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        assert running.poll() is None and time.monotonic() < deadline, "no step was logged"
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "code", "processes"), [(signal.SIGTERM, 143, 1), (signal.SIGINT, 130, 2)])
def test_a_stopped_launcher_saves_and_leaves_nothing_running(
    root: Path, tmp_path: Path, number: signal.Signals, code: int, processes: int
) -> None:
    """accelerate's launcher, told to stop, leaves its trainer running; an interrupted stage was once taken
    for a finished one.
    """
    sets = ["training.log_interval=1", "training.max_steps=60", "training.validation_samples=64"]
    arguments = demo(tmp_path, "--skip-existing", "--num-processes", str(processes))
    arguments += [part for text in sets for part in ("--set", text)]
    status = stop_in_the_first_stage(root, tmp_path, arguments, number)
    assert status == code, (tmp_path / "out.txt").read_text()
    assert not trainers(tmp_path)
    summary = json.loads((tmp_path / "demo" / "tokenizer" / "summary.json").read_text())
    assert summary["status"] == "interrupted" and 0 < summary["step"] < summary["total_steps"]
    if processes == 1:
        text = launch(root, *arguments, "--skip-basemodel")
        assert "tokenizer: going on from step" in text
        assert (
            json.loads((tmp_path / "demo" / "tokenizer" / "summary.json").read_text())["status"] == "complete"
        )


def on_a_terminal() -> None:
    """In the child: its input becomes its terminal, whose loss it hears of also where the tests themselves
    run under nohup.
    """
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("nohup", [False, True])
def test_a_lost_terminal_saves_and_leaves_nothing_running(root: Path, tmp_path: Path, nohup: bool) -> None:
    """An SSH connection that breaks ended the run where it was, without a save and with the trainer left
    behind; nohup's run goes on without its terminal."""
    steps = 60 if nohup else 100_000  # one that is to be interrupted must not end before
    settings = ["training.log_interval=1", f"training.max_steps={steps}", "training.validation_samples=64"]
    arguments = demo(tmp_path, "--skip-basemodel", *(part for text in settings for part in ("--set", text)))
    terminal, end = pty.openpty()
    running = subprocess.Popen(
        [*(["nohup"] if nohup else []), *command(root, *arguments)],
        env=environment(), stdin=end, stdout=end, stderr=end, cwd=tmp_path, start_new_session=True,
        preexec_fn=on_a_terminal,
    )  # fmt: skip
    os.close(end)
    wait_for_steps(running, tmp_path)
    os.close(terminal)
    assert running.wait(timeout=120) == (0 if nohup else 143)
    assert not trainers(tmp_path)
    summary = json.loads((tmp_path / "demo" / "tokenizer" / "summary.json").read_text())
    assert summary["status"] == ("complete" if nohup else "interrupted") and summary["step"] > 0
    (log,) = (tmp_path / "demo" / "logs").glob("train_*.log")
    assert ("Interrupted. What was saved lies in" in log.read_text()) is not nohup


def small(base: Path, *more: str) -> list[str]:
    """A tokenizer that logs every step, and does not end before it is stopped."""
    settings = ["training.log_interval=1", "training.max_steps=100000", "training.validation_samples=64"]
    return demo(base, "--skip-basemodel", *(part for text in settings for part in ("--set", text)), *more)


def state(base: Path) -> dict[str, Any]:
    return json.loads((base / "demo" / "tokenizer" / "summary.json").read_text())


def gone(base: Path) -> None:
    """Every trainer of the run ends by itself."""
    deadline = time.monotonic() + 60
    while trainers(base):
        assert time.monotonic() < deadline, "a trainer goes on unseen"
        time.sleep(0.2)


def test_sigint_works_where_a_script_started_the_launcher_in_the_background(
    root: Path, tmp_path: Path
) -> None:
    """A shell without job control ignores SIGINT for what it starts with &, and bash cannot trap what was
    ignored.
    """
    script = tmp_path / "script.sh"
    line = shlex.join(command(root, *small(tmp_path)))
    script.write_text(
        f"{line} >{tmp_path}/out.txt 2>&1 &\necho $! >{tmp_path}/pid\nwait $!\necho $? >{tmp_path}/code\n"
    )
    running = subprocess.Popen(["bash", script], env=environment())
    wait_for_steps(running, tmp_path)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGINT)
    running.wait(timeout=120)
    assert (tmp_path / "code").read_text().strip() == "130", (tmp_path / "out.txt").read_text()
    assert state(tmp_path)["status"] == "interrupted" and not trainers(tmp_path)


def test_a_pipe_whose_reader_is_gone_does_not_end_the_run(root: Path, tmp_path: Path) -> None:
    """Ctrl-C ends `| tee` and `| less` at once: the launcher then writes into nothing and still has to
    save.
    """
    running = subprocess.Popen(
        command(root, *small(tmp_path)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for_steps(running, tmp_path)
    assert running.stdout
    running.stdout.close()
    before = state(tmp_path)["step"]
    time.sleep(2)
    assert running.poll() is None
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=120) == 143
    (log,) = (tmp_path / "demo" / "logs").glob("train_*.log")
    assert "standard output is gone" in log.read_text() and "Interrupted." in log.read_text()
    assert state(tmp_path)["status"] == "interrupted" and state(tmp_path)["step"] > before


@pytest.mark.parametrize(
    ("number", "words"), [(signal.SIGKILL, "main memory ran out"), (signal.SIGBUS, "were cut short")]
)
def test_a_trainer_that_the_system_killed_is_said_as_such(
    root: Path, tmp_path: Path, number: signal.Signals, words: str
) -> None:
    """accelerate's traceback said nothing of memory, of the store, or of how to go on; the same command goes
    on.
    """
    running = subprocess.Popen(
        command(root, *small(tmp_path)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_steps(running, tmp_path)  # type: ignore[arg-type]
    (trainer,) = [
        process
        for process in trainers(tmp_path)
        if not any("kronos.launch" in word for word in process.cmdline())
    ]
    trainer.send_signal(number)
    text, _ = running.communicate(timeout=120)
    assert running.returncode == 2 and "Traceback" not in text
    line = text.strip().splitlines()[-1]
    assert (
        line.startswith("error: the tokenizer stage: a process ")
        and words in line
        and "the same command" in line
    )
    assert not trainers(tmp_path)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_launcher_that_is_killed_leaves_nothing_running(root: Path, tmp_path: Path, processes: int) -> None:
    """Its trainers would train on unseen, and refuse the run's folder to the next start, which goes on from
    their state.
    """
    arguments = small(tmp_path, "--num-processes", str(processes))
    running = subprocess.Popen(
        command(root, *arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_steps(running, tmp_path)
    running.kill()
    running.wait()
    gone(tmp_path)
    assert state(tmp_path)["status"] == "interrupted" and state(tmp_path)["step"] > 0


def test_a_second_signal_ends_at_once(root: Path, tmp_path: Path) -> None:
    """Whoever cannot wait loses what was not saved, and nothing stays behind."""
    running = subprocess.Popen(
        command(root, *small(tmp_path)), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wait_for_steps(running, tmp_path)
    for process in trainers(tmp_path):
        process.suspend()  # they cannot save
    running.send_signal(signal.SIGINT)
    time.sleep(1)
    assert running.poll() is None
    running.send_signal(signal.SIGINT)
    assert running.wait(timeout=60) == 130 and not trainers(tmp_path)


def test_the_time_limit_ends_well_and_submits_nothing(root: Path, tmp_path: Path) -> None:
    """Kaggle keeps the files only of a run that ends with 0; a network that is half trained must not be
    submitted in silence.
    """
    arguments = demo(tmp_path, "--fast-mode", "--submit", "--set", "training.time_limit=0.0001")
    text = launch(root, *arguments)
    summary = json.loads((tmp_path / "demo-fast" / "tokenizer" / "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("interrupted", "time limit")
    last = [line for line in text.splitlines() if line][-2:]
    assert (
        last[0].startswith("Time limit: the tokenizer stage is saved in")
        and "go on with the same command" in last[0]
    )
    assert last[1].startswith("Not submitted") and "Submission: " not in text
    assert not (tmp_path / "demo-fast" / "basemodel").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failing_stage_is_one_clear_line(root: Path, tmp_path: Path, processes: int) -> None:
    """accelerate's launcher answers a trainer's exit code with its own traceback, far below the line that
    matters.
    """
    arguments = demo(tmp_path, "--skip-tokenizer", "--num-processes", str(processes))
    done = subprocess.run(
        command(root, *arguments), env=environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    lines = [line for line in done.stdout.splitlines() if "error" in line.lower()]
    assert len(lines) == 1 and "train the tokenizer stage first" in lines[0], done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not list((tmp_path / "demo" / "logs").glob("*.failure"))
