"""scripts/gpu_check.sh, small and on a processor: figures, a table, and a failure that is named while the
others still run.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import gpu_check


@pytest.mark.slow
def test_a_stage_and_a_benchmark_on_a_processor(root: Path) -> None:
    """A script that nobody can run before there is a GPU fails when there is one."""
    environment = os.environ | {"PYTHON": sys.executable}
    command = ["bash", str(root / "scripts" / "gpu_check.sh"), "--cpu", "--only", "tokenizer, "]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    figures = [json.loads(line) for line in lines if line.startswith("{")]
    steps = {one["check"]: one["value"] for one in figures if one["figure"] == "step"}
    assert steps == {"tokenizer, no": 4, "tokenizer, bf16": 4}
    assert any(one["figure"] == "difference" for one in figures), (
        "half precision's loss is compared with float32's"
    )
    assert [line.split("  ")[0].strip() for line in lines[-3:]] == [
        "tokenizer, no",
        "tokenizer, bf16",
        "tokenizer, bf16 against float32",
    ]


def test_every_way_to_fail_is_named() -> None:
    """A check that breaks, prints nothing or no numbers is a line of its own."""
    words = {
        "raise SystemExit('no kernel')": "exit code 1: no kernel",
        "print('hello')": "no figures: ",
        "print('{}')": "no figures: the last line holds none",
        "import os; os.abort()": "exit code -6",
    }
    for code, expected in words.items():
        found = gpu_check.run(gpu_check.Check("it", ["-c", code]))
        assert found.error.startswith(expected) and not found.figures
    sound = gpu_check.run(
        gpu_check.Check("it", ["-c", 'print(\'text\'); print(\'{"a": [1, {"b": 2.5}], "c": true}\')'])
    )
    assert (sound.error, sound.figures) == ("", {"a.0": 1, "a.1.b": 2.5})


def test_a_loss_far_from_float32_is_a_failure() -> None:
    """Half precision that does not learn would pass as a speed figure."""
    losses = {"tokenizer, no": 1.0, "tokenizer, bf16": 1.2, "basemodel, no": 3.0, "basemodel, bf16": 3.01}
    found = [gpu_check.Found(name, 1.0, {gpu_check.BEST: loss}) for name, loss in losses.items()]
    far, near = gpu_check.far_losses(found)
    assert "expected a loss within 5% of float32's 1.0000, found 1.2000" in far.error and not near.error


def test_the_checks_of_a_gpu_are_listed(tmp_path: Path) -> None:
    """All that the documents promise, in every precision."""
    names = [check.name for check in gpu_check.checks(False, tmp_path)]
    assert len(names) == len(set(names))
    for wanted in (
        "tests marked gpu",
        "head, bf16",
        "resume, bit for bit",
        "full memory",
        "tokenizer, bf16, compiled",
        "basemodel, fp16",
        "training speed, base, compiled",
        "memory, mini",
        "5000 x 30 x 100",
    ):
        assert any(wanted in name for name in names), wanted


def test_goals_are_met_or_missed() -> None:
    """A table of a hundred figures does not say whether the card was fast enough."""
    found = [
        gpu_check.Found("training speed, base", 1.0, {"rows.1.share_of_peak": 0.41}),
        gpu_check.Found("generation, base, 1000 x 120", 1.0, {"cached_s_392_120": 5.0}),
    ]
    met, missed = gpu_check.targets(found)
    assert met.startswith("met: training speed, base") and "at least 0.38, found 0.41" in met
    assert missed.startswith("MISSED: generation, base") and "at most 4, found 5" in missed


@pytest.mark.long
def test_the_head_and_a_resume_on_a_processor(root: Path) -> None:
    command = ["bash", str(root / "scripts" / "gpu_check.sh"), "--cpu", "--only", ", no", "resume"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    names = {one["check"] for one in figures}
    assert {"tokenizer, no", "basemodel, no", "head, no", "resume, bit for bit"} <= names
    assert next(one["value"] for one in figures if one["figure"] == "identical_bytes") > 10_000
