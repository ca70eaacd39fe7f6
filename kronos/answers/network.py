"""A pair of networks as an answerer: by sampled paths, or one step ahead by listing outcomes.

In: a configuration and its run folder (`load_network`). Out: a `NetworkAnswerer`. Its rows pass through the
submission's own planning and forecaster, wherever it is asked. What it says of a date can be kept on disk: a
function of networks, settings, data, rows and the version of the code, so an interrupted backtest goes on.
"""

import hashlib
import itertools
import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kronos import files
from kronos.answers.answerer import SIMPLICITY, Answer, Kind, Rows
from kronos.answers.decision import EDGE
from kronos.answers.reading import SHAPING, read_paths
from kronos.answers.simple import simple_answerers
from kronos.bars import CLOSE
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.errors import KitError
from kronos.forecasting.decide import enumerates
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.memory import Fits
from kronos.forecasting.pair import Pair, find_pair, load_forecaster
from kronos.forecasting.rows import Rises, RowPlan, find_rises, plan_rows
from kronos.forecasting.team import Team
from kronos.networks import Kronos
from kronos.progress import progress
from kronos.training.folder import read_summary
from kronos.training.start import network_digest

log = logging.getLogger(__name__)

CODE = 1
"""Version of what computes the answers: raised whenever the same networks, settings and rows would be
answered otherwise, so that nothing kept by older code is taken for this one's."""
KEPT = 3
"""Version of what is kept of an answer on disk: raised whenever something is added to it. 2: `course`; 3: `terms`."""
RESERVED = frozenset(
    {"random-init", "pretrained", "auto", "network", "head", "ridge", "logistic", "boosting"}
)
"""Names that a run folder cannot give its network."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NetworkAnswerer:
    """A pair of networks ready to answer, and what identifies its answers."""

    name: str
    config: Config
    pair: Pair
    forecaster: Forecaster
    digest: str
    tokenizer_digest: str
    horizon: int
    """Trading days ahead of most rows: decides whether it lists outcomes or samples paths."""
    summary: dict[str, Any] | None = None
    """The predictor's summary.json, where it was trained here."""
    note: str = ""
    baseline: bool = False
    """True: it stands beside the model for comparison and cannot be submitted."""
    paths: bool = False
    """Sample paths also where outcomes are listed: bands are scored on them."""
    by_date: bool = False
    """Put rows of one date only into a batch, so that no bit of a date's answers depends on what else is
    asked.
    """
    cache: Path | None = None
    """Folder that keeps the answers, one file per date."""
    deadline: float = math.inf
    """When answering has to end, in time.monotonic()'s seconds."""
    team: Team = field(default_factory=Team)
    """The processes that share the rows."""

    @property
    def kind(self) -> Kind:
        """What kind of answerer it is."""
        return "enumeration" if enumerates(self.config.inference.probability, self.horizon) else "paths"

    @property
    def simplicity(self) -> int:
        """Place in the order from simple to complex; lower is simpler."""
        return SIMPLICITY[self.kind]

    def key(self, horizon: int) -> dict[str, Any]:
        """What its answers so many steps ahead depend on, but for random numbers and their count."""
        return key_of(self.config, horizon, self.digest, self.tokenizer_digest)

    def describe(self) -> dict[str, Any]:
        """For the report."""
        return {
            "name": self.name,
            "path": self.pair.predictor,
            "digest": self.digest,
            "tokenizer": self.pair.tokenizer,
            "tokenizer_digest": self.tokenizer_digest,
            "trained": self.pair.trained,
            "train_end": self.pair.train_end,
            "lookback": self.config.data.lookback_window,
            "parameters": sum(p.numel() for p in self.forecaster.model.parameters()),
        }

    def plan(self, store: BarStore, rows: Rows) -> RowPlan:
        """Where the context of each row lies, and why a row cannot be forecast."""
        return plan_rows(
            store,
            [store.tickers[k] if k >= 0 else "" for k in rows.ticker.tolist()],
            rows.date,
            calendar=self.config.data.calendar,
            lookback=self.config.data.lookback_window,
            max_context=self.config.data.max_context,
            horizon=rows.horizon,
            overflow=self.config.inference.overflow,
            ids=rows.ids,
        )

    def answer(self, store: BarStore, rows: Rows) -> Answer:
        """Paths, or listed outcomes, of every row. Raises KitError past `deadline`."""
        if self.cache is None and not self.by_date:
            return self._answer(store, rows)
        folder = None if self.cache is None else self.cache / self._folder(store)
        parts = []
        with progress(f"{self.name}", len(rows), "rows") as bar:
            for date in np.unique(rows.asof).tolist():
                where = np.flatnonzero(rows.asof == date)
                self._check_time(bar)
                parts.append((where, self._kept(store, rows.only(where), folder, date)))
                bar.update(len(where))
        return joined(parts, len(rows))

    def _kept(self, store: BarStore, rows: Rows, folder: Path | None, date: int) -> Answer:
        """The answers of one date, found on disk or computed and kept there; folder None: only computed."""
        if folder is None:
            return self._answer(store, rows)
        path = folder / f"{date_text(store.sessions[date]).replace(':', '').replace(' ', 'T')}.npz"
        asked = np.array(
            [f"{name} {steps}" for name, steps in zip(rows.ids, rows.horizon.tolist(), strict=True)]
        )
        if path.is_file():
            with np.load(path, allow_pickle=False) as saved:
                if np.array_equal(saved["asked"], asked):
                    return Answer(**{name: saved[name] for name in saved.files if name != "asked"})
        made = self._answer(store, rows)
        arrays = {name: value for name, value in vars(made).items() if value is not None}
        with files.atomic(path) as temporary, temporary.open("wb") as handle:
            np.savez(handle, asked=asked, **arrays)
        return made

    def _answer(self, store: BarStore, rows: Rows) -> Answer:
        return forecast_rows(self.plan(store, rows), self.forecaster, self.team, self.paths)

    def _check_time(self, bar: Any) -> None:
        if time.monotonic() > self.deadline:
            raise KitError(
                f"backtest: expected an end within evaluation.time_limit, found {bar.n:,} of {bar.total:,} rows done, at "
                f"{self.name}; the same command goes on from there, or lower evaluation.origins or evaluation.tickers"
            )

    def _folder(self, store: BarStore) -> str:
        own = self.config.inference
        fixed = {
            **self.key(self.horizon),
            "data": store.digest,
            "calendar": self.config.data.calendar,
            "paths": self.paths,
        }
        fixed |= {
            "code": CODE,
            "kept": KEPT,
            "torch": torch.__version__,
            "seed": own.seed,
            "sample_count": own.sample_count,
        }
        fixed |= {"precision": self.forecaster.settings.precision, "device": self.forecaster.device.type}
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def key_of(config: Config, horizon: int, digest: str, tokenizer_digest: str) -> dict[str, Any]:
    """What a network's z depends on: digests, and the settings that shape paths and P(rise).

    Not the number of paths: a decision knows how much noise they bring.
    """
    own, data = config.inference, config.data
    listed = enumerates(own.probability, horizon)
    key: dict[str, Any] = {
        "model": digest,
        "tokenizer": tokenizer_digest,
        "horizon": horizon,
        "lookback": data.lookback_window,
    }
    key |= {"max_context": data.max_context, "clip": data.clip, "norm_epsilon": data.norm_epsilon}
    key |= {"mass": own.enumeration_mass, "pairs": own.enumeration_pairs} if listed else {}
    key |= {"probability": "enumerated" if listed else "sampled", "code": CODE}
    return key | {name: getattr(own, name) for name in SHAPING}


