"""The final run: what was chosen with parts held out, trained once more on every day up to the last, for the
submission.

In: a run whose stages are complete. Out: the configuration of RUN/final, saved there, and whether RUN/final
is complete and still belongs to the run. The number of steps is the one that the held-out validation chose;
nothing else is chosen again. The backtest never reads RUN/final: no date lies behind its training. Standard
library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from kronos import configfile, files, records
from kronos.config import Config, to_dict
from kronos.errors import KitError

FOLDER, ORIGIN, DECISIONS, FITS = "final", "origin.json", "decisions", "fits"
StageName = Literal["tokenizer", "basemodel", "head"]
STAGES: tuple[StageName, ...] = ("tokenizer", "basemodel", "head")


@dataclass(frozen=True)
class Chosen:
    """What a stage of the run came to."""

    step: Annotated[int, "> 0"]
    """Optimiser steps after which it was best on the validation part."""
    digest: str
    """Of the network that was chosen."""


@dataclass(frozen=True)
class Origin:
    """RUN/final/origin.json: which run the final one repeats."""

    stages: dict[str, Chosen] = field(default_factory=dict)


@dataclass(frozen=True)
class _Best:
    step: int


@dataclass(frozen=True)
class _Summary:
    """What is read here of a stage's summary.json."""

    status: Literal["complete", "interrupted", "running"]
    best: _Best | None = None
    model_digest: str | None = None
    train_end: str | None = None


def stages_of(config: Config) -> list[StageName]:
    """The stages that the run trains, in their order."""
    own = config.experiment
    wanted = {"tokenizer": own.train_tokenizer, "basemodel": own.train_basemodel, "head": own.train_head}
    return [stage for stage in STAGES if wanted[stage]]


def chosen(config: Config) -> dict[str, Chosen]:
    """What each stage of a run came to. Raises KitError where one is not complete."""
    found: dict[str, Chosen] = {}
    for stage in stages_of(config):
        summary = _summary(config.stage_dir(stage))
        if (
            summary is None
            or summary.status != "complete"
            or summary.best is None
            or summary.model_digest is None
        ):
            state = "none" if summary is None else f"it {summary.status}"
            where = config.stage_dir(stage)
            raise KitError(
                f"{where}: expected a complete stage before the final run, found {state}; train it to its end first"
            )
        found[stage] = Chosen(max(summary.best.step, 1), summary.model_digest)
    if not found:
        raise KitError(
            f"{config.run_dir}: expected a stage to train once more, found none; set experiment.train_basemodel or train_head"
        )
    return found


def final_config(config: Config, stages: Mapping[str, Chosen]) -> Config:
    """The configuration that trains the same networks on every day, each for its chosen number of steps.

    Raises KitError where the settings leave a choice to a validation that no longer chooses.
    """
    if config.training.scheduler == "plateau":
        raise KitError(
            "training.scheduler: expected one that needs no validation for a final run, found plateau; use onecycle or cosine"
        )
    steps: dict[str, Any] = {f"{stage}_steps": one.step for stage, one in stages.items()}
    paths = config.model_paths
    own_tokenizer = "tokenizer" in stages
    return configfile.derived_paths(
        replace(
            config,
            data=replace(config.data, all_days=True),
            training=replace(config.training, early_stopping_patience=None, **steps),
            model_paths=replace(
                paths,
                base_save_path=str(config.run_dir / FOLDER),
                finetuned_tokenizer="" if own_tokenizer else paths.finetuned_tokenizer,
            ),
            experiment=replace(config.experiment, name="", final=False),
        )
    )


def plan(config: Config) -> Path:
    """Write RUN/final/pipeline_config.json from the complete stages of a run, and which run it repeats.
    Returns its path.

    A final run of other networks is not gone on with: its stages differ in their settings or start from
    another tokenizer.
    """
    stages = chosen(config)
    own = final_config(config, stages)
    own.run_dir.mkdir(parents=True, exist_ok=True)
    files.write_json(own.resolved_path, to_dict(own))
    files.write_json(own.run_dir / ORIGIN, {"stages": {stage: vars(one) for stage, one in stages.items()}})
    return own.resolved_path


def of_run(config: Config) -> tuple[Config | None, str]:
    """(the configuration of a run's final networks, a line about them); None where there are none that can be
    used.

    The line is empty where there is no final run at all. Raises KitError where its files are damaged.
    """
    folder = config.run_dir / FOLDER
    if not (folder / ORIGIN).is_file():
        return None, ""
    origin = records.read(folder / ORIGIN, Origin, remedy="make the final run again")
    now = {stage: _summary(config.stage_dir(stage)) for stage in origin.stages}
    changed = [
        stage
        for stage, one in origin.stages.items()
        if (found := now[stage]) is None or found.model_digest != one.digest
    ]
    if changed:
        return (
            None,
            f"{folder} repeats another {changed[0]} than the run's present one and is not used; make the final run again",
        )
    own = final_config(config, origin.stages)
    ended = {stage: _summary(own.stage_dir(stage)) for stage in origin.stages}
    open_ = [stage for stage, summary in ended.items() if summary is None or summary.status != "complete"]
    if open_:
        return None, f"{folder}: its {open_[0]} is not complete, so it is not used; go on with the final run"
    last = max(summary.train_end or "" for summary in ended.values() if summary is not None)
    return own, (
        f"networks of {folder}: trained once more on every day up to {last}; the decision is that of the networks that were "
        "chosen, which did not see the newest days"
    )


def carry_over(config: Config, own: Config) -> None:
    """Write the decisions of the run's backtest beside the final networks, under the final networks' digests.

    config, own: of the run and of its final run (`of_run`). What stood there before goes: the backtest may be
    a newer one.
    """
    origin = records.read(own.run_dir / ORIGIN, Origin, remedy="make the final run again")
    digests = {}
    for stage, one in origin.stages.items():
        summary = _summary(own.stage_dir(stage))
        if summary is None or summary.model_digest is None:
            raise KitError(
                f"{own.stage_dir(stage)}: expected a complete stage, found none; make the final run again"
            )
        digests[one.digest] = summary.model_digest
    for old in (own.run_dir / DECISIONS).rglob("*.json"):
        old.unlink()
    for path in sorted((config.run_dir / DECISIONS).glob("*.json")):
        files.write_json(own.run_dir / DECISIONS / path.name, _renamed(records.read_json(path), digests))
    for path in sorted((config.run_dir / DECISIONS / FITS).glob("*.json")):
        files.write_json(own.run_dir / DECISIONS / FITS / path.name, records.read_json(path))


def _renamed(tree: Any, digests: Mapping[str, str]) -> Any:
    """A JSON tree with every text that is one of the digests replaced."""
    if isinstance(tree, dict):
        return {key: _renamed(value, digests) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_renamed(value, digests) for value in tree]
    return digests.get(tree, tree) if isinstance(tree, str) else tree


def _summary(folder: Path) -> _Summary | None:
    """What a stage's summary says, None where there is none. Raises KitError where it does not say what it
    should.
    """
    path = folder / "summary.json"
    if not path.is_file():
        return None
    return records.read(path, _Summary, remedy="train the stage again")
