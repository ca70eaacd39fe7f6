"""From a configuration and the launcher's flags to what will run.

In: a configuration file, overrides, the machine's GPUs. Out: a checked `Config` saved for this launch, and
its steps: commands, with the arguments of `accelerate launch` (every one explicit: a machine's saved
accelerate defaults must not change a run).
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kronos import configfile, files, final
from kronos.config import Config, to_dict
from kronos.launch.checks import (
    SUBMISSIONS,
    check_devices,
    check_final,
    check_inputs,
    check_outputs,
    try_writing,
)
from kronos.training.facts import Stage
from kronos.training.restart import StageState, refusal, set_aside, state_of
from kronos.training.runlog import check_installed

FAST_MODE = (
    "training.tokenizer_epochs=1",
    "training.basemodel_epochs=1",
    "training.head_epochs=1",
    "training.max_steps=20",
    "training.validation_samples=128",
    "training.log_interval=5",
    "inference.sample_count=5",
    "evaluation.origins=3",
    "evaluation.every=null",
    "evaluation.random_init=false",
    "evaluation.pretrained=false",
)


@dataclass(frozen=True)
class Step:
    """One command of a launch."""

    name: str
    """As messages call it."""
    title: str
    """The heading above its output; '' for none."""
    command: tuple[str, ...]
    trainers: bool = False
    """It starts training processes, which a signal has to reach; else the command is one process."""
    stage: Stage | None = None
    optional: bool = False
    """Its failure does not end the launch."""
    folder: Path | None = None
    """Of a stage that is trained: where its summary lies, which says whether it is complete."""
    final: bool = False
    """It is part of the final run."""


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch will do."""

    config: Config
    config_path: Path
    log_path: Path
    stages: tuple[Stage, ...]
    accelerate: tuple[str, ...]
    uses_gpu: bool
    submit: bool = False
    notes: tuple[str, ...] = ()
    """What a user should know before it begins."""
    strict: bool = False
    """A warning of the quick data checks ends it before training."""

    @property
    def several_machines(self) -> bool:
        """Whether more than one machine trains."""
        return self.config.distributed.num_machines > 1

    @property
    def leads(self) -> bool:
        """Whether this machine is the one that scores and writes a submission."""
        return self.config.distributed.machine_rank == 0

    @property
    def submission(self) -> Path:
        """The file that --submit writes."""
        started = self.log_path.stem.removeprefix("train_")
        return SUBMISSIONS / f"{self.config.run_dir.name}-{started}.csv"

    def steps(self) -> list[Step]:
        """The commands, in their order. Relative paths start in the kit's folder."""
        given = ("--config", str(self.config_path))
        prepare: tuple[str, ...] = (sys.executable, "kaggle/prepare_data.py", *given)
        if self.strict:
            prepare = (*prepare, "--strict")
        found = [Step("preparing the data", "Preparing the data", prepare)]
        for stage in self.stages:
            command = self._launched("kaggle/train_stage.py", *given, "--stage", stage)
            folder = self.config.stage_dir(stage)
            name, title = f"the {stage} stage", f"Training: {stage}"
            found.append(Step(name, title, command, trainers=True, stage=stage, folder=folder))
        if not self.leads:
            return found
        if self.config.evaluation.after_training and {"basemodel", "head"} & set(self.stages):
            command = (sys.executable, "scripts/run_backtest.py", *given, "--save")
            found.append(Step("the backtest", "Backtest", command, optional=True))
        if self.config.experiment.final:
            found += self._final_steps(given)
        return found + (self._submission_steps(given) if self.submit else [])

    def _final_steps(self, given: tuple[str, ...]) -> list[Step]:
        """Every stage once more on every day, with the configuration that the first of these steps writes."""
        plan = (sys.executable, "scripts/final_run.py", *given, "--plan")
        found = [Step("the plan of the final run", "Final run: every day trains", plan, final=True)]
        folder = self.config.run_dir / final.FOLDER
        for stage in self.stages:
            own = ("--config", str(folder / self.config.resolved_path.name), "--stage", stage)
            command = self._launched("kaggle/train_stage.py", *own)
            where = folder / self.config.stage_dir(stage).name
            name, title = f"the final {stage} stage", f"Final run: {stage}"
            found.append(Step(name, title, command, trainers=True, folder=where, final=True))
        return found

    def _submission_steps(self, given: tuple[str, ...]) -> list[Step]:
        """Of several machines only the first one forecasts, in one process: the others have ended, or wait
        for nothing.
        """
        target = str(self.submission)
        command: tuple[str, ...] = ("scripts/make_submission.py", *given, "--output", target)
        command = (sys.executable, *command) if self.several_machines else self._launched(*command)
        found = [Step("the submission", "Submission", command, trainers=not self.several_machines)]
        if self.config.data.solution_path:
            score = (sys.executable, "scripts/score_submission.py", *given, "--file", target)
            found.append(Step("the score", "", score))
        return found

    def _launched(self, *command: str) -> tuple[str, ...]:
        """A script in all processes of the run."""
        return (sys.executable, "-m", "kronos.launch.trainers", *self.accelerate, *command)


