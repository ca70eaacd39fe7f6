"""From test rows to a submission file that is checked, reproducible and explained.

In: a configuration (test file, sample, store), and what is to answer: an answerer by name, or what the
evidence of the backtest prefers. Out: NAME.csv (`ID,Pred`), NAME.json (the manifest) and NAME-prob.csv
(probability, horizon and context of every row; not submitted). Nothing dated on or after a row's Date is
read. See docs/forecasting.md for the rules; the format is the competition's.
"""

import csv
import io
import logging
import os
import platform
import re
import shlex
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from kronos import files, final
from kronos.answers.answerer import Answer, Rows, ask
from kronos.answers.decide import Decided, decide, rates
from kronos.answers.decision import Decision
from kronos.answers.findings import Figure
from kronos.answers.history import tie_shares
from kronos.answers.network import NetworkAnswerer, load_network
from kronos.answers.pick import Picked, common_horizon, pick_answerer
from kronos.answers.simple import ALL_RISE
from kronos.config import Config, to_dict
from kronos.data.competition import SUBMISSIONS, read_rows
from kronos.data.prepare import open_store
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.errors import KitError
from kronos.forecasting.pair import pick_device
from kronos.forecasting.rows import RowPlan
from kronos.forecasting.team import Team
from kronos.runfolder import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Answered:
    """N rows with their answers, and how they came about."""

    store: BarStore
    rows: Rows
    decided: Decided
    answer: Answer
    ties: NDArray[np.float64]
    plan: RowPlan | None
    """Of the network's contexts; None where no network answered."""


@dataclass(frozen=True)
class Submission:
    """A written file and what a person wants to know about it."""

    path: Path
    manifest: dict[str, Any]
    command: str
    """The line that submits it."""

    def table(self) -> str:
        """The summary, one fact per line."""
        m = self.manifest
        common = sorted(m["horizons"].items(), key=lambda item: -item[1])
        horizons = ", ".join(f"{steps} ({count} rows)" for steps, count in common[:3]) + ", ..." * (
            len(common) > 3
        )
        lines = {
            "rows": f"{m['rows']} ({m['forecast']} forecast)",
            "rises": f"{m['share_of_rises']:.1%} (mean probability {m['mean_probability']:.3f})",
            "horizon": f"{horizons} trading days" if common else "none",
            "answered by": f"{m['answer']['name']} ({m['answer']['why']})",
            **({"fitted": m["answer"]["fits"]} if m["answer"]["fits"] else {}),
            "expected": _expected(m["answer"]),
            "decision": "the backtest's" if m["decision"]["used"] else m["decision"]["why"],
            "shortened": _counts(m["shortened"]),
            "fallbacks": _counts(m["fallbacks"]),
            "digest": f"sha256 {m['sha256'][:16]}",
            "time": f"{m['seconds']:.1f} s",
        }
        return "\n".join(f"  {name:<12} {value}" for name, value in lines.items())


def make_submission(
    config: Config, output: str | Path | None = None, allow_incomplete: bool = False
) -> Submission:
    """Answer every test row and write the submission, its manifest and its probabilities.

    Under `accelerate launch` the processes share a network's rows; the main one writes and returns, the
    others end here.

    output: the file to write, replaced if it exists; None: a new file in submissions/. allow_incomplete:
    forecast with a network whose training has not ended. Raises KitError, with nothing written, when the
    inputs are missing or do not fit together, when the IDs are not the sample's, or when too many rows could
    not be answered.
    """
    started = time.monotonic()
    config = _newest(config)
    team = Team.join(config, pick_device(config).type == "cpu")
    target = _target(config, output)

    def ready() -> tuple[BarStore, Rows, Picked]:
        _check_writable(target.parent)
        ids, dates = read_rows(config)
        store = open_store(config)
        rows = ask(store, ids, dates, config.data.calendar, config.inference.horizon)
        _check_fallbacks(config, _by_reason(rows.reason), len(rows))
        return store, rows, pick(config, store, rows, team, allow_incomplete)

    store, rows, picked = team.main_first(ready)
    log.info("answered by %s: %s", picked.answerer.name, picked.why)
    if picked.fits:
        log.info("%s was fitted %s", picked.answerer.name, picked.fits)
    network = picked.network
    plan = None if network is None else network.plan(store, rows)
    if network is not None and plan is not None:
        _check_fallbacks(config, plan.fallbacks(), len(rows))  # before the long part
        _check_probability(config, plan)
        _say_work(network, plan, team)
    else:
        team.disband()  # there is nothing to share: the others end here
    answer = picked.answerer.answer(store, rows)
    team.disband()  # the others end here
    ties = tie_shares(store, rows)
    decision = picked.decision_for(config, store, rows, answer)
    decided = decide(store, rows, picked.answerer, answer, decision, ties, config.inference.threshold)
    _check_fallbacks(config, _by_reason(answer.reason), len(rows))
    done = Answered(store, rows, decided, answer, ties, plan)
    manifest = _manifest(config, done, picked, decision)
    if network is not None and plan is not None:
        manifest |= _networks(network, plan) | {"processes": team.world}
    manifest |= {"seconds": round(time.monotonic() - started, 1)}
    target = target if output else _free(target)
    manifest = _write(target, done, manifest)
    return Submission(target, manifest, submit_command(config, target, manifest))


