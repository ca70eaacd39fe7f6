"""Several machines: each launcher gets its own rank and the same meeting point, and two of them train one
network.
"""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import command, demo, environment


def stub(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)


def test_the_slurm_example_gives_every_machine_its_arguments(root: Path, tmp_path: Path) -> None:
    """Keeps out an example that nobody ever ran: the real script and the real launcher under a stand-in for
    srun.
    """
    stub(tmp_path, "scontrol", "printf 'alpha\\nbeta\\n'")
    stub(tmp_path, "srun", 'shift\nfor node in 0 1; do SLURM_NODEID=$node "$@"; done')
    slurm = {
        "SLURM_SUBMIT_DIR": str(root),
        "SLURM_JOB_NODELIST": "alpha,beta",
        "SLURM_JOB_ID": "123",
        "SLURM_JOB_NUM_NODES": "2",
    }
    path = f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin"
    arguments = ["--config", "configs/demo.yaml", "--cpu", "--num-processes", "4", "--dry-run"]
    done = subprocess.run(
        [
            "bash",
            str(root / "scripts" / "slurm_example.sh"),
            *arguments,
            "--set",
            f"model_paths.base_path={tmp_path}",
        ],
        env={"PATH": path, **slurm},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "--stage tokenizer" in line]
    assert len(lines) == 2
    for rank, line in enumerate(lines):
        for part in (
            "--num_processes 4",
            "--num_machines 2",
            f"--machine_rank {rank}",
            "--main_process_ip alpha",
        ):
            assert part in line, line
        assert "--main_process_port 20123" in line


@pytest.mark.slow
def test_two_launchers_train_one_network(root: Path, tmp_path: Path) -> None:
    """Keeps out two machines that each train alone, and launchers that write over each other's logs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    arguments = demo(
        tmp_path, "--fast-mode", "--skip-basemodel", "--num-processes", "2", "--num-machines", "2"
    )
    arguments += [
        "--main-process-port",
        port,
        "--set",
        "training.max_steps=6",
        "--set",
        "training.trackers=[]",
    ]
    running = []
    for rank in (0, 1):
        own = command(root, *arguments, "--machine-rank", str(rank))
        running.append(
            subprocess.Popen(
                own, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    output = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(output)
    run = tmp_path / "demo-fast"
    summary = json.loads((run / "tokenizer" / "summary.json").read_text())
    assert summary["status"] == "complete" and summary["processes"] == 2
    assert len(list((run / "logs").glob("train_*.log"))) == 2
    assert "complete" in output[0] and (run / "tokenizer" / "loss.png").is_file()
