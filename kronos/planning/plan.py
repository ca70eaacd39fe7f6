"""Before a run: will it fit, and how long will it take?

In: a configuration, a device. Out: `Plan`: parameters, memory by part, the largest batch, time per epoch and
stage. Memory is computed (`footprint`); time is probed where the device is at hand, else estimated from its
peak rates with the shares below, which are assumptions and are printed as such.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kronos import records
from kronos.config import Config
from kronos.data.batch_plan import BatchPlan
from kronos.data.store import MANIFEST, BarStore
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, cost
from kronos.networks.hub import CONFIG_FILE
from kronos.networks.predictor import PredictorConfig
from kronos.networks.presets import PUBLISHED, preset
from kronos.networks.tokenizer import TokenizerConfig
from kronos.planning.devices import Device
from kronos.planning.footprint import Load, Memory, largest_batch, predictor_memory, tokenizer_memory
from kronos.planning.head_plan import head_flops, head_memory, head_parameters, probe_head
from kronos.planning.probe import probe
from kronos.progress import clock
from kronos.training.facts import ALL_STAGES, Stage, StageData, for_device, micro_batches
from kronos.training.head_data import HeadData

MATMUL_SHARE = 0.45
"""Assumed: share of a device's peak that the matrix products reach."""
BANDWIDTH_SHARE = 0.8
"""Assumed: share of its memory bandwidth that everything else reaches."""
TRAFFIC = 4
"""Assumed: how often each byte that the forward pass keeps is moved in a step: written and read, forward and
backward.
"""

WINDOW: dict[Stage, str] = {"tokenizer": "window", "basemodel": "window", "head": "row"}
"""What a micro-batch is made of, in words: a row is a stock on a date."""

Networks = tuple[TokenizerConfig, PredictorConfig]


@dataclass(frozen=True)
class StagePlan:
    """One stage on one kind of device."""

    stage: Stage
    parameters: int
    flops: int
    """of a training step on one window"""
    memory: Memory
    """at the configured batch"""
    largest: int
    """largest batch that fits"""
    step_seconds: float | None
    """of one micro-batch on one device; None: unknown"""
    order: BatchPlan | None
    """steps of the stage; None: the number of windows is not known yet"""
    validation: int | None
    """windows scored after every epoch; None: unknown"""
    batch: int
    """windows of a micro-batch on one device; for the head stocks of a date"""
    accumulation: int
    """micro-batches of a step on one device"""


@dataclass(frozen=True)
class Plan:
    """What `describe` tells."""

    config: Config
    device: Device
    precision: str
    probed: bool
    windows: str
    """where the number of windows comes from"""
    stages: tuple[StagePlan, ...]


def make_plan(config: Config, device: Device, probing: bool) -> Plan:
    """Plan every stage that the configuration trains. probing: run two steps of each on this machine's
    device.

    Raises KitError when the networks' sizes cannot be known without downloading them, or the store is
    damaged.
    """
    networks = network_configs(config)
    precision = device.precision(config.training.mixed_precision)
    if device.kind == "cuda" and device.peak and precision not in ("no", *device.peak):
        has = ", ".join(["auto", "no", *(p for p in ("fp16", "bf16") if p in device.peak)])
        raise KitError(
            f"training.mixed_precision: expected one that {device.name} has ({has}), found {precision}"
        )
    store, windows = _store(config)
    own = config.experiment
    wanted = {"tokenizer": own.train_tokenizer, "basemodel": own.train_basemodel, "head": own.train_head}
    stages = [stage for stage in ALL_STAGES if wanted[stage]]
    config = _with_micro_batches(config, stages, networks, device, precision)
    probing = probing and device.here
    plans = tuple(_plan_stage(config, stage, networks, device, precision, store, probing) for stage in stages)
    return Plan(config, device, precision, probing, windows, plans)


