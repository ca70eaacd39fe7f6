"""Training in processes of its own, for the tests: recorded steps in float64, and runs that are killed at any moment.

`python tests/training_worker.py record|killed SPEC.json OUT` forks the processes from one warm interpreter, with the environment
that `torchrun` would give them: real processes and real signals, without three seconds of imports for each.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]

import torch
from tiny import PREDICTOR, TOKENIZER

from kronos.config import Config, from_dict
from kronos.data.store import BarStore
from kronos.networks import Kronos, KronosTokenizer
from kronos.training.checkpoint import Progress
from kronos.training.loop import Trainer
from kronos.training.objectives import Objective, PredictorObjective, TokenizerObjective
from kronos.training.runtime import Runtime
from kronos.training.stages import StageData, loop_settings, run_stage, streams


class RecordingTrainer(Trainer):
    """Keeps every step's gradients, as the optimiser is about to see them, and the windows that made them."""

    def _step(self, step: int, batches: list[Any]) -> None:
        self.rows.append(sorted(int(r) for b in batches for r in b["row"][b["real"]]))
        super()._step(step, batches)

    def _update(self, step: int, batches: list[Any]) -> None:
        self.grads.append([p.grad.clone() for p in self.objective.parameters() if p.grad is not None])
        super()._update(step, batches)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        self.rows: list[list[int]] = []
        self.grads: list[list[torch.Tensor]] = []
        return super().fit(*args, **kwargs)


def tiny_objective(config: Config, stage: str, **dropout: float) -> Objective:
    """Explicit tiny networks; equal weights wherever it is called."""
    torch.manual_seed(1)
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


def record(config: Config, stage: str, folder: Path) -> dict[str, Any]:
    """Train in float64: gradients and windows of every step, weights at the end, validation values."""
    torch.set_default_dtype(torch.float64)
    single, torch.Tensor.float = torch.Tensor.float, torch.Tensor.double  # the networks' "at least float32"
    try:
        runtime = Runtime.start(config)
        store = BarStore.open(config.data.store)
        data = StageData.of(config, stage, store)
        objective = tiny_objective(config, stage).double()
        settings = loop_settings(config, stage, data.plan)
        trainer = RecordingTrainer(objective, settings, streams(config, data, store, runtime), runtime, folder, Progress())
        trainer.fit(None, lambda: None, measure_start=False)
        weights = {name: value.clone() for name, value in objective.network().state_dict().items()}
        return {"grads": trainer.grads, "rows": trainer.rows, "weights": weights, "best": trainer.progress.best}
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(torch.float32)


# -- processes ---------------------------------------------------------------------------------------------------------
def spawn(world: int, action: Callable[[int], None]) -> list[int]:
    """Fork `world` processes with a launcher's environment; each calls action(rank) and leaves. Returns their ids."""
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
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
        action(rank)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(children: list[int]) -> list[int]:
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def run_killed(config: Config, stage: str, kills: int, seed: int, longest: float) -> list[str]:
    """Run a stage, SIGKILL all its processes at random moments, until it was left alone `kills` times; then let it end.

    Returns the status that each killed sitting left in summary.json.
    """
    dice, seen = random.Random(seed), []
    world = config.distributed.num_processes
    store = BarStore.open(config.data.store)
    summary = (config.tokenizer_dir if stage == "tokenizer" else config.basemodel_dir) / "summary.json"
    for _ in range(kills):
        children = spawn(world, lambda rank: _sit(config, stage, store))
        time.sleep(dice.uniform(0.0, longest))
        for child in children:
            os.kill(child, signal.SIGKILL)
        wait(children)
        status = json.loads(summary.read_text())["status"] if summary.exists() else "none"
        checkpoints = sorted(p.name for p in (summary.parent / "checkpoints").glob("step_*"))
        seen.append(f"{status} {checkpoints[-1] if checkpoints else '-'}")
    if any(wait(spawn(world, lambda rank: _sit(config, stage, store)))):
        raise SystemExit("the last sitting failed")
    return seen


def _sit(config: Config, stage: str, store: BarStore) -> None:
    runtime = Runtime.start(config)
    assert run_stage(config, stage, store, runtime) == "complete"
    runtime.close()


def main() -> None:
    command, spec_path, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    spec = json.loads(spec_path.read_text())
    config = from_dict(spec["config"])
    if command == "record":
        action = lambda rank: torch.save(record(config, spec["stage"], out / f"files{rank}"), out / f"rank{rank}.pt")  # noqa: E731
        raise SystemExit(any(wait(spawn(config.distributed.num_processes, action))))
    seen = run_killed(config, spec["stage"], spec["kills"], spec["seed"], spec["longest"])
    out.write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
