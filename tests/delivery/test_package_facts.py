"""A package's facts and its golden forecast: enough to forecast from the folder alone, and to notice a
change."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LOOKBACK, tiny_config, tiny_store

from kronos import files
from kronos.answers.decision import Decision
from kronos.answers.findings import Evidence, Figure, Findings
from kronos.config import to_dict
from kronos.data.store_writer import store_from_dict
from kronos.delivery.golden import GATE, forecaster_of, golden_difference, load_networks
from kronos.delivery.package import package_model
from kronos.delivery.package_facts import Facts, Market, read_facts
from kronos.delivery.package_metadata import forecast_part
from kronos.errors import KitError
from kronos.training.stages import run_stage


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained tiny pair with a decision 5 days ahead, as a package; nobody may change it."""
    folder = tmp_path_factory.mktemp("run")
    config = tiny_config(folder, data__calendar="XSHG", inference__temperature=0.9, data__test_ratio=0.0)
    store = tiny_store(Path(config.data.store))
    for stage in ("tokenizer", "basemodel"):
        assert run_stage(config, stage, store) == "complete"
    key = {
        kind: files.folder_digest(config.run_dir / stage / "best_model")
        for kind, stage in (("model", "basemodel"), ("tokenizer", "tokenizer"))
    }
    main = Evidence("network", "paths", 41, Figure(0.53), decision=Decision(5, 0.1, width=1.3, key=key))
    Findings(1, 5, "now", "d", "2020-01-02", "2021-01-04", 40, 30, 0.54, 0.51, "network", [main]).save(
        config.run_dir
    )
    return package_model(config, folder / "models", "tiny")


@pytest.fixture
def copy(packaged: Path, tmp_path: Path) -> Path:
    """A package to damage."""
    return Path(shutil.copytree(packaged, tmp_path / packaged.name))


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_package_states_what_a_forecast_needs(packaged: Path) -> None:
    """A server that has to guess dates, normalisation or sampling forecasts something else than the
    backtest."""
    facts = read_facts(packaged)
    assert (facts.name, facts.version, facts.schema) == ("tiny", "v1.0.0", 2)
    assert facts.digest == files.digest(packaged / "checksums.json")
    assert (facts.frequency, facts.bar_seconds) == ("daily", 86_400)
    assert facts.markets == (Market("XSHG", "Asia/Shanghai"),)
    assert (facts.lookback, facts.max_context, facts.normalisation.clip) == (LOOKBACK, 512, 5.0)
    assert (facts.sampling.temperature, facts.sampling.sample_count) == (0.9, 33)
    assert facts.horizons == (5,) and facts.decisions[5].width == 1.3
    assert facts.decisions[5].key == {
        "model": facts.networks["predictor"],
        "tokenizer": facts.networks["tokenizer"],
    }
    assert facts.versions["torch"] == torch.__version__ and facts.kit
    assert facts.train_end and "nothing is known" in facts.verdict


def test_the_next_sessions_are_the_exchanges(packaged: Path) -> None:
    """Forecasts labelled with closed days cannot be compared with what happened."""
    known = np.array(["2024-09-27", "2024-09-30"], dtype="datetime64[s]")
    ahead = read_facts(packaged).next_sessions(known, 2)
    assert ahead.astype("datetime64[D]").astype(str).tolist() == ["2024-10-08", "2024-10-09"]


def test_each_ticker_has_its_market(packaged: Path) -> None:
    """One package may serve two exchanges; a name that nobody lists belongs to the first."""
    second = Market("NYSE", "America/New_York", ("09:30:00", "15:30:00"), ("ABC",), (".US",))
    facts = replace(read_facts(packaged), markets=(Market("XSHG", "Asia/Shanghai"), second))
    assert [facts.market_of(name).calendar for name in ("ABC", "x.us", "600977", "")] == [
        "NYSE",
        "NYSE",
        "XSHG",
        "XSHG",
    ]
    hourly = replace(facts, frequency="360min")
    ahead = hourly.next_sessions(np.array(["2024-07-03T15:30"], dtype="datetime64[s]"), 3, "ABC")
    assert ahead.astype(str).tolist() == ["2024-07-05T09:30:00", "2024-07-05T15:30:00", "2024-07-08T09:30:00"]


def test_times_of_day_come_from_the_data(tmp_path: Path) -> None:
    """A client's 20 bars of one morning do not show when the afternoon's bars are."""
    days = np.datetime64("2024-01-02", "s") + np.arange(40) * np.timedelta64(1, "D")
    times = np.array([9 * 60 + 30, 13 * 60], dtype="timedelta64[m]")
    dates = (days[:, None] + times[None]).reshape(-1)
    bars = np.ones((len(dates), 6), np.float32)
    store = store_from_dict(tmp_path / "store", {"A": (dates, bars)}, frequency="180min")
    config = tiny_config(tmp_path, data__store=str(tmp_path / "store"), data__calendar="24/7")
    part = forecast_part(config, store, same=True)
    (market,) = part["markets"]
    assert (market["times"], market["timezone"]) == (["09:30:00", "13:00:00"], "UTC")
    assert (part["frequency"], part["bar_seconds"]) == ("180min", 10_800)


