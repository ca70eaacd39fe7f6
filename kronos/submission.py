"""From test rows to a submission file that is checked, reproducible and explained.

In: a configuration (test file, sample, store, trained networks). Out: NAME.csv (`ID,Pred`), NAME.json (the manifest) and
NAME-prob.csv (probability, horizon and context of every row; not submitted). Nothing dated on or after a row's Date is read.
See docs/forecasting.md for the rules; the format is the competition's.
"""

import csv
import io
import itertools
import logging
import os
import platform
import re
import shlex
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from kronos import files
from kronos.config import Config, to_dict
from kronos.data.competition import SUBMISSIONS, read_rows
from kronos.data.prepare import open_store
from kronos.data.store import BarStore
from kronos.data.survey import date_text
from kronos.errors import KitError
from kronos.forecasting.calibration import FILE as CALIBRATION_FILE
from kronos.forecasting.calibration import Calibration, key_of, read_calibration, threshold_of, uncertain
from kronos.forecasting.decide import decide
from kronos.forecasting.forecaster import Forecaster
from kronos.forecasting.pair import Pair, find_pair, load_forecaster, pick_device
from kronos.forecasting.rows import Rises, RowPlan, base_rate, find_rises, plan_rows
from kronos.forecasting.team import Team
from kronos.progress import progress
from kronos.training.stages import network_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Found:
    """What the networks said of every row, each (n,)."""

    prob: NDArray[np.float64]
    """P(rise) if the price moves, NaN for a row that could not be forecast."""
    mass: NDArray[np.float64]
    """The probability that a listed answer rests on, else NaN."""
    ties: NDArray[np.float64]
    """P(tie), else NaN."""
    reason: NDArray[np.str_]
    """Why not; '' where it was."""
    series_at_once: int


@dataclass(frozen=True)
class Answers:
    """What was found for each row of a plan."""

    prob_up: NDArray[np.float64]
    """(n,) P(rise); the base rate for a row that was not forecast."""
    pred: NDArray[np.int64]
    """(n,) 0 or 1."""
    reason: NDArray[np.str_]
    """(n,) '' for a forecast row, else why not."""
    base_rates: list[dict[str, Any]]
    """Each rate that answered a row: date, horizon, rate, pairs it was counted over."""
    mass: NDArray[np.float64]
    """(n,) probability of what an enumerated answer rests on; NaN for the others."""
    ties: NDArray[np.float64]
    """(n,) P(tie), which is in prob_up; NaN for a row that was not forecast."""


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
        horizons = ", ".join(f"{steps} ({count} rows)" for steps, count in common[:3]) + ", ..." * (len(common) > 3)
        lines = {
            "rows": f"{m['rows']} ({m['forecast']} forecast)",
            "rises": f"{m['share_of_rises']:.1%} (mean probability {m['mean_probability']:.3f})",
            "horizon": f"{horizons} trading days" if common else "none",
            "calibrated": f"{m['calibration']['rows']} rows ({m['calibration']['method']})" if m["calibration"]["used"] else "no",
            "shortened": _counts(m["shortened"]),
            "fallbacks": _counts(m["fallbacks"]),
            "digest": f"sha256 {m['sha256'][:16]}",
            "time": f"{m['seconds']:.1f} s",
        }
        return "\n".join(f"  {name:<10} {value}" for name, value in lines.items())


def make_submission(config: Config, output: str | Path | None = None, allow_incomplete: bool = False) -> Submission:
    """Forecast every test row and write the submission, its manifest and its probabilities.

    Under `accelerate launch` the processes share the rows; the main one writes and returns, the others end here.

    output: the file to write, replaced if it exists; None: a new file in submissions/. allow_incomplete: forecast with a
    network whose training has not ended. Raises KitError, with nothing written, when the inputs are missing or do not fit
    together, when the IDs are not the sample's, or when too many rows could not be forecast.
    """
    started = time.monotonic()
    team = Team.join(config, pick_device(config).type == "cpu")
    target = _target(config, output)

    def ready() -> tuple[Pair, RowPlan, Forecaster]:
        _check_writable(target.parent)
        ids, dates = read_rows(config)
        store = open_store(config)
        pair = find_pair(config, allow_incomplete)
        plan = plan_test_rows(config, store, ids, dates)
        _check_fallbacks(config, plan.fallbacks(), len(ids))  # before the long part
        _check_probability(config, plan)
        return pair, plan, load_forecaster(config, pair)

    pair, plan, forecaster = team.main_first(ready)
    networks = _networks(pair, plan, forecaster)
    calibration, account = find_calibration(config, plan, networks)
    found = forecast_rows(plan, forecaster, team)
    team.disband()  # the others end here
    answers = answer_rows(config, plan, forecaster, found, calibration)
    _check_fallbacks(config, _by_reason(answers.reason), len(plan.ids))
    manifest = _manifest(config, plan, answers) | networks | {"calibration": account}
    manifest |= {"processes": team.world, "series_at_once": found.series_at_once}
    manifest |= {"seconds": round(time.monotonic() - started, 1)}
    target = target if output else _free(target)
    manifest = _write(target, plan, answers, manifest)
    return Submission(target, manifest, submit_command(config, target, manifest))