def fast_overrides(config: Config) -> list[str]:
    """Overrides that shorten every stage to a smoke run, in a folder of its own so that no real run is
    touched.
    """
    paths = config.model_paths
    name = json.dumps(f"{paths.exp_name}-fast")
    return [
        *FAST_MODE,
        f"model_paths.exp_name={name}",
        f"model_paths.base_save_path={json.dumps(f'{paths.base_save_path}-fast')}",
    ]


def plan_launch(
    path: str | Path,
    overrides: Sequence[str],
    *,
    fast: bool,
    wanted: int | None,
    gpus: int | None,
    write: bool,
    submit: bool = False,
    strict: bool = False,
    now: float | None = None,
) -> LaunchPlan:
    """Check everything that can be checked before a long run starts.

    wanted: GPUs of every machine to train on, None: as configured. gpus: GPUs that this machine has, None:
    they are counted where they matter. write: save the resolved configuration under the run's logs/, move
    aside what --fresh trains anew (a dry run does neither). Raises KitError when the configuration cannot run
    here, or would train over what is there.
    """
    if wanted is not None:
        machines = configfile.peek(path, overrides, "distributed", "num_machines")
        total = max(wanted, 1) * (machines if isinstance(machines, int) else 1)
        overrides = [*overrides, f"distributed.num_processes={total}"]
    config = configfile.load(path, overrides)
    if fast:
        config = configfile.load(path, [*overrides, *fast_overrides(config)])
    if gpus is None:
        gpus = count_gpus() if config.device.use_cuda else 0
    check_devices(config, gpus, wanted)
    check_installed(config.training.trackers)
    check_inputs(config)
    check_outputs(config, submit)
    stages = _stages(config)
    check_final(config)
    states = {stage: state_of(config, stage) for stage in stages}
    refused = refusal(config, states)
    if refused is not None:
        raise refused
    started = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    machine = (
        f"-machine{config.distributed.machine_rank}" if config.distributed.machine_rank else ""
    )  # the folder is shared
    log = config.run_dir / "logs" / f"train_{started}{machine}.log"
    notes: tuple[str, ...] = ()
    if write:
        for folder in [log.parent, *([SUBMISSIONS] if submit else [])]:
            try_writing(folder)
        config, notes = _make_room(config, stages, states)
        files.write_json(log.with_suffix(".json"), to_dict(config))
    uses_gpu = config.device.use_cuda and gpus > 0
    accelerate = _accelerate(config, uses_gpu)
    resolved = log.with_suffix(".json")
    return LaunchPlan(config, resolved, log, stages, accelerate, uses_gpu, submit, notes, strict)


def count_gpus() -> int:
    """GPUs that torch sees here."""
    import torch  # two seconds, where no GPU is wanted for nothing

    return torch.cuda.device_count()


def _make_room(
    config: Config, stages: tuple[Stage, ...], states: dict[Stage, StageState]
) -> tuple[Config, tuple[str, ...]]:
    """For --fresh: what is there of the stages moves aside, once: when this launch is interrupted, the next
    one goes on. Of several machines the first one moves."""
    there = [stage for stage in stages if states[stage].status != "absent"]
    notes: tuple[str, ...] = ()
    if config.experiment.fresh and there and config.distributed.machine_rank == 0:
        target = set_aside(config, there)
        notes = (f"--fresh: {' and '.join(there)} of {config.run_dir} moved to {target}",)
    return replace(config, experiment=replace(config.experiment, fresh=False)), notes


def _stages(config: Config) -> tuple[Stage, ...]:
    wanted: dict[Stage, bool] = {
        "tokenizer": config.experiment.train_tokenizer,
        "basemodel": config.experiment.train_basemodel,
        "head": config.experiment.train_head,
    }
    return tuple(stage for stage, run in wanted.items() if run)


def _accelerate(config: Config, uses_gpu: bool) -> tuple[str, ...]:
    spread = config.distributed
    here = spread.num_processes // spread.num_machines
    threads = max(1, (os.cpu_count() or 1) // max(1, here))
    arguments = {
        "num_processes": spread.num_processes,
        "num_machines": spread.num_machines,
        "machine_rank": spread.machine_rank,
        "main_process_ip": spread.main_process_ip,
        "main_process_port": spread.main_process_port,
        "num_cpu_threads_per_process": threads,
        "mixed_precision": "no",  # the trainer decides; the configuration is the authority
        "dynamo_backend": "no",
        "gpu_ids": "all",  # any other replaces the user's CUDA_VISIBLE_DEVICES; a single process takes device.device_id itself
    }
    flags = [part for key, value in arguments.items() for part in (f"--{key}", str(value))]
    if spread.num_processes > 1:
        return (
            "--multi_gpu",
            *flags,
        )  # on CPU too, beside ACCELERATE_USE_CPU: --cpu would start one process only
    return tuple(flags) if uses_gpu else ("--cpu", *flags)
