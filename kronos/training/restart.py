"""Starting a stage again without losing anything: what is there, whether it may go on, and where it moves
when it may not.

In: a resolved `Config` and a stage. Out: a `StageState`, and the refusal that names every way on. It needs no
process group, no device and no torch, so that the launcher asks it before anything is loaded or written.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kronos import files, records
from kronos.config import Config, from_dict, to_dict
from kronos.data.store import MANIFEST, BarStore, settings_of
from kronos.errors import KitError
from kronos.training.facts import (
    Facts,
    Stage,
    StageData,
    data_facts,
    difference,
    length_facts,
    setting_facts,
    start_facts,
)
from kronos.training.folder import (
    CHECKPOINTS,
    RunLock,
    Summary,
    checkpoint_folders,
    newest_checkpoint,
    summary_of,
)

log = logging.getLogger(__name__)

Status = Literal["absent", "interrupted", "complete", "damaged", "other_settings"]


@dataclass(frozen=True)
class StageState:
    """What an earlier start left of a stage.

    absent: nothing. interrupted: it goes on where it stopped, under the same settings. complete: its network
    is there and is the one of the summary. damaged: what was complete is gone or changed, or no checkpoint is
    readable; it has to be trained again.
    other_settings: it was trained with settings that learn something else.
    """

    status: Status
    lines: tuple[str, ...] = ()
    """What a user should know about it, a sentence each."""
    step: int = 0
    """Optimiser steps done, where it is not complete."""
    finished: bool = False
    """other_settings: the stage is complete with those."""
    changed: tuple[str, ...] = ()
    """other_settings: `name: saved X, now Y`."""
    facts: Facts = field(default_factory=dict)
    """other_settings: what it was trained with."""

    @property
    def only_below(self) -> bool:
        """Whether nothing differs but the network that this stage was trained on."""
        return all(text.startswith(("tokenizer: ", "trunk: ")) for text in self.changed)


def state_of(config: Config, stage: Stage) -> StageState:
    """What is there of a stage, and whether it belongs to these settings. Reads and digests files, writes
    nothing.

    Where the prepared data are not there yet, or are of other settings, the data are compared by the settings
    that make them.
    """
    config = with_saved_windows(config, stage)
    return judge(config, stage, *_present_facts(config, stage))


def with_saved_windows(config: Config, stage: Stage) -> Config:
    """The configuration with the accumulation that keeps a stage's windows per step, where only the number of
    processes changed.

    Raises KitError when they cannot be divided, naming what fits.
    """
    summary, _ = _summary(config.stage_dir(stage))
    t, processes = config.training, config.distributed.num_processes
    if summary is None or config.experiment.fresh or stage == "head" or t.windows_per_step is not None:
        return config
    saved = dict(_flat(summary.config))
    if saved.get("training.windows_per_step") is not None:
        return config
    windows = summary.facts.get("windows of a step")
    same = (saved.get("training.batch_size"), saved.get("training.accumulation_steps")) == (
        t.batch_size,
        t.accumulation_steps,
    )
    if not isinstance(windows, int) or not same or t.batch_size * t.accumulation_steps * processes == windows:
        return config
    if windows % (t.batch_size * processes):
        fits = _batch_that_fits(windows, t.batch_size, processes)
        raise KitError(
            f"{config.stage_dir(stage)}: expected a step of {windows} windows, as the stage was begun, found batches of "
            f"{t.batch_size} on {processes} processes, which cannot be divided so; {fits}"
        )
    steps = windows // (t.batch_size * processes)
    log.info(
        "%s: training.accumulation_steps is %d on %d process(es): a step stays %d windows",
        stage,
        steps,
        processes,
        windows,
    )
    return replace(config, training=replace(t, accumulation_steps=steps))


def accumulation_that_keeps_windows(config: Config, stage: Stage) -> int | None:
    """The training.accumulation_steps of `with_saved_windows`; None: the one that is set."""
    steps = with_saved_windows(config, stage).training.accumulation_steps
    if steps == config.training.accumulation_steps:
        return None
    return steps


def _batch_that_fits(windows: int, batch: int, processes: int) -> str:
    """What to set so that a step keeps its windows, in words."""
    if windows % processes:
        return f"take a number of processes that divides {windows}"
    share = windows // processes
    fitting = max(size for size in range(1, min(batch, share) + 1) if share % size == 0)
    return f"set training.batch_size={fitting} and training.accumulation_steps={share // fitting}"


def judge(config: Config, stage: Stage, facts: Facts, instead: Facts) -> StageState:
    """`state_of` for facts that are known. instead: `length_facts`, where the facts of the data are not
    known; else empty.
    """
    folder = config.stage_dir(stage)
    summary, problem = _summary(folder)
    notes = [problem] if problem else []
    if summary is not None and summary.status == "complete":
        wrong = _wrong_network(folder, summary)
        if wrong:
            return StageState("damaged", (wrong,), summary.step)
        found = _changed(summary.facts, summary.config, facts, instead)
        if found:
            return _other(stage, folder, found, summary.facts, finished=True, step=summary.step)
        return StageState("complete", (f"{stage}: complete in {folder}",), summary.step)
    newest, damaged = newest_checkpoint(folder / CHECKPOINTS)
    notes += damaged
    if newest is None:
        return _without_checkpoint(stage, folder, summary, notes, bool(damaged))
    step, saved = newest
    found = _changed(saved, summary.config if summary else {}, facts, instead)
    if found:
        return _other(stage, folder, found, saved, finished=False, step=step)
    return StageState("interrupted", (*notes, f"{stage}: interrupted at step {step} in {folder}"), step)


def _without_checkpoint(
    stage: Stage, folder: Path, summary: Summary | None, notes: list[str], damaged: bool
) -> StageState:
    if damaged:
        return StageState("damaged", (*notes, f"{folder / CHECKPOINTS}: no checkpoint is readable"))
    if summary is None and not notes:
        return StageState("absent")
    if notes and (folder / "best_model").is_dir():
        return StageState("damaged", tuple(notes))
    was = summary.status if summary else "its summary is not readable"
    return StageState(
        "interrupted", (*notes, f"{stage}: {was}, and no checkpoint to go on from: it starts at step 0")
    )


def _other(
    stage: Stage, folder: Path, changed: list[str], facts: Facts, *, finished: bool, step: int
) -> StageState:
    was = f"interrupted at step {step}"
    if finished:
        was = "complete"
    line = f"{stage}: {was} in {folder}, trained with other settings: {'; '.join(changed)}"
    return StageState("other_settings", (line,), step, finished, tuple(changed), facts)


# -- what is on disk -----------------------------------------------------------------------------------------
def _summary(folder: Path) -> tuple[Summary | None, str]:
    """The summary, or None and what is wrong with it ('' when there is none)."""
    try:
        return summary_of(folder), ""
    except records.WrongShape as error:
        return None, str(error)


def _wrong_network(folder: Path, summary: Summary) -> str:
    """What is wrong with the network of a complete stage, in one sentence, or ''."""
    network = folder / "best_model"
    if not network.is_dir():
        return f"{network}: expected the network of a complete stage, found none; the stage is trained again"
    found = files.folder_digest(network)
    if found != summary.model_digest:
        expected = str(summary.model_digest)[:12]
        return (
            f"{network}: expected the network that {folder / 'summary.json'} describes ({expected}), found changed or damaged "
            f"files ({found[:12]}); the stage is trained again"
        )
    return ""


# -- settings ------------------------------------------------------------------------------------------------
def _present_facts(config: Config, stage: Stage) -> tuple[Facts, Facts]:
    """The facts that can be known now, and what is compared instead of those of the data."""
    if stage == "head":
        return _trunk_facts(config), length_facts(config, stage)
    facts = setting_facts(config, stage) | start_facts(config, stage)
    if stage == "basemodel":
        tokenizer = expected_tokenizer(config)
        if tokenizer is not None:
            facts["tokenizer"] = tokenizer
    store = _present_store(config)
    if store is None:
        return facts, length_facts(config, stage)
    return facts | data_facts(store, StageData.of(config, stage, store).plan), {}


def _trunk_facts(config: Config) -> Facts:
    """Digest of the predictor that a head of this configuration reads; nothing where there is none yet."""
    summary, _ = _summary(config.basemodel_dir)
    if config.head.inputs == "bars" or summary is None or summary.status != "complete":
        return {}
    return {"trunk": summary.model_digest}


def _present_store(config: Config) -> BarStore | None:
    """The prepared data, where they are there and of these settings; preparing decides about all else."""
    if not (Path(config.data.store) / MANIFEST).is_file():
        return None
    try:
        store = BarStore.open(config.data.store)
    except KitError as error:
        log.info("%s; it is prepared again", error)
        return None
    if store.manifest.get("settings", settings_of(config)) != settings_of(config):
        return None
    return store


def expected_tokenizer(config: Config) -> str | None:
    """Digest of the tokenizer that a predictor of this configuration trains on: the one that its summary
    describes, damaged or not; None while it is still to be trained."""
    network = Path(config.model_paths.finetuned_tokenizer)
    summary, _ = _summary(network.parent)
    if summary is not None:
        return summary.model_digest if summary.status == "complete" else None
    if network.is_dir() and any(network.iterdir()):
        return files.folder_digest(network)
    return None


def _changed(saved: Facts, settings: Mapping[str, Any], now: Facts, instead: Facts) -> list[str]:
    """Facts that differ. Where the data are not known yet, the settings that make them are compared in their
    place; a tokenizer that is still to be trained is not compared."""
    unknown = [name for name in ("tokenizer", "trunk") if name not in now]
    if "horizons" in saved and instead:  # a head: all but its trunk is compared by settings
        unknown = [name for name in saved if name not in now]
    elif instead:
        unknown += ["data", "windows of an epoch", "total_steps"]
    found = difference({name: value for name, value in saved.items() if name not in unknown}, now)
    was = dict(_flat(settings))
    common = [name for name in instead if name in was]
    return found + difference({name: was[name] for name in common}, {name: instead[name] for name in common})


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


# -- what to do about it -------------------------------------------------------------------------------------
def refusal(config: Config, states: Mapping[Stage, StageState]) -> KitError | None:
    """The user's line when a stage that is about to be trained belongs to other settings, with every way on;
    None: it may start.

    states: `state_of` each stage that is about to be trained. With experiment.fresh nothing is refused; with
    experiment.skip_existing a complete stage is kept whatever it was trained with.
    """
    own = config.experiment
    blocked = {s: state for s, state in states.items() if state.status == "other_settings"}
    if own.skip_existing:
        blocked = {s: state for s, state in blocked.items() if not (state.finished or state.only_below)}
    if own.fresh or not blocked:
        return None
    found = "; ".join(line for state in blocked.values() for line in state.lines)
    ways = "; ".join(_ways_on(config, states, blocked))
    return KitError(
        f"{config.run_dir}: expected the settings of the run that is there, found others: {found}. Nothing was changed. "
        f"Set them back, or add one of: {ways}"
    )


def _ways_on(
    config: Config, states: Mapping[Stage, StageState], blocked: Mapping[Stage, StageState]
) -> list[str]:
    target = free_name(config.run_dir)
    reusable = "tokenizer" not in blocked and expected_tokenizer(config) is not None
    ways = []
    if not config.experiment.skip_existing and all(state.finished for state in blocked.values()):
        ways.append("--skip-existing (keeps complete stages as they are, trains the rest)")
    if reusable and "tokenizer" in states:
        folder = config.stage_dir("basemodel")
        ways.append(
            f"--skip-tokenizer --fresh (moves {folder} to {target}, trains it anew on the tokenizer that is there)"
        )
    moved = " and ".join(str(config.stage_dir(stage)) for stage in states)
    ways.append(f"--fresh (moves {moved} to {target}, trains anew)")
    own_run = f"{_other_run(config)} (a run of its own"
    if reusable:
        network = config.model_paths.finetuned_tokenizer
        own_run += f"; --skip-tokenizer --set model_paths.finetuned_tokenizer={network} reuses this tokenizer"
    return [*ways, f"{own_run})"]


def _other_run(config: Config) -> str:
    """The setting that makes another run of it."""
    paths = config.model_paths
    number = 2
    while Path(f"{config.run_dir}-{number}").exists():
        number += 1
    if config.run_dir == Path(paths.base_path) / paths.exp_name:
        return f"--set model_paths.exp_name={paths.exp_name}-{number}"
    return f"--set model_paths.base_save_path={config.run_dir}-{number}"


def free_name(run_dir: Path) -> Path:
    """Where `set_aside` would move stages of a run: the first of RUN.old-1, RUN.old-2, ... that is not
    there.
    """
    number = 1
    while (target := run_dir.with_name(f"{run_dir.name}.old-{number}")).exists():
        number += 1
    return target


def set_aside(config: Config, stages: Sequence[Stage]) -> Path:
    """Move the folders of `stages`, and only those, out of the run to RUN.old-N; a predictor's backtest goes
    with it.

    RUN.old-N gets a configuration of its own, so that the old networks can still be used. Returns the folder;
    it does not exist where there was nothing to move. Raises KitError when a run is training in the folder.
    """
    lock = RunLock(config.run_dir)
    lock.acquire()
    try:
        return move_aside(config, stages)
    finally:
        lock.release()


def holds_work(folder: Path) -> bool:
    """Whether a stage's folder holds a network or a checkpoint: what training anew would write over."""
    return (folder / "best_model").is_dir() or bool(checkpoint_folders(folder / CHECKPOINTS))


