"""The stages and their loop, in one process: what is trained on what, what is refused, what is left
behind.
"""

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import PREDICT, PREDICTOR, TOKENIZER, tiny_config, tiny_store
from training_worker import tiny_objective

from kronos import config_training, files
from kronos.config import Config, to_dict
from kronos.data.store import BarStore
from kronos.errors import KitError
from kronos.forecasting.pair import find_pair, load_forecaster
from kronos.networks import Kronos, KronosTokenizer
from kronos.training import stages
from kronos.training.checkpoint import Progress
from kronos.training.device import StepBatches
from kronos.training.distributed import Runtime
from kronos.training.facts import STAGES, StageData, difference
from kronos.training.folder import read_records, read_summary
from kronos.training.loop import Keepers, Streams, Trainer
from kronos.training.optim import LoopSettings, Schedule, build_optimizer, micro_seed
from kronos.training.stages import run_stage
from kronos.training.start import loop_settings, streams

ROOT = Path(__file__).resolve().parents[2]
SUMMARY_KEYS = {
    "status",
    "stage",
    "step",
    "total_steps",
    "epoch",
    "best",
    "start_value",
    "seconds",
    "processes",
    "tokenizer_digest",
    "model_digest",
    "data_digest",
    "train_end",
    "train_end_session",
    "config",
}


@pytest.fixture
def store(tmp_path: Path) -> BarStore:
    return tiny_store(tmp_path / "store")


@pytest.fixture
def pretrained(tmp_path: Path) -> dict[str, Any]:
    """Settings that start from a saved pair."""
    torch.manual_seed(4)
    KronosTokenizer(**TOKENIZER).save_pretrained(tmp_path / "pretrained_tokenizer")
    Kronos(**PREDICTOR).save_pretrained(tmp_path / "pretrained_predictor")
    return {
        "experiment__pre_trained": True,
        "model_paths__pretrained_tokenizer": str(tmp_path / "pretrained_tokenizer"),
        "model_paths__pretrained_predictor": str(tmp_path / "pretrained_predictor"),
    }


def summary_of(folder: Path) -> dict[str, Any]:
    summary = read_summary(folder)
    assert summary is not None
    return summary


# -- schedule and optimiser ----------------------------------------------------------------------------------
def test_seeds_differ_in_every_argument() -> None:
    """Keeps out equal dropout masks on two ranks, steps or micro-batches."""
    base = dict(seed=1, stage="tokenizer", step=2, micro=3, rank=4)
    others = [
        {**base, name: value}
        for name, value in (("seed", 2), ("stage", "basemodel"), ("step", 3), ("micro", 4), ("rank", 5))
    ]
    assert len({micro_seed(**arguments) for arguments in [base, *others]}) == 6  # type: ignore[arg-type]


def test_norms_and_biases_do_not_decay() -> None:
    """Keeps out weight decay on one-dimensional parameters, and frozen networks in the
    optimiser.
    """
    objective = tiny_objective(Config(), "basemodel")
    schedule = Schedule("onecycle", 1, 1e-3, 0.0)
    settings = LoopSettings("basemodel", 1, 1, schedule, (0.9, 0.95), 0.1, 1.0, 0, 1, 1, 1.0)
    decaying, free = build_optimizer(objective, settings).param_groups
    assert decaying["weight_decay"] == 0.1 and free["weight_decay"] == 0.0
    own = dict(objective.network().named_parameters())
    assert {id(p) for p in free["params"]} == {
        id(p) for n, p in own.items() if n.endswith("bias") or "norm" in n
    }
    assert len(decaying["params"]) + len(free["params"]) == len(own)


# -- losses that are not numbers -----------------------------------------------------------------------------
class Unchecked(Trainer):
    """Like a GPU's run: finite losses are looked at with the logged lines only."""

    def _prepare(self, resumed: Any) -> None:
        super()._prepare(resumed)
        self.reads_every_step = False


