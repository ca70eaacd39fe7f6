"""Which two networks a configuration forecasts with: the run's trained predictor and the tokenizer of its
tokens.

In: a `Config` and the run folder (docs/architecture.md). Out: a `Pair` that names both and says what is known
about them, and a `Forecaster` made of it. A predictor is never paired with a tokenizer that it was not
trained on.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kronos import files
from kronos.config import Config
from kronos.errors import KitError
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.next_step import Enumeration
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos, KronosTokenizer
from kronos.training.device import pick_device, precision
from kronos.training.folder import read_summary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """A tokenizer and a predictor, each a folder or a hub id."""

    tokenizer: str
    predictor: str
    trained: bool
    """The run's own predictor; False: the pretrained pair as it was published."""
    incomplete: tuple[str, ...] = ()
    """Stages that are not complete, in words."""
    train_end: str | None = None
    """Last day that the predictor was trained on, YYYY-MM-DD, where it is known."""


def find_pair(config: Config, allow_incomplete: bool = False) -> Pair:
    """The networks of `config`. Raises KitError when there are none, when they do not belong together, or
    when a stage is not complete (unless `allow_incomplete`)."""
    summary = read_summary(config.basemodel_dir)
    if summary is not None:
        return _trained(config, summary, allow_incomplete)
    paths = config.model_paths
    if config.experiment.train_basemodel:
        raise KitError(
            f"{config.basemodel_dir}: expected a trained predictor with its summary.json, found none; train it first "
            "(bash train_kaggle.sh), or set experiment.train_basemodel=false to forecast with the pretrained pair"
        )
    if not (paths.pretrained_tokenizer and paths.pretrained_predictor):
        raise KitError(
            f"{config.basemodel_dir}: expected a trained predictor, or model_paths.pretrained_tokenizer and "
            "pretrained_predictor to forecast with; found neither"
        )
    return Pair(paths.pretrained_tokenizer, paths.pretrained_predictor, trained=False)


def load_forecaster(config: Config, pair: Pair) -> Forecaster:
    """Load both networks and put them on the device that `config` names."""
    pins = config.model_paths
    model = Kronos.from_pretrained(pair.predictor, revision=pins.revision(pair.predictor))
    tokenizer = KronosTokenizer.from_pretrained(pair.tokenizer, revision=pins.revision(pair.tokenizer))
    # A pair that was not trained here may say how it was; the configuration is about this run's training.
    says = not pair.trained and model.normalisation is not None
    return forecaster_of(config, model, tokenizer, pick_device(config), as_they_say=says)


def forecaster_of(
    config: Config, model: Kronos, tokenizer: KronosTokenizer, device: torch.device, as_they_say: bool = False
) -> Forecaster:
    """Loaded networks as `config` samples them. as_they_say: their bars are normalised as their own folder
    says, and not as the configuration does.
    """
    own = config.inference
    settings = Settings(
        max_context=config.data.max_context,
        clip=None if as_they_say else config.data.clip,
        epsilon=None if as_they_say else config.data.norm_epsilon,
        sampling=Sampling(
            temperature=own.temperature,
            top_k=own.top_k,
            top_p=own.top_p,
            sample_count=own.sample_count,
            seed=own.seed,
            decode_rope=own.decode_rope,
        ),
        batch_size=own.batch_size,
        overflow=own.overflow,
        autocast=pick_autocast(config, device),
        integers=own.precision == "int8",
        anchor=own.anchor == "last_close",
        probability=own.probability,
        enumeration=Enumeration(own.enumeration_mass, own.enumeration_pairs),
        cuda_graphs=own.cuda_graphs,
    )
    return Forecaster(model, tokenizer, settings, device)


def wanted_precision(config: Config) -> str:
    """The precision that a configuration wants for answers: `inference.precision`, else that of the training."""
    if config.inference.precision != "auto":
        return config.inference.precision
    return config.training.mixed_precision


def pick_autocast(config: Config, device: torch.device) -> torch.dtype | None:
    """The type that a configuration's predictor computes in on a device; see `autocast_of`."""
    return autocast_of(wanted_precision(config), device)


def autocast_of(wanted: str, device: torch.device) -> torch.dtype | None:
    """The type that a predictor's answers are computed in; None: float32, and with int8.

    wanted: of `inference.precision` or `training.mixed_precision`. A processor takes bf16 only where its
    hardware has it; where bf16 was named and is not there, that is said. Raises KitError for a type that a
    GPU would only pretend to have.
    """
    if wanted in ("float32", "no", "int8"):
        return None
    if device.type != "cpu":
        return {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}[precision(wanted, device)]
    if precision("auto", device) == "bf16":
        return torch.bfloat16
    if wanted == "bf16":
        log.warning("this processor has no bfloat16 (AVX512-BF16 or AMX): answers are computed in float32")
    return None


# -- the run folder ------------------------------------------------------------------------------------------
def _trained(config: Config, summary: dict[str, Any], allow_incomplete: bool) -> Pair:
    predictor = config.basemodel_dir / "best_model"
    incomplete = list(_incomplete("basemodel", summary))
    if not predictor.is_dir():
        raise KitError(
            f"{predictor}: expected the trained predictor, found none ({summary['status']}); finish the training"
        )
    tokenizer = _tokenizer_of(config, summary["tokenizer_digest"])
    if (own := read_summary(config.tokenizer_dir)) and Path(tokenizer) == config.tokenizer_dir / "best_model":
        incomplete += _incomplete("tokenizer", own)
    if incomplete and not allow_incomplete:
        raise KitError(
            f"{config.run_dir}: expected complete stages, found {'; '.join(incomplete)}; start "
            "train_kaggle.sh again with the same command, which goes on, or forecast with what is there: --allow-incomplete"
        )
    if not incomplete and files.folder_digest(predictor) != summary["model_digest"]:
        raise KitError(
            f"{predictor}: expected the network that summary.json describes, found another one; train again"
        )
    _check_settings(config, summary["config"]["data"])
    return Pair(tokenizer, str(predictor), True, tuple(incomplete), summary["train_end"])


def _tokenizer_of(config: Config, digest: str) -> str:
    """The run's tokenizer, which has to be the one with the digest that the predictor's summary names."""
    source = config.model_paths.finetuned_tokenizer
    found = files.folder_digest(source)[:12] if Path(source).is_dir() else "none"
    if found != digest[:12]:
        raise KitError(
            f"{source}: expected the tokenizer that the predictor was trained on ({digest[:12]}), found {found}; train the "
            "predictor again, or name its tokenizer in model_paths.finetuned_tokenizer"
        )
    return source


def _check_settings(config: Config, trained: dict[str, Any]) -> None:
    """What a window looks like is part of the network: refuse to change it between training and
    forecasting.
    """
    for key in ("clip", "norm_epsilon"):
        if trained[key] != (found := getattr(config.data, key)):
            raise KitError(
                f"data.{key}: expected {trained[key]}, as the predictor was trained, found {found}"
            )


def _incomplete(stage: str, summary: dict[str, Any]) -> list[str]:
    if summary["status"] == "complete":
        return []
    return [f"the {stage} is {summary['status']} at step {summary['step']} of {summary['total_steps']}"]
