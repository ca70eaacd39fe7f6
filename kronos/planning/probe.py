"""Two real steps of a stage on this machine: objective, optimiser and precision of the run, random weights
and bars.

In: a configuration, the networks' configurations. Out: seconds of a step; `ProbedStage` for whoever measures
more. Reads no data.
"""

from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from kronos.config import Config
from kronos.data.batch_plan import BatchPlan
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.predictor import CALENDAR_SIZES, PredictorConfig
from kronos.networks.tokenizer import TokenizerConfig
from kronos.planning.measure import seconds
from kronos.training.device import allow_tf32, check_compiler
from kronos.training.distributed import Runtime
from kronos.training.facts import Stage
from kronos.training.objectives import Objective, PredictorObjective, Reduce, TokenizerObjective
from kronos.training.optim import build_optimizer
from kronos.training.start import loop_settings

Networks = tuple[TokenizerConfig, PredictorConfig]


class ProbedStage:
    """A stage that can be stepped by hand: what the loop does to a micro-batch, without its bookkeeping.

    runtime: the processes that share each step with equal batches; None: this one alone.
    """

    def __init__(
        self,
        config: Config,
        stage: Stage,
        networks: Networks,
        device: torch.device,
        precision: str,
        runtime: Runtime | None = None,
    ) -> None:
        self.device, self.precision = device, precision
        if device.type == "cuda":
            allow_tf32(True)
        self.objective = random_objective(config, stage, networks).to(device).train()
        if config.training.use_checkpoint:
            self.objective.recompute_blocks()
        if config.training.compile:
            check_compiler(device)
            self.objective.compile_training()
        settings = loop_settings(config, stage, BatchPlan(windows=1, batch_size=1))
        self.optimizer = build_optimizer(self.objective, settings)
        self.module = runtime.prepare(self.objective)[0] if runtime else self.objective
        self.reduce: Reduce = runtime.reduce if runtime else lambda joint: joint
        self.clip = settings.grad_clip
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.learning = [p for p in self.objective.parameters() if p.requires_grad]

    def gradients(self, batch: dict[str, Tensor]) -> None:
        """Forward and backward. Of equal batches, the mean over processes of these gradients is that of the
        joined batch.
        """
        with self._autocast():
            loss = self.module(batch, self.reduce)["loss"]
        self.scaler.scale(loss / batch["weight"].numel()).backward()

    def update(self) -> None:
        """Clip, and move the weights."""
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.learning, self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()

    def step(self, batch: dict[str, Tensor]) -> None:
        """A whole optimiser step of one micro-batch."""
        self.gradients(batch)
        self.update()

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, kind, enabled=self.precision != "no")


def random_objective(config: Config, stage: Stage, networks: Networks) -> Objective:
    """The network of a stage with its loss, with random weights."""
    tokenizer = KronosTokenizer(**asdict(networks[0]))
    if stage == "tokenizer":
        return TokenizerObjective(tokenizer)
    t = config.training
    return PredictorObjective(
        Kronos(**asdict(networks[1])),
        tokenizer,
        lookback=config.data.lookback_window,
        history_loss_weight=t.history_loss_weight,
        teacher_forcing=t.teacher_forcing,
    )


def random_batch(rows: int, length: int, device: torch.device) -> dict[str, Tensor]:
    """Windows as the loader gives them, of normal noise and random dates."""
    stamp = torch.stack([torch.randint(0, size, (rows, length)) for size in CALENDAR_SIZES.values()], dim=-1)
    batch = {
        "x": torch.randn(rows, length, 6),
        "stamp": stamp.float(),
        "weight": torch.ones(rows, length),
        "mean": torch.ones(rows, 6),
        "scale": torch.ones(rows, 6),
    }
    return {name: values.to(device) for name, values in batch.items()}


def probe(config: Config, stage: Stage, networks: Networks, device: torch.device, precision: str) -> float:
    """Seconds of the second of two steps at the configured batch. Raises KitError where that does not fit."""
    run = ProbedStage(config, stage, networks, device, precision)
    batch = random_batch(config.training.batch_size, config.window, device)
    try:
        run.step(batch)
        return seconds(lambda: run.step(batch), device)
    except torch.OutOfMemoryError as error:
        raise KitError(
            f"{stage}: expected a batch of {len(batch['x'])} to fit, as computed, but {device} ran out of memory: something else "
            "may use it; lower training.batch_size or set training.use_checkpoint=true"
        ) from error
