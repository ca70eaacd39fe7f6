"""From a user's YAML or JSON file and --set overrides to a checked `Config`.

In: a path, a list of `section.key=value`. Out: a `Config` with every empty path derived. All problems are collected and
reported at once, each with what was expected and the nearest right key. pydantic checks types; YAML is read safely.
"""

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from kronos import config as settings
from kronos import files
from kronos.config import Config
from kronos.errors import KitError


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, override, check and complete a configuration. Raises KitError naming every problem."""
    tree = _read(Path(path))
    problems = [p for text in overrides if (p := _override(tree, text))]
    problems += _unknown_keys(tree)
    checked = _validate(tree, problems) if not problems else None
    if checked is not None:
        problems += _impossible(checked)
    if problems or checked is None:
        raise KitError(f"{path}: " + "; ".join(problems))
    return derived_paths(checked)


def derived_paths(config: Config) -> Config:
    """Fill empty paths from base_path/exp_name; the run's name from exp_name."""
    paths = config.model_paths
    save = paths.base_save_path or str(Path(paths.base_path) / paths.exp_name)
    tokenizer = paths.finetuned_tokenizer or str(Path(save) / paths.tokenizer_save_name / "best_model")
    store = config.data.store or str(Path(paths.base_path) / "stores" / _store_name(config.data.data_path))
    return replace(
        config,
        model_paths=replace(paths, base_save_path=save, finetuned_tokenizer=tokenizer),
        data=replace(config.data, store=store),
        experiment=replace(config.experiment, name=config.experiment.name or paths.exp_name),
    )


def save_resolved(config: Config) -> Path:
    """Write the complete configuration to the run folder as JSON, atomically. Returns its path."""
    files.write_json(config.resolved_path, settings.to_dict(config))
    return config.resolved_path


def _store_name(data_path: str | list[str]) -> str:
    first = Path(data_path[0] if isinstance(data_path, list) and data_path else str(data_path or "data"))
    return f"{first.parent.name}-{first.name.split('.')[0]}".strip("-")