def _say_work(network: NetworkAnswerer, plan: RowPlan, team: Team) -> None:
    """How much is about to be forecast, where, and how much at once."""
    own, todo = network.forecaster, int((plan.reason == "").sum())
    where = f"{own.device}, {team.world} process{'es' * (team.world > 1)}"
    paths = own.sampling.sample_count
    log.info("forecasting %d of %d rows, %d paths each, on %s", todo, len(plan.ids), paths, where)
    log.info("%s", own.memory_plan(*plan.extent()))


# -- who answers ---------------------------------------------------------------------------------------------
def _newest(config: Config) -> Config:
    """With `experiment.final` the configuration of the run's final networks, where there are any; else the
    same one.
    """
    if not config.experiment.final:
        return config
    own, line = final.of_run(config)
    log.info(
        "%s",
        line
        or f"no final run in {config.run_dir}: the run's own networks answer; scripts/final_run.py makes one",
    )
    if own is None:
        return config
    final.carry_over(config, own)
    return own


def pick(config: Config, store: BarStore, rows: Rows, team: Team, allow_incomplete: bool = False) -> Picked:
    """Who answers. The run's network is loaded once, where it is needed; its rows are shared by the team."""
    horizon = common_horizon(config, rows)

    @cache
    def network() -> NetworkAnswerer:
        return replace(load_network(config, horizon, allow_incomplete=allow_incomplete), team=team)

    return pick_answerer(config, RunFolder(config.run_dir).findings(horizon), store, rows, network)


def _check_probability(config: Config, plan: RowPlan) -> None:
    further = int((plan.horizon[plan.reason == ""] != 1).sum())
    if config.inference.probability == "enumerated" and further:
        raise KitError(
            f"inference.probability: expected rows one step ahead to enumerate, found {further} further ahead; set it to auto"
        )


def _check_fallbacks(config: Config, fallbacks: dict[str, int], rows: int) -> None:
    limit = config.inference.max_fallback_ratio
    if (count := sum(fallbacks.values())) > limit * rows:
        raise KitError(
            f"{count} of {rows} rows cannot be forecast ({_counts(fallbacks)}): expected at most {limit:.0%} "
            "(inference.max_fallback_ratio); check that test and training files belong together"
        )


# -- what is written -----------------------------------------------------------------------------------------
def submit_command(config: Config, path: Path, manifest: dict[str, Any]) -> str:
    """The line that submits `path`; its message holds nothing that a shell would read."""
    message = re.sub(
        r"[^\w .,:%()+-]", "", f"{config.model_paths.exp_name}: {manifest['share_of_rises']:.1%} rises"
    )
    return f'kaggle competitions submit -c {shlex.quote(config.inference.competition)} -f {shlex.quote(str(path))} -m "{message}"'


def _target(config: Config, output: str | Path | None) -> Path:
    if output is None:
        return SUBMISSIONS / f"{config.model_paths.exp_name}-{time.strftime('%Y%m%d-%H%M%S')}.csv"
    if Path(output).suffix != ".csv" or Path(output).is_dir():
        raise KitError(f"--output {output}: expected the name of a .csv file")
    return Path(output)


