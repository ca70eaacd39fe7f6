"""A run's networks as one folder that can be given away: versioned, checked, with a model card.

In: a run folder (docs/architecture.md). Out: `models/NAME/vX.Y.Z/` in Hugging Face form, and
`models/NAME/latest`, a link to the newest (`kronos.delivery.registry`). A version is written beside its name
and renamed: it is there whole or not at all, and never changes.

    tokenizer/ predictor/   config.json + model.safetensors (+ normalisation.json), for `from_pretrained`
    metadata.json           what it was trained on, with which settings, and how good it was
    golden.json             a small forecast that it has to repeat wherever it is loaded
    backtest.json           its figures on each date of the backtest, where there was one: for comparisons
    decisions/              how scores become answers, one file per horizon, where a backtest left them
    README.md               the model card
    checksums.json          SHA-256 of every other file
"""

import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from kronos import files, records
from kronos.answers.findings import FITS, FOLDER, Findings, path_of
from kronos.bars import calendar_stamps
from kronos.config import Config
from kronos.delivery.golden import check_golden, load_networks, make_golden, write_golden
from kronos.delivery.package_facts import (
    BACKTEST,
    CHECKSUMS,
    METADATA,
    check_sums,
    contents,
    read_unsealed,
)
from kronos.delivery.package_metadata import NETWORKS, by_date, card, describe
from kronos.delivery.registry import Version, point, versions
from kronos.errors import KitError
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.pair import find_pair
from kronos.forecasting.sampling import Sampling
from kronos.forecasting.settings import Settings
from kronos.networks import Kronos
from kronos.networks.normalisation import NORMALISATION_FILE
from kronos.networks.stored import StoredAs
from kronos.runfolder import RunFolder

log = logging.getLogger(__name__)

CARD = "README.md"


# -- making --------------------------------------------------------------------------------------------------
def read_run(run: str | Path) -> Config:
    """The configuration that a run folder was trained with. Raises KitError where there is none."""
    return RunFolder(Path(run)).config