# -- what is asked -----------------------------------------------------------------------------------------------------
def plan_test_rows(config: Config, store: BarStore, ids: list[str], dates: NDArray[np.datetime64]) -> RowPlan:
    """`plan_rows` with the settings of a configuration; in the competition an ID is a ticker."""
    return plan_rows(
        store,
        ids,
        dates,
        calendar=config.data.calendar,
        lookback=config.data.lookback_window,
        max_context=config.data.max_context,
        horizon=config.inference.horizon,
        overflow=config.inference.overflow,
    )


# -- answers -----------------------------------------------------------------------------------------------------------
def find_calibration(config: Config, plan: RowPlan, networks: dict[str, Any]) -> tuple[Calibration | None, dict[str, Any]]:
    """The calibration beside the predictor where it fits, and what the manifest says of it. Rows of another horizon stay raw."""
    found, path = read_calibration(config.basemodel_dir), config.basemodel_dir / CALIBRATION_FILE
    if config.inference.calibration == "off":
        return None, {"used": False, "why": "inference.calibration is off"}
    if found is None:
        return None, {"used": False, "why": f"{path}: none there; scripts/run_backtest.py leaves one"}
    key = key_of(config, found.horizon, networks["model"]["digest"], networks["tokenizer"]["digest"])
    horizons = Counter(plan.horizon[plan.reason == ""].tolist())
    common = horizons.most_common(1)[0][0] if horizons else found.horizon
    if wrong := found.difference(found.horizon if found.horizon in horizons else common, key):
        log.warning("%s is not used: it has %s; run the backtest again", path, "; ".join(wrong))
        return None, {"used": False, "why": f"{path}: {'; '.join(wrong)}"}
    rows = horizons[found.horizon]
    log.info("calibrated by %s (%s, fitted until %s): %d rows", path, found.method, found.fitted.get("last_label"), rows)
    account = {name: getattr(found, name) for name in ("method", "horizon", "slope", "intercept", "threshold", "fitted")}
    return found, {"used": True, "path": str(path), "rows": rows, "raw_rows": sum(horizons.values()) - rows} | account


def answer_rows(
    config: Config, plan: RowPlan, forecaster: Forecaster, found: Found, calibration: Calibration | None = None
) -> Answers:
    """P(rise) and the answer of every row; a row that could not be forecast gets the base rate of rises before its date.

    found: what `forecast_rows` found. calibration: for the forecast rows of its horizon.
    """
    prob, mass, reason = found.prob.copy(), found.mass, found.reason
    threshold = np.full(len(prob), config.inference.threshold)
    if calibration is not None:
        own = (reason == "") & (plan.horizon == calibration.horizon)
        prob[own] = calibration.prob(uncertain(prob[own], mass[own], forecaster.sampling.sample_count))
        threshold[own] = threshold_of(config.inference.threshold, calibration)
    prob = prob * (1 - found.ties)
    rates: dict[tuple[np.datetime64, int], tuple[float, int]] = {}
    for row in np.flatnonzero(reason != ""):
        key = (plan.dates[row], int(plan.horizon[row]))
        if key not in rates:
            rates[key] = base_rate(plan.store, *key)
        prob[row] = rates[key][0]
    used = [
        {"date": date_text(date), "horizon": steps, "rate": rate, "pairs": pairs}
        for (date, steps), (rate, pairs) in sorted(rates.items())
    ]
    return Answers(prob, decide(prob, threshold), reason, used, mass, found.ties)