def _check_writable(folder: Path) -> None:
    """Say now what would otherwise end the run after the long part."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise KitError(f"{folder}: expected a folder that can be written to; name another file with --output")


def _free(path: Path) -> Path:
    """`path`, or the next free name after it: a file that nobody named is never replaced."""
    names = [path, *(path.with_stem(f"{path.stem}-{n}") for n in range(2, 100))]
    return next(name for name in names if not any(p.exists() for p in _companions(name)))


def _companions(path: Path) -> tuple[Path, Path, Path]:
    """The submission, its probabilities and its manifest."""
    return path, path.with_name(f"{path.stem}-prob.csv"), path.with_suffix(".json")


def _write(target: Path, done: Answered, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the three files: all of them aside first, so that a failure leaves what was there. Returns the
    manifest.

    They take their places in the end, the submission last: where it is, the others are.
    """
    submission = _csv(["ID", "Pred"], zip(done.rows.ids, done.decided.pred.tolist(), strict=True))
    with ExitStack() as stack:
        csv_file, prob_file, json_file = (
            stack.enter_context(files.atomic(path)) for path in _companions(target)
        )
        csv_file.write_text(submission, encoding="utf-8")
        prob_file.write_text(_probabilities(done), encoding="utf-8")
        manifest = manifest | {"file": target.name, "sha256": files.digest(csv_file)}
        files.write_json(json_file, manifest)
    return manifest


def _probabilities(done: Answered) -> str:
    rows, n = done.rows, len(done.rows)
    prob = (
        done.decided.pred.astype(float) if done.decided.prob is None else done.decided.prob
    )  # a constant is sure of itself
    context = [""] * n if done.plan is None else done.plan.length.tolist()
    asked, last = ([date_text(day) for day in column] for column in (rows.date, _last_days(done)))
    columns = (
        rows.ids,
        asked,
        prob.tolist(),
        rows.horizon.tolist(),
        context,
        last,
        done.answer.reason.tolist(),
    )
    return _csv(
        ["ID", "Date", "ProbUp", "Horizon", "Context", "LastBar", "Fallback"], zip(*columns, strict=True)
    )


def _last_days(done: Answered) -> NDArray[np.datetime64]:
    """Date of each row's last bar; of the market's last known day, or else of the row itself, where it has
    none.
    """
    rows, store = done.rows, done.store
    last = np.where(rows.asof >= 0, store.sessions[np.maximum(rows.asof, 0)], rows.date)
    have = rows.last >= 0
    last[have] = store.dates(rows.last[have])
    return last


def _csv(header: list[str], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _manifest(config: Config, done: Answered, picked: Picked, decision: Decision | None) -> dict[str, Any]:
    """What was asked, found and answered."""
    rows, forecast = done.rows, done.answer.reason == ""
    prob = done.decided.pred if done.decided.prob is None else done.decided.prob
    return {
        "rows": len(rows),
        "forecast": int(forecast.sum()),
        "share_of_rises": float(done.decided.pred.mean()),
        "mean_probability": float(prob.mean()),
        "horizons": {
            str(steps): count for steps, count in sorted(Counter(rows.horizon[forecast].tolist()).items())
        },
        "shortened": {} if done.plan is None else done.plan.shortened,
        "fallbacks": _by_reason(done.answer.reason),
        "base_rates": _base_rates(done, forecast),
        "enumerated": _enumerated(done.answer.mass),
        "ties": _ties(done.ties[forecast]),
        "answer": _account(picked),
        "decision": _decision(picked, decision, config),
        "seed": config.inference.seed,
        "dates": _range(rows.date),
        "last_bars": _range(_last_days(done)[forecast]),
        "data": {"path": str(done.store.path), "digest": done.store.digest},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "polars": pl.__version__,
        },
        "config": to_dict(config),
    }