def poisoned_run(
    kind: type[Trainer], store: BarStore, folder: Path, poison: int | None, steps: int
) -> Trainer:
    config = tiny_config(
        folder, training__max_steps=steps, training__log_interval=4, training__checkpoint_steps=100
    )
    runtime = Runtime.start(config)
    data = StageData.of(config, "tokenizer", store)
    clean = streams(config, data, store, runtime)

    def train(start: int) -> Iterator[Any]:
        for step, batch in enumerate(clean.train(start)):
            if step == poison:
                batch["x"][0, 0, 0] = float("nan")
            yield batch

    settings = loop_settings(config, "tokenizer", data.plan)
    reader = dataclasses.replace(clean, train=train)
    return kind(tiny_objective(config, "tokenizer"), settings, reader, runtime, folder, Progress())


@pytest.mark.parametrize("kind", [Trainer, Unchecked])
def test_a_loss_that_is_no_number_stops_before_the_weights_move(
    kind: type[Trainer], store: BarStore, tmp_path: Path
) -> None:
    """Keeps out hours of training on NaN, and a checkpoint of it: also where the loss is read only now and
    then.
    """
    trainer = poisoned_run(kind, store, tmp_path / "bad", poison=1, steps=12)
    with pytest.raises(KitError, match=r"not finite at step 1; .*tickers in that step: T\d"):
        trainer.fit(None, Keepers(lambda: None), measure_start=False)
    good = poisoned_run(Trainer, store, tmp_path / "good", poison=None, steps=12)
    good._prepare(None)
    good.module.train()
    first = [next(iter(good.streams.train(0)))]
    good._step(0, StepBatches(first, first))
    for name, value in trainer.objective.network().state_dict().items():
        assert torch.equal(value, good.objective.network().state_dict()[name]), (
            f"{name} moved after the bad step"
        )
    assert not trainer.checkpoints.exists()


# -- stages --------------------------------------------------------------------------------------------------
def test_both_stages_leave_what_the_readme_says(store: BarStore, tmp_path: Path) -> None:
    """Keeps out a predictor on another tokenizer, a best model that is not the best, and a summary without
    its facts.
    """
    config = tiny_config(tmp_path)
    assert run_stage(config, "tokenizer", store) == run_stage(config, "basemodel", store) == "complete"
    for folder, network in ((config.tokenizer_dir, KronosTokenizer), (config.basemodel_dir, Kronos)):
        summary = summary_of(folder)
        assert summary.keys() >= SUMMARY_KEYS and summary["status"] == "complete"
        assert summary["model_digest"] == files.folder_digest(folder / "best_model")
        assert not network.from_pretrained(folder / "best_model").training
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        values = {r["step"]: r[summary["best"]["metric"]] for r in records if r["kind"] == "validation"}
        assert summary["best"]["value"] == min(values.values()) == values[summary["best"]["step"]]
        assert [r["step"] for r in records if r["kind"] == "train"] == list(
            range(2, summary["total_steps"] + 1, 2)
        )
    assert summary["tokenizer_digest"] == files.folder_digest(config.tokenizer_dir / "best_model")
    last_training_day = store.sessions[summary["train_end_session"]].astype("datetime64[D]")
    assert summary["train_end"] == str(last_training_day) == "2020-03-03"


