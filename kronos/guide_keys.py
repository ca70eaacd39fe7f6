"""The keys of the guides' configurations, and what each of them is here.

In: a flat JSON or YAML file with the guide's keys (`epochs`, `train_time_range`, `save_path` ...). Out: the
same as sections of this kit, and a remark for each key that has no counterpart. Every key is in `KEYS`, which
docs/guide_keys.md shows as a table. Standard library only. Keys: the original repository's
finetune/config.py, and the public pipeline that the guide describes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kronos.bars import STAMP_FIELDS
from kronos.errors import KitError

FEATURE_NAMES = (
    ("open", "high", "low", "close", "vol", "amt"),
    ("open", "high", "low", "close", "volume", "amount"),
)
"""The six columns, in order, under the guide's names and this kit's."""
PAIRS = {
    "mini": ("NeoQuasar/Kronos-Tokenizer-2k", "NeoQuasar/Kronos-mini"),
    "small": ("NeoQuasar/Kronos-Tokenizer-base", "NeoQuasar/Kronos-small"),
    "base": ("NeoQuasar/Kronos-Tokenizer-base", "NeoQuasar/Kronos-base"),
}
"""model_version: the published tokenizer and predictor."""


@dataclass(frozen=True)
class GuideKey:
    """A key of the guide: the settings that take its value, or what to do instead."""

    name: str
    settings: tuple[str, ...] = ()
    """Settings that take the value as it is; with `special`, those that are made from it."""
    note: str = ""
    special: bool = False
    """Its value is changed on the way, or only looked at."""


KEYS = (
    GuideKey("data_source", ("source.name",)),
    GuideKey(
        "qlib_data_path",
        ("source.path",),
        "for the source qlib, which is meant where data_source is missing",
        special=True,
    ),
    GuideKey("instrument", ("source.pool",), "for the source qlib: an index such as csi300", special=True),
    GuideKey("dataset_begin_time", ("source.begin",)),
    GuideKey("dataset_end_time", ("source.end",)),
    GuideKey(
        "train_time_range", ("data.train_until",), "its end; training begins with the data", special=True
    ),
    GuideKey(
        "val_time_range",
        ("data.validation_until",),
        "its end; begins after training and the embargo",
        special=True,
    ),
    GuideKey(
        "test_time_range",
        (),
        "the days after validation are the test part, to dataset_end_time",
        special=True,
    ),
    GuideKey("backtest_time_range", (), "the backtest scores the test part", special=True),
    GuideKey("dataset_path", ("data.store",), "PATH/SOURCE, where the guide has its pickles", special=True),
    GuideKey("lookback_window", ("data.lookback_window",)),
    GuideKey("predict_window", ("data.predict_window",)),
    GuideKey("max_context", ("data.max_context",)),
    GuideKey("clip", ("data.clip",)),
    GuideKey(
        "feature_list", (), "accepted when it is open, high, low, close, vol, amt; else refused", special=True
    ),
    GuideKey(
        "time_feature_list",
        (),
        "accepted when it is minute, hour, weekday, day, month; else refused",
        special=True,
    ),
    GuideKey("epochs", ("training.tokenizer_epochs", "training.basemodel_epochs")),
    GuideKey("batch_size", ("training.batch_size",)),
    GuideKey("accumulation_steps", ("training.accumulation_steps",)),
    GuideKey("log_interval", ("training.log_interval",)),
    GuideKey("n_train_iter", ("training.samples_per_epoch",)),
    GuideKey("n_val_iter", ("training.validation_samples",)),
    GuideKey("tokenizer_learning_rate", ("training.tokenizer_learning_rate",)),
    GuideKey("predictor_learning_rate", ("training.predictor_learning_rate",)),
    GuideKey("adam_beta1", ("training.adam_beta1",)),
    GuideKey("adam_beta2", ("training.adam_beta2",)),
    GuideKey("adam_weight_decay", ("training.adam_weight_decay",)),
    GuideKey("seed", ("training.seed", "inference.seed")),
    GuideKey("num_workers", ("training.num_workers",)),
    GuideKey("early_stopping_patience", ("training.early_stopping_patience",)),
    GuideKey("use_torch_compile", ("training.compile",)),
    GuideKey("use_gpu", ("device.use_cuda",)),
    GuideKey("use_comet", ("training.trackers",), "true: comet_ml beside tensorboard", special=True),
    GuideKey(
        "comet_config",
        (),
        "set COMET_API_KEY, COMET_WORKSPACE, COMET_PROJECT_NAME: no secret belongs into a file",
    ),
    GuideKey("comet_name", ("experiment.name",)),
    GuideKey("comet_tag", (), "no counterpart"),
    GuideKey("save_path", ("model_paths.base_save_path",)),
    GuideKey("tokenizer_save_folder_name", ("model_paths.tokenizer_save_name",)),
    GuideKey("predictor_save_folder_name", ("model_paths.basemodel_save_name",)),
    GuideKey("backtest_save_folder_name", (), "the backtest is written to RUN/backtest"),
    GuideKey("backtest_result_path", (), "the backtest is written to RUN/backtest"),
    GuideKey("pretrained_tokenizer_path", ("model_paths.pretrained_tokenizer",)),
    GuideKey("pretrained_predictor_path", ("model_paths.pretrained_predictor",)),
    GuideKey(
        "finetuned_tokenizer_path", ("model_paths.finetuned_tokenizer",), "which the predictor is trained on"
    ),
    GuideKey(
        "finetuned_predictor_path",
        (),
        "RUN/basemodel/best_model, by save_path and predictor_save_folder_name",
    ),
    GuideKey(
        "model_version",
        ("model_paths.pretrained_tokenizer", "model_paths.pretrained_predictor"),
        "mini, small or base, where no pretrained_*_path is given",
        special=True,
    ),
    GuideKey("inference_T", ("inference.temperature",)),
    GuideKey("inference_top_p", ("inference.top_p",)),
    GuideKey("inference_top_k", ("inference.top_k",)),
    GuideKey("inference_sample_count", ("inference.sample_count",)),
    GuideKey("backtest_batch_size", ("inference.batch_size",)),
    GuideKey("backtest_n_symbol_hold", (), "`scripts/run_portfolio.py --topk`"),
    GuideKey("backtest_n_symbol_drop", (), "`scripts/run_portfolio.py --drop`"),
    GuideKey("backtest_hold_thresh", (), "`scripts/run_portfolio.py --hold`"),
    GuideKey("backtest_benchmark", (), "`scripts/run_portfolio.py --benchmark`"),
    GuideKey("force_download_data", (), "remove data/SOURCE/raw to ask anew"),
    GuideKey("max_sina_symbols", (), "name the symbols in source.symbols"),
    GuideKey(
        "top_k_stocks",
        (),
        "name the symbols in source.symbols: the busiest of the last days look into the future",
    ),
    GuideKey("stock_selection_days", (), "see top_k_stocks"),
    GuideKey("stock_cache_file", (), "see top_k_stocks"),
    GuideKey("use_stock_cache", (), "see top_k_stocks"),
    GuideKey("model_source", (), "a path or a name of the Hugging Face hub in pretrained_*_path"),
    GuideKey("model_history_dir", (), "every run keeps its own networks"),
    GuideKey("his_best_tokenizer_path", (), "every run keeps its own networks"),
    GuideKey("his_best_predictor_path", (), "every run keeps its own networks"),
    GuideKey("custom_tokenizer_config", (), "experiment.preset names a size"),
    GuideKey("custom_predictor_config", (), "experiment.preset names a size"),
    GuideKey("max_logs_per_epoch", (), "log_interval decides"),
    GuideKey("torch_threads", (), "set OMP_NUM_THREADS"),
    GuideKey("max_num_workers", (), "num_workers decides"),
    GuideKey("torch_compile_mode", (), "no counterpart"),
    GuideKey("min_gpu_memory_gb", (), "set CUDA_VISIBLE_DEVICES"),
    GuideKey("use_all_available_gpus", (), "--multi-gpu of train_kaggle.sh"),
)
BY_NAME = {key.name: key for key in KEYS}


def is_flat(tree: Mapping[str, Any], sections: list[str]) -> bool:
    """Whether a file has keys of the guide at its top level."""
    return any(name in BY_NAME and name not in sections for name in tree)


def translate(tree: Mapping[str, Any], sections: list[str]) -> tuple[dict[str, Any], list[str]]:
    """A tree with the guide's keys as sections of this kit, and remarks on keys that nothing reads.

    Sections may stand beside flat keys. Raises KitError for a key that is neither, a value that cannot be
    read, and a setting that is given twice.
    """
    result = {
        name: dict(value or {})
        for name, value in tree.items()
        if name in sections and isinstance(value, dict | None)
    }
    flat = {name: value for name, value in tree.items() if name not in result}
    unknown = [name for name in flat if name not in BY_NAME]
    if unknown:
        raise KitError(
            f"{unknown[0]}: expected a section or a key of the guide (docs/guide_keys.md), found neither"
        )
    _check_lists(flat)
    remarks = []
    for name, value in flat.items():
        made = _made(name, value, flat)
        for setting, plain in made.items():
            _put(result, setting, plain, name)
        if not made and name not in ("feature_list", "time_feature_list"):
            remarks.append(f"{name}: not read; {BY_NAME[name].note}")
    if "data_source" not in flat and {"qlib_data_path", "instrument", "dataset_begin_time"} & set(flat):
        _put(result, "source.name", "qlib", "data_source")
    return result, remarks


def _put(result: dict[str, Any], setting: str, value: Any, name: str) -> None:
    section, key = setting.split(".")
    node = result.setdefault(section, {})
    if key in node and node[key] != value:
        raise KitError(
            f"{name}: expected one value of {setting}, found {_shown(value)} and {_shown(node[key])}; remove one"
        )
    node[key] = value


def _made(name: str, value: Any, flat: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a key's value makes."""
    if not BY_NAME[name].special:
        return dict.fromkeys(BY_NAME[name].settings, value)
    source = flat.get("data_source", "qlib")
    if name in ("qlib_data_path", "instrument"):
        return dict.fromkeys(BY_NAME[name].settings, value) if source == "qlib" else {}
    if name.endswith("_time_range"):
        return _range(name, value)
    if name == "dataset_path":
        return {"data.store": f"{str(value).rstrip('/')}/{source}"}
    if name == "use_comet":
        return {"training.trackers": ["tensorboard", "comet_ml"] if value else ["tensorboard"]}
    if name == "model_version":
        if value not in PAIRS:
            raise KitError(f"model_version: expected {', '.join(PAIRS)}, found {_shown(value)}")
        pair = dict(zip(BY_NAME[name].settings, PAIRS[value], strict=True))
        given = {"model_paths.pretrained_tokenizer": "pretrained_tokenizer_path"}
        given["model_paths.pretrained_predictor"] = "pretrained_predictor_path"
        return {setting: pair[setting] for setting in pair if given[setting] not in flat}
    return {}


