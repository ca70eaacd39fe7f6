"""One run's folder, as everybody reads it: configuration, summaries, networks, decisions, report, digests.

In: a folder (docs/architecture.md). Out: a `RunFolder`. Every file is checked for its form; what is not as it
should be is one line that names the file.
"""

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kronos import files, records
from kronos.answers.findings import FOLDER, Findings, read_findings
from kronos.config import Config, from_dict
from kronos.errors import KitError
from kronos.training.folder import read_summary

if TYPE_CHECKING:
    from kronos.forecasting.pair import Pair

log = logging.getLogger(__name__)

CONFIG, REPORT = "pipeline_config.json", "backtest/report.json"
NO_BACKTEST, OTHER_WEIGHTS = "no backtest", "no backtest of these weights"
STAGES = ("tokenizer", "basemodel")


@dataclass(frozen=True)
class ReportModel:
    """A network of a backtest, as far as it is read again."""

    digest: str
    name: str = ""


@dataclass(frozen=True)
class ReportEntry:
    """An answerer of a backtest."""

    name: str
    figures: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ReportDates:
    """The dates of a backtest."""

    horizon: Annotated[int, "> 0"]
    stride: Annotated[int, "> 0"]


@dataclass(frozen=True)
class Report:
    """What others read of report.json; the whole of it: docs/evaluation.md."""

    main: str
    entries: list[ReportEntry]
    models: list[ReportModel]
    control: Literal["shuffle-labels", "future-noise"] | None = None
    dates: ReportDates | None = None


@dataclass(frozen=True)
class RunFolder:
    """A run. Nothing is read before it is asked for."""

    path: Path

    # -- what was asked for ----------------------------------------------------------------------------------
    @property
    def is_run(self) -> bool:
        """Whether the folder holds a resolved configuration."""
        return (self.path / CONFIG).is_file()

    @cached_property
    def tree(self) -> dict[str, Any]:
        """The resolved configuration as it lies there, of whatever version. Raises KitError where there is
        none.
        """
        path = self.path / CONFIG
        if not path.is_file():
            raise KitError(
                f"{self.path}: expected a run folder with {CONFIG}, found none; name base_path/exp_name"
            )
        return records.read(path, dict[str, Any], remedy="it has to be what the launcher wrote")

    @cached_property
    def config(self) -> Config:
        """The configuration that the run was trained with. Raises KitError where there is none, or one of
        another version.
        """
        return from_dict(self.tree, str(self.path / CONFIG))

    def config_for(self, caller: Config) -> Config:
        """The run's configuration for a backtest by `caller`, whose device, sampling, data and dates hold.

        What shaped the network (lookback, normalisation, context) is the run's own.
        """
        own = self.config
        tokenizer = own.model_paths.finetuned_tokenizer
        if Path(tokenizer) == own.tokenizer_dir / "best_model":
            tokenizer = str(self.path / own.model_paths.tokenizer_save_name / "best_model")
        paths = replace(own.model_paths, base_save_path=str(self.path), finetuned_tokenizer=tokenizer)
        data = replace(
            own.data, data_path=caller.data.data_path, store=caller.data.store, calendar=caller.data.calendar
        )
        own = replace(
            own,
            inference=caller.inference,
            evaluation=caller.evaluation,
            device=caller.device,
            market=caller.market,
        )
        return replace(own, data=data, model_paths=paths)

    # -- what was trained ------------------------------------------------------------------------------------
    def stage_folder(self, stage: str) -> Path:
        """Where a stage keeps its network, by the name that the configuration gives it."""
        names = records.check(
            self.tree.get("model_paths", {}), dict[str, Any], f"{self.path / CONFIG}: model_paths"
        )
        return self.path / str(names.get(f"{stage}_save_name", stage))

    def summary(self, stage: str) -> dict[str, Any] | None:
        """A stage's summary, None where it has not begun."""
        return read_summary(self.stage_folder(stage))

    def networks(self, allow_incomplete: bool = False) -> "Pair":
        """Both networks. Raises KitError where they are not complete or do not belong together."""
        from kronos.forecasting.pair import (
            find_pair,
        )  # torch takes a second to load, and tables of runs need none

        return find_pair(self.config, allow_incomplete)

    def digest(self, stage: str) -> str | None:
        """Digest of the network that lies in a stage's folder now; None where there is none."""
        folder = self.stage_folder(stage) / "best_model"
        return files.folder_digest(folder) if folder.is_dir() else None

    # -- what was found --------------------------------------------------------------------------------------
    def horizons(self) -> list[int]:
        """Horizons for which a backtest has left findings, shortest first."""
        names = [path.stem.removeprefix("horizon-") for path in (self.path / FOLDER).glob("horizon-*.json")]
        return sorted(int(name) for name in names if name.isdecimal())

    def findings(self, horizon: int) -> Findings | None:
        """What a backtest left for the submission at a horizon. Raises KitError where a value is not what it
        can be.
        """
        return read_findings(self.path, horizon)

    def report(self, weights: str | None) -> tuple[dict[str, Any] | None, str]:
        """(the backtest's report, '') or (None, why it says nothing about these weights).

        weights: the predictor's digest, '' where it is not known; None: the run has no weights of its own
        that could have changed.
        """
        path = self.path / REPORT
        if not path.is_file():
            return None, NO_BACKTEST
        try:
            tree = records.read_json(path)
            head = records.check(tree, Report, str(path), remedy="run the backtest again")
        except KitError as error:
            log.warning("%s; expected a backtest's report; it is left out", error)
            return None, f"{NO_BACKTEST} (unreadable)"
        if head.main not in {entry.name for entry in head.entries}:
            log.warning(
                "%s: expected a backtest's report with an entry %r, found none; it is left out",
                path,
                head.main,
            )
            return None, f"{NO_BACKTEST} (unreadable)"
        if head.control:
            return None, f"{NO_BACKTEST} (a control: {head.control})"
        if weights is not None and weights not in {model.digest for model in head.models}:
            return None, OTHER_WEIGHTS
        return tree, ""