def test_lines_fit_a_terminal_and_say_how_long_a_stage_takes(
    store: BarStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keeps out lines that wrap in the middle of a number, and a start that does not say what is ahead."""
    config = tiny_config(tmp_path, training__windows_per_step=6, training__batch_size=4)
    with caplog.at_level("INFO"):
        run_stage(config, "tokenizer", store)
    lines = [line for record in caplog.records for line in record.getMessage().splitlines()]
    ours = [line for line in lines if str(tmp_path) not in line]
    assert len(ours) > 10 and max(map(len, ours)) <= 120
    assert "8 steps of 6 windows: 1 process(es) x 2 micro-batch(es) of 3 on cpu" in caplog.text
    assert caplog.text.count("8 steps take about ") == 1
    records = read_records(config.tokenizer_dir / "metrics.jsonl")
    assert records[0].keys() >= {"loss", "coarse_mse", "full_mse", "quantizer", "grad_norm", "windows_per_s"}


def interrupt_after(monkeypatch: pytest.MonkeyPatch, micro_batches: int) -> None:
    """From its n-th training micro-batch on, a run looks as if SIGTERM had come."""
    real = stages.streams

    def streams_with_signal(config: Config, data: StageData, store: BarStore, runtime: Runtime) -> Streams:
        made = real(config, data, store, runtime)

        def train(step: int) -> Iterable[Any]:
            for number, batch in enumerate(made.train(step)):
                if number == micro_batches:
                    runtime.stop.signal = signal.SIGTERM
                yield batch

        return dataclasses.replace(made, train=train)

    monkeypatch.setattr(stages, "streams", streams_with_signal)


def test_a_stage_that_was_stopped_after_its_first_save_is_resumed_not_skipped(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Keeps out a stage that counts as done because its best_model folder exists."""
    config = tiny_config(tmp_path, experiment__skip_existing=True)
    whole = tiny_config(tmp_path, model_paths__base_save_path=str(tmp_path / "whole"))
    run_stage(whole, "tokenizer", store)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        assert run_stage(config, "tokenizer", store) == "interrupted"
    summary = summary_of(config.tokenizer_dir)
    assert summary["reason"] == "signal"
    assert summary["status"] == "interrupted" and summary["step"] == 9 < summary["total_steps"]
    assert (config.tokenizer_dir / "best_model").is_dir()
    with caplog.at_level("INFO"):
        assert run_stage(config, "tokenizer", store) == "complete"
        assert "going on from step 9" in caplog.text
        before = (config.tokenizer_dir / "summary.json").read_bytes()
        assert run_stage(config, "tokenizer", store) == "complete"
    assert (
        "tokenizer: complete in" in caplog.text
        and (config.tokenizer_dir / "summary.json").read_bytes() == before
    )
    ours, theirs = (load_file(c.tokenizer_dir / "best_model" / "model.safetensors") for c in (config, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_stage_killed_before_its_first_checkpoint_starts_anew_and_says_so(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever asks to resume takes the steps that follow for later ones, when nothing says that they are the
    first.
    """
    config = tiny_config(tmp_path, experiment__skip_existing=True)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        run_stage(config, "tokenizer", store)
    shutil.rmtree(config.tokenizer_dir / "checkpoints")
    assert run_stage(config, "tokenizer", store) == "complete"
    assert "tokenizer: interrupted, and no checkpoint to go on from: it starts at step 0" in caplog.text
    caplog.clear()
    run_stage(
        tiny_config(
            tmp_path, experiment__skip_existing=True, model_paths__base_save_path=str(tmp_path / "new")
        ),
        "tokenizer",
        store,
    )
    assert "starts at step 0" not in caplog.text


def test_the_time_limit_saves_and_leaves(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out work lost to the end of a session: the limit counts from the launch, over stages, and the run
    can go on.
    """
    monkeypatch.setenv("KIT_LAUNCHED", str(time.time() - 3600))
    limited = tiny_config(tmp_path, experiment__skip_existing=True, training__time_limit=0.5)
    assert run_stage(limited, "tokenizer", store) == "interrupted"
    summary = summary_of(limited.tokenizer_dir)
    assert (summary["step"], summary["reason"]) == (1, "time limit")
    roomy = tiny_config(tmp_path, experiment__skip_existing=True, training__time_limit=2.0)
    assert run_stage(roomy, "tokenizer", store) == "complete"


def test_the_time_limit_counts_what_comes_before_the_first_step(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download, digests and the check of the compiler took minutes that the limit did not know of: a
    session ended first.
    """
    real = stages.build_objective

    def slow(*given: Any) -> Any:
        time.sleep(1.0)
        return real(*given)

    monkeypatch.setattr(stages, "build_objective", slow)
    limited = tiny_config(tmp_path, training__time_limit=1.0 / 3600)
    assert run_stage(limited, "tokenizer", store) == "interrupted"
    assert summary_of(limited.tokenizer_dir)["step"] == 1


def test_checkpoints_come_by_the_clock_too(store: BarStore, tmp_path: Path) -> None:
    """Keeps out hours between two checkpoints of a slow run, whose steps are few."""
    config = tiny_config(tmp_path, training__checkpoint_steps=1000, training__checkpoint_minutes=1e-9)
    run_stage(config, "tokenizer", store)
    assert sorted(p.name for p in (config.tokenizer_dir / "checkpoints").iterdir()) == [
        "step_000000011",
        "step_000000012",
    ]


def test_fp16_on_a_cpu_is_refused(store: BarStore, tmp_path: Path) -> None:
    """Keeps out a setting that accelerate ignores there without a word."""
    with pytest.raises(KitError, match="expected auto, no or bf16 on a CPU, found fp16"):
        run_stage(tiny_config(tmp_path, training__mixed_precision="fp16"), "tokenizer", store)


def test_starting_anew_moves_the_old_stage_aside(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out the loss of a finished network to a new run that dies early; old checkpoints must not be
    resumed by it.
    """
    config = tiny_config(tmp_path)
    run_stage(config, "tokenizer", store)
    digest = summary_of(config.tokenizer_dir)["model_digest"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 1)
        run_stage(tiny_config(tmp_path, experiment__fresh=True), "tokenizer", store)
    summary = summary_of(config.tokenizer_dir)
    assert summary["status"] == "interrupted" and summary["step"] == 2 and summary["model_digest"] is None
    assert [p.name for p in (config.tokenizer_dir / "checkpoints").iterdir()] == ["step_000000002"]
    old = tmp_path / "run.old-1" / "tokenizer"
    assert files.folder_digest(old / "best_model") == digest == summary_of(old)["model_digest"]


def test_changed_settings_are_refused_with_the_difference(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out a run that goes on under another configuration or on other data; what changes nothing may
    change.
    """
    config = tiny_config(tmp_path, experiment__skip_existing=True)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run_stage(config, "tokenizer", store)
    changed = tiny_config(tmp_path, experiment__skip_existing=True, training__tokenizer_learning_rate=1e-3)
    with pytest.raises(KitError, match=r"learning_rate: saved 0.0002, now 0.001"):
        run_stage(changed, "tokenizer", store)
    other = tiny_store(tmp_path / "other", seed=1)
    with pytest.raises(KitError, match=rf"data: saved '{store.digest}', now '{other.digest}'"):
        run_stage(config, "tokenizer", other)
    cut = tiny_config(
        tmp_path,
        experiment__skip_existing=True,
        training__batch_size=2,
        training__accumulation_steps=2,
        training__log_interval=3,
    )
    assert run_stage(cut, "tokenizer", store) == "complete"


def test_weights_that_moved_are_the_same_weights(
    store: BarStore, tmp_path: Path, pretrained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out a second session that refuses to go on, because the same weights are mounted under another
    path there; nor may other weights under the same path pass."""
    config = tiny_config(tmp_path, **pretrained, experiment__skip_existing=True)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        run_stage(config, "tokenizer", store)
    attached = Path(config.model_paths.pretrained_tokenizer).rename(tmp_path / "mounted elsewhere")
    (attached / "README.md").write_text("as published")
    torch.manual_seed(5)
    KronosTokenizer(**TOKENIZER).save_pretrained(tmp_path / "pretrained_tokenizer")
    with pytest.raises(KitError, match=r"weights of the start: saved '\w+', now '\w+'\. Nothing was changed"):
        run_stage(config, "tokenizer", store)
    moved = {**pretrained, "model_paths__pretrained_tokenizer": str(attached)}
    assert (
        run_stage(tiny_config(tmp_path, **moved, experiment__skip_existing=True), "tokenizer", store)
        == "complete"
    )


def test_runs_without_a_digest_of_their_start_are_told_by_its_name() -> None:
    """Keeps out a run of an earlier version, or one from a hub id, that cannot be resumed for a fact that it
    does not know.
    """
    saved, now = {"start": "a/b", "seed": 1}, {"start": "a/b", "weights of the start": "d", "seed": 1}
    assert difference(saved, now) == difference(now, saved) == []
    assert difference(saved, now | {"start": "/elsewhere"}) == ["start: saved 'a/b', now '/elsewhere'"]


def test_worse_than_the_pretrained_start_is_reported(
    store: BarStore,
    tmp_path: Path,
    pretrained: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keeps out a fine-tuned network that is worse than what it started from: best_model is the start then,
    and that is said.
    """
    monkeypatch.setattr(config_training, "TOKENIZER_GRAD_CLIP", 1e9)
    config = tiny_config(tmp_path, **pretrained, training__tokenizer_learning_rate=0.5)
    run_stage(config, "tokenizer", store)
    summary = summary_of(config.tokenizer_dir)
    assert summary["start_value"] == summary["best"]["value"] and summary["best"]["step"] == 0
    assert summary["worse_than_start"] is True
    assert "WORSE than the pretrained" in caplog.text and "best_model is the start, unchanged" in caplog.text
    start = load_file(tmp_path / "pretrained_tokenizer" / "model.safetensors")
    kept = load_file(config.tokenizer_dir / "best_model" / "model.safetensors")
    assert start.keys() == kept.keys() and all(torch.equal(start[name], kept[name]) for name in start)
    gentle = tiny_config(tmp_path, **pretrained, experiment__fresh=True)
    run_stage(gentle, "tokenizer", store)
    summary = summary_of(config.tokenizer_dir)
    assert summary["start_value"] > summary["best"]["value"] and summary["worse_than_start"] is False


def test_a_figure_that_is_not_defined_ends_no_training(store: BarStore, tmp_path: Path) -> None:
    """A validation part of exactly predict_window days: the loss of the history is a mean over nothing, NaN, which
    no file can hold. The status stayed `running`, and resuming repeated it.
    """
    days = {"data__train_ratio": 0.7, "data__val_ratio": 2 * PREDICT / 90, "data__embargo": PREDICT}
    config = tiny_config(tmp_path, **days)
    assert run_stage(config, "tokenizer", store) == "complete"
    assert run_stage(config, "basemodel", store) == "complete"
    best = summary_of(config.basemodel_dir)["best"]
    assert math.isfinite(best["value"]) and "history_s1" not in best["values"]
    lines = read_records(config.basemodel_dir / "metrics.jsonl")
    assert [line["history_s1"] for line in lines if line["kind"] == "validation"] == [None] * 2


def test_the_configurations_pin_reaches_the_loader(
    store: BarStore, tmp_path: Path, pretrained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revision could not be pinned anywhere: training and forecasting load the one that is."""
    asked: list[tuple[str, Any]] = []
    for kind in (KronosTokenizer, Kronos):
        original = kind.from_pretrained

        def pinned(source: Any, *args: Any, _own: Any = original, revision: Any = None, **more: Any) -> Any:
            asked.append((Path(source).name, revision))
            return _own(source, *args, **more)  # a folder has no revision

        monkeypatch.setattr(kind, "from_pretrained", pinned)
    pins = {"pretrained_tokenizer_revision": "v1", "pretrained_predictor_revision": "c0ffee"}
    config = tiny_config(tmp_path, **pretrained, **{f"model_paths__{key}": pin for key, pin in pins.items()})
    for stage in STAGES:
        run_stage(config, stage, store)
    expected = [("pretrained_tokenizer", "v1"), ("best_model", None), ("pretrained_predictor", "c0ffee")]
    assert asked == expected, "the tokenizer that was trained is another network"
    asked.clear()
    shutil.rmtree(config.run_dir)
    untrained = dataclasses.replace(config.experiment, train_tokenizer=False, train_basemodel=False)
    config = dataclasses.replace(config, experiment=untrained)
    load_forecaster(config, find_pair(config))
    assert sorted(asked) == [("pretrained_predictor", "c0ffee"), ("pretrained_tokenizer", "v1")]


def test_the_summary_says_which_commit_was_loaded(
    store: BarStore, tmp_path: Path, pretrained: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out a run of which nobody can tell which version of the published weights it started from."""
    original = KronosTokenizer.from_pretrained

    def from_hub(*args: Any, **more: Any) -> KronosTokenizer:
        network = original(*args, **more)
        network.commit = "c0ffee"
        return network

    run_stage(tiny_config(tmp_path, **pretrained), "tokenizer", store)
    assert summary_of(tmp_path / "run" / "tokenizer")["commit"] is None, "a folder has none"
    monkeypatch.setattr(KronosTokenizer, "from_pretrained", from_hub)
    run_stage(tiny_config(tmp_path, **pretrained, experiment__fresh=True), "tokenizer", store)
    assert summary_of(tmp_path / "run" / "tokenizer")["commit"] == "c0ffee"


def test_skip_tokenizer_trains_on_the_pretrained_one(
    store: BarStore, tmp_path: Path, pretrained: dict[str, Any]
) -> None:
    """Keeps out a predictor whose tokenizer nobody can find again."""
    config = tiny_config(tmp_path, **pretrained, experiment__train_tokenizer=False)
    run_stage(config, "basemodel", store)
    kept = Path(config.model_paths.finetuned_tokenizer)
    assert summary_of(config.basemodel_dir)["tokenizer_digest"] == files.folder_digest(kept)
    source = load_file(Path(config.model_paths.pretrained_tokenizer) / "model.safetensors")
    assert all(
        torch.equal(value, source[name]) for name, value in load_file(kept / "model.safetensors").items()
    )
    # An own tokenizer in that place is a copy of the pretrained one, not a trained one: the run that trains
    # it does so.
    run_stage(
        dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, train_tokenizer=True)),
        "tokenizer",
        store,
    )
    assert summary_of(config.tokenizer_dir)["status"] == "complete"


def test_predictor_refuses_an_unfinished_or_missing_tokenizer(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps out a predictor on half a tokenizer, and one on a tokenizer that was retrained behind its
    back.
    """
    config = tiny_config(tmp_path, experiment__skip_existing=True)
    for train_tokenizer in (True, False):
        missing = tiny_config(tmp_path, experiment__train_tokenizer=train_tokenizer)
        with pytest.raises(KitError, match=r"expected the tokenizer .* found none"):
            run_stage(missing, "basemodel", store)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        run_stage(config, "tokenizer", store)
    with pytest.raises(KitError, match="interrupted at step 9 of 12"):
        run_stage(config, "basemodel", store)
    run_stage(config, "tokenizer", store)
    run_stage(config, "basemodel", store)
    elsewhere = tmp_path / "elsewhere"
    KronosTokenizer(**TOKENIZER).save_pretrained(elsewhere)
    other = tiny_config(
        tmp_path, experiment__skip_existing=True, model_paths__finetuned_tokenizer=str(elsewhere)
    )
    with pytest.raises(KitError, match=r"found one trained on another .* --skip-tokenizer --fresh"):
        run_stage(other, "basemodel", store)


def test_a_predictor_whose_tokenizer_was_trained_again_starts_anew(
    store: BarStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A complete run is started anew with other settings, stopped in its first stage, and resumed as its last
    line says: the predictor of the old tokenizer was refused, with a remedy that trained the tokenizer a
    third time."""
    first = tiny_config(tmp_path)
    again = tiny_config(tmp_path, training__tokenizer_learning_rate=1e-3, experiment__fresh=True)
    for stage in STAGES:
        run_stage(first, stage, store)
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert run_stage(again, "tokenizer", store) == "interrupted"
    resumed = dataclasses.replace(
        again, experiment=dataclasses.replace(again.experiment, fresh=False, skip_existing=True)
    )
    assert run_stage(resumed, "tokenizer", store) == "complete"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 3)
        assert run_stage(resumed, "basemodel", store) == "interrupted"
    assert "of a network that was trained again since: it moves aside, training starts anew" in caplog.text
    assert summary_of(tmp_path / "run.old-2" / "basemodel")["status"] == "complete"
    caplog.clear()
    assert run_stage(resumed, "basemodel", store) == "complete" and "starts anew" not in caplog.text
    digest = files.folder_digest(resumed.tokenizer_dir / "best_model")
    assert summary_of(resumed.basemodel_dir)["tokenizer_digest"] == digest


def test_what_killed_sittings_left_half_written_is_removed(store: BarStore, tmp_path: Path) -> None:
    """Each kill in the middle of a save left a network's size on the disk, for ever."""
    config = tiny_config(tmp_path, experiment__skip_existing=True)
    left = [config.tokenizer_dir / "checkpoints" / ".step_000000003.tmp" / "model.safetensors"]
    left += [config.tokenizer_dir / ".best_model.1x2y.tmp" / "network" / "model.safetensors"]
    left += [config.tokenizer_dir / ".summary.json.1x2y.tmp"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    run_stage(config, "tokenizer", store)
    assert not list(config.tokenizer_dir.rglob(".*.tmp"))


def test_empty_validation_refuses_before_training(tmp_path: Path) -> None:
    """Keeps out a best loss of 0.0 from a validation part without windows."""
    store = tiny_store(tmp_path / "store", days=50)
    with pytest.raises(KitError, match="validation"):
        run_stage(tiny_config(tmp_path, data__train_ratio=0.96, data__val_ratio=0.04), "tokenizer", store)
    assert not (tmp_path / "run" / "tokenizer").exists()


# -- the script ----------------------------------------------------------------------------------------------
def script(config: Config, stage: str, *before: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = files.write_json(config.run_dir / "config.json", to_dict(config)) or config.run_dir / "config.json"
    command = [
        sys.executable,
        *before,
        str(ROOT / "kaggle" / "train_stage.py"),
        "--config",
        str(path),
        "--stage",
        stage,
    ]
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(config.run_dir), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=clean)


def test_script_needs_only_what_a_gpu_machine_has(store: BarStore, tmp_path: Path) -> None:
    """Keeps out an import of polars, pandas, pydantic or kaggle where only the networks' packages are
    installed.
    """
    block = tmp_path / "blocked"
    block.mkdir()
    for name in ("polars", "pandas", "pydantic", "kaggle"):
        (block / f"{name}.py").write_text("raise ImportError('not installed on a GPU machine')")
    done = script(tiny_config(tmp_path), "tokenizer", PYTHONPATH=str(block))
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout and summary_of(tmp_path / "run" / "tokenizer")["status"] == "complete"


def test_fewer_processes_than_asked_is_one_clear_error(store: BarStore, tmp_path: Path) -> None:
    """Keeps out the launcher's silent change: `accelerate launch --cpu --num_processes 2` starts one
    process.
    """
    config = tiny_config(tmp_path, distributed__num_processes=2)
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1")
    done = script(config, "tokenizer", *launch, "--mixed_precision", "no", "--dynamo_backend", "no")
    assert done.returncode != 0 and done.stderr.count("error: expected 2 processes") == 1
    assert not (config.tokenizer_dir / "summary.json").exists()


def test_missing_gpus_are_one_clear_error(store: BarStore, tmp_path: Path) -> None:
    """Keeps out two independent rank-0 programs that write the same files, which accelerate starts without
    GPUs.
    """
    config = tiny_config(tmp_path, distributed__num_processes=2, device__use_cuda=True)
    launch = (
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    )
    done = script(
        config, "tokenizer", *launch, "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert done.returncode != 0 and done.stderr.count("error: expected 2 GPUs on this machine") == 1
    assert not (config.tokenizer_dir / "summary.json").exists()
