"""What a report says: an alarm that needs an interval, and never beside a verdict on the same figure."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata
from test_reliability import panel_of

from kronos.answers.decide import Decided
from kronos.answers.network import own_name
from kronos.errors import KitError
from kronos.evaluation.backtest import _names
from kronos.evaluation.significance import DateBootstrap
from kronos.evaluation.verdict import Results, alarm_lines


def results(dates: int, stocks: int, main: float, fit: float, seed: int = 0) -> Results:
    """A model and a fit whose scores correlate with the return so strongly, over dates without overlap."""
    rng = np.random.default_rng(seed)
    panel = panel_of(rng.integers(0, 2, (dates, stocks)))
    ret = rng.standard_normal((dates, stocks))
    panel.future_close[:] = panel.last_close * (1 + 0.01 * ret.ravel())

    def entry(name: str, kind: str, strength: float, model: bool = False) -> Decided:
        score = (strength * ret + np.sqrt(1 - strength**2) * rng.standard_normal(ret.shape)).ravel()
        prob = rankdata(score) / (len(score) + 1)
        return Decided(name, kind, (prob > 0.5).astype(int), score, prob, model=model)  # type: ignore[arg-type]

    entries = [entry("net", "paths", main, model=True), entry("boosting", "fitted", fit)]
    return Results(panel, entries, DateBootstrap(tuple(panel.sessions.tolist()), 5, draws=300))


def test_a_lucky_figure_is_no_alarm() -> None:
    """Two tickers on random walks: 'No evidence of skill' and 'LEAK ALARM' stood in one report."""
    for seed in range(40):
        found = results(30, 2, 0.0, 0.0, seed)
        assert not found.suspicious, found.suspicious
    values = [results(30, 2, 0.0, 0.0, seed).within.value for seed in range(40)]
    assert max(values) > 0.53, "the point estimate alone would have rung"


def test_what_a_fit_reaches_too_is_no_alarm() -> None:
    """Fits reach 52.5 % on real prices, more in other markets: a network that is no better has not leaked."""
    beside = results(80, 60, 0.09, 0.09)
    assert (
        beside.within.low > 0.5 and not beside.suspicious and beside.headline.startswith("Evidence of skill")
    )
    alone = results(25, 60, 0.11, 0.0)
    assert alone.overall["net"]["rank_ic"].value > 0.08
    assert not alone.suspicious, "above 0.08, but not the whole of its interval"
    sure = results(300, 60, 0.118, 0.0)
    assert any("more than the fits reach" in line for line in sure.suspicious)
    assert not any("more than the fits reach" in line for line in results(300, 60, 0.118, 0.2).suspicious)


@pytest.mark.parametrize(("main", "fit"), [(0.4, 0.4), (0.0, 0.4), (0.4, 0.0)])
def test_a_leak_in_the_data_lifts_all(main: float, fit: float) -> None:
    """A leak in the data helps the fits as well: the absolute alarm looks at every answerer."""
    found = results(60, 60, main, fit)
    assert any("lies above" in line for line in found.suspicious)
    assert "Evidence of skill" not in found.headline and found.headline.startswith("Too good to be believed")
    lines = alarm_lines(found.suspicious, planted=False)
    assert lines["lines"][0].startswith("LEAK ALARM") and not lines["expected"] and len(lines["lines"]) > 3
    assert alarm_lines(found.suspicious, planted=True)["expected"]
    planted = replace(found, planted=True)
    if main:
        assert planted.headline.startswith("The planted signal is found"), "a newcomer's demo is no leak"
    else:
        assert planted.headline.startswith("No evidence of skill; other answerers find the planted signal")


def test_the_alarm_names_the_highest_and_counts_the_others() -> None:
    """Twelve answerers in one sentence were read by nobody."""
    absolute = [line for line in results(60, 60, 0.4, 0.5).suspicious if "lies above" in line]
    assert len(absolute) == 2 and all("of boosting, " in line for line in absolute)
    assert all(", and that of 1 more, lies above" in line for line in absolute)


@pytest.mark.parametrize(
    "name", ["random-init", "pretrained", "blend", "boosting", "all rise", "head", "auto"]
)
def test_a_run_folder_cannot_take_anothers_name(name: str) -> None:
    """A run called random-init was scored with the untrained network's answers, and they were saved into
    it.
    """
    assert own_name(name) == f"run {name}" and own_name("demo") == "demo"


def test_two_runs_of_one_name_keep_theirs_apart() -> None:
    """Answers and decisions are told apart by name: two of one name were one."""
    assert _names(["a/x", "b/y"]) == ["x", "y"] and _names(["a/x", "b/x"]) == ["a/x", "b/x"]
    assert _names(["a/head", "b/run head"]) == ["a/head", "b/run head"], "the first is called `run head`"
    for twice in (["a/x", "a/x"], ["a/x", "./a/../a/x"]):
        with pytest.raises(KitError, match="--model: expected different run folders"):
            _names(twice)