def package_model(
    config: Config,
    output: str | Path,
    name: str,
    version: str | None = None,
    licence: str = "mit",
    stored_as: StoredAs = "float32",
) -> Path:
    """Write the next version (or `version`) of `output`/`name` and let `latest` point to it. Returns its
    folder. stored_as: how the predictor's weights are stored (`kronos.networks.stored`); the tokenizer's stay
    float32. Rounded weights are others than those that the run's decisions rest on: these are left out.

    Raises KitError, with nothing written, when the run is not complete, its networks do not belong together,
    the version exists, or the finished folder does not pass `check_package`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise KitError(f"--name: expected letters, digits, '.', '_' and '-', found {name!r}")
    root = Path(output) / name
    chosen = Version.parse(version) if version else _next(root)
    target = root / str(chosen)
    if target.exists():
        raise KitError(
            f"{target}: expected a new version, found one that exists; versions never change, choose a higher one"
        )
    pair = find_pair(config)
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{chosen}.", suffix=".tmp", dir=root) as holder:
        staged = Path(holder) / "package"
        for kind, source in (("tokenizer", pair.tokenizer), ("predictor", pair.predictor)):
            _take_network(config, kind, source, staged / kind)
        if stored_as != "float32":
            Kronos.from_pretrained(staged / "predictor").save_pretrained(staged / "predictor", stored_as)
        _copy_decisions(config, staged)
        facts = describe(config, staged, name, str(chosen), licence)
        files.write_json(staged / METADATA, facts)
        files.write_text(staged / CARD, card(facts))
        if facts["backtest"] is not None:
            files.write_json(staged / BACKTEST, by_date(config, facts["networks"]["predictor"]["digest"]))
        write_golden(staged, make_golden(read_unsealed(staged), load_networks(staged)))
        files.write_json(
            staged / CHECKSUMS, {str(p.relative_to(staged)): files.digest(p) for p in contents(staged)}
        )
        check_package(staged)
        staged.rename(target)
    point(root, "latest", chosen, "package", f"from run {config.run_dir.name}")
    return target


def _next(root: Path) -> Version:
    known = versions(root) if root.is_dir() else []
    return Version(known[-1].major, known[-1].minor, known[-1].patch + 1) if known else Version(1, 0, 0)


def _take_network(config: Config, kind: str, source: str, target: Path) -> None:
    """A network of a folder as it lies there, one of a hub repository as it is loaded."""
    if Path(source).is_dir():
        _copy_network(Path(source), target)
        return
    network = NETWORKS[kind].from_pretrained(source, revision=config.model_paths.revision(source))
    network.save_pretrained(target)


def _copy_network(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        if not (source / name).is_file():
            raise KitError(
                f"{source / name}: expected a saved network, found none; finish the training first"
            )
        shutil.copyfile(source / name, target / name)
    if (source / NORMALISATION_FILE).is_file():  # networks of earlier versions have none
        shutil.copyfile(source / NORMALISATION_FILE, target / NORMALISATION_FILE)


def _copy_decisions(config: Config, staged: Path) -> None:
    """Take the findings along that rest on these very networks, one file per horizon."""
    run = RunFolder(config.run_dir)
    digests = {
        kind: files.folder_digest(staged / folder)
        for kind, folder in (("model", "predictor"), ("tokenizer", "tokenizer"))
    }
    for horizon in run.horizons():
        found = run.findings(horizon)
        if found is None or not _rests_on(found, digests):
            log.warning("%s: of other weights; it is left out", path_of(config.run_dir, horizon))
            continue
        found.save(staged)
        for fit in sorted((config.run_dir / FOLDER / FITS).glob(f"horizon-{horizon}-*.json")):
            files.write_json(staged / FOLDER / FITS / fit.name, records.read_json(fit))


def _rests_on(found: Findings, digests: dict[str, str]) -> bool:
    """Whether every network of the findings is the one with these digests; those of fits name none."""
    keys = found.networks()
    return all(key.get(kind) == digest for key in keys for kind, digest in digests.items())


# -- checking ------------------------------------------------------------------------------------------------
def check_package(folder: str | Path) -> list[str]:
    """What was checked, one line each: every checksum, both networks and that they fit, and the golden
    forecast (schema 1, which has none: a forecast that is finite and the same twice). Raises KitError at the
    first thing that is wrong."""
    folder = Path(folder)
    facts = _read(folder / METADATA)
    count = check_sums(folder)
    networks = {kind: NETWORKS[kind].from_pretrained(folder / kind) for kind in NETWORKS}
    for kind, network in networks.items():
        expected, found = facts["networks"][kind]["parameters"], sum(p.numel() for p in network.parameters())
        if expected != found:
            raise KitError(
                f"{folder / kind}: expected {expected:,} parameters ({METADATA}), found {found:,}; package it again"
            )
    if facts["schema"] == 1:
        steps = _smoke_forecast(networks, facts["window"], folder)
        forecast = f"{steps} bars from {facts['window']['lookback']}, finite, the same twice"
    else:
        forecast = check_golden(folder)
    for horizon in RunFolder(folder).horizons():
        RunFolder(folder).findings(horizon)  # every value is looked at
    return [
        f"checksums: {count} files as they were written",
        *(f"{kind}: {facts['networks'][kind]['parameters']:,} parameters" for kind in NETWORKS),
        f"forecast: {forecast}",
    ]


def _smoke_forecast(networks: dict[str, Any], window: dict[str, Any], folder: Path) -> int:
    length = window["lookback"]
    steps = max(1, min(window["predict"], window["max_context"] - length + 1))
    settings = Settings(
        max_context=window["max_context"],
        clip=window["clip"],
        epsilon=window["norm_epsilon"],
        sampling=Sampling(sample_count=3, seed=1),
    )
    forecaster = Forecaster(networks["predictor"], networks["tokenizer"], settings)
    stamps = calendar_stamps(
        np.datetime64("2024-01-01", "s") + np.arange(length + steps) * np.timedelta64(1, "D")
    )
    walk = 100 * np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, length)))
    bars = np.stack([walk, walk * 1.01, walk * 0.99, walk, np.full(length, 1e5), walk * 1e5], axis=1)[
        None
    ].astype(np.float32)
    inputs = (bars, stamps[None, :length], stamps[None, length:], np.array([7], dtype=np.int64))
    first, second = (forecaster.forecast(*inputs).paths for _ in range(2))
    if not (np.isfinite(first).all() and np.array_equal(first, second)):
        raise KitError(
            f"{folder}: expected a finite forecast that is the same twice, found another; train the network again"
        )
    return steps


def _read(path: Path) -> Any:
    if not path.is_file():
        raise KitError(f"{path}: expected a packaged model (scripts/package_model.py), found no such file")
    return records.read(path, dict[str, Any], remedy="fetch the package again")
