"""Training in processes of its own, for the tests: recorded steps in float64, and runs that are killed at any
moment.

`python tests/training_worker.py JOBS.json` does a list of jobs, each {"do": "record", "killed", "moved"
or "refused", "config", "stage", "out", ...}. It forks the processes from one warm interpreter, with the environment
that `torchrun` would give them: real processes and real signals, without three seconds of imports for each.
`work` calls it.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # two seconds that the optimiser's import would otherwise cost in every forked process
import torch.distributed as dist
from tiny import PREDICTOR, TOKENIZER
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from kronos import cli
from kronos.config import Config, from_dict, to_dict
from kronos.data.channels import CHANNELS, FIGURES
from kronos.data.store import BarStore
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.head import Head
from kronos.training import stages
from kronos.training.checkpoint import Progress
from kronos.training.device import StepBatches
from kronos.training.distributed import Runtime
from kronos.training.facts import StageData
from kronos.training.folder import read_summary
from kronos.training.head import HeadObjective, head_settings
from kronos.training.head_data import HeadData, all_horizons, head_streams
from kronos.training.loop import Keepers, Trainer
from kronos.training.objectives import Objective, PredictorObjective, TokenizerObjective
from kronos.training.stages import run_stage
from kronos.training.start import loop_settings, streams


class RecordingTrainer(Trainer):
    """Keeps every step's gradients, as the optimiser is about to see them, the windows that made them, and
    how many sums over processes the gradients of all steps so far took (a `DistributedDataParallel` hook that
    does what it does without one)."""

    def _prepare(self, resumed: Any) -> None:
        super()._prepare(resumed)
        self.optimizer.optimizer.register_step_pre_hook(self._keep_gradients)
        if self.runtime.world > 1:
            self.module.register_comm_hook(None, self._count)

    def _count(self, group: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.sums += 1
        return allreduce_hook(group, bucket)

    def _step(self, step: int, batches: StepBatches) -> None:
        super()._step(step, batches)
        self.rows.append(sorted(int(r) for b in batches.host for r in b["row"][b["real"]]))
        self.rates.append(self.optimizer.param_groups[0]["lr"])
        self.summed.append(self.sums)

    def _keep_gradients(self, *given: Any) -> None:
        self.grads.append([p.grad.clone() for p in self.objective.parameters() if p.grad is not None])

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        self.rows: list[list[int]] = []
        self.grads: list[list[torch.Tensor]] = []
        self.rates: list[float] = []
        self.sums, self.summed = 0, list[int]()
        return super().fit(*args, **kwargs)


def tiny_objective(config: Config, stage: str, **dropout: float) -> Objective:
    """Explicit tiny networks; equal weights wherever it is called."""
    torch.manual_seed(1)
    if stage == "head":
        return tiny_head(config)
    tokenizer = KronosTokenizer(**{**TOKENIZER, **(dropout if stage == "tokenizer" else {})})
    if stage == "tokenizer":
        return TokenizerObjective(tokenizer)
    predictor = Kronos(**{**PREDICTOR, **dropout})
    t = config.training
    return PredictorObjective(
        predictor,
        tokenizer,
        lookback=config.data.lookback_window,
        history_loss_weight=t.history_loss_weight,
        teacher_forcing=t.teacher_forcing,
    )


def tiny_head(config: Config) -> HeadObjective:
    """A head that reads raw bars."""
    h = config.head
    sizes = {"width": 16, "layers": 2, "heads": 4, "ff_dim": 32, "dropout_p": 0.0, "channels": len(CHANNELS)}
    bars = {
        "inputs": "bars",
        "lookback": h.bar_lookback,
        "patch": h.patch,
        "figures": len(FIGURES),
        "frozen": False,
    }
    tokens = {"token_lookback": 12, "clip": 5.0, "norm_epsilon": "absolute"}
    horizons = {"horizons": all_horizons(config), "asked": config.inference.horizon}
    return HeadObjective(
        Head.on(None, None, **sizes, **bars, **tokens, **horizons), sign_weight=0.5, trunk_share=1.0
    )


def cramp(objective: Objective, windows: int, beside: int | None = None) -> Objective:
    """As if the device's memory were full with more windows than that: the tokenizer's runs out in its
    forward pass, the predictor's in its backward pass, and both in validation. beside: windows that fit
    beside gradients, where those are fewer."""
    forward, evaluate = objective.forward, objective.evaluate

    def refuse(batch: Any) -> None:
        holds = beside is not None and any(p.grad is not None for p in objective.parameters())
        if len(batch["x"]) > (beside if holds and beside is not None else windows):
            raise torch.OutOfMemoryError(f"no room for {len(batch['x'])} windows")

    def cramped_forward(batch: Any, reduce: Any) -> Any:
        if isinstance(objective, TokenizerObjective):
            refuse(batch)
        sums = forward(batch, reduce)
        sums["loss"].register_hook(lambda gradient: refuse(batch))
        return sums

    def cramped_evaluate(batch: Any) -> Any:
        refuse(batch)
        return evaluate(batch)

    objective.forward, objective.evaluate = cramped_forward, cramped_evaluate  # type: ignore[method-assign]
    return objective


def record(
    config: Config, stage: str, folder: Path, room: int | None = None, beside: int | None = None
) -> dict[str, Any]:
    """Train in float64: gradients and windows of every step, weights at the end, validation values.

    room, beside: windows that fit into the memory (see `cramp`); None: all.
    """
    torch.set_default_dtype(torch.float64)
    single, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double  # the networks' "at least float32"
    try:
        runtime = Runtime.start(config)
        store = BarStore.open(config.data.store)
        data: Any = HeadData.of(config, store) if stage == "head" else StageData.of(config, stage, store)
        objective = tiny_objective(config, stage).double()
        if room is not None:
            cramp(objective, room, beside)
        if stage == "head":
            settings, reader = (
                head_settings(config, data.plan),
                head_streams(config, data, store, runtime, None),
            )
        else:
            settings, reader = loop_settings(config, stage, data.plan), streams(config, data, store, runtime)
        trainer = RecordingTrainer(objective, settings, reader, runtime, folder, Progress())
        trainer.fit(None, Keepers(lambda: None), measure_start=False)
        weights = {name: value.clone() for name, value in objective.network().state_dict().items()}
        return {
            "grads": trainer.grads,
            "rows": trainer.rows,
            "rates": trainer.rates,
            "sums": trainer.summed,
            "weights": weights,
            "best": trainer.progress.best,
            "pieces": trainer.progress.pieces,
        }
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(torch.float32)


# -- processes -----------------------------------------------------------------------------------------------
def spawn(world: int, action: Callable[[int], None]) -> list[int]:
    """Fork `world` processes with a launcher's environment; each calls action(rank) and leaves. Returns their
    ids.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [_fork(world, rank, port, action) for rank in range(world)]


