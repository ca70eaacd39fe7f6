"""What metadata.json of a package says, and its model card.

In: a run's configuration and the package that is being made (its networks and decisions lie there). Out: the
tree of metadata.json, and the text of README.md. What a forecast needs stands under `forecast`, `window` and
`decisions` and is read back by `kronos.delivery.package_facts.read_facts`.
"""

import logging
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from kronos import files
from kronos.bars import FEATURES
from kronos.config import Config
from kronos.data.calendar import TradingCalendar
from kronos.data.frequency import SECONDS
from kronos.data.markets import LONG_BARS, ZONES
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.delivery.package_facts import SCHEMA
from kronos.errors import KitError
from kronos.forecasting.pair import wanted_precision
from kronos.networks import Kronos, KronosTokenizer
from kronos.networks.normalisation import NORMALISATION_FILE, Normalisation
from kronos.runfolder import RunFolder

log = logging.getLogger(__name__)

NETWORKS: dict[str, Any] = {"tokenizer": KronosTokenizer, "predictor": Kronos}
KIT = "kronos-kaggle-kit"
PUBLISHED: dict[str, Any] = {"data_digest": "", "train_end": None}
"""Of a pair that was not trained here: neither its data nor its last day is known."""


def describe(config: Config, staged: Path, name: str, version: str, licence: str) -> dict[str, Any]:
    """metadata.json of the package that is being made in `staged`.

    Raises KitError where the length of its bars is not known: neither the prepared data nor data.frequency
    says it.
    """
    run = RunFolder(config.run_dir)
    summaries = {"tokenizer": run.summary("tokenizer"), "predictor": run.summary("basemodel")}
    predictor = summaries["predictor"] or PUBLISHED
    networks = {kind: _network_facts(staged / kind, summaries[kind]) for kind in NETWORKS}
    store = _open_store(config)
    same = store is not None and store.digest == predictor["data_digest"]
    digest = predictor["data_digest"]
    return {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "licence": licence,
        "description": config.experiment.description,
        "run": config.run_dir.name,
        "networks": networks,
        "window": {
            "lookback": config.data.lookback_window,
            "predict": config.data.predict_window,
            "max_context": config.data.max_context,
            **_normalisation(config, staged, trained=summaries["predictor"] is not None),
            "features": list(FEATURES),
        },
        "data": {"digest": digest, **(_data_facts(store) if store and same else {})},
        "forecast": forecast_part(config, store, same),
        "train_end": predictor["train_end"],
        "decisions": RunFolder(staged).horizons(),
        "backtest": _backtest(config, networks["predictor"]["digest"]),
        "kit": kit_version(),
        "versions": {p: metadata.version(p) for p in ("torch", "numpy", "safetensors")},
    }


def _network_facts(folder: Path, summary: dict[str, Any] | None) -> dict[str, Any]:
    network = NETWORKS[folder.name].from_pretrained(folder)
    facts = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "digest": files.folder_digest(folder),
    }
    if summary is None:
        return facts | {"start": "as published", "best": None}
    return facts | {
        "start": summary["facts"]["start"],
        "best": summary["best"],
        "start_value": summary["start_value"],
    }


def _normalisation(config: Config, staged: Path, trained: bool) -> dict[str, Any]:
    """How bars are normalised: as the run was trained, or as a published pair says of itself, if it does."""
    said = {"clip": config.data.clip, "norm_epsilon": config.data.norm_epsilon}
    path = staged / "predictor" / NORMALISATION_FILE
    if trained or not path.is_file():
        return said
    stated = Normalisation.read(path)
    return {"clip": stated.clip, "norm_epsilon": stated.epsilon}


def _open_store(config: Config) -> BarStore | None:
    """The run's prepared data, where it is still there."""
    if not (Path(config.data.store) / "manifest.json").is_file():
        return None
    return BarStore.open(config.data.store)


def _data_facts(store: BarStore) -> dict[str, Any]:
    """Range and size of the prepared data that was trained on."""
    return {
        "tickers": len(store.tickers),
        "bars": len(store),
        "first": date_text(store.sessions[0]),
        "last": date_text(store.sessions[-1]),
        "frequency": store.frequency,
    }


