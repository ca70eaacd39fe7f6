"""staging and production: a version is served only when it has passed, and what was served can be served
again."""

import itertools
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packages import edited, in_process, make_model, reworked, seal, trained_run, with_backtest
from test_runs import DATES

from kronos import files
from kronos.config import Config
from kronos.delivery import gates
from kronos.delivery.gates import Asked, promote
from kronos.delivery.golden import Networks
from kronos.delivery.package import package_model
from kronos.delivery.package_facts import check_sums
from kronos.delivery.registry import (
    Version,
    current,
    forward,
    point,
    read_history,
    rollback,
    status_lines,
    trail_of,
)
from kronos.errors import KitError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A tiny run."""
    return trained_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def made(run: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose v1.0.1 is as good as v1.0.0, and v1.0.2 worse; nobody may change it."""
    return make_model(run, tmp_path_factory.mktemp("models"), (0.530, 0.5301, 0.505))


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy to play with."""
    return Path(shutil.copytree(made, tmp_path / "tiny", symlinks=True))


@pytest.fixture(autouse=True)
def equally_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on seconds; the gate's own test gives them."""
    monkeypatch.setattr(gates, "measure", lambda _: [0.1, 0.1])


def served(model: Path) -> str:
    return str(current(model, "production"))


# -- promotion -----------------------------------------------------------------------------------------------
def test_packaging_moves_latest_only(run: Config, model: Path) -> None:
    """A server that follows production must not get a model that nobody has checked."""
    promote(model, "staging", "v1.0.0")
    promote(model, "production")
    package_model(run, model.parent, "tiny")
    assert (str(current(model, "latest")), served(model)) == ("v1.0.3", "v1.0.0")
    assert str(current(model, "staging")) == "v1.0.0"
    assert [(c.alias, c.after) for c in read_history(model)][-3:] == [
        ("staging", "v1.0.0"),
        ("production", "v1.0.0"),
        ("latest", "v1.0.3"),
    ]


def test_the_way_to_production(model: Path) -> None:
    """latest -> staging -> production, each step with what was found in the history."""
    assert promote(model, "staging").after == "v1.0.2"
    promote(model, "staging", "v1.0.0")
    assert promote(model, "production").before is None
    promote(model, "staging", "v1.0.1")
    change = promote(model, "production")
    assert (change.before, change.after, change.kind) == ("v1.0.0", "v1.0.1", "promote")
    assert (
        f"{len(DATES)} dates" in change.why
        and "within_date_accuracy" in change.why
        and "golden" in change.why
    )
    assert (model / "production").resolve() == model / "v1.0.1"


def test_nothing_to_promote_is_said(model: Path) -> None:
    """Without a version in staging there is nothing that was checked."""
    with pytest.raises(KitError, match="promote it to staging first"):
        promote(model, "production")
    with pytest.raises(KitError, match=r"there are v1\.0\.0, v1\.0\.1, v1\.0\.2"):
        promote(model, "staging", "v9.0.0")


def test_promoting_the_same_again_changes_nothing(model: Path) -> None:
    """A deployment that is repeated must not become what rollback goes back to."""
    for version in ("v1.0.0", "v1.0.1", "v1.0.1"):
        promote(model, "production", version)
    assert rollback(model).after == "v1.0.0"


# -- gates to staging ----------------------------------------------------------------------------------------
def damage(folder: Path) -> None:
    weights = folder / "predictor" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))


def other_golden(folder: Path) -> None:
    golden = json.loads((folder / "golden.json").read_text())
    golden["forecast"][0][0][3] *= 1.001
    files.write_json(folder / "golden.json", golden)
    seal(folder)


def of_schema_1(folder: Path) -> None:
    tree = json.loads((folder / "metadata.json").read_text())
    del tree["forecast"], tree["kit"]
    files.write_json(folder / "metadata.json", {**tree, "schema": 1})
    (folder / "golden.json").unlink()
    seal(folder)


def other_torch(folder: Path) -> None:
    edited(folder, versions={"torch": "1.13.1"})


def other_features(folder: Path) -> None:
    edited(folder, window={"features": ["open", "close"]})


