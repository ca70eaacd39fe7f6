"""How a network's bars were normalised goes with it: saved beside it, used by default, never contradicted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_forecaster import make_bars, tiny_networks
from tiny import tiny_config, tiny_store

from kronos import Kronos, KronosPredictor, KronosTokenizer
from kronos.bars import FEATURES
from kronos.config import to_dict
from kronos.errors import KitError
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.pair import find_pair, load_forecaster
from kronos.forecasting.settings import Settings
from kronos.networks.normalisation import NORMALISATION_FILE, Normalisation, agreed
from kronos.training.stages import run_stage

RELATIVE = Normalisation("relative", 4.0)


def saved(folder: Path, normalisation: Normalisation | None) -> tuple[Kronos, KronosTokenizer]:
    """Networks that were saved and loaded again."""
    loaded: list[Any] = []
    for network in tiny_networks():
        network.normalisation = normalisation
        network.save_pretrained(folder / type(network).__name__)
        loaded.append(type(network).from_pretrained(folder / type(network).__name__))
    return loaded[0], loaded[1]


def test_it_is_saved_beside_the_network_and_read_again(tmp_path: Path) -> None:
    """config.json stays as published; a network that replaces another does not keep the other's file."""
    model, tokenizer = saved(tmp_path, RELATIVE)
    assert model.normalisation == tokenizer.normalisation == RELATIVE
    folder = tmp_path / "Kronos"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        NORMALISATION_FILE,
    ]
    assert set(json.loads((folder / "config.json").read_text())) == set(vars(model.config))
    model, _ = saved(tmp_path, None)
    assert model.normalisation is None
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_cheap_coin_is_normalised_as_in_training(tmp_path: Path) -> None:
    """A coin at 9e-6: the absolute epsilon flattens its moves, and P(up) was 0.24 instead of 0.94."""
    networks = saved(tmp_path, Normalisation("relative"))
    frame = pd.DataFrame(make_bars(1, 30)[0], columns=list(FEATURES))
    days = pd.bdate_range("2024-01-02", periods=35)
    own = KronosPredictor(*networks, device="cpu")
    dear, cheap = (own.forecast(frame * factor, days[:30], days[30:], 5).prob_up() for factor in (1.0, 1e-6))
    np.testing.assert_array_equal(dear, cheap)
    published = KronosPredictor(*saved(tmp_path, None), device="cpu")
    assert (
        published.epsilon == "absolute" and published.clip == 5 and (own.epsilon, own.clip) == ("relative", 5)
    )
    assert (published.forecast(frame * 1e-6, days[:30], days[30:], 5).paths != 0).any()


def a_predictor(networks: Any, **settings: Any) -> Any:
    return KronosPredictor(*networks, device="cpu", **settings)


def settings_of_a_forecaster(networks: Any, **settings: Any) -> Any:
    return Forecaster(*networks, Settings(**settings)).settings


@pytest.mark.parametrize("kind", [a_predictor, settings_of_a_forecaster])
@pytest.mark.parametrize(
    "wrong", [{"epsilon": "absolute"}, {"clip": 5.0}, {"epsilon": "absolute", "clip": 4.0}]
)
def test_a_contradiction_is_refused(kind: Any, wrong: dict[str, Any], tmp_path: Path) -> None:
    """Another scale than in training gives other answers and no error."""
    networks = saved(tmp_path, RELATIVE)
    with pytest.raises(
        KitError, match=r"trained with \(epsilon relative, clip 4\), found epsilon .*; leave epsilon and clip"
    ):
        kind(networks, **wrong)
    same = kind(networks, epsilon="relative", clip=4)
    assert (same.epsilon, same.clip) == ("relative", 4.0)


def test_the_original_mode_contradicts_a_relative_epsilon(tmp_path: Path) -> None:
    """The original knows one epsilon."""
    with pytest.raises(KitError, match="found epsilon absolute"):
        KronosPredictor(*saved(tmp_path, RELATIVE), device="cpu", compatibility="original")


@pytest.mark.parametrize(
    "text", ['{"epsilon": "relativ", "clip": 5}', '{"epsilon": "relative", "clip": 0}', "[]", "{", "null"]
)
def test_a_wrong_file_is_one_line(text: str, tmp_path: Path) -> None:
    """A file of another shape must not count as none."""
    saved(tmp_path, RELATIVE)
    (tmp_path / "Kronos" / NORMALISATION_FILE).write_text(text)
    with pytest.raises(
        KitError, match=r"normalisation\.json: .*expected .*; copy or download the network again"
    ):
        Kronos.from_pretrained(tmp_path / "Kronos")


def test_training_leaves_it_beside_both_networks(tmp_path: Path) -> None:
    """The whole way: two stages with the relative epsilon, then the table API without a word about it."""
    config = tiny_config(tmp_path, data__norm_epsilon="relative", data__clip=4.5, training__max_steps=2)
    store = tiny_store(tmp_path / "store")
    for stage in ("tokenizer", "basemodel"):
        assert run_stage(config, stage, store) == "complete"  # type: ignore[arg-type]
    folders = config.basemodel_dir / "best_model", config.tokenizer_dir / "best_model"
    own = KronosPredictor(
        Kronos.from_pretrained(folders[0]), KronosTokenizer.from_pretrained(folders[1]), device="cpu"
    )
    assert (own.epsilon, own.clip) == ("relative", 4.5)
    assert load_forecaster(config, find_pair(config)).settings.clip == 4.5
    with pytest.raises(KitError, match=r"expected a run folder with pipeline_config\.json, found none"):
        KronosPredictor.from_run(tmp_path)
    config.resolved_path.write_text(json.dumps(to_dict(config)))
    moved = config.run_dir.rename(tmp_path / "moved")
    whole = KronosPredictor.from_run(moved, device="cpu", seed=3)
    assert (whole.epsilon, whole.clip, whole.max_context, whole.seed) == (
        "relative",
        4.5,
        config.data.max_context,
        3,
    )
    moved.rename(config.run_dir)
    model_paths = replace(
        config.model_paths,
        pretrained_tokenizer=str(folders[1]),
        pretrained_predictor=str(folders[0]),
        base_save_path="none",
    )
    other = replace(
        config,
        model_paths=model_paths,
        data=replace(config.data, norm_epsilon="absolute"),
        experiment=replace(config.experiment, train_basemodel=False),
    )
    assert load_forecaster(other, find_pair(other)).settings.epsilon == "relative", (
        "a pair from elsewhere says how it was trained"
    )


def test_what_is_asked_for_counts_where_nothing_is_known() -> None:
    """Networks of earlier versions say nothing."""
    assert agreed(None, "relative", None) == Normalisation("relative", 5.0)
    assert agreed(None, None, 3) == Normalisation("absolute", 3.0)
    assert agreed(RELATIVE, None, None) == RELATIVE