def kit_version() -> str:
    """The kit's version: of the checkout that runs, else of the installed package."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return metadata.version(KIT)


# -- what a forecast needs -----------------------------------------------------------------------------------
def forecast_part(config: Config, store: BarStore | None, same: bool) -> dict[str, Any]:
    """`forecast` of metadata.json: `package_facts.ForecastPart`.

    store: the prepared data, where it is there. same: it is what the predictor was trained on. Raises
    KitError where nothing says how long a bar is.
    """
    own = config.inference
    frequency = _frequency(config, store, same)
    if store is None:
        log.warning("%s: not there; calendar and time zone are those of the configuration", config.data.store)
        markets = _configured_markets(config)
    else:
        markets = _store_markets(config, store)
    names = ["temperature", "top_k", "top_p", "sample_count", "seed", "anchor", "decode_rope", "overflow"]
    names += ["probability", "enumeration_mass", "enumeration_pairs"]
    sampling = {name: getattr(own, name) for name in names}
    return {
        "markets": markets,
        "frequency": frequency,
        "bar_seconds": SECONDS[frequency],
        "horizon": own.horizon,
        "sampling": sampling | {"precision": wanted_precision(config)},
    }


def _frequency(config: Config, store: BarStore | None, same: bool) -> str:
    """The length of a bar, by name."""
    configured = config.data.frequency
    if store is not None and same:
        return store.frequency
    if configured != "auto":
        return configured
    if store is None:
        raise KitError(
            f"{config.data.store}: expected the prepared data, or data.frequency, to say how long a bar is, "
            "found neither; prepare the data again (kaggle/prepare_data.py)"
        )
    log.warning(
        "%s: other data than the network was trained on; its bars are %s, and so are the package's",
        config.data.store,
        store.frequency,
    )
    return store.frequency


def _store_markets(config: Config, store: BarStore) -> list[dict[str, Any]]:
    """The exchanges of the prepared data in its order; endings as the configuration names them."""
    of_ticker = store.market_of(np.arange(len(store.tickers)))
    endings = _endings(config)
    markets: list[dict[str, Any]] = []
    for number, calendar in enumerate(store.calendars(config.data.calendar)):
        tickers = [store.tickers[k] for k in np.flatnonzero(of_ticker == number).tolist()]
        market = {
            "calendar": calendar,
            "timezone": _zone(config, store, number),
            "times": _times(store, number, calendar),
            "tickers": tickers if markets else [],
            "endings": endings.pop(calendar, []),
        }
        markets.append(market)
    return markets + _named_only(config, endings)


def _configured_markets(config: Config) -> list[dict[str, Any]]:
    """The exchanges that the configuration names, `data.calendar` first."""
    return _named_only(config, {config.data.calendar: [], **_endings(config)})


def _named_only(config: Config, endings: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Exchanges without a ticker in the prepared data."""
    markets = []
    for calendar, names in endings.items():
        zone = ZONES[calendar]
        if calendar == config.data.calendar and config.data.timezone:
            zone = config.data.timezone
        markets.append({"calendar": calendar, "timezone": zone, "times": [], "tickers": [], "endings": names})
    return markets


def _endings(config: Config) -> dict[str, list[str]]:
    """`data.markets` turned round: calendar -> endings of names, or whole names."""
    found: dict[str, list[str]] = {}
    for key, value in config.data.markets.items():
        if isinstance(value, list):
            found.setdefault(key, []).extend(value)
        else:
            found.setdefault(value, []).append(key)
    return found


def _zone(config: Config, store: BarStore, number: int) -> str:
    """The zone of a market's clocks; data prepared by an earlier kit does not say it."""
    known = store.manifest.get("markets", [])
    if known:
        return str(known[number]["zone"])
    return config.data.timezone or ZONES[config.data.calendar]


def _times(store: BarStore, number: int, calendar: str) -> list[str]:
    """HH:MM:SS of the bars of a usual day; none where a bar is a day or longer."""
    if store.frequency in LONG_BARS:
        return []
    times = TradingCalendar(store.sessions_of(number), calendar, store.frequency).times_of_day
    midnight = np.datetime64("2000-01-01", "s")
    return [str(midnight + time)[11:] for time in times]


def _backtest(config: Config, weights: str) -> dict[str, Any] | None:
    """Verdict, dates and figures of the backtest of these weights; None where there is none."""
    report, why = RunFolder(config.run_dir).report(weights)
    if report is None:
        log.warning("%s: %s; the model card says that nothing is known about its skill", config.run_dir, why)
        return None
    return {key: report[key] for key in ("verdict", "dates", "entries")}


def by_date(config: Config, weights: str) -> dict[str, Any]:
    """The backtest of these weights date by date, a cut of its report.json: as much as comparing two takes. Of
    a report that scored several networks, this one's figures and not those of their blend.

    Raises KitError where there is none.
    """
    report, why = RunFolder(config.run_dir).report(weights)
    if report is None:
        raise KitError(f"{config.run_dir}: expected a backtest of the packaged network, found {why}")
    main = report["main"]
    for model in report["models"]:
        if model["digest"] == weights and model["name"] in report["per_date"]["entries"]:
            main = model["name"]
    series = report["per_date"]["entries"][main]
    return {
        "main": main,
        "dates": {key: report["dates"][key] for key in ("horizon", "stride")},
        "per_date": {"origins": report["per_date"]["origins"], "entries": {main: series}},
        "config": {"data": {"calendar": report["config"]["data"]["calendar"]}},
        "models": report["models"],
    }


def card(facts: dict[str, Any]) -> str:
    """README.md: the model card of what `describe` says."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kronos.delivery"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("model_card.md").render(facts)
