"""Put every fault into a copy of a finished run, give the command, and judge what it left. One JSON line a
fault.

    python tests/faults/run.py FOLDER [PART_OF_A_NAME]

A fault is survived when the command ends in one clear line and with nothing changed, or goes on and either
answers as before or names the file that was spoiled. Children are forked from a process that has torch
loaded, two at a time.
"""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

import torch  # noqa: E402
import world  # noqa: E402
from kinds import Fault, all_faults, nothing  # noqa: E402

import kronos.delivery.package  # noqa: E402
import kronos.delivery.runs  # noqa: E402
import kronos.evaluation.backtest  # noqa: E402
import kronos.submission  # noqa: E402
import kronos.training.stages  # noqa: E402, F401 - loaded once, before the forks

AT_ONCE = 2
PATIENCE = 120.0
"""Seconds for one command."""
SNAPSHOT = "before.json"
OUTPUT = "output.txt"
KEPT = ("data", "runs/world/tokenizer/best_model", "runs/world/basemodel/best_model", "models")
"""What no command may change or remove, unless it trains a stage again and says so."""
HISTORY = "history.jsonl"
"""Which version was served when (kronos/delivery/registry.py): packaging adds a line."""


@dataclass
class Running:
    fault: Fault
    folder: Path
    since: float


def main() -> None:
    base = Path(sys.argv[1]).resolve()
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    torch.set_num_threads(1)
    original = build(base / "original")
    expected = (original / world.SUBMISSION).read_bytes()
    waiting = [fault for fault in all_faults(original) if part in fault.name]
    running: dict[int, Running] = {}
    number = 0
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number += 1
            begin(waiting.pop(0), original, base / f"fault-{number}", running)
        finish_one(running, expected)


def build(folder: Path) -> Path:
    """A finished run in `folder`, unless it is there already."""
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True)
    world.write_config(folder)
    for name, command in world.COMMANDS.items():
        (folder / OUTPUT).with_suffix(".end").unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            inside(folder, Fault(name, command, nothing))
        _, status = os.waitpid(child, 0)
        if status:
            sys.exit(f"the world could not be made: {name}\n{output_of(folder)[-3000:]}")
    (folder / "done").touch()
    return folder


def begin(fault: Fault, original: Path, folder: Path, running: dict[int, Running]) -> None:
    shutil.copytree(original, folder, symlinks=True, ignore=shutil.ignore_patterns("output.*", "done"))
    child = os.fork()
    if child == 0:
        inside(folder, fault)
    running[child] = Running(fault, folder, time.monotonic())


def inside(folder: Path, fault: Fault) -> NoReturn:
    """In the child: spoil the folder, run the command there, leave with its exit status."""
    code = 1
    try:
        os.chdir(folder)
        say_into(folder / OUTPUT)
        fault.spoil(folder)
        (folder / SNAPSHOT).write_text(json.dumps(kept_files(folder)))
        if fault.largest is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest, fault.largest))
        world.call(fault.command)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does, in a child that never returns
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


def say_into(path: Path) -> None:
    """Send this process's output to a file, through a process that no limit on files holds back."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.close(write_end)
        with path.open("wb") as output:
            while block := os.read(read_end, 65536):
                output.write(block)
        path.with_suffix(".end").touch()
        os._exit(0)
    os.close(read_end)
    os.dup2(write_end, 1)
    os.dup2(write_end, 2)
    os.close(write_end)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)


def output_of(folder: Path) -> str:
    """What the command printed, once its last process has closed the pipe."""
    end = time.monotonic() + 60
    while not (folder / OUTPUT).with_suffix(".end").exists() and time.monotonic() < end:
        time.sleep(0.005)
    path = folder / OUTPUT
    return path.read_text(errors="replace") if path.is_file() else "nothing was printed"


def kept_files(folder: Path) -> dict[str, str]:
    """Digest of every file that no command may lose; of a history, which grows, its lines."""
    found = {}
    for place in KEPT:
        for path in sorted((folder / place).rglob("*")):
            if path.name == HISTORY and path.is_file():
                found[str(path.relative_to(folder))] = path.read_text(encoding="utf-8")
            elif path.is_file() and not path.is_symlink():
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def kept(name: str, before: str, after: str) -> bool:
    """Whether a file is as it was; a history may have more lines."""
    if Path(name).name == HISTORY:
        return after.startswith(before)
    return after == before


def finish_one(running: dict[int, Running], expected: bytes) -> None:
    """Wait for a child, judge it, say so."""
    child, status = os.waitpid(-1, os.WNOHANG)
    if child == 0:
        time.sleep(0.01)
        for pid, one in running.items():
            if time.monotonic() - one.since > PATIENCE:
                os.kill(pid, signal.SIGKILL)
        return
    one = running.pop(child, None)
    if one is None:
        return
    seconds = round(time.monotonic() - one.since, 1)
    text = output_of(one.folder)
    code = os.waitstatus_to_exitcode(status)
    wrong = judge(one, code, text, expected)
    record = {"fault": one.fault.name, "exit": code, "wrong": wrong, "seconds": seconds}
    record["last"] = text.strip().splitlines()[-1:]
    if wrong:
        record["output"] = text[-1500:]
    print(json.dumps(record), flush=True)
    shutil.rmtree(one.folder)


def judge(one: Running, code: int, text: str, expected: bytes) -> str:
    """What is wrong with how the command ended; empty: nothing."""
    if code < 0:
        return f"ended by signal {-code}"
    if "Traceback" in text:
        return "a traceback"
    errors = re.findall(r"^error: .*", text, flags=re.MULTILINE)
    if code and len(errors) != 1:
        return f"{len(errors)} error lines"
    spoiled = Path(one.fault.file)
    whole = spoiled.parent.name if spoiled.parent.name not in {"tokenizer", "basemodel", "world"} else ""
    named = any(name and name in text for name in (str(spoiled), spoiled.name, whole))
    before, after = json.loads((one.folder / SNAPSHOT).read_text()), kept_files(one.folder)
    lost = [name for name, digest in before.items() if not kept(name, digest, after.get(name, ""))]
    if lost and not (code == 0 and named):
        return f"changed or gone: {lost[0]}"
    if code:
        return ""
    if one.fault.must_fail:
        return "went on"
    made = one.folder / world.SUBMISSION
    answers = one.fault.command == world.COMMANDS["submission"] and not one.fault.other_answers
    if answers and made.read_bytes() != expected and not named:
        return "other answers, and not a word"
    return ""


if __name__ == "__main__":
    main()
