"""Whether what trains together belongs together: the processes of a run, its data and its settings, its two
stages.

In: what each process holds, a store's record, the summary of the other stage. Out: nothing, or one line that
names the difference, before a weight has moved. No torch.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kronos.config import Config
from kronos.data.store import BarStore, settings_of
from kronos.errors import KitError
from kronos.training.facts import Facts, difference
from kronos.training.folder import summary_of

log = logging.getLogger(__name__)


def held(config: Config, facts: Facts, windows: Sequence[int], precision: str) -> Facts:
    """What every process of a run must hold alike. windows: of the training and of the validation part."""
    t = config.training
    return {
        "kit version": kit_version(),
        "training.batch_size": t.batch_size,
        "training.accumulation_steps": t.accumulation_steps,
        **facts,
        "windows of training": windows[0],
        "windows of validation": windows[1],
        "precision": precision,
        "training.compile": t.compile,
        "training.checkpoint_steps": t.checkpoint_steps,
        "training.log_interval": t.log_interval,
    }


def kit_version() -> str:
    """Digest of the code that trains: the rooms `training`, `networks` and `data`; 12 characters."""
    home = Path(__file__).resolve().parents[1]
    total = hashlib.sha256()
    for room in ("training", "networks", "data"):
        for path in sorted((home / room).glob("*.py")):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:12]


def unlike(everyone: Sequence[Facts]) -> str:
    """The first difference between rank 0 and another rank, in words, or ''. everyone: `held` of each
    process, by rank.
    """
    for rank, theirs in enumerate(everyone):
        for name, value in everyone[0].items():
            if theirs.get(name) != value:
                return f"rank {rank} has {name} {theirs.get(name)!r}, rank 0 has {value!r}"
    return ""


def check_store(config: Config, store: BarStore) -> None:
    """Raise KitError when the prepared data were made with other settings than this run's."""
    made_with = store.manifest.get("settings")
    if not isinstance(made_with, dict):
        return
    own = settings_of(config)
    if own.get("pool") is None and "pool" in own:
        own["pool"] = made_with.get("pool")  # the pool's file is not on this machine
    changed = difference(_flat(made_with), _flat(own))
    if changed:
        raise KitError(
            f"{store.path}: expected the prepared data of this run's settings, found those of others: {'; '.join(changed)}; "
            "another run prepared into this store: give each run a data.store of its own, and run the same command again"
        )


def check_other_stage(config: Config, facts: Facts) -> None:
    """Say where the tokenizer was trained on other data, or on other windows, than the predictor is about to
    be.

    Raises KitError for the tokenizer of the same run, unless experiment.skip_existing or fresh asks for that;
    else it is a line.
    """
    network = Path(config.model_paths.finetuned_tokenizer)
    summary = summary_of(network.parent)
    if summary is None:
        return
    names = [name for name in facts if name.split(".")[0] == "data" and name in summary.facts]
    changed = difference({name: summary.facts[name] for name in names}, {name: facts[name] for name in names})
    if not changed:
        return
    line = f"{network.parent}: the tokenizer was trained with other data than the predictor is: {'; '.join(changed)}"
    own = network == config.tokenizer_dir / "best_model"
    if not own or config.experiment.skip_existing or config.experiment.fresh:
        log.warning("%s", line)
        return
    raise KitError(
        f"{line}; set them back, or train both anew (--fresh), or keep this tokenizer all the same: --skip-existing, or "
        "--skip-tokenizer --fresh"
    )


def _flat(tree: dict[str, Any], prefix: str = "data.") -> Facts:
    flat: Facts = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