def forecast_rows(plan: RowPlan, forecaster: Forecaster, team: Team) -> Found:
    """P(rise) of the rows that can be forecast, and the completed reasons, on every process.

    The batches are those of one process, dealt out in turn: a row's batch, and so every bit of its answer, does not depend
    on how many processes there are.
    """
    (prob, mass, ties), reason = np.full((3, len(plan.ids)), np.nan), plan.reason.copy()
    todo, paths = int((reason == "").sum()), forecaster.sampling.sample_count
    where = f"{forecaster.device}, {team.world} process{'es' * (team.world > 1)}"
    log.info("forecasting %d of %d rows, %d paths each, on %s", todo, len(reason), paths, where)
    forecaster.processes = team.world
    memory = forecaster.memory_plan(*plan.extent())
    log.info("%s", memory)
    size = min(team.gather(memory.series))  # one for all, or a row's batch would depend on who forecasts it

    def share() -> list[tuple[NDArray[np.int64], Rises]]:
        mine = itertools.islice(plan.batches(size), team.rank, None, team.world)
        with progress("forecast", -(-todo // team.world), "rows") as bar:
            parts = []
            for batch in mine:
                parts.append((batch.rows, find_rises(batch, forecaster)))
                bar.update(len(batch.rows))
        return parts

    for parts in team.gather(team.together(share)):
        for rows, answer in parts:
            prob[rows], mass[rows], ties[rows], reason[rows] = answer.prob_up, answer.mass, answer.ties, answer.reason
    return Found(prob, mass, ties, reason, size)


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


# -- what is written ---------------------------------------------------------------------------------------------------
def submit_command(config: Config, path: Path, manifest: dict[str, Any]) -> str:
    """The line that submits `path`; its message holds nothing that a shell would read."""
    message = re.sub(r"[^\w .,:%()+-]", "", f"{config.model_paths.exp_name}: {manifest['share_of_rises']:.1%} rises")
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


def _write(target: Path, plan: RowPlan, answers: Answers, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the three files: all of them aside first, so that a failure leaves what was there. Returns the manifest.

    They take their places in the end, the submission last: where it is, the others are.
    """
    submission = _csv(["ID", "Pred"], zip(plan.ids, answers.pred.tolist(), strict=True))
    with ExitStack() as stack:
        csv_file, prob_file, json_file = (stack.enter_context(files.atomic(path)) for path in _companions(target))
        csv_file.write_text(submission, encoding="utf-8")
        prob_file.write_text(_probabilities(plan, answers), encoding="utf-8")
        manifest = manifest | {"file": target.name, "sha256": files.digest(csv_file)}
        files.write_json(json_file, manifest)
    return manifest


def _probabilities(plan: RowPlan, answers: Answers) -> str:
    days = [[date_text(day) for day in column] for column in (plan.dates, plan.last)]
    columns = (plan.ids, days[0], answers.prob_up.tolist(), plan.horizon.tolist(), plan.length.tolist(), days[1], answers.reason)
    return _csv(["ID", "Date", "ProbUp", "Horizon", "Context", "LastBar", "Fallback"], zip(*columns, strict=True))


def _csv(header: list[str], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _manifest(config: Config, plan: RowPlan, answers: Answers) -> dict[str, Any]:
    """What was asked, found and answered."""
    forecast = answers.reason == ""
    known = plan.last[forecast]
    return {
        "rows": len(plan.ids),
        "forecast": int(forecast.sum()),
        "share_of_rises": float(answers.pred.mean()),
        "mean_probability": float(answers.prob_up.mean()),
        "horizons": {str(steps): count for steps, count in sorted(Counter(plan.horizon[forecast].tolist()).items())},
        "shortened": plan.shortened,
        "fallbacks": _by_reason(answers.reason),
        "base_rates": answers.base_rates,
        "enumerated": _enumerated(answers.mass),
        "ties": _ties(answers.ties),
        "seed": config.inference.seed,
        "dates": _range(plan.dates),
        "last_bars": _range(known),
        "data": {"path": str(plan.store.path), "digest": plan.store.digest},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "polars": pl.__version__,
        },
        "config": to_dict(config),
    }


def _enumerated(mass: NDArray[np.float64]) -> dict[str, Any]:
    """How many answers are enumerated, and what the listed outcomes hold of the probability."""
    held = mass[~np.isnan(mass)]
    return {"rows": len(held)} | ({"mean_mass": float(held.mean()), "least_mass": float(held.min())} if len(held) else {})


def _ties(ties: NDArray[np.float64]) -> dict[str, Any]:
    """How often prices are expected to end where they are, and for how many rows that is the likeliest end."""
    known = ties[~np.isnan(ties)]
    return {"mean": float(known.mean()) if len(known) else None, "likeliest": int((known > 0.5).sum())}


def _networks(pair: Pair, plan: RowPlan, forecaster: Forecaster) -> dict[str, Any]:
    """Which networks answered, and whether they have seen the days they were asked about."""
    seen = int((plan.dates <= np.datetime64(pair.train_end, "s")).sum()) if pair.train_end else 0
    if seen:
        log.warning("%d rows are dated up to %s, the last day of training: a score on them is no test", seen, pair.train_end)
    return {
        "train_end": pair.train_end,
        "rows_not_after_train_end": seen,
        "incomplete_stages": list(pair.incomplete),
        "model": {
            "path": pair.predictor,
            "digest": network_digest(forecaster.model, pair.predictor),
            "trained": pair.trained,
            "device": str(forecaster.device),
            "precision": str(forecaster.autocast or torch.float32).removeprefix("torch."),
        },
        "tokenizer": {"path": pair.tokenizer, "digest": network_digest(forecaster.tokenizer, pair.tokenizer)},
    }


def _range(dates: NDArray[np.datetime64]) -> dict[str, str] | None:
    return {"first": date_text(dates.min()), "last": date_text(dates.max())} if len(dates) else None


# -- small things ------------------------------------------------------------------------------------------------------
def _by_reason(reason: NDArray[np.str_]) -> dict[str, int]:
    return dict(sorted(Counter(r for r in reason.tolist() if r).items()))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