# -- which networks ------------------------------------------------------------------------------------------
def load_network(
    config: Config, horizon: int, name: str = "", allow_incomplete: bool = False
) -> NetworkAnswerer:
    """The networks of a configuration: the run's, or its pretrained pair. Raises KitError where there are
    none.
    """
    pair = find_pair(config, allow_incomplete)
    return of_pair(config, pair, load_forecaster(config, pair), horizon, name)


def of_pair(
    config: Config, pair: Pair, forecaster: Forecaster, horizon: int, name: str = ""
) -> NetworkAnswerer:
    """The answerer of a loaded pair, under the run's name unless another is given."""
    return NetworkAnswerer(
        name=own_name(name or config.model_paths.exp_name),
        config=config,
        pair=pair,
        forecaster=forecaster,
        digest=network_digest(forecaster.model, pair.predictor),
        tokenizer_digest=network_digest(forecaster.tokenizer, pair.tokenizer),
        horizon=horizon,
        summary=read_summary(config.basemodel_dir) if pair.trained else None,
    )


def own_name(name: str) -> str:
    """A run's name, or 'run NAME' where that names something else in a report."""
    taken = name in RESERVED or name in {answerer.name for answerer in simple_answerers()}
    return f"run {name}" if taken or name.startswith("blend") else name


