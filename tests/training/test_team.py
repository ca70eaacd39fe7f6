"""Several real processes share a forecast: the same file, one writer, one line when one of them fails."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from test_submission import World

from kronos import files
from kronos.config import Config, DistributedConfig, to_dict
from kronos.errors import KitError
from kronos.forecasting.team import Team

WORKER = """
import sys, time
from kronos import cli
from kronos.config import Config
from kronos.errors import KitError
from kronos.forecasting.team import Team

def main():
    team = Team.join(Config(), on_cpu=True)
    order = []
    def prepare():
        if team.is_main:
            time.sleep(0.5)
        order.append(time.time())
        return team.rank
    assert team.main_first(prepare) == team.rank
    times = [t for t, in team.gather(order)]
    assert times[0] < times[1], "the others wait for what the main process prepares"
    assert team.gather({"rank": team.rank}) == [{"rank": 0}, {"rank": 1}]
    def share():
        if team.rank == int(sys.argv[1]):
            raise KitError(f"process {team.rank} found no luck")
    team.together(share)
    team.disband()
    print(f"main goes on as {team.rank}")

cli.run(main)
"""


def pair(root: Path, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Two processes with the environment that torchrun gives; no launcher that would end one for the
    other.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {
        **os.environ,
        "PYTHONPATH": str(root),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *arguments],
            env=common
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    ended = [(process, *process.communicate(timeout=100)) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, out, err) for process, out, err in ended
    ]


@pytest.mark.parametrize("failing", [-1, 0, 1])
def test_one_fails_all_end_and_one_line_says_why(root: Path, failing: int) -> None:
    """A process that failed left the others waiting for ever in the gathering, or each printed its own
    story.
    """
    done = pair(root, str(failing))
    errors = [[line for line in d.stderr.splitlines() if line.startswith("error:")] for d in done]
    if failing < 0:
        assert [d.returncode for d in done] == [0, 0] and errors == [[], []], done
        assert [d.stdout for d in done] == ["main goes on as 0\n", ""], "only the main process goes on"
    else:
        assert errors[failing] == [f"error: process {failing} found no luck"] and errors[1 - failing] == []
        assert [d.returncode for d in done] == [2 if rank == failing else 0 for rank in (0, 1)]
        assert not any("Traceback" in d.stderr or d.stdout for d in done), done


def test_a_launcher_that_starts_too_few_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process without a word: twice the time,
    unnoticed.
    """
    config = replace(Config(), distributed=DistributedConfig(num_processes=2))
    assert Team.join(config, on_cpu=True) == Team(0, 1), (
        "without a launcher, one process is what was asked for"
    )
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with pytest.raises(KitError, match=r"expected 2 processes .* the launcher started 1"):
        Team.join(config, on_cpu=True)


@pytest.mark.slow
@pytest.mark.parametrize("use_cpu", ["true", None])
def test_two_launched_processes_write_the_file_of_one(
    root: Path, tmp_path: Path, use_cpu: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real launcher, also without the variable that lets CPU processes know of each other: each of them
    once believed to be alone, and both wrote the file."""
    world = World(tmp_path)
    world.set(inference={"batch_size": 2, "sample_count": 9})
    alone = world.make("alone.csv")
    config = tmp_path / "config.json"
    files.write_json(config, to_dict(world.config))
    if use_cpu:
        monkeypatch.setenv("ACCELERATE_USE_CPU", use_cpu)
    else:
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    flags = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *flags.split(),
        "--num_cpu_threads_per_process",
        "1",
    ]
    script = [str(root / "scripts" / "make_submission.py"), "--config", str(config), "--output", "two.csv"]
    done = subprocess.run(
        [*launch, *script], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    assert "on cpu, 2 processes" in done.stdout and done.stdout.count("fallbacks") == 1, done.stdout
    assert (tmp_path / "two.csv").read_bytes() == alone[0]
    assert (tmp_path / "two-prob.csv").read_bytes() == alone[1]