def other_calendar(folder: Path) -> None:
    edited(folder, forecast={"markets": [{"calendar": "MOON", "timezone": "UTC"}]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage, "checksums: .*found other content"),
        (of_schema_1, "versions: .*found schema 1 without them; package the run again"),
        (other_torch, r"versions: .*expected torch 1\.x as it was packaged with, found 2"),
        (other_features, "known: .*expected the features open, high"),
        (other_calendar, "known: .*found 'MOON'"),
        (other_golden, r"golden: .*within 0\.0001, found a difference of 0\.001"),
    ],
)
def test_a_version_that_does_not_work_here_is_refused(model: Path, change: Any, message: str) -> None:
    """Each gate by itself, for staging and for production; the links stay as they were."""
    promote(model, "staging", "v1.0.0")
    promote(model, "production")
    change(model / "v1.0.1")
    for alias in ("staging", "production"):
        with pytest.raises(KitError, match=message) as told:
            promote(model, alias, "v1.0.1")  # type: ignore[arg-type]
        assert "\n" not in str(told.value)
    assert served(model) == str(current(model, "staging")) == "v1.0.0"


# -- gates to production -------------------------------------------------------------------------------------
def test_a_worse_version_stays_in_staging(model: Path) -> None:
    """2.5 percentage points less on the same dates is no accident."""
    promote(model, "production", "v1.0.0")
    promote(model, "staging", "v1.0.2")
    with pytest.raises(
        KitError, match=r"comparison: expected v1\.0\.2 not to be worse than v1\.0\.0, found it worse"
    ):
        promote(model, "production")
    assert served(model) == "v1.0.0"
    change = promote(model, "production", asked=Asked(skip=("comparison",), why="new data only"))
    assert change.skipped == ("comparison",) and "left out (new data only)" in change.why


def test_a_gate_is_left_out_only_with_a_reason(model: Path) -> None:
    """Who looks at the history later has to understand it."""
    with pytest.raises(KitError, match="expected --why"):
        promote(model, "production", "v1.0.0", Asked(skip=("latency",)))
    with pytest.raises(KitError, match="expected one of comparison, latency, replay, found golden"):
        promote(model, "production", "v1.0.0", Asked(skip=("golden",), why="x"))
    with pytest.raises(KitError, match="its gates cannot be left out"):
        promote(model, "staging", "v1.0.0", Asked(skip=("latency",), why="x"))


def test_a_version_without_a_backtest_is_not_compared(run: Config, model: Path) -> None:
    """Nothing known is not the same as not worse."""
    promote(model, "production", "v1.0.0")
    package_model(run, model.parent, "tiny")
    with pytest.raises(KitError, match=r"expected the backtest of v1\.0\.3, found none; run scripts/run_b"):
        promote(model, "production", "v1.0.3")


def test_too_few_common_dates_are_no_comparison(run: Config, model: Path) -> None:
    """An interval that does not exist excludes nothing."""
    promote(model, "production", "v1.0.0")
    path = model / "v1.0.1" / "backtest.json"
    tree = json.loads(path.read_text())
    tree["per_date"]["origins"] = tree["per_date"]["origins"][:5]
    for figure, values in tree["per_date"]["entries"]["model"].items():
        tree["per_date"]["entries"]["model"][figure] = values[:5]
    files.write_json(path, tree)
    seal(model / "v1.0.1")
    with pytest.raises(KitError, match=r"expected enough common dates .* found 5"):
        promote(model, "production", "v1.0.1")


def test_one_backtest_of_both_networks_serves_as_comparison(run: Config, model: Path, tmp_path: Path) -> None:
    """A network trained later has no dates in common with the old backtest: both are scored anew, together."""
    reworked(model / "v1.0.1", lambda networks: nudge(networks, 0.01))
    promote(model, "production", "v1.0.0")
    digests = [
        json.loads((model / version / "metadata.json").read_text())["networks"]["predictor"]["digest"]
        for version in ("v1.0.0", "v1.0.1")
    ]
    with_backtest(run, 0.53, 0.002, 3)
    report = run.run_dir / "backtest" / "report.json"
    tree = json.loads(report.read_text())
    shutil.rmtree(report.parent)
    series = tree["per_date"]["entries"]["model"]
    worse = {**series, "within_date_accuracy": [v - 0.02 for v in series["within_date_accuracy"]]}
    tree["per_date"]["entries"] = {"old": worse, "new": series}
    tree["models"] = [{"name": "old", "digest": digests[0]}, {"name": "new", "digest": digests[1]}]
    path = tmp_path / "report.json"
    files.write_json(path, tree | {"main": "new"})
    change = promote(model, "production", "v1.0.1", Asked(report=path))
    assert "+0.0200" in change.why
    with pytest.raises(KitError, match="found it worse in within_date_accuracy"):
        promote(model, "production", "v1.0.0", Asked(report=path))
    files.write_json(path, tree | {"models": tree["models"][:1]})
    with pytest.raises(KitError, match=r"expected the network of v1\.0\.1"):
        promote(model, "production", "v1.0.0", Asked(report=path))


