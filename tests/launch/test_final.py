"""The final run: the chosen number of steps on every day, for the submission alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import tiny_config, tiny_store

from kronos import configfile, final
from kronos.config import Config
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.evaluation.origins import boundary_of, plan_timeline
from kronos.submission import _newest
from kronos.training.stages import run_stage

STAGES = ("tokenizer", "basemodel")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, BarStore]:
    """A run of both stages, and its final run."""
    folder = tmp_path_factory.mktemp("final")
    store = tiny_store(folder / "store", days=120)
    config = tiny_config(folder, training__max_steps=6)
    for stage in STAGES:
        assert run_stage(config, stage, store) == "complete"
    own = configfile.load(final.plan(config))
    for stage in STAGES:
        assert run_stage(own, stage, store) == "complete"
    return config, store


def summary(config: Config, stage: str) -> dict:
    return json.loads((config.stage_dir(stage) / "summary.json").read_text())


def test_every_day_trains_for_the_chosen_steps(trained: tuple[Config, BarStore]) -> None:
    """A final run that stops elsewhere, or leaves the newest days out, is not what was chosen."""
    config, store = trained
    own, line = final.of_run(config)
    assert (
        own is not None
        and "every day up to" in line
        and "decision is that of the networks that were chosen" in line
    )
    for stage in STAGES:
        first, again = summary(config, stage), summary(own, stage)
        assert again["step"] == again["total_steps"] == first["best"]["step"]
        assert again["best"]["step"] == again["step"], "the last step is kept, whatever its validation says"
        assert again["train_end_session"] == len(store.sessions) - 1 > first["train_end_session"]
        assert again["model_digest"] != first["model_digest"]
    assert own.run_dir == config.run_dir / "final"


def test_the_backtest_has_no_date_for_it(trained: tuple[Config, BarStore]) -> None:
    """Its networks have seen every label."""
    config, store = trained
    own, _ = final.of_run(config)
    assert own is not None
    with pytest.raises(KitError, match="found none after"):
        plan_timeline(len(store.sessions), boundary_of(store, summary(own, "basemodel")), 3, origins=4)


def test_another_choice_makes_the_final_run_stale(trained: tuple[Config, BarStore], tmp_path: Path) -> None:
    """Networks of an earlier choice would be submitted with the decision of a later one."""
    config, _ = trained
    path = config.stage_dir("basemodel") / "summary.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"model_digest": "0" * 64}))
    found, line = final.of_run(config)
    assert found is None and "repeats another basemodel" in line
    path.write_text(before)
    own, _ = final.of_run(config)
    assert own is not None
    path = own.stage_dir("basemodel") / "summary.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"status": "interrupted"}))
    assert "its basemodel is not complete" in final.of_run(config)[1]
    path.write_text(before)


def test_a_run_without_a_final_one_says_nothing(tmp_path: Path) -> None:
    """The submission of an ordinary run must not mention what nobody asked for."""
    assert final.of_run(tiny_config(tmp_path)) == (None, "")


def test_what_cannot_be_repeated_is_refused(trained: tuple[Config, BarStore], tmp_path: Path) -> None:
    """One line, before hours of training."""
    config, _ = trained
    with pytest.raises(KitError, match="expected a complete stage before the final run, found none"):
        final.plan(tiny_config(tmp_path))
    plateau = replace(config, training=replace(config.training, scheduler="plateau"))
    with pytest.raises(KitError, match="found plateau"):
        final.plan(plateau)
    nothing = replace(
        config, experiment=replace(config.experiment, train_tokenizer=False, train_basemodel=False)
    )
    with pytest.raises(KitError, match="expected a stage to train once more, found none"):
        final.plan(nothing)


def test_decisions_are_carried_over(trained: tuple[Config, BarStore]) -> None:
    """They name the networks that they were fitted for: under those names the final ones would have none."""
    config, _ = trained
    own, _ = final.of_run(config)
    assert own is not None and own.model_paths.exp_name == config.model_paths.exp_name, (
        "answerers keep their names"
    )
    first, again = summary(config, "basemodel")["model_digest"], summary(own, "basemodel")["model_digest"]
    path = config.run_dir / "decisions" / "horizon-3.json"
    path.parent.mkdir()
    path.write_text(
        json.dumps({"answerers": [{"decision": {"slope": 0.25, "key": {"model": first, "clip": 5.0}}}]})
    )
    final.carry_over(config, own)
    carried = json.loads((own.run_dir / "decisions" / "horizon-3.json").read_text())
    assert carried == {"answerers": [{"decision": {"slope": 0.25, "key": {"model": again, "clip": 5.0}}}]}
    path.unlink()
    final.carry_over(config, own)
    assert not list((own.run_dir / "decisions").iterdir()), "decisions of an earlier backtest are gone"


def test_the_submission_takes_the_final_networks_where_it_is_asked(
    trained: tuple[Config, BarStore], tmp_path: Path
) -> None:
    """Asked for and not there, or there and not asked for: the run's own networks answer."""
    config, _ = trained
    asked = replace(config, experiment=replace(config.experiment, final=True))
    assert _newest(asked).run_dir == config.run_dir / "final"
    assert _newest(config) is config
    elsewhere = tiny_config(tmp_path, experiment__final=True)
    assert _newest(elsewhere) is elsewhere