def _fork(world: int, rank: int, port: int, action: Callable[[int], None]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if world > 1:
            names = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": world,
                "LOCAL_WORLD_SIZE": world,
                "MASTER_PORT": port,
            }
            os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
        action(rank)
        code = 0
    except Exception:
        traceback.print_exc()  # os._exit would swallow it
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run_killed(config: Config, stage: str, kills: int, seed: int) -> list[str]:
    """Run a stage and SIGKILL all its processes, `kills` times, then let it end.

    Every third kill comes at any moment from the start on, the others soon after the run has saved
    something new, so that the run moves on. Returns the summary's status and the checkpoints that each kill
    left.
    """
    dice, seen = random.Random(seed), []
    store = BarStore.open(config.data.store)
    folder = config.tokenizer_dir if stage == "tokenizer" else config.basemodel_dir
    for kill in range(kills):
        summary, before = read_summary(folder), saved(folder)
        if summary is not None and summary["status"] == "complete":
            break
        children = spawn(config.distributed.num_processes, lambda rank: _sit(config, stage, store))
        deadline = time.monotonic() + 20
        while kill % 3 and saved(folder) == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(dice.uniform(0.0, 0.06 if kill % 3 else 0.4))
        for child in children:
            os.kill(child, signal.SIGKILL)
        wait(children)
        summary = read_summary(folder)
        seen.append(f"{summary['status'] if summary else 'none'} {saved(folder)}")
    if any(wait(spawn(config.distributed.num_processes, lambda rank: _sit(config, stage, store)))):
        raise SystemExit("the last start failed")
    return seen