def test_a_package_keeps_its_own_figures_and_not_a_blends(run: Config, tmp_path: Path) -> None:
    """A backtest of several networks leads with their blend, which nobody serves."""
    with_backtest(run, 0.53, 0.002, 3)
    report = run.run_dir / "backtest" / "report.json"
    tree = json.loads(report.read_text())
    own = tree["per_date"]["entries"]["model"]
    tree["per_date"]["entries"]["blend"] = {"within_date_accuracy": [0.9] * len(DATES)}
    tree["entries"].append({**tree["entries"][0], "name": "blend"})
    files.write_json(report, tree | {"main": "blend"})
    kept = json.loads((package_model(run, tmp_path, "tiny") / "backtest.json").read_text())
    shutil.rmtree(report.parent)
    assert kept["main"] == "model" and kept["per_date"]["entries"] == {"model": own}


def test_a_slow_version_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.2 times as long is as much as may be."""
    promote(model, "production", "v1.0.0")
    monkeypatch.setattr(gates, "measure", lambda _: [0.125, 0.1])
    with pytest.raises(KitError, match=r"at most 1\.2 times .* 125 ms against 100 ms, 1\.25 times"):
        promote(model, "production", "v1.0.1")


def test_all_reasons_are_told_at_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who mends one thing wants to know the next one, too."""
    promote(model, "production", "v1.0.0")
    monkeypatch.setattr(gates, "measure", lambda _: [0.125, 0.1])
    with pytest.raises(KitError, match=r"comparison: .*; latency: "):
        promote(model, "production", "v1.0.2")


def test_forecasts_are_timed_in_turn() -> None:
    """A machine that is busy for a second must not make one of the two look slow."""
    order: list[str] = []
    now = iter(range(1000))

    def call_of(name: str) -> Any:
        return lambda: order.append(name)

    original = gates._timed_call
    try:
        gates._timed_call = call_of  # type: ignore[assignment]
        seconds = measure_itself(["new", "old"], lambda: float(next(now)))
    finally:
        gates._timed_call = original
    assert order == ["new", "old"] * (gates.ROUNDS + 1) and len(seconds) == 2


measure_itself: Any = gates.measure


# -- kept requests -------------------------------------------------------------------------------------------
def nudge(networks: Networks, size: float) -> None:
    """Other weights of the predictor's last norm."""
    with torch.no_grad():
        networks.model.norm.weight.add_(size)


def keep_request(state: Path, number: int, **changes: Any) -> None:
    """What the service leaves of a request."""
    rng = np.random.default_rng(number)
    close = (10 * np.exp(np.cumsum(rng.normal(0, 0.02, 20)))).tolist()
    dates = (np.datetime64("2024-03-04") + np.arange(20)).astype(str).tolist()
    series = {"series_id": f"S{number}", "timestamps": dates, "volume": None, "amount": None}
    series |= dict.fromkeys(("open", "high", "low", "close"), close)
    request = {"stock_data": [series], "prediction_horizon": 3, "sample_count": 9, "confidence_level": 0.8}
    files.write_json(state / "forecasts" / f"fc_{number}.json", {"id": number, "request": request | changes})


