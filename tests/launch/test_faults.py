"""Hundreds of generated faults, each in a copy of a finished run: nothing is lost, and every one ends in one
clear line.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


def test_no_fault_loses_anything_or_ends_in_a_traceback(root: Path, tmp_path: Path) -> None:
    """The kinds are in faults/kinds.py. A fault that shows something: python tests/faults/run.py FOLDER 'part
    of its name'.
    """
    command = [sys.executable, str(root / "tests/faults/run.py"), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1400)
    assert done.returncode == 0, done.stderr[-3000:]
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(records) >= 300
    wrong = [
        f"{record['fault']}: {record['wrong']}\n{record['output']}" for record in records if record["wrong"]
    ]
    assert not wrong, f"{len(wrong)} of {len(records)} faults were not survived:\n" + "\n".join(wrong)