def _range(name: str, value: Any) -> dict[str, Any]:
    if not (
        isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(day, str) for day in value)
    ):
        raise KitError(f"{name}: expected two days, [first, last], found {_shown(value)}")
    return dict.fromkeys(BY_NAME[name].settings, value[1])


def _check_lists(flat: Mapping[str, Any]) -> None:
    """The columns and stamps are what the networks were trained on: the same list is accepted, any other
    refused.
    """
    if "feature_list" in flat and tuple(flat["feature_list"] or ()) not in FEATURE_NAMES:
        raise KitError(
            f"feature_list: expected {', '.join(FEATURE_NAMES[0])} in this order, found {_shown(flat['feature_list'])}; "
            "the networks take these six"
        )
    if "time_feature_list" in flat and tuple(flat["time_feature_list"] or ()) != STAMP_FIELDS:
        raise KitError(
            f"time_feature_list: expected {', '.join(STAMP_FIELDS)} in this order, found {_shown(flat['time_feature_list'])}; "
            "the networks take these five"
        )


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def table() -> str:
    """The rows of docs/guide_keys.md."""
    lines = ["| key of the guide | here | |", "|---|---|---|"]
    for key in KEYS:
        lines.append(
            f"| `{key.name}` | {', '.join(f'`{name}`' for name in key.settings) or '-'} | {key.note} |"
        )
    return "\n".join(lines)