def saved(folder: Path) -> list[str]:
    """Checkpoints of a stage; none while the trainer, which starts anew, has just removed their folder."""
    try:
        return sorted(p.name for p in (folder / "checkpoints").iterdir() if p.name.startswith("step_"))
    except FileNotFoundError:
        return []


def _sit(config: Config, stage: str, store: BarStore) -> None:
    runtime = Runtime.start(config)
    assert run_stage(config, stage, store, runtime) == "complete"
    runtime.close()


def run_moved(before: Config, after: Config, stage: str, step: int) -> list[str]:
    """Begin a stage with the processes of `before`, stop it after a step, end it with those of `after`.

    Returns how each start ended, by the processes themselves. Without dropout, whose masks a process draws
    for itself.
    """
    build, agree = stages.build_objective, Trainer._agree
    stages.build_objective = lambda config, stage, *given: tiny_objective(config, stage)  # type: ignore[assignment]
    ends = []
    for config, stop in ((before, step), (after, None)):

        def action(rank: int, config: Config = config, stop: int | None = stop) -> None:
            if stop is not None:
                Trainer._agree = lambda trainer: (  # type: ignore[method-assign]
                    ("signal", True) if trainer.progress.step == stop else (None, False)
                )
            runtime = Runtime.start(config)
            store = BarStore.open(config.data.store)
            ended = run_stage(config, stage, store, runtime)
            runtime.close()
            os._exit(0 if ended == "complete" else 3)

        codes = wait(spawn(config.distributed.num_processes, action))
        ends.append(f"{len(codes)} processes: {sorted(set(codes))}")
    stages.build_objective, Trainer._agree = build, agree  # type: ignore[method-assign]
    return ends


def refuse(config: Config, stage: str, out: Path, room: int | None) -> None:
    """Processes that end with a user's error; what all of them said, in the file `out`. room: see `cramp`."""
    build = stages.build_objective
    if room is not None:
        stages.build_objective = lambda *given: cramp(build(*given), room)  # type: ignore[assignment, return-value]

    def action(rank: int) -> None:
        os.dup2(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
        cli.run(lambda: stages.train(config, stage))  # type: ignore[arg-type]

    try:
        if sum(wait(spawn(config.distributed.num_processes, action))) != cli.EXIT_USER_ERROR:
            raise SystemExit(f"expected one process to end with a user's error: {out.read_text()}")
    finally:
        stages.build_objective = build


def do(job: dict[str, Any]) -> None:
    """record: rank{r}.pt in the folder `out`; rooms, beside: by rank. killed, moved: what `run_killed` and
    `run_moved` return, as JSON in the file `out`. refused: see `refuse`."""
    config, stage, out = from_dict(job["config"]), job["stage"], Path(job["out"])
    if job["do"] == "killed":
        out.write_text(json.dumps(run_killed(config, stage, job["kills"], job["seed"])))
        return
    if job["do"] == "moved":
        ends = run_moved(config, from_dict(job["after"]), stage, job["step"])
        out.write_text(json.dumps(ends))
        return
    if job["do"] == "refused":
        return refuse(config, stage, out, job.get("room"))

    def action(rank: int) -> None:
        room, beside = (job.get(name, {}).get(str(rank)) for name in ("rooms", "beside"))
        torch.save(record(config, stage, out / f"files{rank}", room, beside), out / f"rank{rank}.pt")

    if any(wait(spawn(config.distributed.num_processes, action))):
        raise SystemExit("a recording process failed")


def work(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Do the jobs in a process of their own; fails with its output."""
    path = folder / "jobs.json"
    path.write_text(
        json.dumps([{**job, "config": to_dict(job["config"]), "out": str(job["out"])} for job in jobs])
    )
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": f"{here.parents[1]}:{here.parent}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(here), str(path)], capture_output=True, text=True, timeout=500, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


if __name__ == "__main__":
    for task in json.loads(Path(sys.argv[1]).read_text()):
        do(task)
