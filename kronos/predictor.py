"""`KronosPredictor` in Python: tables in; paths, P(rise), rise or fall out, as the backtest and the submission
answer.

In: networks (given, of a run folder, or of a package), tables of bars. Out: what `TablePredictor` gives, and
`Decided`: the tables become a small store, and the same planning, answerer and decision as in a submission
answer its rows, so that the same rows give the same bits.
"""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from kronos.answers.answerer import ask, moment_after
from kronos.answers.catalogue import GetNetwork
from kronos.answers.decide import Decided, decide
from kronos.answers.findings import Findings
from kronos.answers.network import NetworkAnswerer, of_pair
from kronos.answers.pick import pick_answerer
from kronos.config import (
    Config,
    DataConfig,
    ExperimentConfig,
    InferenceConfig,
    ModelPathsConfig,
)
from kronos.data.store import BarStore
from kronos.delivery.package_facts import Facts, read_facts
from kronos.errors import KitError
from kronos.forecasting.frames import Known
from kronos.forecasting.pair import Pair, find_pair, forecaster_of
from kronos.forecasting.predictor_api import TablePredictor
from kronos.networks import Kronos, KronosTokenizer
from kronos.runfolder import RunFolder

DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Source:
    """Where a predictor comes from."""

    folder: Path
    """Holds `decisions/`, one file per horizon."""
    config: Config
    """What its answers depend on: lookback, calendar, sampling."""
    pair: Pair


class KronosPredictor(TablePredictor):
    """A tokenizer and a predictor that forecast tables; of a run or a package they also decide rise or fall.

    See `TablePredictor` for `predict`, `predict_batch`, `forecast` and `hidden_states`.
    """

    source: Source | None = None

    @classmethod
    def from_run(cls, run: str | Path, **settings: Any) -> "KronosPredictor":
        """The predictor that a run folder ("runs/NAME") holds, with its tokenizer, normalisation, context,
        calendar and decisions.

        settings: of the constructor, in place of the run's. Raises KitError where a stage is not complete or
        the networks do not belong together.
        """
        folder = RunFolder(Path(run))
        config = folder.config_for(folder.config)  # the folder may have moved
        return cls._of(Source(Path(run), config, find_pair(config)), settings)

    @classmethod
    def from_package(cls, folder: str | Path, **settings: Any) -> "KronosPredictor":
        """The same of a packaged model (`models/NAME/vX.Y.Z`, or a link to it).

        Raises KitError where the folder is no package, or one of a form without calendar and sampling.
        """
        facts = read_facts(folder)
        config = _config_of(facts)
        return cls._of(
            Source(facts.folder, config, replace(find_pair(config), train_end=facts.train_end)), settings
        )

    @classmethod
    def _of(cls, source: Source, settings: dict[str, Any]) -> "KronosPredictor":
        data, own, pins = source.config.data, source.config.inference, source.config.model_paths
        kept: dict[str, Any] = {
            "max_context": data.max_context,
            "clip": data.clip,
            "epsilon": data.norm_epsilon,
            "calendar": data.calendar,
            "overflow": own.overflow,
            "anchor": own.anchor == "last_close",
            "seed": own.seed,
        }
        pair = source.pair
        made = cls(
            Kronos.from_pretrained(pair.predictor, revision=pins.revision(pair.predictor)),
            KronosTokenizer.from_pretrained(pair.tokenizer, revision=pins.revision(pair.tokenizer)),
            **kept | settings,
        )
        made.source = source
        return made

    def decide(
        self,
        df: Any,
        x_timestamp: Any = None,
        *,
        names: Sequence[str],
        horizon: int,
        answer: str = "network",
        ids: Sequence[str] | None = None,
    ) -> Decided:
        """Rise or fall of every table `horizon` trading days after the last day that any of them has.

        df, x_timestamp: one table or a list of N, as in `forecast`; names: their N tickers. Give all stocks
        of the date together: P(rise) says how a stock stands among them. Each table needs the bars that the
        network reads, and a year of closes for P(tie). answer: "network", or another answerer of the run's
        backtest; what is fitted learns from these tables, so they have to hold its history. ids: keys of the
        random numbers; None: the names.

        Returns `Decided`: `prob` (N,) P(rise), `pred` (N,) 0 or 1, `closes` (N, S) sampled closes. The same
        rows, networks and ids give the bits that the backtest and the submission give. Raises KitError where
        no backtest has left a decision for this horizon, or only one of other networks or settings.
        """
        source = self._source()
        findings = _findings(source.folder, horizon)
        config = self._config(source.config, findings, answer, horizon)
        known = self._read(df, x_timestamp, None, None, names)
        store = store_of(known, names)
        last = np.full(len(names), len(store.sessions) - 1)
        rows = ask(
            store, list(names), moment_after(store, last), config.data.calendar, horizon, ids or list(names)
        )
        picked = pick_answerer(config, findings, store, rows, self._network(config, source.pair, horizon))
        if picked.no_decision:
            raise KitError(
                f"decide: expected a decision of {picked.answerer.name}, found none that fits: {picked.no_decision}"
            )
        given = picked.answerer.answer(store, rows)
        decision = picked.decision_for(config, store, rows, given)
        return decide(store, rows, picked.answerer, given, decision, threshold=config.inference.threshold)

    # -- what it needs ---------------------------------------------------------------------------------------
    def _source(self) -> Source:
        if self.source is None or self.original:
            found = "one in the original's mode" if self.original else "networks alone"
            raise KitError(
                f"decide: expected a predictor of a run or a package (from_run, from_package), found {found}"
            )
        return self.source

    def _config(self, config: Config, findings: Findings, answer: str, horizon: int) -> Config:
        """The run's configuration with what this predictor was given in its place, and the network under the
        name that the backtest gave it.
        """
        own = self._settings
        data: dict[str, Any] = {"max_context": self.max_context, "clip": self.clip}
        data |= {"norm_epsilon": self.epsilon, "calendar": self.calendar}
        inference: dict[str, Any] = {"seed": self.seed, "overflow": own["overflow"], "horizon": horizon}
        inference |= {"answer": answer, "anchor": "last_close" if own["anchor"] else "none"}
        inference |= {"batch_size": own["batch_size"] or config.inference.batch_size}
        name = _network_name(findings) or config.model_paths.exp_name
        return replace(
            config,
            data=replace(config.data, **data),
            inference=replace(config.inference, **inference),
            model_paths=replace(config.model_paths, exp_name=name),
        )

    def _network(self, config: Config, pair: Pair, horizon: int) -> GetNetwork:
        """What gives the networks as an answerer."""

        @cache
        def network() -> NetworkAnswerer:
            forecaster = forecaster_of(config, self.model, self.tokenizer, self.device)
            if self._settings["autocast"] is not None:
                forecaster = forecaster.using(autocast=self._settings["autocast"])
            return of_pair(config, pair, forecaster, horizon)

        return network


