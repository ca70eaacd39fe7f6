"""What a stage starts from: the network with its loss, pretrained or new, and the predictor's frozen
tokenizer.

In: a resolved `Config`. Out: an objective; a `KitError` when the tokenizer that the predictor needs is not
there.
"""

import tempfile
from pathlib import Path

import torch

from kronos import files
from kronos.config import Config
from kronos.errors import KitError
from kronos.networks import Kronos, KronosTokenizer, check_pair
from kronos.networks.presets import preset
from kronos.training.facts import Stage
from kronos.training.folder import Summary, summary_of
from kronos.training.objectives import PredictorObjective, TokenizerObjective


def tokenizer_source(config: Config) -> str:
    """The tokenizer that a predictor of this configuration trains on: a folder or hub id.

    Raises KitError when the tokenizer stage is not complete, or when there is no tokenizer.
    """
    chosen = Path(config.model_paths.finetuned_tokenizer)
    own = chosen == config.tokenizer_dir / "best_model"
    summary = summary_of(chosen.parent)
    if chosen.is_dir() and summary is not None and summary.status != "complete":
        raise KitError(
            f"{chosen.parent}: expected a complete tokenizer stage, found it {summary.status} at step {summary.step} of "
            f"{summary.total_steps}; finish it first: the same command without --skip-tokenizer"
        )
    if chosen.is_dir() and not (own and summary is None and config.experiment.train_tokenizer):
        _check_tokenizer(chosen, summary)
        return str(chosen)
    if not config.experiment.train_tokenizer and own and config.tokenizer_is_pretrained:
        return config.model_paths.pretrained_tokenizer
    raise KitError(
        f"{chosen}: expected the tokenizer that the predictor is to be trained on, found none; train the tokenizer stage first, "
        "or set experiment.train_tokenizer: false with a pretrained tokenizer"
    )


def _check_tokenizer(folder: Path, summary: Summary | None) -> None:
    """Raise KitError when a tokenizer is not the one that its summary describes."""
    if summary is None or summary.model_digest is None:
        return
    found = files.folder_digest(folder)
    if found != summary.model_digest:
        raise KitError(
            f"{folder}: expected the tokenizer that its summary.json describes ({summary.model_digest[:12]}), found changed or "
            f"damaged files ({found[:12]}); train the tokenizer again: the same command without --skip-tokenizer"
        )


def network_digest(network: KronosTokenizer | Kronos, source: str) -> str:
    """Digest of a saved network; of a hub's as it is written by `save_pretrained`."""
    if Path(source).is_dir():
        return files.folder_digest(source)
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(Path(folder) / "network")
        return files.folder_digest(Path(folder) / "network")


def build_objective(
    config: Config, stage: Stage, tokenizer: KronosTokenizer | None
) -> TokenizerObjective | PredictorObjective:
    """The network of a stage with its loss: pretrained, or of the preset's size with random weights of the
    seed.

    tokenizer: the frozen one, for the predictor. A new predictor takes its bits.
    """
    new_tokenizer, new_predictor = preset(config.experiment.preset)
    torch.manual_seed(config.training.seed)
    if tokenizer is None:
        if config.tokenizer_is_pretrained:
            source = config.model_paths.pretrained_tokenizer
            return TokenizerObjective(
                KronosTokenizer.from_pretrained(source, revision=config.model_paths.revision(source))
            )
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
