"""Every setting of the kit, its type and its default: the whole configuration.

In: nothing. Out: frozen dataclasses that the rest of the kit reads. Standard library only, so that a GPU machine
needs no parser: `from_dict` rebuilds a resolved configuration saved beside the weights. Reading and checking
a user's file is `kronos.configfile`. The sections stand in `config_data`, `config_training` and `config_answers`;
settings that went in `config_gone`. docs/settings.md lists them all.
"""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kronos import records
from kronos.config_answers import EvaluationConfig, InferenceConfig
from kronos.config_data import (
    PART_DAYS,
    PART_SHARES,
    CleaningConfig,
    DataConfig,
    MarketConfig,
    SourceConfig,
    part_problems,
)
from kronos.config_gone import without_gone
from kronos.config_training import (
    DeviceConfig,
    DistributedConfig,
    ExperimentConfig,
    HeadConfig,
    ModelPathsConfig,
    TrainingConfig,
)
from kronos.config_types import Precision, Preset, Scheduler

__all__ = [
    "PART_DAYS",
    "PART_SHARES",
    "CleaningConfig",
    "Config",
    "DataConfig",
    "DeviceConfig",
    "DistributedConfig",
    "EvaluationConfig",
    "ExperimentConfig",
    "HeadConfig",
    "InferenceConfig",
    "MarketConfig",
    "ModelPathsConfig",
    "Precision",
    "Preset",
    "Scheduler",
    "SourceConfig",
    "TrainingConfig",
    "from_dict",
    "part_problems",
    "to_dict",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """The whole configuration. Paths are as given; `derived_paths` fills the empty ones."""

    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    model_paths: ModelPathsConfig = field(default_factory=ModelPathsConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    market: MarketConfig = field(default_factory=MarketConfig)
    source: SourceConfig = field(default_factory=SourceConfig)

    # -- one owner per path ----------------------------------------------------------------------------------
    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return Path(self.model_paths.base_save_path)

    @property
    def tokenizer_dir(self) -> Path:
        """Folder of the tokenizer's stage."""
        return self.run_dir / self.model_paths.tokenizer_save_name

    @property
    def basemodel_dir(self) -> Path:
        """Folder of the predictor's stage."""
        return self.run_dir / self.model_paths.basemodel_save_name

    @property
    def head_dir(self) -> Path:
        """Folder of the head's stage."""
        return self.run_dir / self.model_paths.head_save_name

    def stage_dir(self, stage: str) -> Path:
        """The folder of a training stage."""
        return {"tokenizer": self.tokenizer_dir, "basemodel": self.basemodel_dir, "head": self.head_dir}[
            stage
        ]

    @property
    def head_token_lookback(self) -> int:
        """Bars that the head reads as tokens."""
        return self.head.token_lookback or self.data.lookback_window

    @property
    def resolved_path(self) -> Path:
        """File of the resolved configuration."""
        return self.run_dir / "pipeline_config.json"

    @property
    def has_source(self) -> bool:
        """Whether the prices come from a source that writes data.data_path."""
        return self.source.name != "csv"

    @property
    def window(self) -> int:
        """Bars in a training window."""
        return self.data.lookback_window + self.data.predict_window

    @property
    def step_windows(self) -> int:
        """Windows of an optimiser step of the tokenizer and the predictor, over all processes."""
        t = self.training
        if t.windows_per_step is not None:
            return t.windows_per_step
        return t.batch_size * t.accumulation_steps * self.distributed.num_processes

    @property
    def embargo(self) -> int:
        """Trading days between two parts."""
        return self.data.predict_window if self.data.embargo is None else self.data.embargo

    @property
    def tokenizer_is_pretrained(self) -> bool:
        """Whether the tokenizer starts from published weights."""
        own = self.experiment.pre_trained_tokenizer
        return self.experiment.pre_trained if own is None else own

    @property
    def predictor_is_pretrained(self) -> bool:
        """Whether the predictor starts from published weights."""
        own = self.experiment.pre_trained_predictor
        return self.experiment.pre_trained if own is None else own


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dictionaries, ready for JSON."""
    return asdict(config)


def from_dict(tree: Any, where: str = "saved configuration") -> Config:
    """Rebuild a *resolved* configuration (see `configfile.load` for a user's file).

    where: the file, for messages. Settings that went are left out, and that is said. Raises KitError for an
    unknown key, another type and a value out of range.
    """
    tree, remarks, others = without_gone(tree)
    for line in remarks + others:
        log.info("%s: %s", where, line)
    return records.check(tree, Config, where, strict=True)