def _account(picked: Picked) -> dict[str, Any]:
    """Who answered, why, and what the backtest lets expect of it beside 'all rise'."""
    about: dict[str, Any] = {"name": picked.answerer.name, "kind": picked.answerer.kind, "why": picked.why}
    about["fits"] = picked.fits
    about |= {"expected": None, "all_rise": None, "least_skill": None, "backtest": None}
    found = picked.findings
    if found is None:
        return about
    about["backtest"] = {
        name: getattr(found, name)
        for name in ("created", "horizon", "first", "last", "dates", "effective", "data")
    }
    about["least_skill"] = found.least_skill
    rise = found.of(ALL_RISE)
    about["all_rise"] = None if rise is None else asdict(rise.accuracy)
    if picked.evidence is not None and not picked.no_decision:
        about["expected"] = asdict(picked.evidence.accuracy)
    return about


def _decision(picked: Picked, decision: Decision | None, config: Config) -> dict[str, Any]:
    """How scores became answers."""
    if decision is None:
        return {"used": False, "why": "inference.calibration is off"}
    if picked.answerer.kind == "constant":
        return {"used": False, "why": "a constant needs none"}
    own = {"used": not picked.no_decision, "why": picked.no_decision or "left by the backtest"}
    if picked.no_decision:
        own["why"] = f"the level of all history, since {picked.no_decision}"
    return own | asdict(decision)


def _base_rates(done: Answered, forecast: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """The share of rises in history for each date and horizon of which a row was answered without a
    forecast.
    """
    rows = done.rows.only(~forecast)
    found = {}
    for date, steps, rate in zip(
        rows.date, rows.horizon.tolist(), rates(done.store, rows).tolist(), strict=True
    ):
        found[(date_text(date), steps)] = rate
    return [{"date": date, "horizon": steps, "rate": rate} for (date, steps), rate in sorted(found.items())]


def _enumerated(mass: NDArray[np.float64] | None) -> dict[str, Any]:
    """How many answers are enumerated, and what the listed outcomes hold of the probability."""
    held = np.empty(0) if mass is None else mass[~np.isnan(mass)]
    return {"rows": len(held)} | (
        {"mean_mass": float(held.mean()), "least_mass": float(held.min())} if len(held) else {}
    )


def _ties(ties: NDArray[np.float64]) -> dict[str, Any]:
    """How often prices are expected to end where they are, and for how many rows that is the likeliest
    end.
    """
    known = ties[~np.isnan(ties)]
    return {"mean": float(known.mean()) if len(known) else None, "likeliest": int((known > 0.5).sum())}


def _networks(network: NetworkAnswerer, plan: RowPlan) -> dict[str, Any]:
    """Which networks answered, and whether they have seen the days they were asked about."""
    pair, forecaster = network.pair, network.forecaster
    seen = int((plan.dates <= np.datetime64(pair.train_end, "s")).sum()) if pair.train_end else 0
    if seen:
        log.warning(
            "%d rows are dated up to %s, the last day of training: a score on them is no test",
            seen,
            pair.train_end,
        )
    return {
        "train_end": pair.train_end,
        "rows_not_after_train_end": seen,
        "incomplete_stages": list(pair.incomplete),
        "series_at_once": forecaster.memory_plan(*plan.extent()).series,
        "model": {
            "path": pair.predictor,
            "digest": network.digest,
            "trained": pair.trained,
            "device": str(forecaster.device),
            "precision": forecaster.settings.precision,
        },
        "tokenizer": {"path": pair.tokenizer, "digest": network.tokenizer_digest},
    }


def _range(dates: NDArray[np.datetime64]) -> dict[str, str] | None:
    return {"first": date_text(dates.min()), "last": date_text(dates.max())} if len(dates) else None


# -- small things --------------------------------------------------------------------------------------------
def _by_reason(reason: NDArray[np.str_]) -> dict[str, int]:
    return dict(sorted(Counter(r for r in reason.tolist() if r).items()))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _expected(answer: dict[str, Any]) -> str:
    """The expected accuracy in words, beside 'all rise' and what the dates could have shown."""
    if answer["expected"] is None:
        return "not known: no backtest of it"
    rise = "" if answer["all_rise"] is None else f"; all rise {Figure(**answer['all_rise']).shown()}"
    least = answer["least_skill"]
    skill = (
        "too few dates to show any skill"
        if least is None
        else f"least skill these dates can show: {least:.1%} within a date"
    )
    return f"accuracy {Figure(**answer['expected']).shown()}{rise}; {skill}"