def test_kept_requests_are_replayed(model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What users asked yesterday is the best question of all."""
    for number in range(3):
        keep_request(tmp_path, number)
    files.write_json(tmp_path / "forecasts" / "fc_old.json", {"id": "of an earlier version"})
    promote(model, "production", "v1.0.0")
    change = promote(model, "production", "v1.0.1", Asked(state=tmp_path))
    assert "3 requests, 3 series: 0.0 % change direction, bands 1.00 times as wide" in change.why
    assert "1 files hold no request" in caplog.text


def test_bands_that_collapse_are_refused(model: Path, tmp_path: Path) -> None:
    """A network that is sure of everything passes every other gate."""
    keep_request(tmp_path, 1)
    edited(model / "v1.0.1", forecast={"sampling": sampling(model, temperature=0.0)})
    facts_fit(model / "v1.0.1")
    promote(model, "production", "v1.0.0")
    with pytest.raises(KitError, match="replay: expected bands at most 2 times as wide or as narrow"):
        promote(model, "production", "v1.0.1", Asked(state=tmp_path))


def test_a_request_that_cannot_be_answered_any_more_is_refused(model: Path, tmp_path: Path) -> None:
    """Users of a long horizon would find out first."""
    keep_request(tmp_path, 1, prediction_horizon=30)
    edited(model / "v1.0.1", window={"max_context": 16})
    facts_fit(model / "v1.0.1")
    promote(model, "production", "v1.0.0")
    with pytest.raises(KitError, match="replay: expected an answer to every kept request, found 1 without"):
        promote(model, "production", "v1.0.1", Asked(state=tmp_path))
    with pytest.raises(KitError, match="expected the state folder of a service"):
        promote(model, "production", "v1.0.1", Asked(state=tmp_path / "none"))


def sampling(model: Path, **changes: Any) -> dict[str, Any]:
    tree = json.loads((model / "v1.0.1" / "metadata.json").read_text())["forecast"]["sampling"]
    return {**tree, **changes}


def facts_fit(folder: Path) -> None:
    """A golden forecast that fits the edited facts."""
    reworked(folder, lambda _: None)


# -- rollback ------------------------------------------------------------------------------------------------
def test_rollback_goes_to_what_production_was(model: Path) -> None:
    """Not to the next lower number: v1.0.1 was never in production."""
    for version in ("v1.0.0", "v1.0.2", "v1.0.1"):
        point(model, "production", Version.parse(version), "promote", "test")
    assert [rollback(model).after, rollback(model).after] == ["v1.0.2", "v1.0.0"]
    with pytest.raises(KitError, match=r"expected a version that was production before v1\.0\.0, found none"):
        rollback(model)
    assert [forward(model).after, forward(model).after] == ["v1.0.2", "v1.0.1"]
    with pytest.raises(KitError, match="expected a rollback of production"):
        forward(model)
    rollback(model)
    point(model, "production", Version.parse("v1.0.0"), "promote", "test")
    with pytest.raises(KitError, match="expected a rollback"):
        forward(model)
    assert trail_of(model, "production").past == ("v1.0.0", "v1.0.2", "v1.0.0")


def test_a_damaged_version_is_not_gone_back_to(model: Path) -> None:
    """The way back is taken when things are bad already."""
    for version in ("v1.0.0", "v1.0.1"):
        point(model, "production", Version.parse(version), "promote", "test")
    damage(model / "v1.0.0")
    with pytest.raises(KitError, match="found other content"):
        rollback(model, check=check_sums)
    assert served(model) == "v1.0.1"
    point(model, "production", Version.parse("v1.0.2"), "promote", "test")
    assert rollback(model, check=check_sums).after == "v1.0.1"
    assert forward(model, check=check_sums).after == "v1.0.2"


def test_a_link_that_was_moved_by_hand_is_where_rollback_starts(model: Path) -> None:
    """The link is the truth, the history says where it has been."""
    for version in ("v1.0.0", "v1.0.1"):
        point(model, "production", Version.parse(version), "promote", "test")
    (model / "production").unlink()
    (model / "production").symlink_to("v1.0.2")
    assert rollback(model).after == "v1.0.0"  # the change to v1.0.1 cannot be told from one that was not made


def test_a_version_that_is_gone_can_be_left(model: Path) -> None:
    """Somebody removed a version that is served: that is when the way back is needed."""
    for version in ("v1.0.0", "v1.0.1"):
        point(model, "production", Version.parse(version), "promote", "test")
    shutil.rmtree(model / "v1.0.1")
    with pytest.raises(KitError, match=r"v1\.0\.1, which is not there; .*versions there: v1\.0\.0, v1\.0\.2"):
        current(model, "production")
    assert "production v1.0.1 (not there)" in status_lines(model)
    assert "which is not there any more" in promote(model, "production", "v1.0.2").why
    point(model, "staging", Version.parse("v1.0.0"), "promote", "test")
    point(model, "staging", Version.parse("v1.0.2"), "promote", "test")
    shutil.rmtree(model / "v1.0.2")
    assert rollback(model, "staging").after == "v1.0.0"
    with pytest.raises(KitError, match=r"v1\.0\.1: expected a version, found none; there are v1\.0\.0"):
        rollback(model)


# -- kills ---------------------------------------------------------------------------------------------------
def flip_until_killed(model: Path) -> int:
    """A child that promotes two versions in turn, as fast as it can."""
    child = os.fork()
    if child:
        return child
    try:
        while True:
            for version in ("v1.0.0", "v1.0.1"):
                point(model, "production", Version.parse(version), "promote", "test")
    finally:
        os._exit(1)


def test_twenty_kills_leave_the_old_link_or_the_new_one(model: Path) -> None:
    """A server that follows a link which is not there has no model."""
    point(model, "production", Version.parse("v1.0.0"), "promote", "test")
    moments = random.Random(0)
    for _ in range(20):
        child = flip_until_killed(model)
        end = time.monotonic() + moments.uniform(0.005, 0.06)
        while time.monotonic() < end:
            assert (model / "production").readlink().name in ("v1.0.0", "v1.0.1")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = str(current(model, "production"))
        assert now in ("v1.0.0", "v1.0.1") and trail_of(model, "production").past[-1] == now
    point(model, "production", Version.parse("v1.0.2"), "promote", "test")
    assert rollback(model).after == now
    left = [path.name for path in model.iterdir() if path.name.endswith(".link")]
    assert left == []


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_history_line_that_was_cut_off_is_passed_over(
    model: Path, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The crash came before the link was moved: the next change must be readable."""
    for version in ("v1.0.0", "v1.0.1"):
        point(model, "production", Version.parse(version), "promote", "test")
    path = model / "history.jsonl"
    whole = path.read_text()
    path.write_text(whole + whole.splitlines(keepends=True)[-1][:cut])
    assert trail_of(model, "production").past == ("v1.0.0", "v1.0.1") and "is cut off" in caplog.text
    assert rollback(model).after == "v1.0.0"
    assert [change.kind for change in read_history(model)][-2:] == ["promote", "rollback"]


def test_a_change_that_was_announced_and_not_made_is_passed_over(model: Path) -> None:
    """Killed between the history's line and the link."""
    for version in ("v1.0.0", "v1.0.1"):
        point(model, "production", Version.parse(version), "promote", "test")
    line = {"when": "now", "alias": "production", "before": "v1.0.1", "after": "v1.0.2", "kind": "promote"}
    with (model / "history.jsonl").open("a") as history:
        history.write(json.dumps({**line, "why": "test", "skipped": []}) + "\n")
    assert rollback(model).after == "v1.0.0"


def test_a_history_that_is_none_is_refused(model: Path) -> None:
    """A wrong way back is worse than none."""
    point(model, "production", Version.parse("v1.0.0"), "promote", "test")
    (model / "history.jsonl").write_text('{"alias": "production"}\n')
    with pytest.raises(KitError, match="line 1: when: expected a value, found none; move the file away"):
        rollback(model)


def test_two_at_once_lose_no_line(model: Path) -> None:
    """Two people who deploy in one minute."""
    children = []
    for version in ("v1.0.0", "v1.0.1"):
        child = os.fork()
        if not child:
            try:
                for number in range(10):
                    other = "v1.0.2" if number % 2 else version
                    point(model, "production", Version.parse(other), "promote", version)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    changes = [change for change in read_history(model) if change.alias == "production"]
    for one, following in itertools.pairwise(changes):
        assert one.after == following.before
    assert changes[-1].after == served(model)


# -- scripts -------------------------------------------------------------------------------------------------
def test_the_scripts(
    model: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Promote, status, roll back, check; one line and exit 2 for what is refused."""

    def run_script(name: str, *arguments: str | Path) -> tuple[int, str, str]:
        code = in_process(root / "scripts" / name, [str(word) for word in arguments], monkeypatch)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    point(model, "staging", Version.parse("v1.0.2"), "promote", "test")
    for version in ("v1.0.0", "v1.0.1"):
        point(model, "production", Version.parse(version), "promote", "test")
    code, _, said = run_script("promote_model.py", "--model", model, "--to", "production")
    assert (code, said.count("\n")) == (2, 1) and "worse" in said
    code, said, _ = run_script("promote_model.py", "--model", model, "--rollback", "--why", "users complain")
    assert (code, said) == (0, "production is now v1.0.0 (before: v1.0.1)\n")
    _, said, _ = run_script("promote_model.py", "--model", model, "--status")
    assert "production v1.0.0" in said and "v1.0.1 -> v1.0.0; users complain" in said
    code, _, said = run_script("promote_model.py", "--model", model)
    assert code == 2 and "exactly one of --to, --rollback" in said
    code, said, _ = run_script("check_model.py", model / "latest", "--against", model / "production")
    assert code == 1 and "passed   golden" in said and "REFUSED  comparison" in said
