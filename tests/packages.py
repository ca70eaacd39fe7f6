"""Packages for the tests of registry, gates and deployment: a tiny trained run, versions made of it, versions
changed and sealed again."""

import json
import runpy
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_runs import add_backtest
from tiny import tiny_config, tiny_store

from kronos import cli, files
from kronos.config import Config
from kronos.delivery.golden import Networks, load_networks, make_golden, write_golden
from kronos.delivery.package import package_model
from kronos.delivery.package_facts import CHECKSUMS, contents, read_facts
from kronos.training.stages import run_stage


def trained_run(folder: Path) -> Config:
    """Both stages of a tiny run, complete."""
    config = tiny_config(folder, inference__sample_count=5)
    store = tiny_store(Path(config.data.store))
    for stage in ("tokenizer", "basemodel"):
        assert run_stage(config, stage, store) == "complete"
    return config


def with_backtest(config: Config, within: float, noise: float, seed: int, **more: Any) -> None:
    """A backtest of the run's network with this within-date accuracy."""
    digest = files.folder_digest(config.basemodel_dir / "best_model")
    models = [{"name": "model", "digest": digest}]
    more = {"verdict": {"headline": f"within dates {within:.1%}"}, **more}
    add_backtest(config.run_dir, within, noise, seed, **{"models": models, **more})


def make_model(config: Config, folder: Path, withins: tuple[float, ...]) -> Path:
    """models/tiny with one version per given within-date accuracy: v1.0.0, v1.0.1, ..."""
    for number, within in enumerate(withins):
        with_backtest(config, within, 0.002, 10 + number)
        package_model(config, folder, "tiny")
    shutil.rmtree(config.run_dir / "backtest")
    return folder / "tiny"


def seal(folder: Path) -> None:
    """Make the checksums those of the files as they are now."""
    files.write_json(
        folder / CHECKSUMS, {str(path.relative_to(folder)): files.digest(path) for path in contents(folder)}
    )


def edited(folder: Path, **changes: Any) -> None:
    """Other values in metadata.json, and the checksums with them. A dictionary changes its keys only."""
    path = folder / "metadata.json"
    tree = json.loads(path.read_text())
    for name, value in changes.items():
        tree[name] = {**tree[name], **value} if isinstance(value, dict) else value
    files.write_json(path, tree)
    seal(folder)


def reworked(folder: Path, change: Callable[[Networks], None]) -> None:
    """Other weights, packaged as if they had been trained so: golden forecast, digests and checksums fit."""
    networks = load_networks(folder)
    change(networks)
    networks.model.save_pretrained(folder / "predictor")
    networks.tokenizer.save_pretrained(folder / "tokenizer")
    digest = files.folder_digest(folder / "predictor")
    tree = json.loads((folder / "metadata.json").read_text())
    tree["networks"]["predictor"]["digest"] = digest
    files.write_json(folder / "metadata.json", tree)
    facts = replace(read_facts(folder), folder=folder)
    write_golden(folder, make_golden(facts, load_networks(folder)))
    seal(folder)


def in_process(script: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """A script's exit code, run here: a process of its own would load torch for seconds."""
    monkeypatch.setattr(cli, "setup_logging", lambda: None)
    monkeypatch.setattr(sys, "argv", [str(script), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return int(ended.value.code or 0)
