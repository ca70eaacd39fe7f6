"""From a configuration and the launcher's flags to what `train_kaggle.sh` runs.

In: a configuration file, overrides, the machine's GPUs. Out: a checked `Config` saved for this launch, the stages to run, and
the arguments of `accelerate launch` (every one explicit: a machine's saved accelerate defaults must not change a run).
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kronos import configfile, files
from kronos.config import Config, to_dict
from kronos.data import competition, ingest, sources
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.training.trackers import check_installed

FAST_MODE = (
    "training.tokenizer_epochs=1",
    "training.basemodel_epochs=1",
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
class LaunchPlan:
    """What a launch will do; `lines` is the form that the shell reads."""

    config: Config
    config_path: Path
    log_path: Path
    stages: tuple[str, ...]
    accelerate: tuple[str, ...]
    uses_gpu: bool

    @property
    def _backtests(self) -> bool:
        """After a predictor's training, on the machine that leads."""
        main = self.config.distributed.machine_rank == 0
        return main and self.config.evaluation.after_training and "basemodel" in self.stages

    @property
    def _submitter(self) -> str:
        """Who writes a submission: all processes of the only machine share it; of several machines the first one alone."""
        spread = self.config.distributed
        return "shared" if spread.num_machines == 1 else ("elsewhere" if spread.machine_rank else "alone")

    def lines(self) -> list[str]:
        """`key=value` lines; list values repeat their key."""
        head = [
            f"run_dir={self.config.run_dir}",
            f"config={self.config_path}",
            f"log={self.log_path}",
            f"gpu={int(self.uses_gpu)}",
        ]
        head.append(f"scored={int(bool(self.config.data.solution_path))}")
        head.append(f"backtest={int(self._backtests)}")
        head.append(f"submission={self._submitter}")
        folders = {"tokenizer": self.config.tokenizer_dir, "basemodel": self.config.basemodel_dir}
        stages = [line for s in self.stages for line in (f"stage={s}", f"summary={folders[s] / 'summary.json'}")]
        return head + stages + [f"accelerate={a}" for a in self.accelerate]


def fast_overrides(config: Config) -> list[str]:
    """Overrides that shorten every stage to a smoke run, in a folder of its own so that no real run is touched."""
    paths = config.model_paths
    name = json.dumps(f"{paths.exp_name}-fast")
    return [
        *FAST_MODE,
        f"model_paths.exp_name={name}",
        f"model_paths.base_save_path={json.dumps(f'{paths.base_save_path}-fast')}",
    ]


def plan_launch(
    path: str, overrides: Sequence[str], *, fast: bool, wanted: int | None, gpus: int, write: bool, now: float | None = None
) -> LaunchPlan:
    """Check everything that can be checked before a long run starts.

    wanted: GPUs of every machine to train on, None: as configured. gpus: GPUs that this machine has. write: save the resolved
    configuration under the run's logs/ (a dry run does not).
    Raises KitError when the configuration cannot run here.
    """
    if wanted is not None:
        machines = configfile.peek(path, overrides, "distributed", "num_machines")
        total = max(wanted, 1) * (machines if isinstance(machines, int) else 1)
        overrides = [*overrides, f"distributed.num_processes={total}", f"distributed.use_ddp={str(total > 1).lower()}"]
    config = configfile.load(path, overrides)
    if fast:
        config = configfile.load(path, [*overrides, *fast_overrides(config)])
    check_devices(config, gpus, wanted)
    check_installed(config.training.trackers)
    check_inputs(config)
    started = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    machine = f"-machine{config.distributed.machine_rank}" if config.distributed.machine_rank else ""  # the folder is shared
    log = config.run_dir / "logs" / f"train_{started}{machine}.log"
    if write:
        files.write_json(log.with_suffix(".json"), to_dict(config))
    uses_gpu = config.device.use_cuda and gpus > 0
    return LaunchPlan(config, log.with_suffix(".json"), log, _stages(config), _accelerate(config, uses_gpu), uses_gpu)


def check_devices(config: Config, gpus: int, wanted: int | None = None) -> None:
    """Refuse to use more GPUs than there are: running on fewer would be a silent change of the run. `wanted`, `gpus`: see
    `plan_launch`."""
    here = config.distributed.num_processes // config.distributed.num_machines
    if not config.device.use_cuda:
        return
    if wanted == 0:
        raise KitError("--multi-gpu: expected GPUs, found none; use --cpu --num-processes N to train on the processor")
    if here > gpus and (wanted or (config.distributed.use_ddp and here > 1)):
        raise KitError(f"expected {here} GPUs on this machine, found {gpus}; ask for {gpus}, or use --cpu --num-processes {here}")
    if gpus and here == 1 and config.device.device_id >= gpus:
        raise KitError(f"device.device_id: expected below {gpus}, the number of GPUs here, found {config.device.device_id}")


def check_inputs(config: Config) -> None:
    """The files that a run reads are there and look like what they should be, or will be generated. Reads headers only,
    and the two small files in whole. Raises KitError."""
    data = config.data
    if config.market.generate and not Path(str(data.data_path)).exists():
        return
    if config.source.skip:
        BarStore.open(data.store)
        return
    if config.has_source:
        sources.check(config)  # its files are written later
        return
    for path in ingest.find_sources(data.data_path):
        ingest.open_prices(path, data.columns)
    test = competition.read_test(data.test_path) if data.test_path else None
    sample = competition.read_sample(data.sample_submission_path) if data.sample_submission_path else None
    if test is not None and sample is not None and set(test["ID"]) != set(sample["ID"]):
        odd = sorted(set(test["ID"]) ^ set(sample["ID"]))
        raise KitError(
            f"{data.sample_submission_path}: expected the IDs of {data.test_path}, found {len(odd)} that only one of them has, "
            f"e.g. {odd[0]}; use two files of one competition"
        )


def _stages(config: Config) -> tuple[str, ...]:
    wanted = {"tokenizer": config.experiment.train_tokenizer, "basemodel": config.experiment.train_basemodel}
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
        return ("--multi_gpu", *flags)  # on CPU too, beside ACCELERATE_USE_CPU: --cpu would start one process only
    return tuple(flags) if uses_gpu else ("--cpu", *flags)
