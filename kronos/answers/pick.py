"""Who answers, and with which decision: for the submission, and for tables in Python.

In: a configuration, what a backtest has left (`Findings`), the rows, and a way to get the run's network. Out:
`Picked`: an answerer by name, or the one that the evidence prefers, and its decision.
"""

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np

from kronos.answers.answerer import Answer, Answerer, Rows
from kronos.answers.catalogue import (
    AUTO,
    NETWORK,
    GetNetwork,
    find,
    key_of,
    needs_fit,
    needs_network,
    needs_training,
)
from kronos.answers.decide import plain_decision
from kronos.answers.decision import Decision
from kronos.answers.findings import Evidence, Findings, choose, path_of
from kronos.answers.network import NetworkAnswerer
from kronos.config import Config
from kronos.data.store import BarStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Picked:
    """Who answers, and on what evidence."""

    answerer: Answerer
    why: str
    network: NetworkAnswerer | None
    """The run's network, where it takes part."""
    findings: Findings | None
    evidence: Evidence | None
    """What the backtest found about the answerer; None: nothing."""
    no_decision: str = ""
    """Why the backtest's decision is not used; '' where it is."""
    fits: str = ""
    """When it was fitted, where the rows ask about several dates; '' where nothing was."""

    def decision_for(self, config: Config, store: BarStore, rows: Rows, answer: Answer) -> Decision | None:
        """The backtest's decision; without one the level of history before the earliest date. None: raw
        probabilities.
        """
        if config.inference.calibration == "off":
            return None
        if self.evidence is not None and self.evidence.decision is not None and not self.no_decision:
            return self.evidence.decision
        asof = int(rows.asof[rows.open].min()) if rows.open.any() else -1
        return plain_decision(store, asof, common_horizon(config, rows), answer)


def pick_answerer(
    config: Config, findings: Findings | None, store: BarStore, rows: Rows, network: GetNetwork
) -> Picked:
    """The answerer that `inference.answer` names or that the evidence prefers, ready to answer.

    network: called only where the answerer is, or holds, the run's network. Raises KitError for a name that
    nothing has, and where the run's network is asked for and there is none.
    """
    horizon = common_horizon(config, rows)
    name, why = config.inference.answer, "asked for by name"
    if name == AUTO:
        name, why = _by_evidence(config, findings, horizon, network)
    own = network() if needs_network(name, config) else None
    before = int(rows.asof[rows.open].min()) + 1 if rows.open.any() else 0
    scored = None if findings is None else findings.of(name)
    weights = None if scored is None else scored.weights
    answerer = find(name, config, store, before, horizon, network, weights)
    evidence = None if findings is None else findings.of(answerer.name)
    no_decision = ""
    if findings is None:
        no_decision = (
            f"{path_of(config.run_dir, horizon)}: none there; scripts/run_backtest.py --save leaves one"
        )
    elif evidence is None:
        no_decision = f"the backtest of {findings.created} did not score {answerer.name}"
    elif evidence.decision is not None:
        no_decision = "; ".join(evidence.decision.difference(key_of(name, config, horizon, network)))
    if no_decision and evidence is not None:
        log.warning(
            "the decision of %s is not used: it has %s; run the backtest again", answerer.name, no_decision
        )
    return Picked(answerer, why, own, findings, evidence, no_decision, _fits(name, config, rows))


def common_horizon(config: Config, rows: Rows) -> int:
    """The commonest horizon of the rows that can be answered, the shortest of equally common ones."""
    counts = Counter(rows.horizon[rows.open].tolist())
    if not counts:
        return config.inference.horizon or config.data.predict_window
    return min(counts, key=lambda steps: (-counts[steps], steps))


def _by_evidence(
    config: Config, findings: Findings | None, horizon: int, network: GetNetwork
) -> tuple[str, str]:
    """(name, why) of the answerer that a backtest prefers; without one the run's network."""
    if findings is None:
        return (
            NETWORK,
            f"no backtest {horizon} trading days ahead has left its findings here, so it is the run's network",
        )
    everyone = {item.name for item in findings.answerers}
    choice = choose(findings, everyone)
    found = findings.of(choice.name)
    if found is not None and found.decision is not None:
        wrong = found.decision.difference(key_of(choice.name, config, horizon, network))
        if wrong:
            log.warning(
                "%s is no candidate: its backtest had %s; run the backtest again",
                choice.name,
                "; ".join(wrong),
            )
            choice = choose(findings, {name for name in everyone if not needs_training(name, config)})
    return choice.name, choice.why


def _fits(name: str, config: Config, rows: Rows) -> str:
    """When what is fitted was fitted, in words."""
    dates = len(np.unique(rows.asof[rows.open]))
    if dates < 2 or not needs_fit(name, config):
        return ""
    if config.inference.refit:
        return f"before each of {dates} dates"
    return f"once, before the earliest of {dates} dates (inference.refit: true fits before each)"