def move_aside(config: Config, stages: Sequence[Stage]) -> Path:
    """`set_aside` for whoever has the run's lock already."""
    target = free_name(config.run_dir)
    moving = [config.stage_dir(stage) for stage in stages]
    if "basemodel" in stages:
        moving.append(config.run_dir / "backtest")
    moving = [folder for folder in moving if folder.is_dir() and any(folder.iterdir())]
    if not moving:
        return target
    target.mkdir(parents=True)
    for folder in moving:
        folder.rename(target / folder.name)
        log.warning("moved %s to %s", folder, target / folder.name)
    _write_config(config, target)
    return target


def _write_config(config: Config, target: Path) -> None:
    """The configuration of the run that moved, with its new place."""
    if not config.resolved_path.is_file():
        return
    try:
        old = from_dict(records.read_json(config.resolved_path), str(config.resolved_path))
    except records.WrongShape as error:
        log.warning("%s is not copied to %s: %s", config.resolved_path, target, error)
        return
    tokenizer = old.model_paths.finetuned_tokenizer
    if Path(tokenizer) == old.tokenizer_dir / "best_model":
        moved = target / config.tokenizer_dir.name / "best_model"
        tokenizer = str(moved if moved.is_dir() else config.tokenizer_dir / "best_model")
    paths = replace(
        old.model_paths, exp_name=target.name, base_save_path=str(target), finetuned_tokenizer=tokenizer
    )
    files.write_json(target / "pipeline_config.json", to_dict(replace(old, model_paths=paths)))