def random_init(network: NetworkAnswerer, seed: int) -> NetworkAnswerer:
    """The same predictor with random weights, on the same tokenizer."""
    torch.manual_seed(seed)
    model = Kronos(**asdict(network.forecaster.model.config))
    forecaster = replace(load_forecaster(network.config, network.pair), model=model)
    digest = hashlib.sha256(f"{network.digest} random {seed}".encode()).hexdigest()
    note = "the same network, untrained"
    return replace(
        network, name="random-init", baseline=True, forecaster=forecaster, digest=digest, note=note
    )


def pretrained(network: NetworkAnswerer) -> NetworkAnswerer | None:
    """The published pair that the model started from, or None (said) where it is not here or did not start
    from one.
    """
    config = network.config
    if not (network.pair.trained and config.predictor_is_pretrained):
        return None
    paths = config.model_paths
    pair = Pair(paths.pretrained_tokenizer, paths.pretrained_predictor, trained=False)
    try:
        forecaster = load_forecaster(config, pair)
    except KitError as error:
        log.warning("the pretrained network is not scored: %s", error)
        return None
    made = of_pair(config, pair, forecaster, network.horizon)
    made = replace(
        made, cache=network.cache, deadline=network.deadline, paths=network.paths, by_date=network.by_date
    )
    return replace(made, name="pretrained", baseline=True, note=f"{pair.predictor} without fine-tuning")


# -- forecasting ---------------------------------------------------------------------------------------------
def forecast_rows(plan: RowPlan, forecaster: Forecaster, team: Team, paths: bool = False) -> Answer:
    """What the networks say of the rows that can be forecast, on every process of the team.

    The batches are those of one process, dealt out in turn: a row's batch, and so every bit of its answer,
    does not depend on how many processes there are. paths: sample them also where outcomes are listed.
    """
    n, todo = len(plan.ids), int((plan.reason == "").sum())
    forecaster, fits = forecaster.using(processes=team.world), Fits()
    size = min(
        team.gather(forecaster.memory_plan(*plan.extent()).series)
    )  # one for all: it decides who is in a batch

    def share() -> list[tuple[NDArray[np.int64], NDArray[np.float32], Rises]]:
        parts = []
        with progress("forecast", -(-todo // team.world), "rows") as bar:
            for batch in itertools.islice(plan.batches(size), team.rank, None, team.world):
                parts.append(
                    (batch.rows, batch.bars[:, -1, CLOSE], find_rises(batch, forecaster, paths, fits))
                )
                bar.update(len(batch.rows))
        return parts

    prob, score, noise, mass = np.full((4, n), np.nan)
    reason = plan.reason.copy()
    count = forecaster.sampling.sample_count
    closes = np.full((n, count), np.nan, np.float32)
    course = np.full((n, 4), np.nan, np.float32)
    terms = np.full((n, plan.extent()[1]), np.nan, np.float32)
    sampled = False
    for parts in team.gather(team.together(share)):
        for rows, last, found in parts:
            reason[rows], mass[rows] = found.reason, found.mass
            listed = np.isfinite(found.mass)
            if found.closes is not None:
                closes[rows], course[rows], sampled = found.closes, found.course, True
            if found.terms is not None:
                terms[rows, : found.terms.shape[1]] = found.terms
            if found.closes is not None and not listed.any():
                score[rows], prob[rows], noise[rows] = read_paths(found.closes, last)
            else:
                prob[rows] = np.clip(found.prob_up, EDGE, 1 - EDGE)
                score[rows], noise[rows] = prob[rows], 0.0
    if not sampled:
        return Answer(score, prob, reason, None, noise, mass)
    return Answer(score, prob, reason, closes, noise, mass, course, terms)


def joined(parts: list[tuple[NDArray[np.int64], Answer]], rows: int) -> Answer:
    """One answer from those of parts of the rows: [(positions, answer)]."""
    names = [part.name for part in fields(Answer)]
    columns: dict[str, Any] = dict.fromkeys(names)
    for where, answer in parts:
        for name in names:
            values = getattr(answer, name)
            if values is None:
                continue
            if columns[name] is None:
                fill = "" if name == "reason" else np.nan
                columns[name] = np.full(
                    (rows, *values.shape[1:]), fill, "<U64" if name == "reason" else values.dtype
                )
            columns[name][where] = values
    if columns["score"] is None:
        columns["score"], columns["reason"] = np.full(rows, np.nan), np.full(rows, "", "<U64")
    return Answer(**columns)
