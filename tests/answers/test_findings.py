"""What a backtest leaves for the submission: the choice by evidence, files that are checked by value."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata
from test_baselines import setup_of, walks

from kronos import files
from kronos.answers.decision import Decision
from kronos.answers.findings import Evidence, Figure, Findings, choose, path_of, read_findings
from kronos.answers.simple import ALL_FALL, ALL_RISE, simple_answerers
from kronos.config import EvaluationConfig
from kronos.errors import KitError
from kronos.evaluation.contest import contest
from kronos.evaluation.controls import shuffled_labels
from kronos.evaluation.scores import correlation
from kronos.evaluation.significance import DateBootstrap


def evidence(name: str, value: float, half: float, p: float, simplicity: int = 20, **more: Any) -> Evidence:
    figure = Figure(value, value - half, value + half, p, 40)
    return Evidence(
        name, "fitted", simplicity, Figure(0.54, 0.5, 0.58, None, 40), None, figure, Decision(5, 0.1), **more
    )


def findings(*found: Evidence, rate: float = 0.54) -> Findings:
    constants = [Evidence(name, "constant", 0, Figure(0.55)) for name in (ALL_RISE, ALL_FALL)]
    return Findings(
        1, 5, "now", "d", "2020-01-02", "2021-01-04", 40, 30, rate, 0.51, "net", [*constants, *found]
    )


def test_the_highest_lower_end_is_chosen() -> None:
    """The best point estimate of many is mostly luck; what is surely above chance counts, of equals the
    simpler.
    """
    found = findings(
        evidence("lucky", 0.09, 0.088, 0.045),
        evidence("sure", 0.05, 0.02, 0.001),
        evidence("weak", 0.02, 0.03, 0.2),
    )
    choice = choose(found, {"lucky", "sure", "weak"})
    assert (choice.name, choice.skilled) == ("sure", True) and "of 3 tried" in choice.why
    assert choose(found, {"weak"}).name == ALL_RISE, "what cannot be asked is not chosen"
    twins = findings(evidence("deep", 0.0605, 0.02, 0.001, 41), evidence("plain", 0.060, 0.02, 0.001, 21))
    assert choose(twins, {"deep", "plain"}).name == "plain"


def test_many_tries_are_corrected() -> None:
    """Of twenty answerers that know nothing one has p = 0.03: Holm's correction leaves a constant, and says
    so.
    """
    tries = [evidence(f"a{k}", 0.01, 0.05, 0.5) for k in range(19)]
    found = findings(*tries, evidence("one", 0.05, 0.045, 0.03))
    choice = choose(found, {item.name for item in found.answerers})
    assert choice.name == ALL_RISE and not choice.skilled and "none has a rank IC above 0" in choice.why
    assert choose(replace(found, history_rate=0.47), set()).name == ALL_FALL
    reverse = findings(evidence("wrong way", -0.08, 0.02, 0.0001))
    assert not choose(reverse, {"wrong way"}).skilled


def test_shuffled_labels_leave_a_constant() -> None:
    """Labels of other stocks and dates: in at least 94 of 100 shuffles there is no evidence, and a constant
    is sent.
    """
    own = EvaluationConfig(draws=300)
    setup = setup_of(walks(seed=5, tickers=40, days=600), np.arange(300, 590, 6), 5, own)
    rng = np.random.default_rng(0)
    scores = {
        a.name: contest(setup, a).given.score[setup.place] for a in simple_answerers() if a.kind != "constant"
    }
    scores |= {f"random {k}": rng.standard_normal(len(setup.panel)) for k in range(6)}
    parts = setup.panel.slices()
    ranks = {name: [rankdata(score[part]) for part in parts] for name, score in scores.items()}
    bootstrap = DateBootstrap(tuple(setup.panel.sessions.tolist()), 5, own.draws)
    constants = 0
    for seed in range(100):
        panel = shuffled_labels(setup.panel, seed)
        truth = [rankdata(panel.ret[part]) for part in parts]
        found = []
        for name, own_ranks in ranks.items():
            values = np.array([correlation(a, b) for a, b in zip(own_ranks, truth, strict=True)])
            i = bootstrap.interval(values, 0.0)
            found.append(
                Evidence(name, "rule", 10, Figure(0.5), None, Figure(i.value, i.low, i.high, i.p, i.dates))
            )
        constants += not choose(findings(*found), set(scores)).skilled
    assert constants >= 94


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t["answerers"][2]["decision"].update(threshold=5),
            r"answerers\[2\]\.decision\.threshold: expected 0 to 1",
        ),
        (
            lambda t: t["answerers"][2]["decision"].update(horizon=3),
            "net: expected a decision 5 trading days ahead, found 3",
        ),
        (lambda t: t.update(version=2), "version: expected 1"),
        (lambda t: t.update(horizon=4), "expected one entry per answerer, 5 trading days ahead"),
        (lambda t: t.update(answerers={}), "answerers: expected a list"),
        (lambda t: t["answerers"].append(t["answerers"][0]), "expected one entry per answerer"),
        (lambda t: t["answerers"][2].update(kind="magic"), "kind: expected"),
        (lambda t: t.pop("history_rate"), "history_rate: expected a value, found none"),
    ],
)
def test_findings_are_checked_by_value(tmp_path: Path, change: Any, words: str) -> None:
    """A threshold of 5, or an answerer of an unknown kind, decided every row without a word."""
    found = findings(evidence("net", 0.05, 0.02, 0.001))
    assert read_findings(tmp_path, 5) is None
    found.save(tmp_path)
    assert read_findings(tmp_path, 5) == found
    tree = json.loads(path_of(tmp_path, 5).read_text())
    change(tree)
    path_of(tmp_path, 5).write_text(json.dumps(tree))
    with pytest.raises(KitError, match=words) as caught:
        read_findings(tmp_path, 5)
    assert "run_backtest.py --save again" in str(caught.value) and "\n" not in str(caught.value)
    for text in ("[]", "{", "NaN", "3"):
        path_of(tmp_path, 5).write_text(text)
        with pytest.raises(KitError, match=r"horizon-5\.json"):
            read_findings(tmp_path, 5)
    files.write_json(path_of(tmp_path, 5), asdict(found))
    assert read_findings(tmp_path, 5) == found