def test_a_package_without_data_needs_a_named_frequency(tmp_path: Path) -> None:
    """A frequency that is guessed puts weekly forecasts on daily dates."""
    config = tiny_config(tmp_path, data__markets={".HK": "XHKG"}, data__frequency="weekly")
    part = forecast_part(config, None, same=False)
    assert (part["frequency"], [m["calendar"] for m in part["markets"]]) == ("weekly", ["NYSE", "XHKG"])
    assert part["markets"][1]["endings"] == [".HK"]
    with pytest.raises(KitError, match="to say how long a bar is, found neither; prepare the data again"):
        forecast_part(tiny_config(tmp_path), None, same=False)


def test_a_package_of_schema_1_is_refused_in_one_line(copy: Path) -> None:
    """It does not say its calendar: a server would have to guess."""
    tree = json.loads((copy / "metadata.json").read_text())
    del tree["forecast"], tree["kit"]
    (copy / "metadata.json").write_text(json.dumps({**tree, "schema": 1}))
    with pytest.raises(KitError, match=r"found schema 1 without them; package the run again") as told:
        read_facts(copy)
    assert "\n" not in str(told.value)


def test_a_package_of_schema_1_that_was_completed_is_read(copy: Path) -> None:
    """Who adds the missing part by hand need not train again."""
    edit(copy, schema=1)
    assert read_facts(copy).schema == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "packaged by a newer kit"),
        ({"window": {}}, "window.lookback: expected a value, found none"),
        ({"networks": {}}, "expected the digest of the predictor"),
        ({"version": 7}, "version: expected a text, found 7"),
    ],
)
def test_wrong_metadata_is_one_line(copy: Path, changes: dict[str, Any], message: str) -> None:
    """Not a KeyError inside a server."""
    edit(copy, **changes)
    with pytest.raises(KitError, match=message):
        read_facts(copy)


# -- the golden forecast -------------------------------------------------------------------------------------
def test_the_golden_forecast_is_repeated(packaged: Path) -> None:
    """Loaded again, the networks give the same numbers."""
    assert golden_difference(packaged, load_networks(packaged)) == 0.0


@pytest.mark.parametrize("part", ["predictor", "tokenizer"])
def test_one_changed_weight_is_found(packaged: Path, part: str) -> None:
    """A network that answers something else must not serve, whatever the reason."""
    networks = load_networks(packaged)
    weights = dict(networks.model.named_parameters())
    name = next(name for name in weights if name.endswith("norm.weight"))
    if part == "tokenizer":
        weights = dict(networks.tokenizer.named_parameters())
        name = next(name for name in weights if name == "head.bias")
    with torch.no_grad():
        weights[name].view(-1)[3] += 0.1
    assert golden_difference(packaged, networks) > GATE


def test_weights_that_are_no_numbers_are_found(packaged: Path) -> None:
    """NaN is not below any limit, but a comparison with it is false, too."""
    networks = load_networks(packaged)
    with torch.no_grad():
        next(networks.model.parameters()).fill_(float("nan"))
    assert golden_difference(packaged, networks) == float("inf")


def test_a_package_without_its_golden_forecast_is_refused(copy: Path) -> None:
    """Nothing to compare with is not the same as no difference."""
    (copy / "golden.json").unlink()
    with pytest.raises(KitError, match="expected the golden forecast, found none"):
        golden_difference(copy, load_networks(copy))


def test_a_forecaster_samples_as_the_package_says(packaged: Path) -> None:
    """The decision was fitted to these settings."""
    facts: Facts = read_facts(packaged)
    forecaster = forecaster_of(facts, load_networks(packaged), sample_count=5, seed=3)
    assert forecaster.sampling.temperature == 0.9 and forecaster.settings.anchor
    assert (forecaster.sampling.sample_count, forecaster.sampling.seed) == (5, 3)
    own = forecaster.settings
    assert (own.clip, own.epsilon, own.max_context) == (5.0, "absolute", 512)


def test_a_published_pair_is_packaged(packaged: Path, tmp_path: Path) -> None:
    """Who serves the published weights needs no training; that nothing is known of their data is said."""
    own = {
        "model_paths__pretrained_tokenizer": str(packaged / "tokenizer"),
        "model_paths__pretrained_predictor": str(packaged / "predictor"),
        "experiment__train_tokenizer": False,
        "experiment__train_basemodel": False,
        "experiment__pre_trained": True,
        "data__frequency": "daily",
    }
    config = tiny_config(tmp_path, **own)
    files.write_json(config.run_dir / "pipeline_config.json", to_dict(config))
    folder = package_model(config, tmp_path / "models", "published")
    facts = read_facts(folder)
    assert facts.train_end is None and facts.frequency == "daily"
    assert facts.networks == read_facts(packaged).networks
    card = (folder / "README.md").read_text()
    assert "neither their data nor its last day is known here" in card and "Trained on days" not in card