def _with_micro_batches(
    config: Config, stages: Sequence[Stage], networks: Networks, device: Device, precision: str
) -> Config:
    """The configuration with the micro-batches that follow from training.windows_per_step, where it is set: on
    a GPU the largest that fit into its memory in every stage.
    """
    if config.training.windows_per_step is None:
        return config
    gpu = device.kind == "cuda"
    config = for_device(config, gpu)
    size, number = micro_batches(config)
    for stage in stages:
        if stage == "head":
            continue  # its steps are whole dates
        while gpu and size > 1 and _needs(config, stage, networks, precision, size, number) > device.usable:
            size, number = -(-size // 2), number * 2
    return replace(config, training=replace(config.training, batch_size=size, accumulation_steps=number))


def _needs(config: Config, stage: Stage, networks: Networks, precision: str, size: int, number: int) -> int:
    """Bytes of a step of `number` micro-batches of `size` windows on a GPU."""
    cut = replace(config, training=replace(config.training, batch_size=size, accumulation_steps=number))
    return memory_of(cut, stage, networks, precision, cpu=False)(size).total


def check_fit(plan: Plan) -> None:
    """Raise KitError when the configured batch of a stage does not fit."""
    for stage in plan.stages:
        if stage.memory.total > plan.device.usable:
            raise KitError(
                f"{stage.stage}: expected at most {_gb(plan.device.usable)} on {plan.device.name}, a batch of "
                f"{stage.batch} needs {_gb(stage.memory.total)}; {_smaller(stage)}"
            )


def _smaller(stage: StagePlan) -> str:
    """What makes a batch fit."""
    if not stage.largest:
        return "set training.use_checkpoint=true, shorten data.lookback_window or choose a smaller network"
    if stage.stage == "head":
        return f"set head.stocks_per_date={stage.largest}"
    steps = -(-stage.batch // stage.largest)
    return f"set training.batch_size={stage.largest} and training.accumulation_steps={steps}"


# -- one stage -----------------------------------------------------------------------------------------------
def _plan_stage(
    config: Config,
    stage: Stage,
    networks: Networks,
    device: Device,
    precision: str,
    store: BarStore | None,
    probing: bool,
) -> StagePlan:
    batch = config.head.stocks_per_date if stage == "head" else config.training.batch_size
    parts = (
        head_flops(config, networks)
        if stage == "head"
        else stage_flops(stage, networks, config.window, config.training.accumulation_steps)
    )
    memory = memory_of(config, stage, networks, precision, device.kind == "cpu")
    if probing and memory(batch).total <= device.usable:
        where = torch.device("cpu") if device.kind == "cpu" else torch.device("cuda", config.device.device_id)
        step: float | None = _probed(config, stage, networks, where, precision)
    else:
        step = estimate(config, device, precision, parts, memory(batch).activations, batch)
    order, validation = _order(config, stage, store)
    return StagePlan(
        stage,
        _parameters(config, stage, networks),
        cost.total(parts).total,
        memory(batch),
        largest_batch(memory, device.usable),
        step,
        order,
        validation,
        batch,
        accumulation_of(config, stage),
    )


def _parameters(config: Config, stage: Stage, networks: Networks) -> int:
    if stage == "head":
        return sum(head_parameters(config, networks).values())
    if stage == "tokenizer":
        return sum(cost.tokenizer_parameters(networks[0]).values())
    return sum(cost.predictor_parameters(networks[1]).values())


def _probed(config: Config, stage: Stage, networks: Networks, device: torch.device, precision: str) -> float:
    """Seconds of a micro-batch, run here."""
    if stage == "head":
        return probe_head(config, networks, device)
    return probe(config, stage, networks, device, precision)


def accumulation_of(config: Config, stage: Stage) -> int:
    """Micro-batches of a step on one device; of the head, dates."""
    if stage == "head":
        return max(1, config.head.dates_per_batch // config.distributed.num_processes)
    return config.training.accumulation_steps


def stage_flops(
    stage: Stage, networks: Networks, length: int, accumulation: int = 1
) -> dict[str, cost.Flops]:
    """Operations of a training step of a stage of the two networks on one window."""
    if stage == "tokenizer":
        return cost.tokenizer_flops(networks[0], length, accumulation)
    return cost.predictor_flops(networks[1], networks[0], length)


def memory_of(
    config: Config, stage: Stage, networks: Networks, precision: str, cpu: bool
) -> Callable[[int], Memory]:
    """Memory of one process by its batch."""
    t = config.training
    load = Load(
        batch=1,
        length=config.window,
        mixed=precision != "no",
        recompute=t.use_checkpoint,
        cpu=cpu,
        gradients_stay=accumulation_of(config, stage) > 1 or config.distributed.num_processes > 1,
    )
    if stage == "head":
        return lambda batch: head_memory(config, networks, replace(load, batch=batch))
    if stage == "tokenizer":
        return lambda batch: tokenizer_memory(networks[0], replace(load, batch=batch))
    return lambda batch: predictor_memory(networks[1], networks[0], replace(load, batch=batch))


def estimate(
    config: Config, device: Device, precision: str, parts: dict[str, cost.Flops], kept: int, batch: int
) -> float | None:
    """Seconds of a micro-batch from a device's peak rates and the bytes that its forward pass keeps; None:
    rates unknown.

    The frozen tokenizer works in float32 whatever the precision (TF32 counts as that); recomputing is another
    forward pass.
    """
    fast, plain = device.rate(precision, tf32=True), device.rate("no", tf32=True)
    if fast is None or plain is None or not device.bandwidth:
        return None
    frozen = parts.get("frozen tokenizer", cost.Flops(0)).total
    again = 0
    if config.training.use_checkpoint:
        repeated = "decoder"
        if "blocks" in parts:
            repeated = "blocks"
        again = parts[repeated].forward
    trained = cost.total(parts).total - frozen + again
    products = batch * (trained / fast + frozen / plain) / MATMUL_SHARE
    return products + TRAFFIC * kept / (device.bandwidth * BANDWIDTH_SHARE)


# -- what is there -------------------------------------------------------------------------------------------
def network_configs(config: Config) -> Networks:
    """Configurations of both networks as training would start with them, without downloading anything. Raises
    KitError.
    """
    tokenizer, predictor = preset(config.experiment.preset)
    paths = config.model_paths
    if config.tokenizer_is_pretrained:
        tokenizer = _pretrained(paths.pretrained_tokenizer, 0)
    made = KronosTokenizer.config_class(**tokenizer)
    if config.predictor_is_pretrained:
        predictor = _pretrained(paths.pretrained_predictor, 1)
    else:
        predictor |= {"s1_bits": made.s1_bits, "s2_bits": made.s2_bits}
    return made, Kronos.config_class(**predictor)


def _pretrained(source: str, which: int) -> dict[str, Any]:
    file = Path(source) / CONFIG_FILE
    if file.is_file():
        return records.read(file, dict[str, Any], remedy="name the folder of a saved network")
    if source in PUBLISHED:
        return preset(PUBLISHED[source])[which]
    raise KitError(
        f"{source}: expected a folder with {CONFIG_FILE}, or a network whose size is known ({', '.join(PUBLISHED)}); "
        "download it first"
    )


def _store(config: Config) -> tuple[BarStore | None, str]:
    if (Path(config.data.store) / MANIFEST).is_file():
        return BarStore.open(config.data.store), f"from the prepared data in {config.data.store}"
    if config.training.samples_per_epoch:
        return (
            None,
            f"{config.data.store} is not prepared yet; an epoch is taken as training.samples_per_epoch windows",
        )
    return None, f"unknown: {config.data.store} is not prepared yet and training.samples_per_epoch is not set"


def _order(config: Config, stage: Stage, store: BarStore | None) -> tuple[BatchPlan | None, int | None]:
    t = config.training
    if stage == "head":
        if store is None:
            return None, None
        dates = HeadData.of(config, store)
        return dates.plan, len(dates.validation) * config.head.validation_stocks
    if store is not None:
        data = StageData.of(config, stage, store)
        return data.plan, min(len(data.validation), t.validation_samples or len(data.validation))
    if t.samples_per_epoch is None:
        return None, None
    plan = BatchPlan(
        windows=t.samples_per_epoch,
        batch_size=t.batch_size,
        accumulation=t.accumulation_steps,
        processes=config.distributed.num_processes,
        epochs=t.tokenizer_epochs if stage == "tokenizer" else t.basemodel_epochs,
        max_steps=t.max_steps,
        step_windows=t.windows_per_step,
    )
    return plan, t.validation_samples


# -- time and text -------------------------------------------------------------------------------------------
def epoch_seconds(config: Config, stage: StagePlan) -> float | None:
    """Training steps of an epoch and the validation after it, which is a third of a step per batch: forward
    only.
    """
    if stage.step_seconds is None or stage.order is None:
        return None
    together = stage.batch * config.distributed.num_processes
    validating = (stage.validation or 0) / together * stage.step_seconds / 3
    return stage.order.steps_per_epoch * stage.accumulation * stage.step_seconds + validating


def stage_seconds(config: Config, stage: StagePlan) -> float | None:
    """All epochs, or as many steps as training.max_steps leaves."""
    epoch = epoch_seconds(config, stage)
    if epoch is None or stage.order is None:
        return None
    return epoch * stage.order.total_steps / stage.order.steps_per_epoch


def describe(plan: Plan) -> list[str]:
    """The plan as lines of text, warnings last."""
    t, device = plan.config.training, plan.device
    processes = plan.config.distributed.num_processes
    lines = [
        f"Plan for {processes} x {device.name}, {_gb(device.usable)} usable each, precision {plan.precision}, batch "
        f"{t.batch_size} x {t.accumulation_steps}, windows of {plan.config.window} bars"
        + (", gradient checkpointing" if t.use_checkpoint else ""),
        f"  windows: {plan.windows}",
        f"  time: {_basis(plan)}",
    ]
    for stage in plan.stages:
        lines += _stage_lines(plan, stage)
    return lines + warnings(plan)


def warnings(plan: Plan) -> list[str]:
    """What the user should change: a batch that does not fit, a run that does not end in time."""
    found = []
    for stage in plan.stages:
        if stage.memory.total > plan.device.usable:
            found.append(
                f"  WARNING: {stage.stage}: batch {stage.batch} does not fit; at most {stage.largest}"
            )
    times = [stage_seconds(plan.config, stage) for stage in plan.stages]
    limit = plan.config.training.time_limit
    known = sum(seconds for seconds in times if seconds is not None)
    if limit is not None and known > limit * 3600:
        found.append(
            f"  WARNING: {clock(known)} exceed training.time_limit ({limit:g} h): the run will save and end, and the same "
            "command goes on; fewer epochs or a smaller training.samples_per_epoch would end in time"
        )
    return found


def _basis(plan: Plan) -> str:
    spread = (
        " and that processes do not slow each other down" if plan.config.distributed.num_processes > 1 else ""
    )
    if plan.probed:
        return "two steps of each stage, run here" + (
            f"; assumed{spread.removeprefix(' and')}" if spread else ""
        )
    return (
        f"estimated, not measured; ASSUMED are {MATMUL_SHARE:.0%} of the peak rate, {BANDWIDTH_SHARE:.0%} of the bandwidth"
        f"{spread}"
    )


def _stage_lines(plan: Plan, stage: StagePlan) -> list[str]:
    config, memory = plan.config, stage.memory
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "AdamW": memory.optimizer,
        "frozen tokenizer": memory.frozen,
        "16-bit copies": memory.copies,
        "activations": memory.activations,
        "workspace": memory.workspace,
    }
    lines = [
        f"{stage.stage}: {stage.parameters:,} parameters, {stage.flops / 1e9:,.2f} GFLOP a {WINDOW[stage.stage]}",
        f"  memory {_gb(memory.total)}: "
        + ", ".join(f"{name} {_gb(value)}" for name, value in parts.items() if value),
        f"  largest batch that fits: {stage.largest}",
    ]
    if stage.step_seconds is None:
        return [*lines, "  time: unknown, the device's rates are not in the table; run a probe on it"]
    rate = stage.batch * config.distributed.num_processes / stage.step_seconds
    bars = "" if stage.stage == "head" else f", {rate * config.window:,.0f} bars/s"
    lines.append(f"  {rate:,.0f} {WINDOW[stage.stage]}s/s{bars}")
    epoch, whole = epoch_seconds(config, stage), stage_seconds(config, stage)
    if epoch is None or whole is None or stage.order is None:
        return [
            *lines,
            f"  a million {WINDOW[stage.stage]}s: {clock(1e6 / rate)}; an epoch: unknown until the data is prepared",
        ]
    order = stage.order
    unknown = "" if stage.validation is not None else " (validation not counted: its windows are unknown)"
    what = "dates" if stage.stage == "head" else "windows"
    return [
        *lines,
        f"  an epoch of {order.epoch_samples:,} {what}: {clock(epoch)}; the stage of {order.total_steps:,} steps: "
        f"{clock(whole)}{unknown}",
    ]


def _gb(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e7 else f"{size / 1e6:,.2f} MB"
