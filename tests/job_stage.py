"""Jobs for the tiny packaged model, and processes that may be killed: for the tests of jobs."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from services import ROOT, tiny_models
from tiny import tiny_store

from kronos.service.jobs import Jobs
from kronos.service.schema import PredictRequest, parse
from kronos.service.served import Served
from kronos.service.state import dumps
from kronos.service.submit import JOB_LIMITS, select, submit


def submitted(jobs: Jobs, count: int, folder: Path, **settings: object) -> str:
    """A job of `count` series of a store in `folder`."""
    served = Served.load(tiny_models() / "production")
    store = tiny_store(folder / f"store-{count}", tickers=count, days=20)
    chosen = select(store, None, None, served.facts.lookback)
    body = {"stock_data": chosen.series, "prediction_horizon": 2, **settings}
    return submit(jobs, served, parse(dumps(body), PredictRequest, JOB_LIMITS))


def result_bytes(jobs: Jobs, name: str) -> bytes:
    """The bytes of all result files of a job that is done, in the order of its series."""
    rows = jobs.database.connection().execute(
        "SELECT number, state FROM chunks WHERE job = ? ORDER BY first", (name,)
    )
    folder = jobs.folder / "jobs" / name / "results"
    found = [(row["number"], row["state"]) for row in rows]
    assert {state for _, state in found} == {"done"}
    return b"".join((folder / f"{number:06d}.jsonl").read_bytes() for number, _ in found)


NURSERY = """
import os, runpy, sys
sys.path[:0] = [{root!r}]
import torch, kronos.service.served, kronos.service.worker, kronos.service.kept{more}
torch.set_num_threads(1)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.setsid()
        sys.argv = line.split()
        sys.stdin = open(os.devnull)
        runpy.run_path(sys.argv[0], run_name="__main__")
        os._exit(0)
    print(child, flush=True)
"""


@dataclass
class Nursery:
    """Starts scripts in processes that have imported torch already: seconds each time otherwise.

    What runs is the script itself, from its own command line.
    """

    log: Path
    more: str = ""
    children: list[int] = field(default_factory=list)

    def __enter__(self) -> "Nursery":
        self._log = self.log.open("ab")
        code = NURSERY.format(root=str(ROOT), more=self.more)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            self.kill(child)
        self.process.kill()
        self.process.wait()
        self._log.close()

    def start(self, script: str, *arguments: object) -> int:
        """Start scripts/`script` with arguments; its process id."""
        assert self.process.stdin is not None and self.process.stdout is not None
        line = " ".join([str(ROOT / "scripts" / script), *map(str, arguments)])
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        while not (said := self.process.stdout.readline().strip()).isdigit():
            assert said or self.process.poll() is None, self.log.read_text(encoding="utf-8")[-2000:]
        self.children.append(int(said))
        return self.children[-1]

    def kill(self, child: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process and all that it started in its session."""
        try:
            os.killpg(child, number)
        except ProcessLookupError:
            self.children = [one for one in self.children if one != child]