def _findings(folder: Path, horizon: int) -> Findings:
    """What a backtest has left. Raises KitError where none was made of this horizon."""
    run = RunFolder(folder)
    found = run.findings(horizon)
    if found is None:
        there = ", ".join(str(steps) for steps in run.horizons()) or "none"
        raise KitError(
            f"{folder}: expected a decision {horizon} trading days ahead, found those of: {there}; "
            "run scripts/run_backtest.py --save for this horizon"
        )
    return found


def _network_name(findings: Findings) -> str:
    """What the backtest called the network; '' for the name of the configuration."""
    main = findings.of(findings.main)
    return findings.main if main is not None and main.kind in ("paths", "enumeration") else ""


def _config_of(facts: Facts) -> Config:
    """A package as a configuration: what its answers depend on."""
    own = facts.sampling
    shared = {name: value for name, value in vars(own).items() if name != "precision"}
    bars: dict[str, Any] = {"calendar": facts.markets[0].calendar, "max_context": facts.max_context}
    bars |= {"lookback_window": facts.lookback, "predict_window": facts.predict_window}
    bars |= {"clip": facts.normalisation.clip, "norm_epsilon": facts.normalisation.epsilon}
    paths = ModelPathsConfig(
        exp_name=facts.name,
        base_save_path=str(facts.folder),
        pretrained_tokenizer=str(facts.folder / "tokenizer"),
        pretrained_predictor=str(facts.folder / "predictor"),
    )
    config = Config(data=DataConfig(**bars), model_paths=paths, inference=InferenceConfig(**shared))
    training, inference = config.training, config.inference
    if own.precision == "float32" or own.precision == "int8":
        inference = replace(inference, precision=own.precision)
    else:
        training = replace(training, mixed_precision=own.precision)
    return replace(
        config,
        inference=inference,
        training=training,
        experiment=ExperimentConfig(train_tokenizer=False, train_basemodel=False),
    )


# -- tables as a store ---------------------------------------------------------------------------------------
def store_of(known: Sequence[Known], names: Sequence[str]) -> BarStore:
    """Tables in memory as a store: names (N,) their tickers, each once. Raises KitError where one is there
    twice.
    """
    order = np.argsort(np.array(names, dtype=object).astype(str), kind="stable").tolist()
    tickers = [str(names[k]) for k in order]
    for one, other in itertools.pairwise(tickers):
        if one == other:
            raise KitError(f"names: expected every ticker once, found {one} twice")
    dates = [known[k].dates for k in order]
    sessions, session = np.unique(np.concatenate(dates), return_inverse=True)
    bars = np.concatenate([known[k].bars for k in order]).astype(np.float32)
    offsets = np.cumsum([0, *(len(one) for one in dates)])
    digest = hashlib.sha256(bars.tobytes() + session.tobytes() + sessions.tobytes()).hexdigest()
    return BarStore(
        path=Path("tables"),
        manifest={"frequency": _frequency(dates), "digest": digest},
        bars=bars,
        session=session.astype(np.int32),
        sessions=sessions,
        offsets=offsets,
        segments=np.stack([offsets[:-1], offsets[1:]], axis=1),
        tickers=tickers,
    )


def _frequency(dates: Sequence[Any]) -> str:
    """How long a bar is: by the commonest step between two bars of one table."""
    steps, seen = np.unique(np.concatenate([np.diff(one) for one in dates]), return_counts=True)
    if not len(steps):
        return "daily"
    commonest = steps[seen.argmax()]
    if commonest >= 20 * DAY:
        return "monthly"
    if commonest >= 5 * DAY:
        return "weekly"
    if commonest >= DAY:
        return "daily"
    return f"{int(commonest / np.timedelta64(60, 's'))}min"
