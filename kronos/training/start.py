"""What a stage starts from: the network with its loss, pretrained or new, and the predictor's frozen tokenizer.

In: a resolved `Config`. Out: an objective; a `KitError` when the tokenizer that the predictor needs is not there.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import torch

from kronos import files
from kronos.config import Config
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.networks.hub import CONFIG_FILE, WEIGHTS_FILE
from kronos.networks.presets import preset
from kronos.training import checkpoint
from kronos.training.folder import read_summary
from kronos.training.objectives import PredictorObjective, TokenizerObjective
from kronos.training.settings import Stage

START, START_DIGEST = "start", "weights of the start"
"""Names of facts: what a stage started from, and the digest of its two files where it was a folder."""


def tokenizer_source(config: Config) -> str:
    """The tokenizer that a predictor of this configuration trains on: a folder or hub id.

    Raises KitError when the tokenizer stage is not complete, or when there is no tokenizer.
    """
    chosen = Path(config.model_paths.finetuned_tokenizer)
    own = chosen == config.tokenizer_dir / "best_model"
    summary = read_summary(chosen.parent)
    if chosen.is_dir() and (summary is None or summary["status"] == "complete") and not (own and _untold(config, summary)):
        return str(chosen)
    if chosen.is_dir() and summary is not None and summary["status"] != "complete":
        raise KitError(
            f"{chosen.parent}: expected a complete tokenizer stage, found it {summary['status']} at step {summary['step']} of "
            f"{summary['total_steps']}; finish it with --skip-existing"
        )
    if not config.experiment.train_tokenizer and own and config.tokenizer_is_pretrained:
        return config.model_paths.pretrained_tokenizer
    raise KitError(
        f"{chosen}: expected the tokenizer that the predictor is to be trained on, found none; train the tokenizer stage first, "
        "or set experiment.train_tokenizer: false with a pretrained tokenizer"
    )


def _untold(config: Config, summary: dict[str, Any] | None) -> bool:
    """Whether this run should have trained its tokenizer, and no summary says that it did."""
    return summary is None and config.experiment.train_tokenizer


def network_digest(network: KronosTokenizer | Kronos, source: str) -> str:
    """Digest of a saved network; of a hub's as it is written by `save_pretrained`."""
    if Path(source).is_dir():
        return files.folder_digest(source)
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(Path(folder) / "network")
        return files.folder_digest(Path(folder) / "network")


def start_facts(config: Config, stage: Stage) -> dict[str, str]:
    """What a stage starts from: a preset, a hub id, or a folder. A folder's networks are told by their digest, since the folder
    may lie elsewhere in the next sitting (another mount, another slug of an attached data set)."""
    paths = config.model_paths
    pretrained = config.tokenizer_is_pretrained if stage == "tokenizer" else config.predictor_is_pretrained
    if not pretrained:
        return {START: config.experiment.preset}
    source = paths.pretrained_tokenizer if stage == "tokenizer" else paths.pretrained_predictor
    saved = [Path(source).expanduser() / name for name in (CONFIG_FILE, WEIGHTS_FILE)]
    if not all(path.is_file() for path in saved):
        return {START: source}
    return {START: source, START_DIGEST: hashlib.sha256("".join(map(files.digest, saved)).encode()).hexdigest()[:16]}


def difference(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`key: saved X, now Y` for every fact that changed. Where both know the digest of the weights that they started from, the
    path does not count; where one does not (a hub id, a run of an earlier version), only the path does."""
    ignored = START if START_DIGEST in saved and START_DIGEST in now else START_DIGEST
    return checkpoint.difference(*({k: v for k, v in facts.items() if k != ignored} for facts in (saved, now)))


def build_objective(config: Config, stage: Stage, tokenizer: KronosTokenizer | None) -> TokenizerObjective | PredictorObjective:
    """The network of a stage with its loss: pretrained, or of the preset's size with random weights of the seed.

    tokenizer: the frozen one, for the predictor. A new predictor takes its bits.
    """
    new_tokenizer, new_predictor = preset(config.experiment.preset)
    torch.manual_seed(config.training.seed)
    if tokenizer is None:
        if config.tokenizer_is_pretrained:
            source = config.model_paths.pretrained_tokenizer
            return TokenizerObjective(KronosTokenizer.from_pretrained(source, revision=config.model_paths.revision(source)))
        return TokenizerObjective(KronosTokenizer(**new_tokenizer))
    bits = {"s1_bits": tokenizer.config.s1_bits, "s2_bits": tokenizer.config.s2_bits}
    if config.predictor_is_pretrained:
        source = config.model_paths.pretrained_predictor
        predictor = Kronos.from_pretrained(source, revision=config.model_paths.revision(source))
    else:
        predictor = Kronos(**{**new_predictor, **bits})
    check_pair(tokenizer, predictor)
    return PredictorObjective(
        predictor,
        tokenizer,
        lookback=config.data.lookback_window,
        history_loss_weight=config.training.history_loss_weight,
        teacher_forcing=config.training.teacher_forcing,
    )