# -- reading -----------------------------------------------------------------------------------------------------------
class _UniqueKeyLoader(yaml.SafeLoader):
    """safe_load that refuses a key written twice: the first value would be lost silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.YAMLError(f"line {key_node.start_mark.line + 1}: the key {key!r} is written twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        hint = f"; found {', '.join(near)} beside it" if near else ""
        raise KitError(f"{path}: expected a YAML or JSON configuration file, found none{hint}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        tree = json.loads(text) if path.suffix == ".json" else yaml.load(text, _UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KitError(f"{path}: not readable as configuration: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(v, dict | None) for v in tree.values()):
        raise KitError(f"{path}: expected sections ({', '.join(_sections())}) that hold key: value pairs")
    return {section: dict(values or {}) for section, values in tree.items()}


def _override(tree: dict[str, Any], text: str) -> str | None:
    """Apply one `section.key=value`; the value is read as YAML. Returns a problem or None."""
    name, equals, value = text.partition("=")
    *section, key = name.split(".")
    if not equals or not section:
        return f"--set {text}: expected section.key=value"
    node = tree
    for part in section:
        if not isinstance(node.setdefault(part, {}), dict):
            return f"--set {text}: {part} is a value, not a section"
        node = node[part]
    try:
        node[key] = yaml.safe_load(value) if value else ""
    except yaml.YAMLError:
        return f"--set {text}: the value is not readable as YAML; quote it"
    return None


# -- checking ----------------------------------------------------------------------------------------------------------
def _sections() -> list[str]:
    return [f.name for f in fields(Config)]


def _known(kind: type = Config, prefix: str = "") -> Iterator[str]:
    """Every `section.key` there is."""
    for f in fields(kind):
        nested = f.default_factory
        if isinstance(nested, type) and is_dataclass(nested):
            yield from _known(nested, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name


def _flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        elif not isinstance(value, dict):
            yield f"{prefix}{key}"


def _unknown_keys(tree: dict[str, Any]) -> list[str]:
    known = list(_known())
    problems = []
    for name in _flatten(tree):
        if name in known:
            continue
        same_key = [k for k in known if k.rsplit(".", 1)[1] == name.rsplit(".", 1)[-1]]
        near = same_key or difflib.get_close_matches(name, known, 1, 0.5)
        problems.append(f"unknown key {name}" + (f" (did you mean {near[0]}?)" if near else ""))
    return problems


def _adapter() -> TypeAdapter[Config]:
    strict = ConfigDict(extra="forbid", allow_inf_nan=False)
    for name in dir(settings):
        kind = getattr(settings, name)
        if name.endswith("Config") and is_dataclass(kind):
            kind.__pydantic_config__ = strict  # type: ignore[attr-defined]
    return TypeAdapter(Config)


def _validate(tree: dict[str, Any], problems: list[str]) -> Config | None:
    try:
        return _adapter().validate_python(tree)
    except ValidationError as error:
        for item in error.errors():
            where = ".".join(str(part) for part in item["loc"] if str(part) in ".".join(_known()))
            problems.append(f"{where}: {item['msg'].lower()}, found {item['input']!r}")
        return None


_POSITIVE = [
    "data.lookback_window",
    "data.predict_window",
    "data.max_context",
    "data.clip",
    "training.batch_size",
    "training.accumulation_steps",
    "training.log_interval",
    "training.tokenizer_epochs",
    "training.basemodel_epochs",
    "training.tokenizer_learning_rate",
    "training.predictor_learning_rate",
    "training.checkpoint_steps",
    "training.checkpoint_minutes",
    "training.tokenizer_grad_clip",
    "training.predictor_grad_clip",
    "distributed.num_processes",
    "distributed.num_machines",
    "inference.sample_count",
    "inference.batch_size",
]
_POSITIVE_OR_NONE = [
    "training.samples_per_epoch",
    "training.validation_samples",
    "training.max_steps",
    "inference.horizon",
    "data.cleaning.max_jump",
    "data.cleaning.illiquid_run",
    "data.cleaning.stagnant_run",
    "data.cleaning.min_length",
]
_NOT_NEGATIVE = [
    "training.num_workers",
    "training.seed",
    "training.adam_weight_decay",
    "training.history_loss_weight",
    "data.train_ratio",
    "data.val_ratio",
    "data.test_ratio",
    "data.embargo",
    "data.cleaning.max_gap",
    "device.device_id",
    "distributed.machine_rank",
    "distributed.main_process_port",
    "inference.temperature",
    "inference.top_k",
    "inference.seed",
]
_SHARES = [
    "training.warmup_ratio",
    "training.adam_beta1",
    "training.adam_beta2",
    "inference.threshold",
    "inference.max_fallback_ratio",
]


def _value(config: Config, name: str) -> Any:
    node: Any = config
    for part in name.split("."):
        node = getattr(node, part)
    return node


def _impossible(config: Config) -> list[str]:
    """Ranges, and settings that cannot hold together."""
    bad = [f"{n}: expected > 0, found {_value(config, n)}" for n in _POSITIVE if _value(config, n) <= 0]
    bad += [f"{n}: expected > 0, found {v}" for n in _POSITIVE_OR_NONE if (v := _value(config, n)) is not None and v <= 0]
    bad += [f"{n}: expected >= 0, found {v}" for n in _NOT_NEGATIVE if (v := _value(config, n)) is not None and v < 0]
    bad += [f"{n}: expected 0 to 1, found {v}" for n in _SHARES if not 0 <= (v := _value(config, n)) <= 1]
    return bad + _impossible_together(config)


def _impossible_together(config: Config) -> list[str]:
    data, run, paths, spread = config.data, config.experiment, config.model_paths, config.distributed
    bad = []
    shares = data.train_ratio + data.val_ratio + data.test_ratio
    if shares > 1 + 1e-9:
        bad.append(f"data.train_ratio + val_ratio + test_ratio: expected at most 1, found {shares:g}")
    if data.train_ratio <= 0 or data.val_ratio <= 0:
        bad.append("data.train_ratio and data.val_ratio: expected > 0 (the best model is chosen on the validation part)")
    if config.window - 1 > data.max_context:
        bad.append(
            f"data.lookback_window + predict_window - 1: expected at most max_context {data.max_context}, found {config.window - 1}"
        )
    if data.embargo is not None and data.embargo < data.predict_window:
        bad.append(f"data.embargo: expected at least predict_window {data.predict_window}, found {data.embargo}")
    if config.tokenizer_is_pretrained and not paths.pretrained_tokenizer:
        bad.append("model_paths.pretrained_tokenizer: expected a hub id or folder, or experiment.pre_trained: false")
    if config.predictor_is_pretrained and not paths.pretrained_predictor:
        bad.append("model_paths.pretrained_predictor: expected a hub id or folder, or experiment.pre_trained: false")
    if run.pre_trained_predictor and not config.tokenizer_is_pretrained:
        bad.append("experiment.pre_trained_predictor: its tokens come from its own tokenizer; set pre_trained_tokenizer too")
    if spread.num_processes > 1 and not spread.use_ddp:
        bad.append(f"distributed.num_processes {spread.num_processes}: expected distributed.use_ddp: true beside it")
    if spread.num_machines > 1 and spread.num_processes % spread.num_machines:
        bad.append(f"distributed.num_processes {spread.num_processes}: expected a multiple of num_machines {spread.num_machines}")
    if spread.machine_rank >= spread.num_machines:
        bad.append(f"distributed.machine_rank: expected below num_machines {spread.num_machines}, found {spread.machine_rank}")
    if spread.num_machines > 1 and not spread.main_process_port:
        bad.append("distributed.main_process_port: expected a fixed port with several machines")
    return bad
